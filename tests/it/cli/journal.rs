//! What is done with a journal's files: verified, measured, carried to another place, and their index made
//! anew. Over the journal of a sidecar that recorded a model's and a tool's answers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::cli::{self, Output};
use crate::support::client::{Answer, Ask};
use crate::support::llm::{Api, Usage, chat};
use crate::support::random::Random;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

/// Upstreams that answer no two calls alike.
struct World {
    model: Upstream,
    crm: Upstream,
}

impl World {
    fn new() -> Self {
        let model =
            Upstream::start(|request| Script::events(&chat(&[&request.count.to_string()], Usage::Asked)));
        let crm = Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)));
        Self { model, crm }
    }

    fn setup(&self) -> Setup {
        Setup::new().upstream("openai", "openai", &self.model.url()).upstream("crm", "http", &self.crm.url())
    }

    fn calls(&self) -> usize {
        self.model.count() + self.crm.count()
    }
}

/// What an agent asks in an attempt.
fn asks(workflow: &str, attempt: usize) -> Vec<Ask> {
    let to = |rest: &str| format!("/w/{workflow}/a/{attempt}/{rest}");
    // Enough that the journal has sealed segments: random bytes do not compress.
    let note = |seed| {
        let mut ask = Ask::post(to("crm/notes"), Random::new(seed).bytes(500_000));
        ask.headers.clear();
        ask
    };
    vec![
        Ask::post(to("openai/v1/chat/completions"), Api::OpenaiChat.ask("plan", true)),
        Ask::post(to("crm/charges"), r#"{"amount":7}"#),
        Ask::get(to("crm/customers/1")),
        note(1),
        note(2),
        note(3),
    ]
}

#[track_caller]
fn live(sidecar: &Sidecar, workflow: &str) -> Vec<Answer> {
    asks(workflow, 1).iter().map(|ask| sidecar.call(ask).expect(200, "live")).collect()
}

/// A stopped sidecar with two workflows, and what their agents were answered.
fn recorded(world: &World) -> (Sidecar, Vec<Answer>) {
    let mut sidecar = world.setup().start();
    let answers = live(&sidecar, "order-7");
    sidecar.call(&Ask::post("/w/order-8/a/1/crm/charges", "{}")).expect(200, "live");
    assert!(sidecar.stop().success());
    sidecar.cli(&["close", "order-8"]).expect_code(0);
    (sidecar, answers)
}

#[track_caller]
fn journal(dir: &Path, words: &[&str]) -> Output {
    let words = [&["journal"], words, &["--journal", dir.to_str().unwrap()]].concat();
    cli::run(&words)
}

#[track_caller]
fn as_json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
    found.sort();
    found
}

#[test]
fn a_journal_is_whole_until_a_byte_of_it_is_changed() {
    let world = World::new();
    let (sidecar, _) = recorded(&world);
    let dir = sidecar.journal();
    journal(&dir, &["verify"]).expect_code(0).prints(&["whole: ", "2 workflows"]);
    let whole = as_json(&journal(&dir, &["verify", "--json"]).expect_code(0));
    assert_eq!((&whole["whole"], &whole["findings"], &whole["torn"]), (&json!(true), &json!([]), &json!([])));
    let by_config = ["journal", "verify", "--config", sidecar.config().to_str().unwrap()].map(str::to_owned);
    let words: Vec<&str> = by_config.iter().map(String::as_str).collect();
    cli::run(&words).expect_code(0);

    let segments = segments(&dir);
    assert!(segments.len() > 2, "{segments:?}");
    let first = &segments[0];
    let bytes = fs::read(first).unwrap();
    let body = bytes.windows(12).position(|window| window == br#"{"amount":7}"#).unwrap();
    let record = bytes.windows(9).position(|window| window == b"customers").unwrap();
    // The segment's head, a body, a record, the middle of random bytes, the footer, the tail behind it.
    for at in [9, body, record, bytes.len() / 2, bytes.len() - 100, bytes.len() - 20] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        fs::write(first, &changed).unwrap();
        let told = journal(&dir, &["verify"]).expect_code(3).prints(&["log/0000000001.seg", "damaged, "]);
        let findings = as_json(&journal(&dir, &["verify", "--json"]).expect_code(3));
        let found = findings["findings"].as_array().unwrap();
        assert_eq!(findings["whole"], false);
        assert!(found.iter().any(|found| found["file"] == "log/0000000001.seg"), "byte {at}: {findings}");
        if at == body || at == record {
            assert!(told.stdout.contains("order-7"), "byte {at}: {told:?}");
            let near = |found: &Value| found["offset"].as_u64().unwrap().abs_diff(at as u64) < 1000;
            assert!(found.iter().any(near), "byte {at}: {findings}");
        }
    }
    fs::write(first, &bytes).unwrap();
    journal(&dir, &["verify"]).expect_code(0);
    fs::remove_file(first).unwrap();
    journal(&dir, &["verify"]).expect_code(3).prints(&["order-7"]);
    cli::run(&["journal", "verify", "--journal", "/nonexistent"]).expect_code(1).says(&["/nonexistent"]);
}

#[test]
fn the_figures_are_those_of_what_was_recorded() {
    let world = World::new();
    let (sidecar, _) = recorded(&world);
    let dir = sidecar.journal();
    let stats = as_json(&journal(&dir, &["stats", "--json"]).expect_code(0));
    let figures = [&stats["workflows"], &stats["workflows_open"], &stats["workflows_closed"]];
    assert_eq!((figures, &stats["steps"]), ([&json!(2), &json!(1), &json!(1)], &json!(7)), "{stats}");
    let on_disk: u64 = segments(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(stats["log_bytes"], on_disk);
    assert!(stats["bodies_raw_bytes"].as_u64().unwrap() > 1_500_000, "{stats}");
    assert!(stats["oldest"].as_str() <= stats["newest"].as_str(), "{stats}");
    journal(&dir, &["stats"]).expect_code(0).prints(&["workflows  2: 1 open, 1 closed, 0 damaged"]);
}

#[test]
fn an_exported_workflow_replays_elsewhere_byte_for_byte() {
    let world = World::new();
    let (sidecar, answers) = recorded(&world);
    let home = tempfile::tempdir().unwrap();
    let (file, dir) = (home.path().join("all.jsonl"), home.path().join("other"));
    let exported = journal(&sidecar.journal(), &["export", "--output", file.to_str().unwrap()]);
    exported.expect_code(0).says(&["exported 2 workflows"]);
    assert!(!home.path().join("all.jsonl.part").exists());
    let printed = journal(&sidecar.journal(), &["export"]).expect_code(0).stdout;
    assert_eq!(printed, fs::read_to_string(&file).unwrap());
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["format"], &lines[0]["version"]), (&json!("outrigger-journal"), &json!(1)));
    assert_eq!(lines[1]["workflow"], "order-7");
    assert!(lines.iter().any(|line| line["record"] == "Intent" && line["fields"]["operation"] == "gpt-5"));

    let imported = journal(&dir, &["import", file.to_str().unwrap()]).expect_code(0);
    imported.prints(&["imported 2 workflows", "0 there already"]);
    let again = journal(&dir, &["import", file.to_str().unwrap()]).expect_code(0);
    again.prints(&["imported 0 workflows", "2 there already"]);
    journal(&dir, &["verify"]).expect_code(0);
    let stats = |dir: &Path| as_json(&journal(dir, &["stats", "--json"]).expect_code(0));
    for figure in ["workflows", "workflows_closed", "steps", "records", "bodies", "bodies_raw_bytes"] {
        assert_eq!(stats(&dir)[figure], stats(&sidecar.journal())[figure], "{figure}");
    }
    for workflow in ["order-7", "order-8"] {
        let words = |dir: &Path| {
            cli::run(&["timeline", workflow, "--json", "--journal", dir.to_str().unwrap()]).expect_code(0)
        };
        assert_eq!(words(&dir).stdout, words(&sidecar.journal()).stdout);
    }
    assert_eq!(journal(&dir, &["export"]).expect_code(0).stdout, printed);

    let before = world.calls();
    let other = world.setup().journal_at(&dir).start();
    for (ask, answer) in asks("order-7", 2).iter().zip(&answers) {
        assert_eq!(other.call(ask).expect(200, "replay").body, answer.body);
    }
    assert!(other.call(&Ask::post("/w/order-8/a/2/crm/charges", "{}")).text().contains("OG3004"));
    assert_eq!(world.calls(), before, "nothing was asked again");
}

#[test]
fn a_file_that_is_not_what_was_exported_changes_nothing() {
    let world = World::new();
    let (mut sidecar, _) = recorded(&world);
    let home = tempfile::tempdir().unwrap();
    let (file, dir) = (home.path().join("one.jsonl"), home.path().join("other"));
    let exported = journal(&sidecar.journal(), &["export", "order-8"]).expect_code(0).stdout;
    assert!(!exported.contains("order-7"));
    let half = exported.len() / 2;
    let cut_between_lines = exported[..half].rfind('\n').unwrap() + 1;
    let line = |at: usize| format!("line {}", exported[..at].matches('\n').count() + 1);
    for (cut, line) in [(half, line(half)), (cut_between_lines, line(cut_between_lines - 1))] {
        fs::write(&file, &exported[..cut]).unwrap();
        let refused = journal(&dir, &["import", file.to_str().unwrap()]).expect_code(3);
        refused.says(&["OG5013", &line, "nothing was imported"]);
    }
    for part in ["\"stored\":\"", "\"base64\":\"", "\"chain\":\"", "\"operation\":\""] {
        let at = exported.find(part).unwrap() + part.len() + 2;
        let mut changed = exported.clone().into_bytes();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        fs::write(&file, changed).unwrap();
        journal(&dir, &["import", file.to_str().unwrap()]).expect_code(3).says(&["OG5013", "line "]);
    }
    assert!(!dir.exists(), "no journal was made");
    let newer = exported.replacen("\"version\":1", "\"version\":2", 1);
    fs::write(&file, newer).unwrap();
    journal(&dir, &["import", file.to_str().unwrap()]).expect_code(1).says(&["OG5007"]);

    // The same workflow with other records stands in the way of the whole file.
    fs::write(&file, &exported).unwrap();
    journal(&dir, &["import", file.to_str().unwrap()]).expect_code(0);
    sidecar.change(world.setup().journal_at(&home.path().join("third")));
    sidecar.restart();
    sidecar.call(&Ask::post("/w/order-8/a/1/crm/charges", "{}")).expect(200, "live");
    assert!(sidecar.stop().success());
    let both = journal(&sidecar.journal(), &["export"]).expect_code(0).stdout;
    fs::write(&file, &both).unwrap();
    let before = journal(&dir, &["export"]).expect_code(0).stdout;
    journal(&dir, &["import", file.to_str().unwrap()]).expect_code(3).says(&["OG5014", "order-8"]);
    assert_eq!(journal(&dir, &["export"]).expect_code(0).stdout, before);
    journal(&dir, &["export", "elsewhere"]).expect_code(3).says(&["OG5006"]);
}

#[test]
fn a_damaged_workflow_is_left_out_of_an_export_and_named() {
    let world = World::new();
    let (sidecar, _) = recorded(&world);
    let dir = sidecar.journal();
    let first = &segments(&dir)[0];
    let mut bytes = fs::read(first).unwrap();
    let body = bytes.windows(12).position(|window| window == br#"{"amount":7}"#).unwrap();
    bytes[body] ^= 0x20;
    fs::write(first, bytes).unwrap();
    let exported = journal(&dir, &["export"]).expect_code(3).says(&["order-7", "is left out", "1 workflow,"]);
    assert!(!exported.stdout.contains("order-7") && exported.stdout.contains("order-8"));
}

#[test]
fn an_index_that_is_lost_or_garbage_is_made_anew() {
    let world = World::new();
    let (mut sidecar, answers) = recorded(&world);
    let dir = sidecar.journal();
    let index = dir.join("index");
    assert!(index.is_dir());
    for garbled in [false, true] {
        if garbled {
            fs::write(index.join("db"), b"garbage").unwrap();
        } else {
            fs::remove_dir_all(&index).unwrap();
        }
        let rebuilt = journal(&dir, &["rebuild-index"]).expect_code(0).prints(&["sealed segment"]);
        assert_eq!(rebuilt.stdout.contains("index.broken"), garbled, "{rebuilt:?}");
        assert!(index.is_dir());
    }
    journal(&dir, &["verify"]).expect_code(0);
    let before = world.calls();
    sidecar.restart();
    assert!(!sidecar.log().contains("being made again"), "{}", sidecar.log());
    for (ask, answer) in asks("order-7", 2).iter().zip(&answers) {
        assert_eq!(sidecar.call(ask).expect(200, "replay").body, answer.body);
    }
    assert_eq!(world.calls(), before);
    cli::run(&["journal", "rebuild-index", "--journal", "/nonexistent"]).expect_code(1).says(&["OG5008"]);
}

#[test]
fn a_running_sidecar_keeps_its_files_to_itself() {
    let world = World::new();
    let (mut sidecar, _) = recorded(&world);
    let dir = sidecar.journal();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("all.jsonl");
    let file = file.to_str().unwrap();
    journal(&dir, &["export", "--output", file]).expect_code(0);
    sidecar.restart();
    let pid = format!("process {}", sidecar.pid());
    for words in [
        &["verify"][..],
        &["stats"],
        &["export"],
        &["import", file],
        &["rebuild-index"],
        &["export", "order-7"],
    ] {
        let refused = journal(&dir, words).expect_code(1).says(&["OG5002", &pid]);
        assert_eq!(refused.stdout, "");
    }
    sidecar.call(&asks("order-7", 2)[1]).expect(200, "replay");
}
