//! The agent killed with -9, alone and together with the sidecar: agents are processes of their own here, told apart
//! by the sidecar itself. Each phase of a call's life is hit.

use std::collections::BTreeMap;

use super::phase::{Phase, Seen};
use super::world::{Call, Kind, World};
use super::{check_replayed, reach, setup};
use crate::support::agent::Agent;
use crate::support::random::{Random, seed};
use crate::support::table::{self, Table};
use crate::support::upstream::Deaf;

/// Kills of each victim when nothing else is asked for.
const KILLS: usize = 15;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Both,
}

#[test]
fn killed_agents_find_every_answer_and_every_running_call_again() {
    check(Victim::Agent, "agent");
}

#[test]
fn agents_and_sidecars_killed_together_lose_no_answer_and_repeat_no_effect() {
    check(Victim::Both, "both");
}

#[track_caller]
fn check(victim: Victim, name: &str) {
    let seed = seed("OUTRIGGER_TEST_SEED");
    let mut random = Random::new(seed);
    let mut hits = BTreeMap::new();
    for kill in 0..table::number("OUTRIGGER_PROOF_KILLS", KILLS) {
        let phase = Phase::STEERED[kill % Phase::STEERED.len()];
        let seen = round(kill, phase, victim, &mut random);
        assert_eq!(seen, phase, "kill {kill} of seed {seed}");
        *hits.entry(seen).or_default() += 1;
    }
    tell(name, &hits, seed);
}

/// The phases that kills hit, as a row of the report.
pub(super) fn tell(victim: &str, hits: &BTreeMap<Phase, usize>, seed: u64) {
    println!("{victim}: {hits:?}");
    let mut table = Table::new(&[
        "killed with -9",
        "before intent",
        "intent durable",
        "sent",
        "half answered",
        "committed, undelivered",
        "between calls",
        "all",
        "seed",
    ]);
    let phases = Phase::STEERED.into_iter().chain([Phase::BetweenSteps]);
    let cells = phases.map(|phase| hits.get(&phase).copied().unwrap_or(0).to_string());
    let all = hits.values().sum::<usize>().to_string();
    let cells: Vec<String> =
        std::iter::once(victim.to_owned()).chain(cells).chain([all, seed.to_string()]).collect();
    table.row(cells.iter().map(String::as_str).collect::<Vec<_>>());
    table.write(&format!("kills-{victim}"));
}

/// One run that a kill goes through; the phase that it hit.
fn round(number: usize, phase: Phase, victim: Victim, random: &mut Random) -> Phase {
    let world = World::start();
    let workflow = format!("round-{number}");
    let count = 2 + random.below(3);
    let at = random.below(count);
    let deaf = (phase == Phase::IntentDurable).then(Deaf::start);
    let calls: Vec<Call> = (0..count)
        .map(|step| {
            let is_deaf = deaf.is_some() && step == at;
            Call::new(&workflow, step, if is_deaf { Kind::Deaf } else { *random.pick(&Kind::ALL) })
        })
        .collect();
    let mut sidecar = setup(&world, deaf.as_ref()).start();
    let mut agent = Agent::start(sidecar.address());
    let known: Vec<String> =
        calls[..at].iter().map(|call| call.text(&agent.call(&call.ask_unnamed()))).collect();
    let call = &calls[at];
    let bytes = call.ask_unnamed().to_bytes(sidecar.address());
    reach(&sidecar, &world, (&workflow, at), call, phase, &bytes, |bytes| agent.write(bytes));
    let state = sidecar.timeline_now(&workflow)["steps"][at]["state"].as_str().map(ToOwned::to_owned);
    let seen = Seen { state, sent: world.count(call), half: world.was_half_answered(call) };
    seen.check(call, false);
    agent.kill9();
    if victim == Victim::Both {
        sidecar.kill9();
    }
    world.open_all();
    let _awake = deaf.map(|deaf| world.listen(deaf));
    if victim == Victim::Both {
        sidecar.restart();
    }
    // The dead one is reaped only here: a supervisor may be slow.
    let mut again = Agent::start(sidecar.address());
    for (step, call) in calls.iter().enumerate() {
        let answer = again.call(&call.ask_unnamed());
        if call.is_in_doubt(&answer) {
            assert!(victim == Victim::Both && step == at && phase.may_be_in_doubt(), "{call:?}: {answer:?}");
            break;
        }
        match known.get(step) {
            Some(known) => check_replayed(call, &answer, known),
            None => drop(call.text(&answer)),
        }
        // Where the first call of all is hit, nothing of the first attempt may be on disk yet.
        let may_be_first = at == 0 && (phase == Phase::BeforeIntent || victim == Victim::Both);
        let told = answer.attempt();
        assert!(
            told == "2; reason=process" || (may_be_first && told == "1; reason=first"),
            "{call:?}: {told}"
        );
        let count = world.count(call);
        assert!(
            count == 1 || (victim == Victim::Both && !call.kind.is_effect()),
            "{call:?} came {count} times"
        );
    }
    agent.end();
    seen.phase()
}
