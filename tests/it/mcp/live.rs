//! What of MCP is neither recorded nor replayed, and what a client cannot undo.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Ask;
use crate::support::gate::Gate;
use crate::support::llm::Api;
use crate::support::mcp::{Caller, Era, Form, Server, messages, response, result};
use crate::support::sidecar::Setup;
use crate::support::upstream::{Act, Script, Upstream, head};
use crate::support::wait;

use super::tools;

#[test]
fn progress_and_a_servers_own_questions_cross_while_a_tool_works_and_are_not_replayed() {
    let server = Server::new(Era::Sessions, Form::Events);
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| {
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#;
        let sampling = r#"{"jsonrpc":"2.0","id":77,"method":"sampling/createMessage","params":{}}"#;
        let result = r#"{"content":[{"type":"text","text":"asked and done"}]}"#;
        Script::stream()
            .chunk(format!("data: {progress}\n\ndata: {sampling}\n\n"))
            .hold(&held)
            .chunk(format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}\n\n", call.id))
            .end()
    });
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut first = Caller::new("/w/w/a/1/tools", 1);
    first.initialize(&sidecar);
    let mut connection = sidecar.connect();
    connection.send(&first.tool("charge", &json!({})));
    let mut reading = connection.head("POST").unwrap();
    reading.until("sampling/createMessage").unwrap();
    // The agent answers while its call is under way, and the server gets it.
    let sampled = r#"{"jsonrpc":"2.0","id":77,"result":{"role":"assistant"}}"#;
    assert_eq!(sidecar.call(&first.message(sampled.to_owned())).status, 202);
    assert_eq!(upstream.requests().last().unwrap().text(), sampled);
    gate.open();
    let answer = reading.whole().unwrap();
    assert_eq!(messages(&answer.body).len(), 3, "{answer:?}");

    let mut second = Caller::new("/w/w/a/2/tools", 41);
    second.initialize(&sidecar);
    let replayed = second.call(&sidecar, "charge", &json!({})).expect(200, "replay");
    assert_eq!(messages(&replayed.body).len(), 1, "{replayed:?}");
    assert_eq!(
        (result(&replayed).0.as_str(), response(&replayed)["id"].as_u64()),
        ("asked and done", Some(42))
    );
    assert_eq!(sidecar.states("w"), ["completed"]);
}

fn cancelled(id: u64) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}).to_string()
}

#[test]
fn cancelling_a_tool_call_does_not_cancel_the_effect() {
    let server = Server::new(Era::Sessions, Form::Json);
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| call.reply.held(&held));
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    let mut connection = sidecar.connect();
    connection.send(&caller.tool("charge", &json!({})));
    gate.reached(1);
    assert_eq!(sidecar.call(&caller.message(cancelled(caller.last_id()))).status, 202);
    assert_eq!(
        server.count("notifications/cancelled"),
        0,
        "a server that is told to stop says no more of it"
    );
    drop(connection);
    gate.open();
    sidecar.wait_completed("w", 1);
    let mut second = Caller::new("/w/w/a/2/tools", 1);
    second.initialize(&sidecar);
    second.call(&sidecar, "charge", &json!({})).expect(200, "replay");
    assert_eq!(server.charges(), 1);
    // What is no effect at work, the server is told of.
    assert_eq!(sidecar.call(&second.message(cancelled(999))).status, 202);
}

#[test]
fn a_cancellation_of_anything_else_reaches_the_server() {
    let server = Server::new(Era::Sessions, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    caller.call(&sidecar, "charge", &json!({})).expect(200, "live");
    for id in [caller.last_id(), 999] {
        assert_eq!(sidecar.call(&caller.message(cancelled(id))).status, 202);
    }
    assert_eq!(server.count("notifications/cancelled"), 2);
}

#[test]
fn live_calls_make_no_steps_and_a_subscription_ends_with_its_client() {
    let gone = Gate::new();
    let watched = gone.clone();
    let upstream = Upstream::start(move |request| {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        if message["method"] == "subscriptions/listen" {
            return Script::stream().chunk(": listening\n\n").then(Act::Gone(watched.clone()));
        }
        let Some(id) = message.get("id") else { return Script::raw(head(202, &[], Some(0))) };
        Script::json(json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string())
    });
    let sidecar = tools(&upstream);
    let mut caller = Caller::stateless("/w/w/a/1/tools", 1);
    for method in ["ping", "completion/complete", "logging/setLevel", "resources/subscribe", "tasks/list"] {
        let answer = sidecar.call(&caller.ask(method, &json!({})));
        assert_eq!((answer.status, answer.step()), (200, 0), "{method}");
    }
    let mut connection = sidecar.connect();
    connection.send(&caller.ask("subscriptions/listen", &json!({})));
    connection.head("POST").unwrap().until(": listening").unwrap();
    assert!(sidecar.metric("outrigger_steps_running") < 0.5);
    drop(connection);
    gone.reached(1);
    assert_eq!(sidecar.timeline("w")["steps"], json!([]));
}

#[test]
fn a_replaying_agents_event_stream_becomes_the_servers_when_its_session_is_opened() {
    let server = Server::new(Era::Sessions, Form::Json);
    let hello = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/hello\"}\n\n";
    server.streams(move |_| Script::stream().chunk(hello).end());
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut first = Caller::new("/w/w/a/1/tools", 1);
    first.initialize(&sidecar);
    first.call(&sidecar, "charge", &json!({})).expect(200, "live");

    let mut second = Caller::new("/w/w/a/2/tools", 1);
    second.initialize(&sidecar);
    let listen = |caller: &Caller| {
        let mut connection = sidecar.connect();
        let session = caller.session.clone().unwrap();
        connection.send(&Ask::get("/w/w/a/2/tools/mcp").header("mcp-session-id", session));
        connection
    };
    let mut listening = listen(&second);
    let reading = listening.head("GET").unwrap();
    assert_eq!((reading.status, reading.header("content-type")), (200, Some("text/event-stream")));
    second.call(&sidecar, "charge", &json!({})).expect(200, "replay");
    assert_eq!(server.count("GET"), 0, "a replay reaches no server");
    second.call(&sidecar, "charge", &json!({"number": 2})).expect(200, "live");
    let heard = reading.whole().unwrap();
    assert_eq!((heard.text().as_str(), server.count("GET")), (hello, 1));

    // Where the server has no such stream, the agent's ends too.
    server.streams(|_| Script::raw(head(405, &[], Some(0))));
    let mut third = Caller::new("/w/w/a/2/tools", 1);
    third.session = Some("outrigger-third".to_owned());
    let mut listening = listen(&third);
    let reading = listening.head("GET").unwrap();
    third.call(&sidecar, "charge", &json!({"number": 3})).expect(200, "live");
    assert_eq!(reading.whole().unwrap().body, b"");
}

#[test]
fn a_dead_session_is_opened_again_for_live_calls_too() {
    let server = Server::new(Era::Sessions, Form::Json);
    server.streams(|_| Script::events(&["data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n"]));
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut caller = Caller::new("/w/w/a/1/tools", 1);
    caller.initialize(&sidecar);
    server.forget_sessions();
    assert_eq!(sidecar.call(&caller.ask("ping", &json!({}))).status, 200);
    server.forget_sessions();
    let listening = Ask::get("/w/w/a/1/tools/mcp").header("mcp-session-id", "session-1");
    assert_eq!(sidecar.call(&listening).status, 200);
    caller.call(&sidecar, "charge", &json!({})).expect(200, "live");
    assert_eq!(server.count("initialize"), 3);
    // An agent that ends its session ends it.
    let ends = Ask::new("DELETE", "/w/w/a/1/tools/mcp").header("mcp-session-id", "session-1");
    assert_eq!(sidecar.call(&ends).status, 200);
    server.forget_sessions();
    assert_eq!(sidecar.call(&caller.ask("ping", &json!({}))).status, 404);
    assert_eq!(server.count("initialize"), 3);
}

#[test]
fn what_could_not_be_recorded_is_refused_in_a_workflow_and_crosses_without_one() {
    let upstream = Upstream::start(|_| Script::json("[]"));
    let sidecar = tools(&upstream);
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"charge"}}]"#;
    let nameless = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"charge"}}"#;
    for message in [batch, nameless] {
        let answer = sidecar.call(&Ask::post("/w/w/a/1/tools/mcp", message));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(-32600)), "{answer:?}");
    }
    assert_eq!(upstream.count(), 0);
    let pings = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#;
    assert_eq!(sidecar.call(&Ask::post("/w/w/a/1/tools/mcp", pings)).status, 200);
    for message in [batch, nameless] {
        assert_eq!(sidecar.call(&Ask::post("/tools/mcp", message)).status, 200);
    }
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_call_is_a_step_whatever_its_content_type_says() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    for (attempt, source) in [(1, "live"), (2, "replay")] {
        let mut ask = Caller::new(format!("/w/w/a/{attempt}/tools"), 1).tool("charge", &json!({}));
        ask.headers.retain(|(name, _)| name != "content-type");
        sidecar.call(&ask.header("content-type", "text/plain")).expect(200, source);
    }
    assert_eq!(server.charges(), 1);
}

#[test]
fn lists_are_kept_apart_by_protocol_version_and_page() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let lists = |attempt: usize, source: &str| {
        let pages = [json!({}), json!({"cursor": "p2"})];
        for (version, page) in [("2025-11-25", 0), ("2025-11-25", 1), ("2026-07-28", 0), ("2026-07-28", 1)] {
            let mut caller = Caller::new(format!("/w/w/a/{attempt}/tools"), 1);
            let ask = caller.ask("tools/list", &pages[page]).header("mcp-protocol-version", version);
            assert_eq!(sidecar.call(&ask).source(), source, "{version} page {page}");
        }
    };
    lists(1, "live");
    Caller::new("/w/w/a/1/tools", 1).call(&sidecar, "charge", &json!({})).expect(200, "live");
    lists(2, "replay");
    let other = Caller::new("/w/w/a/2/tools", 1).ask("tools/list", &json!({"cursor": "p3"}));
    assert_eq!(sidecar.call(&other).source(), "live");
    assert_eq!(server.count("tools/list"), 5);
}

#[test]
fn case_28_a_list_that_differs_is_told_when_the_sidecar_learns_of_it() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut first = Caller::new("/w/w/a/1/tools", 1);
    first.list(&sidecar);
    first.list(&sidecar);
    first.call(&sidecar, "charge", &json!({})).expect(200, "live");
    assert_eq!(sidecar.timeline_now("w")["changed_lists"], json!([]), "the same under another id");
    server.offer(&["charge", "refund"]);
    let mut second = Caller::new("/w/w/a/2/tools", 1);
    assert_eq!(second.list(&sidecar).source(), "replay");
    second.call(&sidecar, "charge", &json!({})).expect(200, "replay");
    assert_eq!(second.list(&sidecar).source(), "live");
    wait::until("the warning", || sidecar.log().contains("the list differs from the recorded one"));
    let changed = sidecar.timeline("w")["changed_lists"].clone();
    assert_eq!(changed.as_array().map(Vec::len), Some(1), "{changed}");
    assert_eq!((&changed[0]["method"], &changed[0]["attempt"]), (&json!("tools/list"), &json!(2)));
    let text = sidecar.cli(&["timeline", "w"]).stdout;
    assert!(text.contains("tools/list of tools differs"), "{text}");
}

#[test]
fn a_tool_that_a_model_called_and_that_did_not_pass_is_named_in_the_timeline() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let called = |name: &str| json!({"id": name, "function": {"name": name, "arguments": "{}"}});
    let calls = json!([called("tools__charge"), called("bash")]);
    let choice = json!({"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": calls}});
    let model = Upstream::start(move |request| match request.nth {
        1 => Script::json(json!({"object": "chat.completion", "choices": [choice]}).to_string()),
        _ => Script::json(Api::OpenaiChat.answer("done")),
    });
    let sidecar = Setup::new()
        .upstream("tools", "mcp", &upstream.url())
        .upstream("llm", "openai", &model.url())
        .start();
    let think = |prompt: &str| {
        let path = format!("/w/w/a/1/llm{}", Api::OpenaiChat.path(false));
        sidecar.call(&Ask::post(path, Api::OpenaiChat.ask(prompt, false))).expect(200, "live");
    };
    think("what now?");
    Caller::new("/w/w/a/1/tools", 1).call(&sidecar, "charge", &json!({})).expect(200, "live");
    assert_eq!(sidecar.timeline_now("w")["unproxied"], json!([]), "the agent may still be about to call it");
    think("what next?");
    assert_eq!(sidecar.timeline_now("w")["unproxied"], json!([{"step": 1, "tool": "bash"}]));
    let text = sidecar.cli(&["timeline", "w"]).stdout;
    assert!(text.contains("`bash`, which did not pass through Outrigger"), "{text}");
}

#[test]
fn a_server_that_writes_on_behind_its_response_does_not_keep_the_step_open() {
    /// More often than a stream that stays open behind its response is waited for.
    const OFTEN: Duration = Duration::from_millis(40);
    let server = Server::new(Era::Stateless, Form::Events);
    let gone = Gate::new();
    let watched = gone.clone();
    server.tool_calls(move |call| {
        let done = r#"{"content":[{"type":"text","text":"done"}]}"#;
        let response = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{done}}}\n\n", call.id);
        // Far longer than the test has patience.
        let on = (0..1000).fold(Script::stream().chunk(response), |script, _| {
            script.then(Act::Pause(OFTEN)).chunk(": still here\n\n")
        });
        on.then(Act::Gone(watched.clone()))
    });
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let mut connection = sidecar.connect();
    connection.send(&Caller::stateless("/w/w/a/1/tools", 1).tool("charge", &json!({})));
    sidecar.wait_completed("w", 1);
    let answer = connection.read("POST").unwrap().expect(200, "live");
    assert_eq!(result(&answer), ("done".to_owned(), false));
    gone.reached(1);
}
