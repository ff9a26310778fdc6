//! Effects in doubt whose tool can be asked whether they happened, and calls that wait for somebody to find out.

use serde_json::json;

use crate::support::client::Ask;
use crate::support::mcp::{Caller, Era, Form, Server, response, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Request, Script, Upstream};

use super::counted;

const FIND: &str = "find: { method: GET, path: '/invoices/{id}/charges' }";

/// An HTTP upstream that breaks off whatever charges, and a sidecar that has been told so once.
fn in_doubt(rule: &str, found: &'static str) -> (Upstream, Sidecar) {
    let upstream = Upstream::start(|_| Script::raw("").then(Act::Reset));
    let tools = format!("tools: {{ charge: {{ method: POST, path: /charge, {rule} }}, {FIND} }}");
    let sidecar = Setup::new().upstream_with("crm", "http", &upstream.url(), &tools).start();
    assert_eq!(sidecar.call(&charge(1)).status, 422);
    upstream.answers(move |request| if is_probe(request) { Script::json(found) } else { counted(request) });
    (upstream, sidecar)
}

fn is_probe(request: &Request) -> bool {
    request.method == "GET"
}

fn charge(attempt: usize) -> Ask {
    let body = r#"{"invoice": {"id": "7/8"}, "cents": 100}"#;
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), body).header("authorization", "Bearer agent")
}

fn probe(more: &str) -> String {
    format!("probe: {{ tool: find, arguments: {{ id: $.invoice.id, kind: card }}, happened: /data{more} }}")
}

#[test]
fn an_effect_that_the_probe_finds_is_answered_and_never_sent_again() {
    let (upstream, sidecar) = in_doubt(&probe(", answer: /data/0"), r#"{"data": [{"id": "ch_1"}]}"#);
    // The agent that was told of the doubt asks again, then a restarted one.
    for attempt in [1, 2] {
        let answer = sidecar.call(&charge(attempt)).expect(200, "replay");
        assert_eq!(answer.text(), r#"{"id": "ch_1"}"#);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let sent = upstream.requests();
    let probes: Vec<&Request> = sent.iter().filter(|request| is_probe(request)).collect();
    assert_eq!((probes.len(), sent.len()), (1, 2), "{sent:?}");
    assert_eq!(probes[0].target, "/invoices/7%2F8/charges?kind=card");
    assert_eq!(probes[0].header("authorization"), Some("Bearer agent"));
    let decided = &sidecar.timeline("w")["decisions"][0];
    assert_eq!((&decided["decision"], &decided["by"]), (&json!("completed"), &json!("probe find")));
}

#[test]
fn an_effect_that_the_probe_does_not_find_is_sent_once_it_cannot_be_on_its_way_any_more() {
    let (upstream, mut sidecar) = in_doubt(&probe(", settle_s: 0"), r#"{"data": []}"#);
    assert_eq!(sidecar.call(&charge(1)).expect(200, "live").step(), 1);
    assert_eq!(upstream.count_of("/charge"), 3, "the lost call, the probe and the call");
    assert!(sidecar.stop().success());

    // By default a minute must have passed.
    let (upstream, sidecar) = in_doubt(&probe(""), r#"{"data": []}"#);
    assert!(sidecar.call(&charge(1)).text().contains("OG3001"));
    assert_eq!(upstream.requests().iter().filter(|request| request.method == "POST").count(), 1);
}

#[test]
fn a_probe_that_does_not_tell_leaves_the_doubt() {
    for found in [r#"{"error": "busy"}"#, "no JSON", r#"{"data": "#] {
        let (upstream, sidecar) = in_doubt(&probe(", settle_s: 0"), found);
        assert!(sidecar.call(&charge(2)).text().contains("OG3001"), "{found}");
        assert_eq!(upstream.requests().iter().filter(|request| request.method == "POST").count(), 1);
        assert_eq!(sidecar.states("w"), ["in_doubt"]);
    }
}

#[test]
fn a_tool_of_an_mcp_server_is_asked_through_the_agents_own_session() {
    for (era, form) in [(Era::Sessions, Form::Events), (Era::Stateless, Form::Json)] {
        let server = Server::new(era, form);
        let upstream = server.start();
        server.tool_calls(|call| match call.tool.as_str() {
            "charge" => Script::raw("").then(Act::Reset),
            _ => call.reply,
        });
        let rule = "tools: { charge: { probe: { tool: find_charge, arguments: { id: $.invoice_id }, happened: /x } } }";
        let sidecar = Setup::new().upstream_with("tools", "mcp", &upstream.url(), rule).start();
        let mut agent = match era {
            Era::Sessions => Caller::new("/w/w/tools", 1),
            Era::Stateless => Caller::stateless("/w/w/tools", 1),
        };
        if era == Era::Sessions {
            agent.initialize(&sidecar);
        }
        let pay = json!({"invoice_id": 7});
        assert!(result(&agent.call(&sidecar, "charge", &pay)).1, "in doubt");
        // It does not say so in a way that the rule reads.
        assert!(result(&agent.call(&sidecar, "charge", &pay)).1, "in doubt");
        server.answers_with("find_charge", json!({"content": [{"type": "text", "text": "{\"x\": true}"}]}));
        server.tool_calls(|call| {
            assert_eq!((call.tool.as_str(), &call.arguments), ("find_charge", &json!({"id": 7})));
            call.reply
        });
        let answer = agent.call(&sidecar, "charge", &pay);
        assert_eq!(result(&answer), ("{\"x\": true}".to_owned(), false));
        assert_eq!(response(&answer)["id"], json!(agent.last_id()));
        assert_eq!(server.charges(), 1);
    }
}

#[test]
fn a_call_in_doubt_is_held_until_somebody_resolves_it() {
    for (words, status, source) in
        [("--not-executed", 200, "live"), ("--completed", 200, "replay"), ("--abandon", 422, "none")]
    {
        let (upstream, sidecar) = in_doubt("in_doubt: hold", "{}");
        let mut agent = sidecar.connect();
        agent.send(&charge(1));
        wait_held(&sidecar, 1.0);
        assert_eq!(sidecar.states("w"), ["in_doubt"]);
        let file = sidecar.home().join("answer.json");
        std::fs::write(&file, "{}").unwrap();
        let mut command = vec!["resolve", "w", "1", words];
        if words == "--completed" {
            command.push(file.to_str().unwrap());
        }
        sidecar.cli(&command).expect_code(0);
        agent.read("POST").unwrap().expect(status, source);
        assert_eq!(upstream.count(), if source == "live" { 2 } else { 1 });
        wait_held(&sidecar, 0.0);
    }
}

#[test]
fn a_call_that_was_held_for_too_long_is_refused_and_nothing_is_lost() {
    let (upstream, mut sidecar) = in_doubt("in_doubt: hold, hold_s: 1", "{}");
    assert!(sidecar.call(&charge(1)).text().contains("OG3001"));
    // An agent that leaves while it is held leaves no trace of its waiting.
    let mut agent = sidecar.connect();
    agent.send(&charge(1));
    wait_held(&sidecar, 1.0);
    drop(agent);
    wait_held(&sidecar, 0.0);
    // At a stop the client is asked to come again: nothing was sent.
    sidecar.kill9();
    sidecar.restart();
    let mut agent = sidecar.connect();
    agent.send(&charge(2));
    wait_held(&sidecar, 1.0);
    sidecar.terminate();
    let answer = agent.read("POST").unwrap();
    assert_eq!((answer.status, answer.header("x-should-retry")), (503, Some("true")), "{answer:?}");
    assert_eq!(upstream.count(), 1);
}

/// Waits until so many calls are held.
#[track_caller]
fn wait_held(sidecar: &Sidecar, held: f64) {
    crate::support::wait::until(&format!("{held} calls are held"), || {
        (sidecar.metric("outrigger_calls_held") - held).abs() < 0.5
    });
}
