//! Rule (b) beyond one process: relatives, process groups, and processes of attempts that are over.

use crate::support::agent::Agent;
use crate::support::client::Ask;

use super::{check, check_refused, crm, note};

#[test]
fn rule_b_the_agent_that_started_the_first_caller_acts_for_the_same_attempt() {
    let (upstream, sidecar) = crm();
    let mut agent = Agent::start(sidecar.address());
    check(&agent.call_from_helper(0, &note(0)), "live", "1; reason=first");
    check(&agent.call(&note(0)), "live", "1; reason=first");
    // Its helper goes on, and is still one of the attempt's when the agent is gone.
    check(&agent.call_from_helper(0, &note(1)), "live", "1; reason=first");
    assert_eq!(upstream.count(), 3);
}

#[test]
fn rule_b_processes_of_one_group_are_one_attempt_though_neither_started_the_other() {
    let (upstream, sidecar) = crm();
    // It never calls itself, so that its helpers have nothing in common but their process group.
    let mut supervisor = Agent::start(sidecar.address());
    check(&supervisor.call_from_helper(0, &note(0)), "live", "1; reason=first");
    check(&supervisor.call_from_helper(1, &note(0)), "live", "1; reason=first");
    check(&supervisor.call_from_helper(0, &note(1)), "live", "1; reason=first");
    let mut stranger = Agent::start(sidecar.address());
    check_refused(&stranger.call(&note(0)), "OG3003");
    assert_eq!(upstream.count(), 3);
}

#[test]
fn case_9_a_process_of_an_attempt_that_was_overtaken_is_refused_even_where_it_matches() {
    let (upstream, sidecar) = crm();
    let mut hung = Agent::start(sidecar.address());
    check(&hung.call(&note(0)), "live", "1; reason=first");
    check(&hung.call_from_helper(0, &note(1)), "live", "1; reason=first");
    // Somebody gives it up and opens the next attempt, as `outrigger run` does before every start.
    let opened = sidecar.ask_admin(&Ask::post("/v1/workflows/w/attempts", ""));
    assert_eq!(opened.status, 201, "{opened:?}");
    check_refused(&hung.call(&note(0)), "OG3002");
    check_refused(&hung.call(&note(2)), "OG3002");
    check_refused(&hung.call_from_helper(0, &note(1)), "OG3002");
    // Neither by name nor by process: the new life has called by now.
    let mut next = Agent::start(sidecar.address());
    check(&next.call(&note(0)), "replay", "2; reason=explicit");
    check_refused(&hung.call(&note(0)), "OG3002");
    next.end();
    check_refused(&hung.call(&note(1)), "OG3002");
    assert_eq!(upstream.count(), 2);
}
