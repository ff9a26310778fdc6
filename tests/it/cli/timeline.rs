//! What happened, as the command line tells it: asked of a running sidecar, or read from its journal.

use serde_json::json;

use crate::support::cli;
use crate::support::client::Ask;
use crate::support::llm::{Api, Usage, chat};
use crate::support::mcp::{Caller, Era, Form, Server};
use crate::support::sidecar::Setup;
use crate::support::upstream::{Script, Upstream};

#[test]
fn the_same_is_told_by_a_running_sidecar_and_from_the_journal_of_a_dead_one() {
    let model = Upstream::start(|_| Script::events(&chat(&["hi"], Usage::Asked)));
    let server = Server::new(Era::Stateless, Form::Json);
    let tools = server.start();
    let mut sidecar = Setup::new()
        .upstream("openai", "openai", &model.url())
        .upstream("payments", "mcp", &tools.url())
        .start();
    let mut caller = Caller::stateless("/w/order-7/a/1/payments", 1);
    let ask = |attempt: usize| {
        let path = format!("/w/order-7/a/{attempt}/openai/v1/chat/completions");
        Ask::post(path, Api::OpenaiChat.ask("pay", true))
    };
    sidecar.call(&ask(1)).expect(200, "live");
    caller.call(&sidecar, "charge", &json!({"invoice": 7})).expect(200, "live");
    sidecar.call(&ask(2)).expect(200, "replay");

    let live = sidecar.timeline("order-7");
    let admin = format!("http://{}", sidecar.admin());
    let asked = cli::run(&["timeline", "order-7", "--json", "--admin", &admin]).expect_code(0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&asked.stdout).unwrap(), live);
    let by_config =
        ["timeline", "order-7", "--json", "--config", sidecar.config().to_str().unwrap()].map(str::to_owned);
    let words: Vec<&str> = by_config.iter().map(String::as_str).collect();
    let running = cli::run(&words).expect_code(0);
    assert!(sidecar.stop().success());
    assert_eq!(sidecar.timeline("order-7"), live);
    assert_eq!(cli::run(&words).expect_code(0).stdout, running.stdout);

    assert_eq!((&live["workflow"], &live["state"]), (&json!("order-7"), &json!("open")));
    assert_eq!(live["attempts"].as_array().unwrap().len(), 2);
    let (first, second) = (&live["steps"][0], &live["steps"][1]);
    for (step, kind, upstream, operation) in
        [(first, "llm", "openai", "gpt-5"), (second, "mcp", "payments", "charge")]
    {
        assert_eq!(
            (
                &step["kind"],
                &step["upstream"],
                &step["operation"],
                &step["state"],
                &step["source"],
                &step["status"]
            ),
            (
                &json!(kind),
                &json!(upstream),
                &json!(operation),
                &json!("completed"),
                &json!("live"),
                &json!(200)
            ),
        );
        assert!(step["started_at"].is_string() && step["duration_ms"].is_u64(), "{step}");
    }
    assert_eq!((&first["usage"]["input"], &first["usage"]["output"]), (&json!(11), &json!(7)));
    assert_eq!(first["redelivered"], json!([2]));

    let text = sidecar.cli(&["timeline", "order-7"]).expect_code(0).stdout;
    for part in ["order-7", "gpt-5", "charge", "payments", "completed"] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let text = sidecar.cli(&["workflows"]).expect_code(0).stdout;
    assert!(text.contains("order-7"), "{text}");
}

#[test]
fn what_is_not_there_is_said_so() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let mut sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    sidecar.call(&Ask::get("/w/here/a/1/crm/x")).expect(200, "live");
    for _ in 0..2 {
        for command in [["timeline", "elsewhere"], ["close", "elsewhere"]] {
            sidecar.cli(&command).expect_code(3).says(&["OG5006"]);
        }
        sidecar.cli(&["timeline", "no id"]).expect_code(2).says(&["OG1001"]);
        if sidecar.is_running() {
            sidecar.stop();
        }
    }
    let admin = format!("http://{}", sidecar.admin());
    cli::run(&["workflows", "--admin", &admin]).expect_code(1).says(&["OG5005"]);
    cli::run(&["workflows", "--journal", "/nonexistent/journal"])
        .expect_code(3)
        .says(&["/nonexistent/journal"]);
}

#[test]
fn a_workflow_is_closed_also_when_nobody_runs() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let mut sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    sidecar.call(&Ask::post("/w/w/a/1/crm/x", "{}")).expect(200, "live");
    assert!(sidecar.stop().success());
    sidecar.cli(&["close", "w"]).expect_code(0);
    assert_eq!(sidecar.timeline("w")["state"], "closed");
    sidecar.restart();
    assert!(sidecar.call(&Ask::post("/w/w/a/1/crm/x", "{}")).text().contains("OG3004"));
    assert_eq!(upstream.count(), 1);
}
