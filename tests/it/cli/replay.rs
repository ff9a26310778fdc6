//! `outrigger replay --strict`: an exported run as a test fixture. Recorded by a sidecar against scripted upstreams,
//! which stay there and count, so that every call that leaves is seen.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cli::{self, Output};
use crate::support::client::{self, Answer, Ask};
use crate::support::llm::{Api, Usage, chat};
use crate::support::mcp::{Caller, Era, Form, Server, response, result};
use crate::support::sidecar::{Setup, Sidecar, first_line};
use crate::support::upstream::{Script, Upstream};

/// Upstreams that answer no two calls alike, and a sidecar that records.
struct World {
    model: Upstream,
    crm: Upstream,
    tools: Upstream,
    sidecar: Sidecar,
    home: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let model =
            Upstream::start(|request| Script::events(&chat(&[&request.count.to_string()], Usage::Asked)));
        let crm = Upstream::start(|request| match request.target.as_str() {
            "/broken" | "/broken?last" => Script::status(500),
            _ => Script::json(format!(r#"{{"call":{}}}"#, request.count)),
        });
        let tools = Server::new(Era::Sessions, Form::Json).start();
        let setup = Setup::new()
            .upstream("openai", "openai", &model.url())
            .upstream("crm", "http", &crm.url())
            .upstream_with("tools", "mcp", &tools.url(), "env: { MCP_URL: /mcp }");
        let sidecar = setup.start();
        Self { model, crm, tools, sidecar, home: tempfile::tempdir().unwrap() }
    }

    fn sent(&self) -> usize {
        self.model.count() + self.crm.count() + self.tools.count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Stops the sidecar and writes the export of all workflows.
    #[track_caller]
    fn export(&mut self) -> String {
        assert!(self.sidecar.stop().success());
        let file = self.path("run.jsonl").to_str().unwrap().to_owned();
        self.sidecar.cli(&["journal", "export", "--output", &file]).expect_code(0);
        file
    }
}

fn to(base: &str, rest: &str) -> String {
    format!("{base}/{rest}")
}

/// A model call on behalf of somebody, which is what its body begins with.
fn chat_for(user: &str, base: &str, prompt: &str) -> Ask {
    let body = Api::OpenaiChat.ask(prompt, true).replacen('{', &format!(r#"{{"user":"{user}","#), 1);
    Ask::post(to(base, "openai/v1/chat/completions"), body)
}

/// What the agent asks of model and CRM.
fn asks(base: &str) -> Vec<Ask> {
    vec![
        chat_for("alice", base, "plan"),
        Ask::post(to(base, "crm/charges"), r#"{"amount":7}"#),
        Ask::get(to(base, "crm/orders/1")),
        // A polling loop: the same again.
        Ask::get(to(base, "crm/orders/1")),
    ]
}

fn initialize(tools: &mut Caller) -> Ask {
    tools.ask(
        "initialize",
        &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}),
    )
}

#[track_caller]
fn record(world: &World, base: &str) -> Vec<Answer> {
    let mut answers: Vec<Answer> =
        asks(base).iter().map(|ask| world.sidecar.call(ask).expect(200, "live")).collect();
    let mut tools = Caller::new(to(base, "tools"), 1);
    tools.initialize(&world.sidecar);
    tools.list(&world.sidecar);
    answers.push(tools.call(&world.sidecar, "charge", &json!({"invoice_id": "7"})));
    answers
}

/// `outrigger replay --strict` that serves.
struct Replay {
    child: Child,
    address: SocketAddr,
    ready: Value,
}

impl Replay {
    #[track_caller]
    fn start(file: &str, options: &[&str]) -> Self {
        let words = [&["replay", "--strict", "--journal", file], options].concat();
        let mut child = cli::command(&words).spawn().unwrap();
        let line = first_line(child.stdout.take().unwrap());
        let Some(line) = line else { panic!("it is not ready: {:?}", cli::finish(child)) };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = ready["listen"][0].as_str().unwrap().parse().unwrap();
        Self { child, address, ready }
    }

    #[track_caller]
    fn call(&self, ask: &Ask) -> Answer {
        client::call(self.address, ask)
    }

    #[track_caller]
    fn refused(&self, ask: &Ask, parts: &[&str]) -> Answer {
        let answer = self.call(ask);
        assert_eq!((answer.status, answer.header("x-should-retry")), (422, Some("false")), "{answer:?}");
        for part in ["OG3015"].iter().chain(parts) {
            assert!(answer.text().contains(part), "no {part:?} in {answer:?}");
        }
        answer
    }

    #[track_caller]
    fn stop(self) -> Output {
        cli::signal(self.child.id(), Signal::TERM);
        cli::finish(self.child)
    }
}

#[track_caller]
fn same(replayed: &Answer, recorded: &Answer) {
    assert_eq!((replayed.status, replayed.source()), (recorded.status, "replay"), "{replayed:?}");
    assert_eq!(replayed.header("content-type"), recorded.header("content-type"));
    assert_eq!(replayed.step(), recorded.step());
    assert_eq!(String::from_utf8_lossy(&replayed.body), String::from_utf8_lossy(&recorded.body));
}

#[test]
fn an_exported_run_is_served_byte_for_byte_to_every_attempt_and_nothing_is_sent() {
    let mut world = World::new();
    let answers = record(&world, "/w/order-7/a/2");
    let file = {
        assert!(world.sidecar.stop().success());
        world.sidecar.cli(&["close", "order-7"]).expect_code(0);
        world.sidecar.restart();
        world.export()
    };
    let before = world.sent();
    let config = world.sidecar.config();
    for options in [&[][..], &["--config", config.to_str().unwrap()]] {
        let replay = Replay::start(&file, options);
        assert_eq!((&replay.ready["workflow"], &replay.ready["ready"]), (&json!("order-7"), &json!(true)));
        // Attempts in any order, each beside the others; without a name it is the first one.
        let (third, first) = (asks("/w/order-7/a/3"), asks(""));
        let second = asks("/w/order-7/a/2");
        for at in 0..third.len() {
            same(&replay.call(&third[at]), &answers[at]);
            same(&replay.call(&first[at]), &answers[at]);
        }
        for (ask, answer) in second.iter().zip(&answers) {
            same(&replay.call(ask), answer);
        }
        let mut tools = Caller::new("/tools", 1);
        let begun = replay.call(&initialize(&mut tools)).expect(200, "replay");
        tools.session = begun.header("mcp-session-id").map(ToOwned::to_owned);
        assert!(tools.session.is_some(), "{begun:?}");
        assert!(replay.call(&tools.ask("tools/list", &json!({}))).text().contains("send_email"));
        let charge = tools.tool("charge", &json!({"invoice_id": "7"}));
        same(&replay.call(&charge), &answers[4]);
        let ended = replay.stop().expect_code(0);
        ended.says(&[
            "order-7, attempt 1: 5 of 5 recorded answers",
            "order-7, attempt 2: 4 of 5 recorded answers; not asked for: 5 (`charge` at tools)",
            "order-7, attempt 3: 4 of 5",
        ]);
    }
    assert_eq!(world.sent(), before, "nothing was sent");
}

#[test]
fn what_is_not_recorded_is_refused_in_the_callers_words_with_the_place_where_it_differs() {
    let mut world = World::new();
    record(&world, "/w/order-7/a/1");
    let file = world.export();
    let before = world.sent();
    let config = world.sidecar.config();
    let replay = Replay::start(&file, &["--config", config.to_str().unwrap()]);
    // Who asks makes no difference, and is not named as one.
    let other = chat_for("bob", "", "another plan");
    let refused = replay.refused(&other, &["Nearest is step 1 (`gpt-5`)", "`/messages/0/content`"]);
    assert_eq!(refused.json()["error"]["code"], "OG3015");
    assert!(!refused.text().contains("another plan"), "texts are described, not shown");
    let charge = Ask::post("/crm/charges", r#"{"amount":8}"#);
    let refused = replay.refused(&charge, &["Nearest is step 2 (`POST /charges`)", "`/amount`"]);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    replay.call(&chat_for("bob", "", "plan")).expect(200, "replay");
    replay.refused(&chat_for("eve", "", "plan"), &["once in the recorded run (step 1)"]);
    // Recorded twice: a third time is once too often.
    for _ in 0..2 {
        replay.call(&Ask::get("/crm/orders/1")).expect(200, "replay");
    }
    replay
        .refused(&Ask::get("/crm/orders/1"), &["2 times in the recorded run (step 4)", "/w/order-7/a/<n>/"]);
    replay.call(&Ask::get("/w/order-7/a/2/crm/orders/1")).expect(200, "replay");

    let mut tools = Caller::new("/tools", 40);
    let begun = replay.call(&initialize(&mut tools)).expect(200, "replay");
    tools.session = begun.header("mcp-session-id").map(ToOwned::to_owned);
    let told = replay.call(&tools.tool("charge", &json!({"invoice_id": "8"})));
    let (text, is_error) = result(&told);
    assert!(is_error && text.contains("OG3015") && text.contains("`/params/arguments/invoice_id`"), "{text}");
    let later = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    let told = replay.call(&tools.ask("initialize", &later)).text();
    assert!(told.contains("OG3015") && told.contains("another protocol version"), "{told}");
    let told = replay.call(&tools.ask("prompts/list", &json!({}))).text();
    assert!(told.contains("`prompts/list` at tools is not in the recorded run"), "{told}");
    let told = replay.call(&tools.ask("logging/setLevel", &json!({}))).text();
    assert!(told.contains("OG3015"), "{told}");

    replay.refused(&chat_for("bob", "/w/order-8", "plan"), &["recorded are order-7"]);
    assert_eq!(replay.call(&Ask::get("/elsewhere/x")).status, 404);
    let ended = replay.stop().expect_code(3);
    ended.says(&["OG3015", "10 calls were refused", "refused: OG3015: `gpt-5` at openai", "refused: OG1004"]);
    assert_eq!(world.sent(), before, "nothing was sent");
}

#[test]
fn the_live_side_of_mcp_is_answered_without_a_server() {
    let mut world = World::new();
    record(&world, "/w/order-7/a/1");
    let file = world.export();
    let before = world.sent();
    let replay = Replay::start(&file, &[]);
    let mut tools = Caller::new("/tools", 1);
    for with_session in [false, true] {
        if with_session {
            let begun = replay.call(&initialize(&mut tools)).expect(200, "replay");
            tools.session = begun.header("mcp-session-id").map(ToOwned::to_owned);
        }
        let ping = replay.call(&tools.ask("ping", &json!({})));
        assert_eq!(response(&ping), json!({"jsonrpc": "2.0", "id": tools.last_id(), "result": {}}));
        let notice = Ask::post("/tools/mcp", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(replay.call(&notice).status, 202);
        let listen = Ask::get("/tools/mcp").header("accept", "text/event-stream");
        assert_eq!(replay.call(&listen).status, 405);
        assert_eq!(replay.call(&Ask::new("DELETE", "/tools/mcp")).status, 200);
    }
    replay.stop().expect_code(0);
    assert_eq!(world.sent(), before, "nothing was sent");
}

#[test]
fn a_list_that_changed_during_the_run_changes_at_the_same_place_in_a_replay() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let mut sidecar = Setup::new().upstream("tools", "mcp", &upstream.url()).start();
    let asks = |base: &str| {
        let mut tools = Caller::stateless(to(base, "tools"), 1);
        let list = tools.ask("tools/list", &json!({}));
        [list.clone(), tools.tool("charge", &json!({})), tools.tool("refund", &json!({})), list]
    };
    let [list, charge, refund, again] = asks("/w/order-7/a/1");
    let first = sidecar.call(&list).expect(200, "live");
    sidecar.call(&charge).expect(200, "live");
    server.offer(&["refund"]);
    let second = sidecar.call(&again).expect(200, "live");
    assert_ne!(first.body, second.body);
    sidecar.call(&refund).expect(200, "live");
    assert!(sidecar.stop().success());
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("run.jsonl");
    let file = file.to_str().unwrap();
    sidecar.cli(&["journal", "export", "--output", file]).expect_code(0);
    let replay = Replay::start(file, &[]);
    for attempt in 1..=2 {
        let [list, charge, refund, again] = asks(&format!("/w/order-7/a/{attempt}"));
        for _ in 0..2 {
            assert_eq!(replay.call(&list).expect(200, "replay").body, first.body);
        }
        replay.call(&charge).expect(200, "replay");
        assert_eq!(replay.call(&again).expect(200, "replay").body, second.body);
        replay.call(&refund).expect(200, "replay");
        assert_eq!(replay.call(&again).expect(200, "replay").body, second.body);
    }
    replay.stop().expect_code(0);
}

#[test]
fn what_the_run_went_on_from_is_told_again_and_a_step_without_an_answer_is_refused() {
    let mut world = World::new();
    let asks = |base: &str| {
        let broken = to(base, "crm/broken");
        [Ask::get(broken.clone()), Ask::post(broken.clone(), "{}"), Ask::post(broken, "{}")]
    };
    let told = asks("/w/order-7/a/1").map(|ask| world.sidecar.call(&ask));
    assert_eq!(told.each_ref().map(|answer| answer.status), [500, 500, 422]);
    assert!(told[2].text().contains("OG3001"), "{told:?}");
    world.sidecar.call(&Ask::get("/w/order-7/a/1/crm/orders/1")).expect(200, "live");
    let read = |base: &str| Ask::get(to(base, "crm/broken?last"));
    world.sidecar.call(&read("/w/order-7/a/1")).expect(500, "live");
    let file = world.export();
    let before = world.sent();
    let replay = Replay::start(&file, &[]);
    for attempt in [3, 1] {
        let base = format!("/w/order-7/a/{attempt}");
        for (ask, told) in asks(&base).iter().zip(&told) {
            let again = replay.call(ask);
            assert_eq!((again.status, again.text()), (told.status, told.text()), "attempt {attempt}");
        }
        replay.call(&Ask::get(to(&base, "crm/orders/1"))).expect(200, "replay");
    }
    let ended = replay.stop().expect_code(0);
    assert!(!ended.stderr.contains("refused"), "{ended:?}");
    let replay = Replay::start(&file, &[]);
    replay.refused(&read(""), &["is step 4 of the recorded run, which failed"]);
    replay.stop().expect_code(3).says(&["1 call was refused"]);
    assert_eq!(world.sent(), before, "nothing was sent");
}

#[test]
fn a_command_finds_the_recorded_run_in_its_environment_and_its_exit_code_counts() {
    let mut world = World::new();
    record(&world, "/w/order-7/a/1");
    world.sidecar.call(&Ask::get("/w/order-8/a/1/crm/orders/9")).expect(200, "live");
    let file = world.export();
    let run = |options: &[&str], script: &str| {
        let head = ["replay", "--strict", "--journal", &file];
        cli::run(&[&head[..], options, &["--", "sh", "-c", script]].concat())
    };
    let config = world.sidecar.config();
    let only = ["--workflow", "order-7"];
    let with_config = [&only[..], &["--config", config.to_str().unwrap(), "--env", "CRM=crm/api"]].concat();
    let script =
        "echo $OPENAI_BASE_URL $MCP_URL $CRM $ANTHROPIC_BASE_URL $OPENAI_API_KEY $OUTRIGGER_REPLAY_URL";
    let output = run(&with_config, script).expect_code(0);
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    let base = words.last().unwrap();
    let below = |rest: &str| format!("{base}/w/order-7/{rest}");
    // The config names no Anthropic upstream, so there is no such variable.
    let expected = [below("openai/v1"), below("tools/mcp"), below("crm/api"), "replayed".to_owned()];
    assert_eq!(words[..4], expected);

    let output = run(&only, "echo $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY; exit 7").expect_code(7);
    let anthropic = output.stdout.trim();
    assert!(anthropic.ends_with("/w/order-7/anthropic replayed"), "no call goes elsewhere: {anthropic}");
    run(&only, "exit 0").expect_code(0).says(&["order-7: nothing was asked for of 5 steps"]);
    run(&[&only[..], &["--complete"]].concat(), "exit 0")
        .expect_code(3)
        .says(&["OG5016", "6 recorded answers"]);
    run(&only, "kill -9 $$").expect_code(137);
    let get = r#"address=${OUTRIGGER_REPLAY_URL#http://}; get() {
        exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
        printf "GET $1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" >&3; cat <&3; }
        "#;
    let bash = |path: &str| {
        let head = ["replay", "--strict", "--journal", &file, "--", "bash", "-c"];
        cli::run(&[&head[..], &[&format!("{get} get {path}")]].concat())
    };
    bash("/w/order-8/crm/orders/9").expect_code(0).prints(&["200 OK", "\"call\":"]);
    bash("/w/order-8/crm/orders/8").expect_code(3).prints(&["422"]).says(&["1 call was refused"]);
    bash("/crm/orders/9").expect_code(3).prints(&["recorded are order-7, order-8"]);
    let none = cli::run(&["replay", "--strict", "--journal", &file, "--workflow", "order-9", "--", "true"]);
    none.expect_code(3).says(&["OG5006", "it has order-7, order-8"]);
}

#[test]
fn a_complete_replay_has_asked_for_everything() {
    let mut world = World::new();
    world.sidecar.call(&Ask::get("/w/order-7/a/1/crm/orders/1")).expect(200, "live");
    let file = world.export();
    let replay = Replay::start(&file, &["--complete"]);
    replay.call(&Ask::get("/crm/orders/1")).expect(200, "replay");
    replay.stop().expect_code(0);
    let replay = Replay::start(&file, &["--complete"]);
    replay.stop().expect_code(3).says(&["OG5016", "1 recorded answer was not asked for"]);
}

#[test]
fn only_a_whole_export_is_replayed_and_only_strictly() {
    let mut world = World::new();
    world.sidecar.call(&Ask::get("/w/order-7/a/1/crm/orders/1")).expect(200, "live");
    let file = world.export();
    let text = std::fs::read_to_string(&file).unwrap();
    let bad = world.path("bad.jsonl");
    let bad = bad.to_str().unwrap();
    let stored = text.find("\"stored\":\"").unwrap() + 14;
    let changed = if &text[stored..=stored] == "A" { "B" } else { "A" };
    let changed = [&text[..stored], changed, &text[stored + 1..]].concat();
    for broken in [&text[..text.len() / 2], &changed, "{}\n", ""] {
        assert_ne!(broken, text);
        std::fs::write(bad, broken).unwrap();
        cli::run(&["replay", "--strict", "--journal", bad]).expect_code(3).says(&["OG5013", "line "]);
    }
    let journal = world.sidecar.journal();
    let refused = cli::run(&["replay", "--strict", "--journal", journal.to_str().unwrap()]).expect_code(3);
    refused.says(&["OG5013", "is a directory", "outrigger journal export"]);
    cli::run(&["replay", "--strict", "--journal", "/nonexistent"]).expect_code(1).says(&["/nonexistent"]);
    cli::run(&["replay", "--journal", &file]).expect_code(2).says(&["--strict"]);
    let exposed = cli::run(&["replay", "--strict", "--journal", &file, "--listen", "0.0.0.0:0"]);
    exposed.expect_code(2).says(&["OG2010"]);
}
