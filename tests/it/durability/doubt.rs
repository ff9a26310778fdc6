//! Effects whose outcome nobody knows, and those of which it is known that nothing was sent.

use serde_json::json;

use crate::support::client::{Answer, Ask};
use crate::support::gate::Gate;
use crate::support::mcp::{Caller, Era, Form, Server, result};
use crate::support::sidecar::Setup;
use crate::support::upstream::{Act, Script, Upstream};

use super::{counted, counting, crm};

/// Refused as in doubt, naming the step, and no SDK will try again by itself.
#[track_caller]
fn check_in_doubt(answer: &Answer, step: u64) {
    assert_eq!((answer.status, answer.header("x-should-retry")), (422, Some("false")), "{answer:?}");
    let text = answer.text();
    assert!(text.contains("OG3001") && text.contains(&format!("step {step}")), "{answer:?}");
}

#[test]
fn case_2_an_effect_that_was_sent_when_the_sidecar_died_is_in_doubt_and_never_repeated() {
    let upstream = counting();
    let mut sidecar = crm(&upstream).start();
    sidecar.call(&Ask::post("/w/w/a/1/crm/first", "{}")).expect(200, "live");
    let gate = Gate::new();
    let held = gate.clone();
    upstream.answers(move |request| counted(request).held(&held));
    let charge = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/charge"), r#"{"amount": 5}"#);
    let mut agent = sidecar.connect();
    agent.send(&charge(1));
    gate.reached(1);
    sidecar.kill9();
    assert!(agent.read("POST").is_err(), "the agent sees a broken connection");
    gate.open();
    sidecar.restart();

    // The same agent tries again, then a restarted one.
    check_in_doubt(&sidecar.call(&charge(1)), 2);
    sidecar.call(&Ask::post("/w/w/a/2/crm/first", "{}")).expect(200, "replay");
    check_in_doubt(&sidecar.call(&charge(2)), 2);
    assert_eq!(upstream.count_of("/charge"), 1);
    assert_eq!(sidecar.states("w"), ["completed", "in_doubt"]);
    assert_eq!(sidecar.timeline("w")["state"], "in_doubt");
    sidecar.cli(&["close", "w"]).expect_code(3).says(&["in doubt"]);
}

#[test]
fn case_2_an_mcp_tool_in_doubt_is_told_to_the_model_as_a_result() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| call.reply.held(&held));
    let mut sidecar = Setup::new().upstream("tools", "mcp", &upstream.url()).start();
    let mut first = Caller::stateless("/w/w/a/1/tools", 1);
    let mut agent = sidecar.connect();
    agent.send(&first.tool("charge", &json!({"invoice_id": 7})));
    gate.reached(1);
    sidecar.kill9();
    gate.open();
    sidecar.restart();
    let mut second = Caller::stateless("/w/w/a/2/tools", 40);
    let answer = second.call(&sidecar, "charge", &json!({"invoice_id": 7}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let (text, is_error) = result(&answer);
    assert!(is_error && text.contains("OG3001") && text.contains("may have"), "{answer:?}");
    assert_eq!(server.charges(), 1);
}

#[test]
fn case_5_a_refused_connection_is_no_doubt_and_the_effect_is_sent_again() {
    let mut upstream = counting();
    let sidecar = crm(&upstream).start();
    upstream.stop();
    let charge = Ask::post("/w/w/a/1/crm/charge", "{}");
    let failed = sidecar.call(&charge);
    assert_eq!(failed.status, 502, "{failed:?}");
    assert!(failed.text().contains("OG4001"), "{failed:?}");
    assert_eq!(sidecar.states("w"), ["failed"]);
    upstream.start_again();
    assert_eq!(sidecar.call(&charge).expect(200, "live").step(), 1);
    assert_eq!(upstream.count(), 1);
    assert_eq!(sidecar.states("w"), ["completed"]);
}

#[test]
fn case_5_a_refused_connection_before_a_crash_is_no_doubt_either() {
    let mut upstream = counting();
    let mut sidecar = crm(&upstream).start();
    upstream.stop();
    assert_eq!(sidecar.call(&Ask::post("/w/w/a/1/crm/charge", "{}")).status, 502);
    sidecar.kill9();
    upstream.start_again();
    sidecar.restart();
    sidecar.call(&Ask::post("/w/w/a/2/crm/charge", "{}")).expect(200, "live");
    assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["completed".to_owned()]));
}

#[test]
fn case_5_a_504_after_the_request_is_in_doubt_without_any_crash() {
    for status in [408, 500, 502, 503, 504] {
        let upstream = Upstream::start(move |_| Script::status(status));
        let sidecar = crm(&upstream).start();
        let charge = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/charge"), "{}");
        assert_eq!(sidecar.call(&charge(1)).status, status, "the agent sees what the upstream said");
        check_in_doubt(&sidecar.call(&charge(1)), 1);
        check_in_doubt(&sidecar.call(&charge(2)), 1);
        assert_eq!(upstream.count(), 1, "status {status}");
    }
}

#[test]
fn case_5_a_connection_that_breaks_after_the_request_is_in_doubt() {
    let half =
        |_: &_| Script::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it").then(Act::Close);
    let reset = |_: &_| Script(vec![Act::Reset]);
    let closed = |_: &_| Script(vec![Act::Close]);
    let garbage = |_: &_| Script::raw("this is not HTTP\r\n\r\n").then(Act::Close);
    let upstreams =
        [Upstream::start(half), Upstream::start(reset), Upstream::start(closed), Upstream::start(garbage)];
    for (number, upstream) in upstreams.iter().enumerate() {
        let sidecar = crm(upstream).start();
        let charge = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/charge"), "{}");
        if let Ok(answer) = sidecar.try_call(&charge(1)) {
            // Its head was not out yet, so that it can be said at once.
            check_in_doubt(&answer, 1);
        }
        check_in_doubt(&sidecar.call(&charge(1)), 1);
        check_in_doubt(&sidecar.call(&charge(2)), 1);
        assert_eq!(upstream.count(), 1, "upstream {number}");
        assert_eq!(sidecar.states("w"), ["in_doubt"], "upstream {number}");
    }
}

#[test]
fn an_effect_that_the_upstream_refused_to_run_is_sent_again() {
    for status in [401, 403, 407, 429] {
        let upstream =
            Upstream::start(
                move |request| {
                    if request.count == 1 { Script::status(status) } else { counted(request) }
                },
            );
        let sidecar = crm(&upstream).start();
        let charge = Ask::post("/w/w/a/1/crm/charge", "{}");
        sidecar.call(&charge).expect(status, "live");
        assert_eq!(sidecar.call(&charge).expect(200, "live").step(), 1);
        assert_eq!((upstream.count(), sidecar.states("w")), (2, vec!["completed".to_owned()]));
    }
}

#[test]
fn reads_and_idempotent_calls_that_broke_are_sent_again() {
    for method in ["GET", "PUT", "DELETE"] {
        let upstream =
            Upstream::start(
                |request| {
                    if request.count == 1 { Script(vec![Act::Reset]) } else { counted(request) }
                },
            );
        let sidecar = crm(&upstream).start();
        let ask = |attempt: usize| Ask::new(method, format!("/w/w/a/{attempt}/crm/thing"));
        let failed = sidecar.call(&ask(1));
        assert!(failed.status == 502 || method == "GET" && failed.status == 200, "{failed:?}");
        sidecar.call(&ask(2)).expect(200, if failed.status == 200 { "replay" } else { "live" });
        assert_eq!((upstream.count(), sidecar.states("w")), (2, vec!["completed".to_owned()]), "{method}");
    }
}

#[test]
fn case_10_of_four_parallel_tools_the_finished_replay_and_the_others_are_in_doubt() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| {
        if matches!(call.arguments["job"].as_str(), Some("B" | "D")) {
            call.reply.held(&held)
        } else {
            call.reply
        }
    });
    let mut sidecar = Setup::new().upstream("tools", "mcp", &upstream.url()).start();
    let mut first = Caller::stateless("/w/w/a/1/tools", 1);
    let mut open = Vec::new();
    let mut lived = Vec::new();
    for job in ["A", "B", "C", "D"] {
        let mut connection = sidecar.connect();
        connection.send(&first.tool("charge", &json!({"job": job})));
        if job == "A" || job == "C" {
            lived.push(result(&connection.read("POST").unwrap()).0);
        } else {
            open.push(connection);
        }
    }
    gate.reached(2);
    sidecar.kill9();
    gate.open();
    sidecar.restart();
    let mut second = Caller::stateless("/w/w/a/2/tools", 100);
    let mut got = std::collections::BTreeMap::new();
    for job in ["D", "B", "C", "A"] {
        got.insert(job, result(&second.call(&sidecar, "charge", &json!({"job": job}))));
    }
    assert_eq!((&got["A"].0, &got["C"].0), (&lived[0], &lived[1]));
    assert!(!got["A"].1 && !got["C"].1);
    for job in ["B", "D"] {
        assert!(got[job].1 && got[job].0.contains("OG3001"), "{job}: {:?}", got[job]);
    }
    assert_eq!(server.charges(), 4);
}

#[test]
fn case_11_of_two_equal_effects_meant_twice_exactly_the_finished_one_replays() {
    let upstream = counting();
    let (one, two) = (Gate::new(), Gate::new());
    let gates = [one.clone(), two.clone()];
    upstream.answers(move |request| counted(request).held(&gates[(request.count - 1).min(1)]));
    let mut sidecar = crm(&upstream).start();
    let charge = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/charge"), "{}");
    let mut first = sidecar.connect();
    first.send(&charge(1));
    one.reached(1);
    let mut second = sidecar.connect();
    second.send(&charge(1));
    two.reached(1);
    one.open();
    let lived = first.read("POST").unwrap().expect(200, "live");
    sidecar.kill9();
    two.open();
    sidecar.restart();
    let replayed = sidecar.call(&charge(2)).expect(200, "replay");
    assert_eq!(replayed.body, lived.body);
    check_in_doubt(&sidecar.call(&charge(2)), 2);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn an_effect_is_not_sent_twice_over_a_pooled_connection_that_the_upstream_has_closed() {
    let upstream = counting();
    let sidecar = crm(&upstream).start();
    for number in 0..10 {
        let ask = Ask::post("/w/w/a/1/crm/charge", format!(r#"{{"number": {number}}}"#));
        let answer = sidecar.call(&ask);
        upstream.close_connections();
        // The close may meet the request half-way; then it is in doubt, or failed and safe, but never twice.
        assert!(matches!(answer.status, 200 | 422 | 502), "{answer:?}");
    }
    assert!(upstream.count() <= 10);
}

#[test]
fn an_effect_that_a_dead_sidecar_left_is_shown_as_in_doubt_before_anybody_asks_again() {
    let upstream = counting();
    let mut sidecar = crm(&upstream).start();
    let gate = Gate::new();
    let held = gate.clone();
    upstream.answers(move |request| counted(request).held(&held));
    let mut agent = sidecar.connect();
    agent.send(&Ask::post("/w/w/a/1/crm/charge", "{}"));
    gate.reached(1);
    assert_eq!(sidecar.states("w"), ["open"], "it is at work");
    sidecar.kill9();
    gate.open();
    for runs in [false, true] {
        if runs {
            sidecar.restart();
        }
        assert_eq!(sidecar.states("w"), ["in_doubt"]);
        sidecar.cli(&["workflows"]).expect_code(0).prints(&["in doubt"]);
        sidecar.cli(&["close", "w"]).expect_code(3).says(&["in doubt"]);
    }
}
