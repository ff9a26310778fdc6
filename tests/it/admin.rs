//! The admin address: probes, figures, the workflows; and the little it lets anybody do.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use serde_json::json;

use crate::support::client::Ask;
use crate::support::gate::Gate;
use crate::support::llm::Api;
use crate::support::sidecar::Setup;
use crate::support::upstream::{Script, Upstream};
use crate::support::wait;

#[test]
fn probes_tell_alive_and_ready() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    assert_eq!(sidecar.ask_admin(&Ask::get("/healthz")).status, 200);
    let ready = sidecar.ask_admin(&Ask::get("/readyz"));
    assert_eq!(ready.status, 200, "{ready:?}");
    let ready = ready.json();
    assert_eq!((&ready["ready"], &ready["draining"]), (&json!(true), &json!(false)), "{ready}");
    assert_eq!(ready["journal"]["poisoned"], false);
    assert_eq!(sidecar.ask_admin(&Ask::get("/nothing")).status, 404);
    assert_eq!(sidecar.ask_admin(&Ask::post("/readyz", "{}")).status, 405);
}

#[test]
fn figures_count_replayed_answers_apart_from_live_ones() {
    let upstream = Upstream::start(|_| Script::json(Api::OpenaiChat.answer("x")));
    let sidecar = Setup::new().upstream("openai", "openai", &upstream.url()).start();
    let ask = |attempt: usize| {
        let path = format!("/w/w/a/{attempt}/openai/v1/chat/completions");
        Ask::post(path, Api::OpenaiChat.ask("hello", false))
    };
    for attempt in 1..=3 {
        assert_eq!(sidecar.call(&ask(attempt)).status, 200);
    }
    for (metric, value) in [
        (r#"outrigger_tokens_total{direction="input"}"#, 11.0),
        (r#"outrigger_tokens_total{direction="output"}"#, 7.0),
        (r#"outrigger_tokens_saved_total{direction="input"}"#, 22.0),
        (r#"outrigger_steps_total{kind="llm",source="live",state="completed"}"#, 1.0),
        (r#"outrigger_steps_total{kind="llm",source="replay",state="completed"}"#, 2.0),
        ("outrigger_ready", 1.0),
        ("outrigger_workflows_live", 1.0),
    ] {
        assert!((sidecar.metric(metric) - value).abs() < 0.5, "{metric} is {}", sidecar.metric(metric));
    }
    // What an agent sent must never become a label.
    sidecar.call(&Ask::get("/w/secret-name/a/1/nowhere/x"));
    let text = sidecar.ask_admin(&Ask::get("/metrics")).text();
    assert!(!text.contains("secret-name") && !text.contains("nowhere"), "{text}");
    assert!((sidecar.metric(r#"outrigger_refusals_total{code="OG1004"}"#) - 1.0).abs() < 0.5);
}

/// The first cells of the page's tables that begin like this.
fn on_the_page(beginning: &str) -> BTreeSet<&'static str> {
    let rows = include_str!("../../docs/admin-api.md").lines();
    let cells = rows.filter_map(|row| row.strip_prefix("| `")?.split_once("` |"));
    cells.map(|(cell, _)| cell).filter(|cell| cell.starts_with(beginning)).collect()
}

#[test]
fn the_page_names_every_metric_and_no_other() {
    let upstream = Upstream::start(|got| {
        let broken = got.target.ends_with("/broken");
        if broken { Script::status(500) } else { Script::json(Api::OpenaiChat.answer("x")) }
    });
    let sidecar = Setup::new()
        .upstream("openai", "openai", &upstream.url())
        .upstream("crm", "http", &upstream.url())
        .start();
    for attempt in 1..=2 {
        let path = format!("/w/w/a/{attempt}/openai/v1/chat/completions");
        assert_eq!(sidecar.call(&Ask::post(path, Api::OpenaiChat.ask("hello", false))).status, 200);
    }
    assert_eq!(sidecar.call(&Ask::get("/w/w/a/2/crm/broken")).status, 500);
    assert_eq!(sidecar.call(&Ask::get("/w/w/a/2/nowhere/x")).status, 404);
    let text = sidecar.ask_admin(&Ask::get("/metrics")).text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let shown: BTreeSet<&str> = types.filter_map(|named| named.split(' ').next()).collect();
    assert_eq!(on_the_page("outrigger_"), shown);
}

#[test]
fn every_request_of_the_page_is_answered_and_by_that_method_alone() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    for (method, other) in [("GET", "POST"), ("POST", "GET")] {
        let requests = on_the_page(method);
        assert!(requests.len() >= 5, "{requests:?}");
        for request in requests {
            let path = request.split(' ').next_back().unwrap().replace("ID", "w").replace("STEP", "1");
            let refused = sidecar.ask_admin(&Ask::new(other, path));
            assert_eq!(refused.status, 405, "{request}: {refused:?}");
            let allowed = refused.header("allow").unwrap_or_default();
            assert!(allowed.starts_with(method), "{request}: {allowed}");
        }
    }
}

#[test]
fn workflows_are_listed_told_and_closed_and_unknown_ones_are_not_found() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    sidecar.call(&Ask::post("/w/one/a/1/crm/notes", "{}"));
    sidecar.call(&Ask::post("/w/two/a/1/crm/notes", "{}"));
    let list = sidecar.ask_admin(&Ask::get("/v1/workflows")).json();
    assert_eq!(list["workflows"].as_array().unwrap().len(), 2, "{list}");
    let timeline = sidecar.ask_admin(&Ask::get("/v1/workflows/one/timeline")).json();
    assert_eq!(
        (&timeline["workflow"], &timeline["steps"][0]["operation"]),
        (&json!("one"), &json!("POST /notes"))
    );
    assert_eq!(sidecar.ask_admin(&Ask::post("/v1/workflows/one/close", "")).status, 200);
    assert_eq!(
        sidecar.ask_admin(&Ask::post("/v1/workflows/one/close", "")).status,
        200,
        "closing twice is closed"
    );
    assert_eq!(sidecar.call(&Ask::post("/w/one/a/2/crm/notes", "{}")).status, 422);
    for path in ["/v1/workflows/none/timeline", "/v1/workflows/no%20id/timeline", "/v1/workflows/none"] {
        assert_eq!(sidecar.ask_admin(&Ask::get(path)).status, 404, "{path}");
    }
    assert_eq!(sidecar.ask_admin(&Ask::post("/v1/workflows/none/close", "")).status, 404);
    let opened = sidecar.ask_admin(&Ask::post("/v1/workflows/two/attempts", ""));
    assert_eq!((opened.status, &opened.json()["attempt"]), (201, &json!(2)));
    // Whoever acts for the attempt before is refused from now on.
    assert!(sidecar.call(&Ask::post("/w/two/a/1/crm/notes", "{}")).text().contains("OG3002"));
}

#[test]
fn a_workflow_with_a_running_step_is_not_closed() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::json("{}").held(&held));
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    let mut agent = sidecar.connect();
    agent.send(&Ask::post("/w/w/a/1/crm/notes", "{}"));
    gate.reached(1);
    let refused = sidecar.ask_admin(&Ask::post("/v1/workflows/w/close", ""));
    assert_eq!(refused.status, 409, "{refused:?}");
    sidecar.cli(&["close", "w"]).expect_code(3).says(&["step 1 is still running"]);
    gate.open();
    agent.read("POST").unwrap().expect(200, "live");
    // The answer is out when it is recorded; the step counts as running a moment longer.
    wait::until("closed", || sidecar.ask_admin(&Ask::post("/v1/workflows/w/close", "")).status == 200);
}

#[test]
fn web_pages_of_other_sites_are_not_answered() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    let raw = |head: &str| {
        let mut stream = std::net::TcpStream::connect(sidecar.admin()).unwrap();
        stream
            .write_all(format!("GET /v1/workflows HTTP/1.1\r\n{head}connection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let port = sidecar.admin().port();
    assert!(raw(&format!("host: localhost:{port}\r\n")).contains("200"));
    for head in [
        format!("host: rebound.example:{port}\r\n"),
        format!("host: 127.0.0.1:{port}\r\norigin: https://rebound.example\r\n"),
        format!("host: 127.0.0.1:{port}\r\norigin: null\r\n"),
        format!("host: 127.0.0.1:{port}\r\nhost: rebound.example\r\n"),
    ] {
        let line = raw(&head);
        assert!(line.contains("403") || line.contains("400"), "{head:?}: {line}");
    }
}
