//! Streams of MCP servers that end before the response: whose answer it then is.

use serde_json::json;

use crate::support::client::{Answer, Broken};
use crate::support::gate::Gate;
use crate::support::mcp::{Caller, Era, Form, Server, messages, response, result};
use crate::support::sidecar::Sidecar;
use crate::support::upstream::{Act, Script, Upstream, head};
use crate::support::wait;

use super::tools;

/// What a server says at once, so that its client can ask for the rest.
const PRIMING: &str = "id: e-1\nretry: 20\ndata: \n\n";

fn event(id: &str, message: &str) -> String {
    format!("event: message\nid: {id}\ndata: {message}\n\n")
}

fn progress(step: usize) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progress":{step}}}}}"#)
}

fn charged(id: &str) -> String {
    let result = r#"{"content":[{"type":"text","text":"charged once"}],"isError":false}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// A server with sessions whose `charge` gives event ids and ends its stream early with `early`. `rest` answers
/// whoever asks for what comes behind.
fn early(
    early: &[Act],
    rest: impl Fn(&crate::support::upstream::Request) -> Script + Send + Sync + 'static,
) -> (Server, Upstream, Sidecar, Caller) {
    let server = Server::new(Era::Sessions, Form::Events);
    let early = early.to_vec();
    server.tool_calls(move |call| match call.tool.as_str() {
        "charge" => {
            let begun = Script::stream().chunk(PRIMING).chunk(event("e-2", &progress(1)));
            early.iter().cloned().fold(begun, Script::then)
        }
        _ => call.reply,
    });
    server.streams(rest);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    (server, upstream, sidecar, caller)
}

/// The end of a chunked body, as a server sends it that means it.
fn meant() -> [Act; 1] {
    [Act::Send(b"0\r\n\r\n".to_vec())]
}

fn rest_of_two(id: &str) -> Script {
    Script::events(&[PRIMING.replace("e-1", "e-3"), event("e-4", &progress(2)), event("e-5", &charged(id))])
}

fn ask(sidecar: &Sidecar, ask: &crate::support::client::Ask) -> Result<Answer, Broken> {
    sidecar.try_call(ask)
}

/// A second life of the agent asks for the charge.
fn after_restart(sidecar: &Sidecar) -> Answer {
    let mut second = Caller::new("/w/w/a/2/tools", 70);
    second.initialize(sidecar);
    second.call(sidecar, "charge", &json!({}))
}

#[test]
fn a_stream_that_the_server_ends_early_ends_early_for_the_agent_and_its_answer_is_the_steps() {
    let gate = Gate::new();
    let held = gate.clone();
    let (server, upstream, sidecar, mut caller) = early(&meant(), move |_| rest_of_two("2").held(&held));
    let begun = ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    assert_eq!((begun.status, messages(&begun.body).len()), (200, 1), "{begun:?}");
    // The sidecar asks for the rest by itself; the agent is answered from what it gets.
    gate.reached(1);
    let mut connection = sidecar.connect();
    connection.send(&caller.rest("e-2"));
    connection.head("GET").unwrap();
    gate.open();
    let answer = {
        let mut again = sidecar.connect();
        again.send(&caller.rest("e-2"));
        again.read("GET").unwrap()
    };
    assert_eq!((response(&answer)["id"].as_u64(), result(&answer).0.as_str()), (Some(2), "charged once"));
    assert_eq!(messages(&answer.body).len(), 2, "the second progress and the response: {answer:?}");
    sidecar.wait_completed("w", 1);
    assert_eq!(server.count("GET"), 1, "one asks upstream, whoever asks the sidecar");
    let asked = upstream.requests().into_iter().find(|request| request.method == "GET").unwrap();
    assert_eq!(asked.header("last-event-id"), Some("e-2"));
    assert_eq!(asked.header("mcp-session-id"), Some("session-1"));
    assert!(asked.header("content-type").is_none() && asked.body.is_empty());

    let replayed = after_restart(&sidecar).expect(200, "replay");
    assert_eq!(result(&replayed).0, "charged once");
    assert_eq!(messages(&replayed.body).len(), 1, "only the response is replayed: {replayed:?}");
    assert!(!replayed.text().contains("id: e-"), "{replayed:?}");
    assert_eq!(server.charges(), 1);
}

#[test]
fn an_answer_that_nobody_asked_on_for_is_recorded_all_the_same() {
    let (server, _upstream, sidecar, mut caller) = early(&meant(), |_| rest_of_two("2"));
    ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    sidecar.wait_completed("w", 1);
    assert_eq!(result(&after_restart(&sidecar).expect(200, "replay")).0, "charged once");
    assert_eq!(server.charges(), 1);
}

#[test]
fn an_agent_that_asks_late_gets_the_recorded_response_under_its_own_id() {
    let (server, upstream, sidecar, mut caller) = early(&meant(), |_| rest_of_two("2"));
    ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    sidecar.wait_completed("w", 1);
    let answer = ask(&sidecar, &caller.rest("e-2")).unwrap();
    assert_eq!((response(&answer)["id"].as_u64(), answer.source()), (Some(2), "replay"), "{answer:?}");
    assert_eq!(server.count("GET"), 1);
    // It has its answer now: the same call once more is another charge.
    let requests = upstream.count();
    ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    assert!(upstream.count() > requests);
    assert_eq!(server.charges(), 2);
}

#[test]
fn a_call_that_is_asked_again_instead_of_resumed_is_the_same_charge() {
    let (server, _upstream, sidecar, mut caller) = early(&meant(), |_| rest_of_two("2"));
    ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    let again = caller.call(&sidecar, "charge", &json!({}));
    assert_eq!(result(&again).0, "charged once");
    assert_eq!(server.charges(), 1, "its first exchange delivered no response");
}

#[test]
fn a_stream_that_breaks_is_gone_on_with_and_the_agent_does_not_notice() {
    let (server, _upstream, sidecar, mut caller) = early(&[Act::Reset], |_| rest_of_two("2"));
    let answer = caller.call(&sidecar, "charge", &json!({}));
    assert_eq!(result(&answer), ("charged once".to_owned(), false));
    assert_eq!(messages(&answer.body).len(), 3, "{answer:?}");
    assert_eq!(server.charges(), 1);
    assert_eq!(sidecar.states("w"), ["completed"]);
}

#[test]
fn a_stream_that_stays_open_or_breaks_behind_the_response_is_over() {
    for (begun, is_reset) in [(vec![], false), (vec![], true), (vec![Act::Reset], false)] {
        let gate = Gate::new();
        let (held, held_too) = (gate.clone(), gate.clone());
        let is_whole = begun.is_empty();
        let (server, _upstream, sidecar, mut caller) =
            early(&begun, move |_| Script::stream().chunk(event("e-5", &charged("2"))).hold(&held));
        if is_whole {
            server.tool_calls(move |call| {
                let whole = Script::stream().chunk(event("e-5", &charged(&call.id)));
                if is_reset { whole.then(Act::Reset) } else { whole.hold(&held_too) }
            });
        }
        let answer = caller.call(&sidecar, "charge", &json!({}));
        assert_eq!(result(&answer).0, "charged once", "{begun:?}");
        assert_eq!(sidecar.states("w"), ["completed"]);
        gate.open();
    }
}

#[test]
fn half_an_event_in_front_of_a_break_is_not_mixed_into_the_rest() {
    let half = Act::Send(b"b\r\nid: e-9\ndata\r\n".to_vec());
    let (server, upstream, sidecar, mut caller) = early(&[half, Act::Reset], |_| rest_of_two("2"));
    let answer = caller.call(&sidecar, "charge", &json!({}));
    assert_eq!(messages(&answer.body).len(), 3, "{answer:?}");
    assert!(!answer.text().contains("e-9"), "{answer:?}");
    let asked = upstream.requests().into_iter().find(|request| request.method == "GET").unwrap();
    assert_eq!(asked.header("last-event-id"), Some("e-2"));
    assert_eq!(server.charges(), 1);
}

#[test]
fn a_server_may_end_its_streams_early_as_often_as_it_likes() {
    let (server, _upstream, sidecar, mut caller) = early(&[Act::Reset], |request| {
        if request.nth < 8 {
            Script::events(&[format!("id: p-{}\nretry: 20\ndata: \n\n", request.nth)])
        } else {
            rest_of_two("2")
        }
    });
    let begun = ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    assert_eq!(messages(&begun.body).len(), 1, "its second stream was ended on purpose: {begun:?}");
    sidecar.wait_completed("w", 1);
    assert_eq!((server.charges(), server.count("GET")), (1, 8));
    assert_eq!(result(&after_restart(&sidecar)).0, "charged once");
}

#[test]
fn a_rest_that_is_not_to_be_had_leaves_the_charge_in_doubt() {
    for (status, times) in [(404, 1), (405, 1), (503, 5)] {
        for (how, is_meant) in [(meant().to_vec(), true), (vec![Act::Reset], false)] {
            let (server, _upstream, sidecar, mut caller) = early(&how, move |_| Script::status(status));
            let begun = ask(&sidecar, &caller.tool("charge", &json!({})));
            sidecar.wait_state("w", 1, "in_doubt");
            wait::until("nothing is running", || sidecar.metric("outrigger_steps_running") < 0.5);
            let told = match begun {
                // It was sent away to ask, and is told when it does.
                Ok(_) if is_meant => ask(&sidecar, &caller.rest("e-2")).unwrap(),
                // It was still waiting: told in its stream, which does not end cleanly.
                Err(Broken { status: Some(200), body, .. }) if !is_meant => Answer {
                    status: 200,
                    headers: vec![("content-type".to_owned(), b"text/event-stream".to_vec())],
                    body,
                },
                other => panic!("{status}: {other:?}"),
            };
            let (text, is_error) = result(&told);
            assert!(is_error && text.contains("OG3001"), "{status}: {told:?}");
            assert_eq!(response(&told)["id"], 2, "{status}");
            let (text, is_error) = result(&after_restart(&sidecar));
            assert!(is_error && text.contains("OG3001"), "{status}: {text}");
            assert_eq!((server.charges(), server.count("GET")), (1, times), "{status}");
        }
    }
}

#[test]
fn an_agent_that_lost_its_connection_asks_the_sidecar_and_the_server_hears_nothing_of_it() {
    let server = Server::new(Era::Sessions, Form::Events);
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| {
        Script::stream()
            .chunk(PRIMING)
            .chunk(event("e-2", &progress(1)))
            .hold(&held)
            .chunk(event("e-3", &charged(&call.id)))
            .end()
    });
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    let mut lost = sidecar.connect();
    lost.send(&caller.tool("charge", &json!({})));
    lost.head("POST").unwrap().until("\"progress\":1").unwrap();
    gate.reached(1);
    drop(lost);
    let mut connection = sidecar.connect();
    connection.send(&caller.rest("e-1"));
    let mut reading = connection.head("GET").unwrap();
    reading.until("\"progress\":1").unwrap();
    gate.open();
    let answer = reading.whole().unwrap();
    assert_eq!((response(&answer)["id"].as_u64(), messages(&answer.body).len()), (Some(2), 2), "{answer:?}");
    assert_eq!((server.charges(), server.count("GET")), (1, 0));
    // Another session's ids are others'.
    let mut other = Caller::new("/w/w/a/1/tools", 1);
    other.initialize(&sidecar);
    assert_eq!(ask(&sidecar, &other.rest("e-1")).unwrap().status, 405);
    assert_eq!(server.count("GET"), 1);
}

#[test]
fn an_early_end_without_event_ids_leaves_a_doubt_and_is_no_clean_end() {
    let server = Server::new(Era::Stateless, Form::Events);
    server.tool_calls(|_| Script::events(&[format!("data: {}\n\n", progress(1))]));
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 2);
    let broken = ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap_err();
    let told = messages(&broken.body);
    assert_eq!(told.len(), 2, "{broken:?}");
    assert_eq!((&told[1]["id"], &told[1]["result"]["isError"]), (&json!(2), &json!(true)), "{broken:?}");
    assert_eq!(sidecar.states("w"), ["in_doubt"]);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn the_newer_protocol_has_no_resumption_and_a_broken_answer_is_in_doubt() {
    let server = Server::new(Era::Stateless, Form::Events);
    server.tool_calls(|_| Script::stream().chunk(PRIMING).then(Act::Reset));
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::stateless("/w/w/a/1/tools", 2);
    ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap_err();
    assert_eq!(sidecar.states("w"), ["in_doubt"]);
    assert_eq!(upstream.count(), 1, "{:?}", upstream.requests());
}

#[test]
fn a_sidecar_that_dies_before_it_has_the_rest_leaves_the_charge_in_doubt() {
    let gate = Gate::new();
    let held = gate.clone();
    let (server, upstream, mut sidecar, mut caller) = early(&meant(), move |request| {
        // The next life of the sidecar is not the one that asks.
        if request.nth == 1 { Script::raw(head(200, &[], None)).held(&held) } else { rest_of_two("2") }
    });
    ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    gate.reached(1);
    sidecar.kill9();
    gate.open();
    sidecar.restart();
    let (text, is_error) = result(&after_restart(&sidecar));
    assert!(is_error && text.contains("OG3001"), "{text}");
    assert_eq!(server.charges(), 1, "{:?}", upstream.requests());
}

#[test]
fn without_a_workflow_an_early_end_and_the_question_for_the_rest_cross_as_they_are() {
    let (server, _upstream, sidecar, _) = early(&meant(), |_| rest_of_two("2"));
    let mut caller = Caller::new("/tools", 1);
    caller.initialize(&sidecar);
    let begun = ask(&sidecar, &caller.tool("charge", &json!({}))).unwrap();
    assert_eq!(messages(&begun.body).len(), 1, "{begun:?}");
    assert_eq!(server.count("GET"), 0);
    let rest = ask(&sidecar, &caller.rest("e-2")).unwrap();
    assert_eq!((response(&rest)["id"].as_u64(), server.count("GET")), (Some(2), 1));
}
