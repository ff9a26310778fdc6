//! The sidecar killed with -9, a hundred times, at every point of a call's life. Which point a kill hit is
//! told afterwards, by the journal that is left and by the upstream's own counters; each must be hit.

mod phase;
mod powercut;
mod victims;
mod world;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Answer, Broken};
use crate::support::random::{Random, seed};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::table;
use crate::support::upstream::Deaf;

use phase::{Phase, Seen};
use world::{Behaviour, Call, Kind, World};

/// Kills when nothing else is asked for: an eighth is steered to each of the five phases, the others come at a
/// moment that only the seed knows.
const KILLS: usize = 105;
const STEERED_TO_EACH_ONE_IN: usize = 8;
/// Each phase must have been hit this often.
const HITS_MIN: usize = 10;
/// An unsteered kill comes at most this long after the agent began.
const UNSTEERED_WITHIN_MS: usize = 100;

/// One run of an agent that a kill of the sidecar goes through.
#[derive(Debug)]
struct Round {
    workflow: String,
    calls: Vec<Call>,
    /// Where a steered kill is to hit: the call, and the phase.
    target: Option<(usize, Phase)>,
    /// The agent dies with the sidecar, instead of trying again.
    agent_dies: bool,
}

impl Round {
    fn plan(number: usize, steered: Option<Phase>, random: &mut Random) -> Self {
        let workflow = format!("round-{number}");
        let count = 2 + random.below(4);
        let mut calls: Vec<Call> =
            (0..count).map(|step| Call::new(&workflow, step, *random.pick(&Kind::ALL))).collect();
        let target = steered.map(|phase| (random.below(count), phase));
        if let Some((at, Phase::IntentDurable)) = target {
            // Only an effect's intent is durable before anything is sent.
            calls[at] = Call::new(&workflow, at, Kind::Deaf);
        }
        Self { workflow, calls, target, agent_dies: random.chance(2) }
    }

    fn is_deaf(&self) -> bool {
        self.calls.iter().any(|call| call.kind == Kind::Deaf)
    }
}

/// The phases in turn, and the unsteered rounds, in an order that the seed gives.
fn plan(random: &mut Random) -> Vec<Round> {
    let kills = table::number("OUTRIGGER_PROOF_KILLS", KILLS);
    let each = kills / STEERED_TO_EACH_ONE_IN;
    let steered = Phase::STEERED.into_iter().flat_map(|phase| vec![Some(phase); each]);
    let unsteered = vec![None; kills.saturating_sub(each * Phase::STEERED.len())];
    let mut targets: Vec<Option<Phase>> = steered.chain(unsteered).collect();
    for at in (1..targets.len()).rev() {
        targets.swap(at, random.below(at + 1));
    }
    targets.into_iter().enumerate().map(|(number, target)| Round::plan(number, target, random)).collect()
}

/// What the agent of a round has got so far.
#[derive(Debug, Default)]
struct Got {
    /// Whole answers, by call.
    answers: Vec<String>,
    /// The call under way when the sidecar died.
    broken: Option<Broken>,
}

fn setup(world: &World, deaf: Option<&Deaf>) -> Setup {
    let url = world.url();
    Setup::new()
        .upstream("crm", "http", &url)
        .upstream("openai", "openai", &url)
        .upstream("tools", "mcp", &url)
        // Nobody is there, unless a round needs somebody who does not listen.
        .upstream("deaf", "http", &deaf.map_or(url, Deaf::url))
}

#[test]
fn a_hundred_kills_of_the_sidecar_lose_no_answer_and_repeat_no_effect() {
    let seed = seed("OUTRIGGER_TEST_SEED");
    let mut random = Random::new(seed);
    let world = World::start();
    let rounds = plan(&mut random);
    let mut hits = std::collections::BTreeMap::<Phase, usize>::new();
    let mut deaf = rounds[0].is_deaf().then(Deaf::start);
    let mut sidecar = setup(&world, deaf.as_ref()).start();
    let mut told = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        let mut got = live(&sidecar, &world, round, &mut random);
        let (step, is_done) = (got.answers.len(), got.broken.is_none());
        let seen = look(&sidecar, &world, round, step);
        let phase = if is_done { Phase::BetweenSteps } else { seen.phase() };
        *hits.entry(phase).or_default() += 1;
        seen.check(&round.calls[step.min(round.calls.len() - 1)], is_done);
        // From here on the deaf one listens, to whoever asks again.
        let awake = deaf.take().map(|deaf| world.listen(deaf));
        let next = rounds.get(number + 1).is_some_and(Round::is_deaf).then(Deaf::start);
        let url = awake.as_ref().map(|awake| awake.url());
        sidecar.change(setup(&world, None).upstream_instead("deaf", "http", url.as_deref()));
        sidecar.restart();
        let doubt = go_on(&sidecar, round, &mut got);
        assert!(!doubt || phase.may_be_in_doubt(), "round {number}: in doubt after {phase:?}");
        check_effects(&world, round, doubt, number);
        told.push((got.answers, doubt));
        // The next round's deaf upstream has to be in the config of a fresh life.
        if next.is_some() || awake.is_some() {
            sidecar.kill9();
            sidecar.change(setup(&world, next.as_ref()));
            sidecar.restart();
        }
        deaf = next;
    }
    victims::tell("sidecar", &hits, seed);
    for phase in Phase::STEERED {
        let hit = hits.get(&phase).copied().unwrap_or(0);
        assert!(hit >= HITS_MIN, "{phase:?} was hit {hit} times only: {hits:?}");
    }
    check_all(&sidecar, &world, &rounds, &told);
}

#[test]
fn the_program_that_is_killed_here_has_no_fail_points() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_outrigger")).unwrap();
    let has = |text: &str| crate::support::client::find(&program, text.as_bytes()).is_some();
    assert!(has("OUTRIGGER_CONFIG"), "the names of variables are in it");
    assert_eq!(has("OUTRIGGER_FAILPOINT"), cfg!(feature = "failpoints"));
}

/// The agent's first life, until the sidecar is killed. Returns with the sidecar dead.
fn live(sidecar: &Sidecar, world: &Arc<World>, round: &Round, random: &mut Random) -> Got {
    match round.target {
        Some((at, phase)) => steer(sidecar, world, round, at, phase),
        None => unsteered(sidecar, round, random),
    }
}

/// Runs up to call `at` and kills the sidecar when that call has come as far as `phase`.
fn steer(sidecar: &Sidecar, world: &World, round: &Round, at: usize, phase: Phase) -> Got {
    let mut got = Got::default();
    for call in &round.calls[..at] {
        let answer = call.send(sidecar, 1).expect("nothing is in the way yet");
        got.answers.push(call.text(&answer));
    }
    let call = &round.calls[at];
    let mut agent = sidecar.connect();
    let bytes = call.ask(1).to_bytes(sidecar.address());
    reach(sidecar, world, (&round.workflow, at), call, phase, &bytes, |bytes| agent.write(bytes));
    sidecar.kill_shared();
    got.broken = Some(match agent.read("POST") {
        Err(broken) => broken,
        Ok(answer) => panic!("{phase:?}: the agent got a whole answer of a dead sidecar: {answer:?}"),
    });
    world.open_all();
    got
}

/// Has an agent write the request of a call, and waits until the call has come as far as `phase`.
fn reach(
    sidecar: &Sidecar,
    world: &World,
    (workflow, at): (&str, usize),
    call: &Call,
    phase: Phase,
    bytes: &[u8],
    mut write: impl FnMut(&[u8]),
) {
    match phase {
        Phase::BeforeIntent => write(&bytes[..bytes.len() - 3]),
        Phase::IntentDurable => {
            write(bytes);
            // Its intent is durable when the wait for it has ended.
            let commits = "outrigger_journal_commit_seconds_count";
            let before = sidecar.metric(commits);
            let open = || sidecar.timeline_now(workflow)["steps"][at]["state"] == "open";
            crate::support::wait::until("the intent is there", open);
            if sidecar.metric(commits) <= before {
                sidecar.settle();
            }
        }
        Phase::Sent | Phase::HalfAnswered => {
            let gate = world
                .behave(call, if phase == Phase::Sent { Behaviour::HoldHead } else { Behaviour::HoldHalf });
            write(bytes);
            gate.reached(1);
            if phase == Phase::HalfAnswered {
                sidecar.settle();
            }
        }
        Phase::CommittedUndelivered => {
            let metric = call.kind.completed_metric();
            let before = sidecar.metric(&metric);
            world.behave(call, Behaviour::Large);
            write(bytes);
            crate::support::wait::until("the outcome is durable", || sidecar.metric(&metric) > before);
        }
        Phase::BetweenSteps => unreachable!("no kill is steered there"),
    }
}

/// Runs until the sidecar dies under it, at a moment of the seed's choice.
fn unsteered(sidecar: &Sidecar, round: &Round, random: &mut Random) -> Got {
    let moment = Duration::from_micros(random.below(UNSTEERED_WITHIN_MS * 1000) as u64);
    std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let mut got = Got::default();
            for call in &round.calls {
                match call.send(sidecar, 1) {
                    Ok(answer) => got.answers.push(call.text(&answer)),
                    Err(broken) => {
                        got.broken = Some(broken);
                        break;
                    }
                }
            }
            got
        });
        std::thread::sleep(moment);
        sidecar.kill_shared();
        agent.join().unwrap()
    })
}

/// What is left of the call that was under way: in the journal on disk, and upstream.
fn look(sidecar: &Sidecar, world: &World, round: &Round, step: usize) -> Seen {
    let output = sidecar.cli(&["timeline", &round.workflow, "--json"]);
    let timeline: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    for acknowledged in 0..step {
        assert_eq!(timeline["steps"][acknowledged]["state"], "completed", "an answer is lost: {timeline}");
    }
    let call = &round.calls[step.min(round.calls.len() - 1)];
    let state = timeline["steps"][step]["state"].as_str().map(ToOwned::to_owned);
    Seen { state, sent: world.count(call), half: world.was_half_answered(call) }
}

/// The agent again: tries again what broke, or begins anew. Whether it was stopped by a doubt.
fn go_on(sidecar: &Sidecar, round: &Round, got: &mut Got) -> bool {
    let attempt = if round.agent_dies { 2 } else { 1 };
    let from = if round.agent_dies { 0 } else { got.answers.len() };
    for (at, call) in round.calls.iter().enumerate().skip(from) {
        let answer = call.send(sidecar, attempt).unwrap_or_else(|broken| panic!("{call:?}: {broken:?}"));
        if call.is_in_doubt(&answer) {
            assert_eq!(at, got.answers.len(), "an acknowledged call is in doubt: {call:?} {answer:?}");
            assert!(call.kind.is_effect(), "{call:?}");
            assert!(answer.text().contains(&format!("step {}", at + 1)), "it names the step: {answer:?}");
            return true;
        }
        assert_eq!(answer.status, 200, "{call:?}: {answer:?}");
        match got.answers.get(at) {
            Some(known) => check_replayed(call, &answer, known),
            None => got.answers.push(call.text(&answer)),
        }
    }
    false
}

fn check_replayed(call: &Call, answer: &Answer, known: &str) {
    assert_eq!(answer.source(), "replay", "{call:?}: an acknowledged call was sent again: {answer:?}");
    assert!(call.text(answer) == known, "{call:?}: another answer");
}

/// No effect twice; none missing where the run came to its end.
fn check_effects(world: &World, round: &Round, doubt: bool, number: usize) {
    for call in round.calls.iter().filter(|call| call.kind.is_effect()) {
        let count = world.count(call);
        assert!(count <= 1, "round {number}: {call:?} happened {count} times");
        assert!(doubt || count == 1, "round {number}: {call:?} never happened");
    }
}

/// Once more through every workflow, after all the kills: what was answered is answered from the journal.
fn check_all(sidecar: &Sidecar, world: &World, rounds: &[Round], told: &[(Vec<String>, bool)]) {
    let before = world.total();
    for (round, (answers, doubt)) in rounds.iter().zip(told) {
        for (call, known) in round.calls.iter().zip(answers) {
            let answer = call.send(sidecar, 9).unwrap();
            check_replayed(call, &answer, known);
        }
        if *doubt {
            let call = &round.calls[answers.len()];
            assert!(call.is_in_doubt(&call.send(sidecar, 9).unwrap()), "{call:?}: the doubt is gone");
        }
        let state = if *doubt { "in_doubt" } else { "open" };
        assert_eq!(sidecar.timeline_now(&round.workflow)["state"], state, "{}", round.workflow);
    }
    assert_eq!(world.total(), before, "a replay reached an upstream");
}

#[test]
fn a_sidecar_killed_between_any_two_steps_is_not_noticed() {
    for agent_dies in [false, true] {
        let world = World::start();
        let mut sidecar = setup(&world, None).start();
        let calls: Vec<Call> =
            (0..8).map(|step| Call::new("w", step, Kind::ALL[step % Kind::ALL.len()])).collect();
        let mut known: Vec<String> = Vec::new();
        for at in 0..calls.len() {
            let attempt = if agent_dies { at + 1 } else { 1 };
            if agent_dies {
                for (call, known) in calls.iter().zip(&known) {
                    check_replayed(call, &call.send(&sidecar, attempt).unwrap(), known);
                }
            }
            let answer = calls[at].send(&sidecar, attempt).unwrap().expect(200, "live");
            known.push(calls[at].text(&answer));
            sidecar.kill9();
            sidecar.restart();
        }
        assert_eq!(world.total(), calls.len());
        assert!(sidecar.states("w").iter().all(|state| state == "completed"));
    }
}
