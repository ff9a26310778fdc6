//! MCP through the sidecar: ids, sessions, lists, and what is neither.

mod chains;
mod lists;
mod live;
mod resumption;
mod tasks;

use serde_json::json;

use crate::support::client::Ask;
use crate::support::gate::Gate;
use crate::support::mcp::{Caller, Era, Form, Server, response, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Script, Upstream, head};

fn tools(upstream: &Upstream) -> Sidecar {
    Setup::new().upstream("tools", "mcp", &upstream.url()).start()
}

#[test]
fn a_replayed_result_carries_the_id_of_the_request_it_answers_now() {
    for (era, form) in [
        (Era::Stateless, Form::Json),
        (Era::Stateless, Form::Events),
        (Era::Sessions, Form::Json),
        (Era::Sessions, Form::Events),
    ] {
        let server = Server::new(era, form);
        let upstream = server.start();
        let sidecar = tools(&upstream);
        let mut lived = Vec::new();
        for attempt in [1, 2] {
            let mut caller = Caller::new(format!("/w/w/a/{attempt}/tools"), attempt * 1000);
            if era == Era::Sessions {
                caller.initialize(&sidecar);
            }
            caller.list(&sidecar);
            for number in 0..3 {
                // `call` itself checks the id.
                let answer = caller.call(&sidecar, "charge", &json!({"number": number}));
                assert_eq!(answer.source(), if attempt == 1 { "live" } else { "replay" }, "{era:?} {form:?}");
                lived.push(result(&answer));
            }
        }
        assert_eq!(lived[..3], lived[3..], "{era:?} {form:?}");
        assert_eq!(server.charges(), 3, "{era:?} {form:?}");
    }
}

#[test]
fn ids_come_back_as_they_were_spelled() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let call = |attempt: usize, id: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"charge","arguments":{{}}}}}}"#
        );
        sidecar.call(&Ask::post(format!("/w/w/a/{attempt}/tools/mcp"), body))
    };
    call(1, "1").expect(200, "live");
    for (attempt, id) in [(2, "\"a-\\u00e9\""), (3, "9007199254740993"), (4, "\"1\"")] {
        let answer = call(attempt, id).expect(200, "replay");
        assert!(answer.text().contains(&format!(r#""id":{id},"#)), "{answer:?}");
    }
    assert_eq!(server.charges(), 1);
}

#[test]
fn a_replaying_agent_gets_a_session_of_the_sidecar_and_the_upstreams_is_opened_at_the_first_live_call() {
    let server = Server::new(Era::Sessions, Form::Events);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut first = Caller::new("/w/w/a/1/tools", 1);
    first.initialize(&sidecar);
    first.list(&sidecar);
    for number in 0..2 {
        first.call(&sidecar, "charge", &json!({"number": number})).expect(200, "live");
    }
    server.forget_sessions();
    let before = upstream.count();

    let mut second = Caller::new("/w/w/a/2/tools", 1);
    assert_eq!(second.initialize(&sidecar).source(), "replay");
    assert!(second.session.is_some() && second.session != first.session, "{:?}", second.session);
    assert_eq!(second.list(&sidecar).source(), "replay");
    for number in 0..2 {
        second.call(&sidecar, "charge", &json!({"number": number})).expect(200, "replay");
    }
    assert_eq!(upstream.count(), before, "a replay reached the server");

    second.call(&sidecar, "charge", &json!({"number": 2})).expect(200, "live");
    second.call(&sidecar, "charge", &json!({"number": 3})).expect(200, "live");
    assert_eq!(server.count("initialize"), 2, "opened once, at the first live call");
    assert_eq!(server.count("notifications/initialized"), 2);
    assert_eq!(server.charges(), 4);
    assert!(
        upstream.requests().iter().all(|request| {
            !request.header("mcp-session-id").unwrap_or_default().starts_with("outrigger")
        })
    );
}

#[test]
fn case_27_a_server_that_was_restarted_is_initialised_once_and_the_agent_does_not_notice() {
    let server = Server::new(Era::Sessions, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    caller.call(&sidecar, "charge", &json!({"number": 0})).expect(200, "live");
    server.forget_sessions();
    for number in 1..4 {
        caller.call(&sidecar, "charge", &json!({"number": number})).expect(200, "live");
    }
    assert_eq!(server.count("initialize"), 2);
    assert_eq!(server.count("refused 404"), 1);
    assert_eq!(server.charges(), 4);
}

#[test]
fn case_27_a_tool_call_that_may_have_reached_the_old_server_is_in_doubt() {
    let server = Server::new(Era::Sessions, Form::Json);
    let mut upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| call.reply.held(&held));
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    let charge = caller.tool("charge", &json!({}));
    let mut connection = sidecar.connect();
    connection.send(&charge);
    gate.reached(1);
    upstream.stop();
    server.forget_sessions();
    let (text, is_error) = result(&connection.read("POST").unwrap());
    assert!(is_error && text.contains("OG3001"), "{text}");
    gate.open();
    server.tool_calls(|call| call.reply);
    upstream.start_again();
    let (text, is_error) = result(&caller.call(&sidecar, "charge", &json!({})));
    assert!(is_error && text.contains("OG3001"), "{text}");
    caller.call(&sidecar, "send_email", &json!({})).expect(200, "live");
    assert_eq!(server.charges(), 1);
}

#[test]
fn case_28_a_list_that_changed_is_served_as_recorded_while_recorded_steps_lie_ahead() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let names = |answer: &crate::support::client::Answer| {
        let tools = response(answer)["result"]["tools"].as_array().unwrap().clone();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut first = Caller::new("/w/w/a/1/tools", 1);
    assert_eq!(names(&first.list(&sidecar)), ["charge", "send_email"]);
    first.call(&sidecar, "charge", &json!({})).expect(200, "live");
    server.offer(&["charge", "send_email", "refund"]);

    let mut second = Caller::new("/w/w/a/2/tools", 1);
    let listed = second.list(&sidecar);
    assert_eq!((names(&listed).len(), listed.source()), (2, "replay"));
    second.call(&sidecar, "charge", &json!({})).expect(200, "replay");
    // At the frontier the list is live again, and that is now the recorded one.
    let listed = second.list(&sidecar);
    assert_eq!((names(&listed).len(), listed.source()), (3, "live"));
    second.call(&sidecar, "refund", &json!({})).expect(200, "live");
    let mut third = Caller::new("/w/w/a/3/tools", 1);
    assert_eq!(names(&third.list(&sidecar)).len(), 3);
    assert_eq!(server.count("tools/list"), 2);
}

#[test]
fn without_a_workflow_everything_crosses_as_it_is() {
    let server = Server::new(Era::Sessions, Form::Events);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/tools", 1);
    caller.initialize(&sidecar);
    assert_eq!(caller.session.as_deref(), Some("session-1"));
    for _ in 0..2 {
        let answer = caller.call(&sidecar, "charge", &json!({}));
        assert_eq!(answer.source(), "none");
    }
    assert_eq!(server.charges(), 2);
    // A dead session is the client's business: it must see the 404.
    server.forget_sessions();
    let answer = sidecar.call(&caller.tool("charge", &json!({})));
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("Session not found"));
}

#[test]
fn a_servers_own_refusals_reach_the_client_untouched() {
    let body = "{\"error\" : \"an era of its own\" }";
    for status in [400, 404, 405] {
        let upstream = Upstream::start(move |_| Script::answer(status, "application/json", body));
        let sidecar = tools(&upstream);
        for base in ["/tools", "/w/w/a/1/tools"] {
            let answer = sidecar.call(&Caller::new(base, 1).ask("server/discover", &json!({})));
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{base}");
        }
    }
}

#[test]
fn an_unknown_method_of_a_workflow_is_refused_and_not_sent() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let answer = sidecar.call(&Caller::new("/w/w/a/1/tools", 7).ask("tools/destroy", &json!({})));
    let response = answer.json();
    assert_eq!((&response["id"], &response["error"]["code"]), (&json!(7), &json!(-32601)), "{answer:?}");
    assert_eq!(upstream.count(), 0);
    // Without a workflow it is the server that knows its methods.
    let answer = sidecar.call(&Caller::new("/tools", 7).ask("tools/destroy", &json!({})));
    assert_eq!((answer.status, upstream.count()), (200, 1));
}

#[test]
fn a_servers_event_stream_is_live_and_ends_with_its_client() {
    let gone = Gate::new();
    let watched = gone.clone();
    let upstream = Upstream::start(move |request| match request.method.as_str() {
        "GET" => Script::stream().chunk(": hello\n\n").then(Act::Gone(watched.clone())),
        _ => Script::raw(head(202, &[], Some(0))),
    });
    let sidecar = tools(&upstream);
    for (times, base) in [(1, "/tools"), (2, "/w/w/a/1/tools")] {
        let mut connection = sidecar.connect();
        connection.send(&Ask::get(format!("{base}/mcp")).header("accept", "text/event-stream"));
        connection.head("GET").unwrap().until(": hello").unwrap();
        drop(connection);
        gone.reached(times);
    }
}

#[test]
fn closing_the_stream_of_a_tool_call_does_not_cancel_the_effect() {
    let server = Server::new(Era::Stateless, Form::Events);
    let upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| call.reply.held(&held));
    let sidecar = tools(&upstream);
    let mut first = Caller::stateless("/w/w/a/1/tools", 1);
    let mut connection = sidecar.connect();
    connection.send(&first.tool("charge", &json!({})));
    gate.reached(1);
    drop(connection);
    gate.open();
    sidecar.wait_completed("w", 1);
    let mut second = Caller::stateless("/w/w/a/2/tools", 1);
    second.call(&sidecar, "charge", &json!({})).expect(200, "replay");
    assert_eq!(server.charges(), 1);
}

#[test]
fn two_calls_at_once_that_join_each_get_their_own_id() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| call.reply.held(&held));
    let sidecar = tools(&upstream);
    let mut first = Caller::stateless("/w/w/a/1/tools", 1);
    let mut lost = sidecar.connect();
    lost.send(&first.tool("charge", &json!({})));
    gate.reached(1);
    drop(lost);
    sidecar.wait_connections(0.0);
    let mut second = Caller::stateless("/w/w/a/2/tools", 70);
    let mut connection = sidecar.connect();
    connection.send(&second.tool("charge", &json!({})));
    sidecar.wait_connections(1.0);
    gate.open();
    let answer = connection.read("POST").unwrap();
    assert_eq!((response(&answer)["id"].as_u64(), answer.status), (Some(70), 200));
    assert_eq!(server.charges(), 1);
}

#[test]
fn a_tool_call_that_waited_in_vain_for_its_session_was_not_sent_and_is_not_in_doubt() {
    let server = Server::new(Era::Sessions, Form::Json);
    let upstream = server.start();
    let sidecar = Setup::new().upstream_with("tools", "mcp", &upstream.url(), "idle_timeout_s: 1").start();
    let mut first = Caller::new("/w/w/a/1/tools", 1);
    first.initialize(&sidecar);
    first.call(&sidecar, "charge", &json!({"number": 1})).expect(200, "live");

    let mut second = Caller::new("/w/w/a/2/tools", 1);
    second.initialize(&sidecar);
    second.call(&sidecar, "charge", &json!({"number": 1})).expect(200, "replay");
    let gate = Gate::new();
    let (held, other) = (gate.clone(), server.clone());
    upstream.answers(move |request| {
        let script = other.handle(request);
        if request.text().contains("\"initialize\"") { script.held(&held) } else { script }
    });
    let refused = sidecar.call(&second.tool("charge", &json!({"number": 2})));
    assert_eq!(gate.times_reached(), 1, "the session was asked for: {refused:?}");
    assert_eq!(sidecar.states("w"), ["completed", "failed"], "{refused:?}");
    gate.open();
    let answer = second.call(&sidecar, "charge", &json!({"number": 2})).expect(200, "live");
    assert_eq!((answer.step(), server.charges()), (2, 2));
}
