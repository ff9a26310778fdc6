//! The order in which replayed answers of parallel calls arrive.

use crate::support::client::{Ask, Client};
use crate::support::gate::Gate;
use crate::support::sidecar::Sidecar;
use crate::support::upstream::Upstream;

use super::{counted, crm};

fn look(attempt: usize, name: &str) -> Ask {
    Ask::get(format!("/w/w/a/{attempt}/crm/{name}"))
}

/// Records calls that run side by side and are answered in this order.
fn recorded(answered: &[&'static str]) -> (Upstream, Sidecar) {
    let gates: Vec<(&str, Gate)> = answered.iter().map(|name| (*name, Gate::new())).collect();
    let held = gates.clone();
    let upstream = Upstream::start(move |request| {
        let gate = held.iter().find(|(name, _)| request.target.ends_with(name)).map(|(_, gate)| gate.clone());
        counted(request).held(&gate.unwrap())
    });
    let sidecar = crm(&upstream).start();
    let mut names = answered.to_vec();
    names.sort_unstable();
    let mut calls: Vec<(&str, Client)> = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let mut call = sidecar.connect();
        call.send(&look(1, name));
        upstream.wait_for(at + 1);
        calls.push((name, call));
    }
    for (name, gate) in &gates {
        gate.open();
        let (_, call) = calls.iter_mut().find(|(called, _)| called == name).unwrap();
        call.read("GET").unwrap().expect(200, "live");
    }
    (upstream, sidecar)
}

#[test]
fn answers_of_parallel_calls_arrive_in_the_order_in_which_they_were_recorded() {
    let (upstream, sidecar) = recorded(&["c", "a", "d", "b"]);
    let mut calls: Vec<(&str, Client)> = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut call = sidecar.connect();
        call.send(&look(2, name));
        calls.push((name, call));
    }
    // When one has arrived, all that were recorded before it are here.
    for (later, earlier) in [("b", vec!["c", "a", "d"]), ("d", vec!["c", "a"]), ("a", vec!["c"])] {
        let call = |name: &str, calls: &mut Vec<(&str, Client)>| {
            calls.iter().position(|(it, _)| *it == name).unwrap()
        };
        let at = call(later, &mut calls);
        calls[at].1.read("GET").unwrap().expect(200, "replay");
        for name in earlier {
            let at = call(name, &mut calls);
            assert!(calls[at].1.has_answer(), "{later} arrived before {name}");
        }
    }
    assert_eq!(upstream.count(), 4);
}

#[test]
fn an_answer_waits_only_a_moment_for_one_that_nobody_asks_for() {
    let (upstream, sidecar) = recorded(&["c", "a", "b"]);
    for name in ["b", "a", "c"] {
        sidecar.call(&look(2, name)).expect(200, "replay");
    }
    assert_eq!(upstream.count(), 3);
}
