//! Agents and sidecars in PID namespaces of their own: who is seen, and what becomes of those who are not.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::agent::Agent;
use crate::support::client::Ask;
use crate::support::mcp::{Caller, Era, Form, Server};
use crate::support::namespace::pid_namespace;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::wait;

use super::{REWIND_IDLE, blind, check, check_refused, counting, note};

/// How an agent comes to the sidecar.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    Unix,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Tcp, Self::Unix];

    fn agent(self, sidecar: &Sidecar, wrapper: &[&str]) -> Agent {
        match self {
            Self::Tcp => Agent::start_wrapped(sidecar.address(), wrapper),
            Self::Unix => Agent::start_wrapped_unix(&sidecar.socket(), wrapper),
        }
    }
}

/// Lets an attempt have been idle long enough for another to begin.
pub(super) fn rest(sidecar: &Sidecar) {
    sidecar.wait_connections(0.0);
    wait::since(Instant::now(), REWIND_IDLE + Duration::from_millis(50));
}

#[test]
fn rule_b_an_agent_in_a_pid_namespace_below_the_sidecars_own_is_seen() {
    let Some(words) = pid_namespace("an agent in a container") else { return };
    for way in Way::BOTH {
        let upstream = counting();
        let sidecar = Setup::new().socket().upstream("crm", "http", &upstream.url()).start();
        // In their own eyes all of them have the same low pids.
        let mut first = way.agent(&sidecar, words);
        check(&first.call(&note(0)), "live", "1; reason=first");
        check(&first.call_from_child(&note(1)), "live", "1; reason=first");
        let mut stranger = way.agent(&sidecar, words);
        check_refused(&stranger.call(&note(0)), "OG3003");
        first.end();
        check(&stranger.call(&note(0)), "replay", "2; reason=process");
        check(&stranger.call(&note(1)), "replay", "2; reason=process");
        assert_eq!(upstream.count(), 2, "{way:?}");
    }
}

#[test]
fn rule_c_an_agent_in_another_pid_namespace_is_not_seen_and_begins_again_by_rewind() {
    let Some(words) = pid_namespace("an agent beside the sidecar's container") else { return };
    for way in Way::BOTH {
        let upstream = counting();
        let setup = Setup::new().socket().upstream("crm", "http", &upstream.url());
        let Some(sidecar) = blind(setup) else { return };
        // Neither the one above the sidecar's namespace nor one beside it has a pid there.
        let mut first = way.agent(&sidecar, &[]);
        check(&first.call(&note(0)), "live", "1; reason=first");
        first.end();
        rest(&sidecar);
        let mut second = way.agent(&sidecar, words);
        check(&second.call(&note(0)), "replay", "2; reason=rewind");
        second.end();
        rest(&sidecar);
        let mut third = way.agent(&sidecar, words);
        check(&third.call(&note(0)), "replay", "3; reason=rewind");
        check(&third.call(&Ask::get("/w/w/crm/read")), "live", "3; reason=rewind");
        // Each call has a connection of its own, so this could be yet another life's once the last one is gone.
        rest(&sidecar);
        check_refused(&third.call(&note(1)), "OG3009");
        let opened: Vec<_> = sidecar.timeline_now("w")["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| attempt["reason"].clone())
            .collect();
        assert_eq!(opened, ["first", "rewind", "rewind"], "{way:?}");
        assert_eq!(upstream.count(), 2, "{way:?}");
    }
}

#[test]
fn an_unseen_agent_that_repeats_an_effect_after_a_moment_alone_is_refused_over_either_way() {
    for way in Way::BOTH {
        let server = Server::new(Era::Stateless, Form::Json);
        let upstream = server.start();
        let Some(sidecar) = blind(Setup::new().socket().upstream("tools", "mcp", &upstream.url())) else {
            return;
        };
        let mut caller = Caller::stateless("/w/w/tools", 1);
        let mut first = way.agent(&sidecar, &[]);
        check(&first.call(&caller.tool("charge", &json!({"number": 1}))), "live", "1; reason=first");
        first.end();
        rest(&sidecar);
        // It could be the same life or the next: a charge may be the first one, worded anew.
        let mut second = way.agent(&sidecar, &[]);
        let refused = second.call(&caller.tool("charge", &json!({"number": 7})));
        assert!(refused.text().contains("OG3009"), "{way:?}: {refused:?}");
        assert_eq!(server.charges(), 1, "{way:?}");
    }
}
