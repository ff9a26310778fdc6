//! Steps in doubt and what people say of them.

use std::io::Write;

use serde_json::json;

use crate::support::client::Ask;
use crate::support::gate::Gate;
use crate::support::mcp::{Caller, Era, Form, Server, response, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

use super::{counted, crm};

fn charge(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), "{}")
}

/// A workflow whose only step is in doubt; the upstream answers from now on.
fn in_doubt() -> (Upstream, Sidecar) {
    let upstream = Upstream::start(|_| Script::status(504));
    let sidecar = crm(&upstream).start();
    assert_eq!(sidecar.call(&charge(1)).status, 504);
    assert_eq!(sidecar.call(&charge(1)).status, 422);
    upstream.answers(counted);
    (upstream, sidecar)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn a_step_that_happened_is_answered_with_what_somebody_found_out() {
    for running in [true, false] {
        let (upstream, mut sidecar) = in_doubt();
        let answer = file(r#"{"receipt":"R-1"}"#);
        if !running {
            assert!(sidecar.stop().success());
        }
        let words = ["resolve", "w", "1", "--completed", answer.path().to_str().unwrap(), "--status", "201"];
        sidecar.cli(&words).expect_code(0).prints(&["step 1", "completed"]);
        if !running {
            sidecar.restart();
        }
        // The agent that was told of the doubt asks again, then a restarted one.
        for attempt in [1, 2] {
            let got = sidecar.call(&charge(attempt)).expect(201, "replay");
            assert_eq!(got.text(), r#"{"receipt":"R-1"}"#);
            assert_eq!(got.header("content-type"), Some("application/json"));
        }
        assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["completed".to_owned()]));
        sidecar.cli(&["close", "w"]).expect_code(0);
    }
}

#[test]
fn a_step_that_did_not_happen_is_sent_when_it_is_asked_for_again() {
    for running in [true, false] {
        let (upstream, mut sidecar) = in_doubt();
        if !running {
            assert!(sidecar.stop().success());
        }
        sidecar.cli(&["resolve", "w", "1", "--not-executed"]).expect_code(0).prints(&["not carried out"]);
        if !running {
            sidecar.restart();
        }
        assert_eq!(sidecar.call(&charge(1)).expect(200, "live").step(), 1);
        assert_eq!((upstream.count(), sidecar.states("w")), (2, vec!["completed".to_owned()]));
    }
}

#[test]
fn a_step_that_was_given_up_stays_refused_and_no_longer_keeps_its_workflow_open() {
    let (upstream, mut sidecar) = in_doubt();
    sidecar.cli(&["close", "w"]).expect_code(3);
    sidecar.cli(&["resolve", "w", "1", "--abandon"]).expect_code(0).prints(&["given up"]);
    for attempt in [1, 2] {
        let refused = sidecar.call(&charge(attempt));
        assert_eq!((refused.status, refused.header("x-should-retry")), (422, Some("false")), "{refused:?}");
        assert!(refused.text().contains("OG3010"), "{refused:?}");
    }
    sidecar.kill9();
    sidecar.restart();
    assert_eq!(sidecar.call(&charge(2)).status, 422);
    assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["abandoned".to_owned()]));
    sidecar.cli(&["close", "w"]).expect_code(0);
}

#[test]
fn an_mcp_result_that_somebody_found_out_answers_under_the_callers_id() {
    let server = Server::new(Era::Stateless, Form::Events);
    let upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| call.reply.held(&held));
    let mut sidecar = Setup::new().upstream("tools", "mcp", &upstream.url()).start();
    let mut agent = sidecar.connect();
    agent.send(&Caller::stateless("/w/w/a/1/tools", 1).tool("charge", &json!({"invoice_id": 7})));
    gate.reached(1);
    sidecar.kill9();
    gate.open();
    sidecar.restart();
    let found = file(r#"{"content":[{"type":"text","text":"charged, receipt 9"}],"isError":false}"#);
    sidecar.cli(&["resolve", "w", "1", "--completed", found.path().to_str().unwrap()]).expect_code(0);
    let answer = Caller::stateless("/w/w/a/2/tools", 40).call(&sidecar, "charge", &json!({"invoice_id": 7}));
    assert_eq!(result(&answer), ("charged, receipt 9".to_owned(), false));
    assert_eq!(response(&answer)["id"], 40);
    assert_eq!(server.charges(), 1);
}

#[test]
fn what_is_not_in_doubt_cannot_be_resolved() {
    let (_upstream, sidecar) = in_doubt();
    sidecar.call(&Ask::get("/w/w/a/1/crm/read")).expect(200, "live");
    let text = file("no JSON");
    let path = text.path().to_str().unwrap();
    sidecar.cli(&["resolve", "w", "2", "--not-executed"]).expect_code(3).says(&["has its answer", "OG5012"]);
    sidecar.cli(&["resolve", "w", "9", "--abandon"]).expect_code(3).says(&["does not exist"]);
    sidecar.cli(&["resolve", "w", "0", "--abandon"]).expect_code(2);
    sidecar.cli(&["resolve", "x", "1", "--abandon"]).expect_code(3);
    sidecar.cli(&["resolve", "w", "1"]).expect_code(2).says(&["--completed"]);
    sidecar.cli(&["resolve", "w", "1", "--abandon", "--not-executed"]).expect_code(2);
    sidecar
        .cli(&["resolve", "w", "1", "--completed", "/no/such/file"])
        .expect_code(1)
        .says(&["/no/such/file"]);
    sidecar
        .cli(&["resolve", "w", "1", "--completed", path, "--status", "503"])
        .expect_code(2)
        .says(&["status"]);
    assert_eq!(sidecar.states("w"), ["in_doubt", "completed"], "nothing was changed");
    sidecar.cli(&["resolve", "w", "1", "--completed", path]).expect_code(0);
    let got = sidecar.call(&charge(1)).expect(200, "replay");
    assert_eq!(got.header("content-type"), Some("text/plain; charset=utf-8"));
    sidecar.cli(&["resolve", "w", "1", "--abandon"]).expect_code(3).says(&["has its answer"]);
}

#[test]
fn a_running_effect_cannot_be_resolved() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| counted(request).held(&held));
    let sidecar = crm(&upstream).start();
    let mut agent = sidecar.connect();
    agent.send(&charge(1));
    gate.reached(1);
    sidecar.cli(&["resolve", "w", "1", "--not-executed"]).expect_code(3).says(&["running"]);
    gate.open();
    agent.read("POST").unwrap().expect(200, "live");
    assert_eq!(upstream.count(), 1);
}
