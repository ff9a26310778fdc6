//! Which life of the agent a call belongs to: by name, by the calling process, by how a life begins. The
//! agents are processes of their own.

mod kin;
mod namespaces;
mod sessions;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::agent::Agent;
use crate::support::client::{Answer, Ask};
use crate::support::gate::Gate;
use crate::support::llm::Api;
use crate::support::mcp::{Caller, Era, Form, Server};
use crate::support::namespace::pid_namespace;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};
use crate::support::wait;

/// An upstream whose every answer is another one, and a sidecar before it.
fn crm() -> (Upstream, Sidecar) {
    let upstream = counting();
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    (upstream, sidecar)
}

fn counting() -> Upstream {
    Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)))
}

fn note(number: usize) -> Ask {
    Ask::post("/w/w/crm/notes", format!(r#"{{"number":{number}}}"#))
}

#[track_caller]
fn check(answer: &Answer, source: &str, attempt: &str) {
    assert_eq!((answer.status, answer.source(), answer.attempt()), (200, source, attempt), "{answer:?}");
}

#[track_caller]
fn check_refused(answer: &Answer, code: &str) {
    assert_eq!((answer.status, answer.header("x-should-retry")), (422, Some("false")), "{answer:?}");
    assert!(answer.text().contains(code), "{answer:?}");
}

#[test]
fn rule_a_a_named_attempt_is_that_attempt_whoever_calls() {
    let (upstream, sidecar) = crm();
    let named =
        |attempt: usize| Ask::post("/w/w/crm/notes", "{}").header("x-outrigger-attempt", attempt.to_string());
    check(&sidecar.call(&named(1)), "live", "1; reason=explicit");
    let mut other = Agent::start(sidecar.address());
    check(&other.call(&named(1)), "live", "1; reason=explicit");
    check(&other.call(&named(2)), "replay", "2; reason=explicit");
    check_refused(&sidecar.call(&named(1)), "OG3002");
    // Attempts may be skipped, never gone back to.
    check(&sidecar.call(&named(9)), "replay", "9; reason=explicit");
    check_refused(&other.call(&named(2)), "OG3002");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn an_attempt_that_is_no_number_from_one_is_a_bad_request() {
    let (upstream, sidecar) = crm();
    for attempt in ["0", "-1", "01", "x", "4294967296"] {
        let answer = sidecar.call(&Ask::get(format!("/w/w/a/{attempt}/crm/x")));
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.text().contains("OG1002"), "{answer:?}");
    }
    let torn = Ask::get("/w/w/a/2/crm/x").header("x-outrigger-attempt", "3");
    assert!(sidecar.call(&torn).text().contains("OG1003"));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn rule_b_a_process_that_was_killed_is_followed_by_the_next_attempt() {
    let (upstream, sidecar) = crm();
    let mut first = Agent::start(sidecar.address());
    for number in 0..3 {
        check(&first.call(&note(number)), "live", "1; reason=first");
    }
    first.end();
    let mut second = Agent::start(sidecar.address());
    for number in 0..3 {
        check(&second.call(&note(number)), "replay", "2; reason=process");
    }
    check(&second.call(&note(3)), "live", "2; reason=process");
    assert_eq!(upstream.count(), 4);
}

#[test]
fn rule_b_a_dead_process_that_nobody_has_reaped_is_dead() {
    let (upstream, sidecar) = crm();
    let mut first = Agent::start(sidecar.address());
    check(&first.call(&note(0)), "live", "1; reason=first");
    first.kill9();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", first.pid())).unwrap();
    assert!(stat.contains(") Z "), "a zombie: {stat}");
    let mut second = Agent::start(sidecar.address());
    check(&second.call(&note(0)), "replay", "2; reason=process");
    drop(first);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn rule_b_one_process_is_one_attempt_over_many_connections_and_a_restart_of_the_sidecar() {
    let (upstream, mut sidecar) = crm();
    let mut agent = Agent::start(sidecar.address());
    check(&agent.call(&note(0)), "live", "1; reason=first");
    check(&agent.call(&note(0)), "live", "1; reason=first");
    sidecar.kill9();
    sidecar.restart();
    check(&agent.call(&note(1)), "live", "1; reason=first");
    check(&agent.call(&note(1)), "live", "1; reason=first");
    assert_eq!(upstream.count(), 4);
}

#[test]
fn rule_b_an_agent_that_died_while_the_sidecar_was_down_is_followed_by_the_next_attempt() {
    let (upstream, mut sidecar) = crm();
    let mut first = Agent::start(sidecar.address());
    check(&first.call(&note(0)), "live", "1; reason=first");
    sidecar.kill9();
    first.end();
    sidecar.restart();
    let mut second = Agent::start(sidecar.address());
    check(&second.call(&note(0)), "replay", "2; reason=process");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn rule_b_a_supervisor_that_starts_its_agent_again_in_its_own_group_opens_the_next_attempt() {
    let (upstream, sidecar) = crm();
    // It never calls itself: its children do, each in the supervisor's process group, one after the other.
    let mut supervisor = Agent::start(sidecar.address());
    check(&supervisor.call_from_child(&note(0)), "live", "1; reason=first");
    check(&supervisor.call_from_child(&note(0)), "replay", "2; reason=process");
    check(&supervisor.call_from_child(&note(0)), "replay", "3; reason=process");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn rule_b_a_helper_that_the_agent_started_acts_for_the_same_attempt() {
    let (upstream, sidecar) = crm();
    let mut agent = Agent::start(sidecar.address());
    check(&agent.call(&note(0)), "live", "1; reason=first");
    check(&agent.call_from_child(&note(0)), "live", "1; reason=first");
    check(&agent.call_from_child(&note(1)), "live", "1; reason=first");
    check(&agent.call(&note(1)), "live", "1; reason=first");
    assert_eq!(upstream.count(), 4);
}

#[test]
fn rule_b_an_unrelated_process_is_refused_while_the_attempts_own_lives() {
    let (upstream, sidecar) = crm();
    let mut first = Agent::start(sidecar.address());
    check(&first.call(&note(0)), "live", "1; reason=first");
    let mut stranger = Agent::start(sidecar.address());
    check_refused(&stranger.call(&note(0)), "OG3003");
    check_refused(&stranger.call(&note(1)), "OG3003");
    check(&first.call(&note(1)), "live", "1; reason=first");
    first.end();
    check(&stranger.call(&note(0)), "replay", "2; reason=process");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn rule_b_workers_that_are_said_to_share_a_workflow_are_one_attempt_until_the_last_is_gone() {
    let upstream = counting();
    let setup = Setup::new().upstream("crm", "http", &upstream.url()).line("workers: shared");
    let sidecar = setup.start();
    let (mut one, mut other) = (Agent::start(sidecar.address()), Agent::start(sidecar.address()));
    check(&one.call(&note(0)), "live", "1; reason=first");
    check(&other.call(&note(0)), "live", "1; reason=first");
    one.end();
    check(&other.call(&note(1)), "live", "1; reason=first");
    other.end();
    let mut next = Agent::start(sidecar.address());
    check(&next.call(&note(1)), "replay", "2; reason=process");
    assert_eq!(upstream.count(), 3);
}

#[test]
fn only_issued_workflows_take_calls_where_the_config_says_so() {
    let upstream = counting();
    let setup = Setup::new().upstream("crm", "http", &upstream.url()).line("workflow_ids: issued");
    let mut sidecar = setup.start();
    for path in ["/w/w/crm/notes", "/w/w/a/1/crm/notes"] {
        let refused = sidecar.call(&Ask::post(path, "{}"));
        assert!(refused.status == 403 && refused.text().contains("OG3011"), "{refused:?}");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    let opened = sidecar.ask_admin(&Ask::post("/v1/workflows/w/attempts", ""));
    assert_eq!(opened.status, 201, "{opened:?}");
    for restart in [false, true] {
        if restart {
            sidecar.kill9();
            sidecar.restart();
        }
        let answer = sidecar.call(&Ask::post("/w/w/a/1/crm/notes", format!(r#"{{"restart":{restart}}}"#)));
        check(&answer, "live", "1; reason=explicit");
    }
    assert_eq!(sidecar.call(&Ask::post("/w/v/crm/notes", "{}")).status, 403);
    // Without a workflow there is nothing to issue.
    assert_eq!(sidecar.call(&Ask::post("/crm/notes", "{}")).status, 200);
    assert_eq!(upstream.count(), 3);
}

/// A sidecar that cannot see who calls it: it lives in a PID namespace of its own.
fn blind(setup: Setup) -> Option<Sidecar> {
    pid_namespace("a sidecar that sees no process").map(|words| setup.wrapped(words).start())
}

/// How long an attempt must have been idle.
const REWIND_IDLE: Duration = Duration::from_millis(250);

#[test]
fn rule_c_an_agent_that_begins_again_when_nobody_is_connected_is_the_next_attempt() {
    let upstream = counting();
    let Some(sidecar) = blind(Setup::new().upstream("crm", "http", &upstream.url())) else { return };
    let mut connection = sidecar.connect();
    for number in 0..3 {
        check(&connection.call(&note(number)).unwrap(), "live", "1; reason=first");
    }
    drop(connection);
    sidecar.wait_connections(0.0);
    let idle_from = Instant::now();
    wait::since(idle_from, REWIND_IDLE + Duration::from_millis(50));
    let mut connection = sidecar.connect();
    for number in 0..3 {
        check(&connection.call(&note(number)).unwrap(), "replay", "2; reason=rewind");
    }
    check(&connection.call(&note(3)).unwrap(), "live", "2; reason=rewind");
    assert_eq!(upstream.count(), 4);
}

#[test]
fn rule_c_needs_all_of_its_conditions() {
    let upstream = counting();
    let Some(sidecar) = blind(Setup::new().upstream("crm", "http", &upstream.url())) else { return };
    let read = |workflow: &str, number: usize| Ask::get(format!("/w/{workflow}/crm/read?number={number}"));
    let rest = || wait::since(Instant::now(), REWIND_IDLE + Duration::from_millis(50));

    // Another connection of the old life is open.
    let mut first = sidecar.connect();
    check(&first.call(&read("open", 0)).unwrap(), "live", "1; reason=first");
    rest();
    check(&sidecar.call(&read("open", 0)), "live", "1; reason=first");
    drop(first);

    // The call comes over the connection that the old life began on.
    let mut first = sidecar.connect();
    check(&first.call(&read("own", 0)).unwrap(), "live", "1; reason=first");
    rest();
    check(&first.call(&read("own", 0)).unwrap(), "live", "1; reason=first");
    drop(first);

    // It is no call that the old life began with.
    let mut first = sidecar.connect();
    check(&first.call(&read("middle", 0)).unwrap(), "live", "1; reason=first");
    check(&first.call(&read("middle", 1)).unwrap(), "live", "1; reason=first");
    drop(first);
    sidecar.wait_connections(0.0);
    rest();
    check(&sidecar.call(&read("middle", 1)), "live", "1; reason=first");

    // Too soon. On a slow machine it may not have been; then it proves nothing and is done again.
    wait::until("a repeat within the idle time", || {
        let workflow = format!("soon-{}", upstream.count());
        let mut first = sidecar.connect();
        first.send(&read(&workflow, 0));
        let asked = Instant::now();
        check(&first.read("GET").unwrap(), "live", "1; reason=first");
        drop(first);
        let answer = sidecar.call(&read(&workflow, 0));
        let soon = asked.elapsed() < REWIND_IDLE;
        if soon {
            check(&answer, "live", "1; reason=first");
        }
        soon
    });
}

#[test]
fn rule_c_a_step_that_is_only_read_on_does_not_stop_the_next_attempt_which_joins_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Script::json(Api::OpenaiChat.answer("late")).held(&held));
    let Some(sidecar) = blind(Setup::new().upstream("openai", "openai", &upstream.url())) else { return };
    let ask = Ask::post("/w/w/openai/v1/chat/completions", Api::OpenaiChat.ask("begin", false));
    let mut first = sidecar.connect();
    first.send(&ask);
    gate.reached(1);
    drop(first);
    sidecar.wait_connections(0.0);
    wait::since(Instant::now(), REWIND_IDLE + Duration::from_millis(50));
    let mut second = sidecar.connect();
    second.send(&ask);
    wait::until("the second attempt", || {
        sidecar.timeline_now("w")["attempts"].as_array().is_some_and(|attempts| attempts.len() == 2)
    });
    gate.open();
    let answer = second.read("POST").unwrap();
    assert_eq!((answer.status, answer.attempt()), (200, "2; reason=rewind"), "{answer:?}");
    assert!(matches!(answer.source(), "join" | "replay"), "{answer:?}");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn rule_c_a_later_leg_of_a_chain_is_no_agent_that_begins_again() {
    let server = Server::new(Era::Stateless, Form::Json);
    server.tool_calls(|call| {
        let asks = json!({"resultType": "input_required", "requestState": "s"});
        let asking = Script::json(json!({"jsonrpc": "2.0", "id": call.nth, "result": asks}).to_string());
        if call.params["requestState"].is_string() { call.reply } else { asking }
    });
    let upstream = server.start();
    let Some(sidecar) = blind(Setup::new().upstream("tools", "mcp", &upstream.url())) else { return };
    let mut caller = Caller::stateless("/w/w/tools", 1);
    check(&sidecar.call(&caller.tool("charge", &json!({}))), "live", "1; reason=first");
    sidecar.wait_connections(0.0);
    // Somebody thinks about what was asked.
    wait::since(Instant::now(), REWIND_IDLE + Duration::from_millis(50));
    let leg = caller.ask("tools/call", &json!({"name": "charge", "arguments": {}, "requestState": "s"}));
    check(&sidecar.call(&leg), "live", "1; reason=first");
    assert_eq!(server.charges(), 2);
}

#[test]
fn where_attempts_cannot_be_told_apart_a_repeated_effect_is_refused_after_a_moment_alone() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let Some(sidecar) = blind(Setup::new().upstream("tools", "mcp", &upstream.url())) else { return };
    let mut caller = Caller::stateless("/w/w/tools", 1);
    let mut connection = sidecar.connect();
    for number in 0..2 {
        // While it stays connected it may use a tool as often as it likes.
        let ask = caller.tool("charge", &json!({"number": number}));
        check(&connection.call(&ask).unwrap(), "live", "1; reason=first");
    }
    drop(connection);
    sidecar.wait_connections(0.0);
    // Not the call the workflow began with, so no rewind; it could be either, so nothing is sent.
    let answer = sidecar.call(&caller.tool("charge", &json!({"number": 1})));
    assert!(answer.text().contains("OG3009"), "{answer:?}");
    let answer = sidecar.call(&caller.tool("charge", &json!({"number": 2})));
    assert!(answer.text().contains("OG3009"), "{answer:?}");
    // A tool it has not used cannot have been used twice.
    check(&sidecar.call(&caller.tool("send_email", &json!({}))), "live", "1; reason=first");
    assert_eq!(server.charges(), 2);
}
