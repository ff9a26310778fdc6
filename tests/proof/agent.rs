//! An agent that does one workflow after the other, dies and is started again, tries again what broke, and knows
//! what it was ever told: the judge of lost, repeated and wrong.

use std::fmt;
use std::net::SocketAddr;

use crate::life::Life;
use crate::support::client::{self, Answer, Client};
use crate::support::random::Random;
use crate::world::{Call, Kind, World};

/// Polls whose delivery may not be on disk yet when the sidecar dies: the last one, and some more where the machine is so
/// busy that whoever notes it does not get to run.
const HAD_MAX: usize = 6;

/// What must never happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// What was acknowledged is not there.
    Lost(String),
    /// An effect was carried out twice.
    Repeated(String),
    /// An answer that is not the one that belongs there.
    Wrong(String),
    /// Anything else that is not as it should be.
    Odd(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, told) = match self {
            Self::Lost(told) => ("lost", told),
            Self::Repeated(told) => ("repeated", told),
            Self::Wrong(told) => ("wrong", told),
            Self::Odd(told) => ("odd", told),
        };
        // Bodies are long.
        write!(f, "{kind}: {:.5000}", told)
    }
}

/// Which answer the agent got for what.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Whole answers.
    pub(crate) answers: u64,
    pub(crate) replays: u64,
    /// Workflows that ended with a call in doubt.
    pub(crate) doubts: u64,
    /// The agent died and was started again, the sidecar lived.
    pub(crate) agent_deaths: u64,
    /// A poll that was answered once more with what the agent had: that it was delivered was not on disk yet.
    pub(crate) delivered_again: u64,
    /// A new effect that was refused as diverged: which steps the attempt had used was not all on disk yet.
    pub(crate) held_up: u64,
}

/// One workflow.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) calls: Vec<Call>,
    /// What was acknowledged, by call.
    pub(crate) answers: Vec<Option<String>>,
    pub(crate) attempt: usize,
    at: usize,
    /// The call that is in doubt; the workflow ends there.
    pub(crate) doubt: Option<usize>,
    /// Polls that this attempt was answered in this life of the sidecar, and in those before: that they were
    /// delivered may not have been on disk when it ended, where the machine was busy.
    lately: Vec<String>,
    had: Vec<String>,
    /// What it was answered, in short, for whoever looks into a violation.
    log: Vec<String>,
}

impl Run {
    fn new(workflow: &str, random: &mut Random) -> Self {
        let polls = random.chance(3);
        // Long enough for an agent that polls to be given what it had long before, were that ever to happen.
        let count = if polls { 10 + random.below(16) } else { 4 + random.below(6) };
        let calls = (0..count).map(|at| {
            let kind = if polls && !random.chance(3) { Kind::Poll } else { *random.pick(&Kind::ALL) };
            Call::new(workflow, at, kind)
        });
        let calls: Vec<Call> = calls.collect();
        let answers = vec![None; calls.len()];
        Self {
            calls,
            answers,
            attempt: 1,
            at: 0,
            doubt: None,
            lately: Vec::new(),
            had: Vec::new(),
            log: Vec::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.doubt.is_some() || self.at == self.calls.len()
    }

    fn note(&mut self, life: usize, answer: &Answer) {
        let text = answer.text();
        let from = text.find("key-").unwrap_or(0);
        let said: String = text[from..].chars().take(48).collect();
        let (attempt, at, source, step) = (self.attempt, self.at, answer.source(), answer.step());
        self.log.push(format!(
            "life {life} attempt {attempt} call {at}: {} {source} step {step}: {said}",
            answer.status
        ));
    }

    fn begin_again(&mut self) {
        self.attempt += 1;
        self.at = 0;
        self.had.clear();
        self.lately.clear();
    }
}

pub(crate) struct Agent {
    name: String,
    started: usize,
    random: Random,
    pub(crate) run: Run,
    /// Workflows that are over.
    pub(crate) done: Vec<Run>,
    pub(crate) tally: Tally,
}

impl Agent {
    pub(crate) fn new(name: &str, mut random: Random) -> Self {
        let run = Run::new(&format!("{name}-0"), &mut random);
        Self { name: name.to_owned(), started: 0, random, run, done: Vec::new(), tally: Tally::default() }
    }

    /// The sidecar is there again: the agent has died with it, or asks again.
    pub(crate) fn sidecar_is_back(&mut self) {
        if self.random.chance(2) {
            self.run.begin_again();
            return;
        }
        self.run.had.append(&mut self.run.lately);
        let old = self.run.had.len().saturating_sub(HAD_MAX);
        self.run.had.drain(..old);
    }

    /// Calls until the sidecar dies.
    pub(crate) fn work(&mut self, life: &Life, sidecar: SocketAddr, world: &World) -> Result<(), Violation> {
        while life.is_open() {
            if self.run.is_over() {
                self.started += 1;
                let next = Run::new(&format!("{}-{}", self.name, self.started), &mut self.random);
                self.done.push(std::mem::replace(&mut self.run, next));
            }
            if self.random.chance(14) {
                self.tally.agent_deaths += 1;
                self.run.begin_again();
            } else if self.random.chance(25) {
                self.die_calling(sidecar);
            } else {
                self.call(life, sidecar, world)?;
            }
        }
        Ok(())
    }

    /// Dies with a call under way.
    fn die_calling(&mut self, sidecar: SocketAddr) {
        let call = &self.run.calls[self.run.at];
        if let Ok(mut client) = Client::try_connect(sidecar) {
            client.send(&call.ask(self.run.attempt));
            if self.random.chance(2) {
                drop(client.head("GET"));
            }
        }
        self.tally.agent_deaths += 1;
        self.run.begin_again();
    }

    fn call(&mut self, life: &Life, sidecar: SocketAddr, world: &World) -> Result<(), Violation> {
        let call = self.run.calls[self.run.at].clone();
        let answer = match client::try_call(sidecar, &call.ask(self.run.attempt)) {
            // A sidecar that stops turns everybody away, in the caller's own protocol.
            Ok(answer) if !life.is_open() && answer.text().contains("OG3008") => return Ok(()),
            Ok(answer) => answer,
            Err(_) if !life.is_open() => return Ok(()),
            Err(broken) => return Err(Violation::Odd(format!("{call:?} broke: {broken:?}"))),
        };
        let is_result = answer.status == 200 && answer.source() != "none";
        let judged = life.answered(is_result, || {
            self.run.note(life.number, &answer);
            self.take(&call, &answer, world)
        });
        judged.unwrap_or(Ok(()))
    }

    fn take(&mut self, call: &Call, answer: &Answer, world: &World) -> Result<(), Violation> {
        self.tally.answers += 1;
        let (at, run) = (self.run.at, &mut self.run);
        let known = run.answers[at].as_deref();
        let told = || format!("{call:?}, {:#?}, attempt {}, call {at}: {answer:?}", run.log, run.attempt);
        if call.is_in_doubt(answer) {
            if known.is_some() {
                return Err(Violation::Lost(told()));
            }
            if !call.kind.may_be_in_doubt() {
                return Err(Violation::Odd(told()));
            }
            (self.tally.doubts, run.doubt) = (self.tally.doubts + 1, Some(at));
            return check_count(call, world);
        }
        if call.kind.turned_away() == Some(answer.status) && ["live", "join"].contains(&answer.source()) {
            return if known.is_some() { Err(Violation::Lost(told())) } else { Ok(()) };
        }
        if run.attempt > 1 && known.is_none() && answer.source() == "none" && answer.text().contains("OG3012")
        {
            // Which steps this attempt had used was not all on disk: it is held up, and begins anew.
            self.tally.held_up += 1;
            run.begin_again();
            return Ok(());
        }
        if answer.status != 200 {
            return Err(if known.is_some() { Violation::Lost(told()) } else { Violation::Odd(told()) });
        }
        let text = answer.text();
        if call.kind == Kind::Poll && known != Some(&text) && run.had.contains(&text) {
            self.tally.delivered_again += 1;
            return Ok(());
        }
        match known {
            Some(known) if known != text => return Err(Violation::Wrong(told())),
            Some(_) if answer.source() != "replay" => return Err(Violation::Lost(told())),
            Some(_) => self.tally.replays += 1,
            None if !world.has_said(call, &text) => return Err(Violation::Wrong(told())),
            None if run.answers.iter().flatten().any(|other| *other == text) => {
                return Err(Violation::Wrong(told()));
            }
            None => run.answers[at] = Some(text.clone()),
        }
        if call.kind == Kind::Poll {
            run.lately.push(text);
        }
        run.at += 1;
        check_count(call, world)
    }

    /// Asks once more for everything that was ever acknowledged.
    pub(crate) fn ask_all(&mut self, sidecar: SocketAddr, world: &World) -> Result<(), Violation> {
        let current = self.run.clone();
        for run in self.done.iter_mut().chain([&mut self.run]) {
            run.begin_again();
            for (at, call) in run.calls.iter().enumerate() {
                let Some(known) = &run.answers[at] else { break };
                let before = world.executed(call);
                let answer = client::try_call(sidecar, &call.ask(run.attempt))
                    .map_err(|broken| Violation::Odd(format!("{call:?} broke: {broken:?}")))?;
                let told = || {
                    format!(
                        "at the end {call:?}, {known:.120}, {:#?}, attempt {}: {answer:?}",
                        run.log, run.attempt
                    )
                };
                if answer.source() != "replay" || world.executed(call) != before {
                    return Err(Violation::Lost(told()));
                }
                if answer.text() != *known {
                    return Err(Violation::Wrong(told()));
                }
                self.tally.replays += 1;
            }
            if let Some(at) = run.doubt {
                let call = &run.calls[at];
                let answer = client::try_call(sidecar, &call.ask(run.attempt));
                if !answer.as_ref().is_ok_and(|answer| call.is_in_doubt(answer)) {
                    return Err(Violation::Odd(format!("{call:?}: the doubt is gone: {answer:?}")));
                }
            }
            run.calls.iter().try_for_each(|call| check_count(call, world))?;
        }
        self.run.at = if current.is_over() { self.run.calls.len() } else { 0 };
        Ok(())
    }
}

fn check_count(call: &Call, world: &World) -> Result<(), Violation> {
    let count = world.executed(call);
    if call.kind.is_effect() && count > 1 {
        return Err(Violation::Repeated(format!("{call:?} was carried out {count} times")));
    }
    Ok(())
}
