//! What SIGTERM does to calls in every state.

use std::time::Duration;

use crate::streaming::{WORDS, ask, start};
use crate::support::client::Ask;
use crate::support::gate::Gate;
use crate::support::llm::Api;
use crate::support::sidecar::Setup;
use crate::support::upstream::{Act, Script, Upstream};
use crate::support::wait;

#[test]
fn sigterm_refuses_new_steps_serves_recorded_ones_and_lets_running_ones_end() {
    let api = Api::OpenaiChat;
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| {
        let events = api.events(&WORDS);
        if request.text().contains("count") && request.count > 1 {
            Script::stream().chunks(&events[..2]).hold(&held).chunks(&events[2..]).end()
        } else {
            Script::events(&events)
        }
    });
    let mut sidecar = start(api, &upstream);
    let other = Ask::post(format!("/w/w/a/1/llm{}", api.path(true)), api.ask("first", true));
    let lived = sidecar.call(&other).expect(200, "live");
    let mut running = sidecar.connect();
    running.send(&ask(api, Some(1)));
    let mut reading = running.head("POST").unwrap();
    reading.until("two").unwrap();

    // All of these are connected before.
    let (mut fresh, mut replaying, mut joining) = (sidecar.connect(), sidecar.connect(), sidecar.connect());
    let again = Ask::post(format!("/w/x/a/1/llm{}", api.path(true)), api.ask("first", true));
    fresh.call(&again).unwrap().expect(200, "live");
    sidecar.terminate();
    wait::until("not ready", || {
        let ready = sidecar.ask_admin(&Ask::get("/readyz"));
        ready.status == 503 && sidecar.ask_admin(&Ask::get("/healthz")).status == 200
    });
    let new = Ask::post(format!("/w/x/a/1/llm{}", api.path(true)), api.ask("something new", true));
    let refused = fresh.call(&new).unwrap();
    assert_eq!((refused.status, refused.header("x-should-retry")), (503, Some("true")), "{refused:?}");
    assert!(refused.header("retry-after").is_some() && refused.text().contains("OG3008"), "{refused:?}");
    let again = Ask::post(format!("/w/w/a/2/llm{}", api.path(true)), api.ask("first", true));
    let replayed = replaying.call(&again).unwrap().expect(200, "replay");
    assert_eq!(replayed.body, lived.body);
    joining.send(&ask(api, Some(2)));
    let joined = joining.head("POST").unwrap();
    assert_eq!(joined.header("x-outrigger-source"), Some("join"));

    gate.open();
    assert_eq!(joined.whole().unwrap().text(), api.events(&WORDS).concat());
    assert_eq!(reading.whole().unwrap().text(), api.events(&WORDS).concat());
    assert!(sidecar.exit().success());
    assert_eq!(sidecar.states("w"), ["completed", "completed"]);
    assert!(upstream.requests().iter().all(|request| !request.text().contains("something new")));
}

#[test]
fn sigterm_breaks_off_what_takes_too_long_and_what_was_sent_is_in_doubt() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::json("{}").held(&held));
    let mut sidecar = Setup::new().upstream("crm", "http", &upstream.url()).line("shutdown_s: 1").start();
    let mut agent = sidecar.connect();
    let charge = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/charge"), "{}");
    agent.send(&charge(1));
    gate.reached(1);
    assert!(sidecar.stop().success(), "a clean end");
    match agent.read("POST") {
        Ok(answer) => assert_ne!(answer.status, 200, "{answer:?}"),
        Err(broken) => assert_eq!(broken.status, None, "{broken:?}"),
    }
    gate.open();
    assert_eq!(sidecar.states("w"), ["in_doubt"]);
    sidecar.restart();
    let refused = sidecar.call(&charge(2));
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_second_signal_ends_at_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::json("{}").held(&held));
    let mut sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    let mut agent = sidecar.connect();
    agent.send(&Ask::get("/w/w/a/1/crm/slow"));
    gate.reached(1);
    sidecar.terminate();
    wait::until("not ready", || sidecar.ask_admin(&Ask::get("/readyz")).status == 503);
    sidecar.terminate();
    assert_eq!(sidecar.exit().code(), Some(128 + 15));
    gate.open();
    sidecar.restart();
    assert_eq!(sidecar.call(&Ask::get("/w/w/a/2/crm/slow")).status, 200);
}

#[test]
fn a_call_without_a_workflow_has_as_long_as_any_other() {
    // Longer than connections are left when nothing is on its way.
    const HELD: Duration = Duration::from_millis(2_500);
    let api = Api::OpenaiChat;
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let events = api.events(&WORDS);
        Script::stream().chunks(&events[..2]).hold(&held).chunks(&events[2..]).end()
    });
    let mut sidecar = start(api, &upstream);
    let mut agent = sidecar.connect();
    agent.send(&ask(api, None));
    let mut reading = agent.head("POST").unwrap();
    reading.until("two").unwrap();
    sidecar.terminate();
    std::thread::sleep(HELD);
    gate.open();
    assert_eq!(reading.whole().unwrap().text(), api.events(&WORDS).concat());
    assert!(sidecar.exit().success());
}

#[test]
fn a_stream_without_an_end_holds_nothing_up() {
    let gone = Gate::new();
    let watched = gone.clone();
    let upstream =
        Upstream::start(move |_| Script::stream().chunk(": hello\n\n").then(Act::Gone(watched.clone())));
    let tools = Setup::new().upstream("tools", "mcp", &upstream.url());
    // Were it waited for, this test would take an hour.
    let mut sidecar = tools.line("shutdown_s: 3600").start();
    let mut agents = Vec::new();
    for base in ["/tools", "/w/w/a/1/tools"] {
        let mut agent = sidecar.connect();
        agent.send(&Ask::get(format!("{base}/mcp")).header("accept", "text/event-stream"));
        agent.head("GET").unwrap().until(": hello").unwrap();
        agents.push(agent);
    }
    assert!(sidecar.stop().success());
    gone.reached(2);
}
