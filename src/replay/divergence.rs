//! Whether a restarted agent goes another way than the recorded run (durability.md, section 4): which recorded
//! steps it has left out. Pure; what is done about it is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{AttemptId, CallKind, EffectClass, Fingerprint, StepIndex, UpstreamName};

/// Where a call goes: upstream and operation.
pub type Tool = (UpstreamName, Arc<str>);

/// What happened in a workflow, as far as it matters here, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The step began in this attempt.
    Begun {
        step: StepIndex,
        attempt: AttemptId,
        kind: CallKind,
        tool: Tool,
        class: EffectClass,
        identity: Option<Fingerprint>,
    },
    /// Its outcome was recorded.
    Completed(StepIndex),
    /// It is known that nothing of it was carried out so far, or it was given up.
    Over(StepIndex),
    /// Another try of it left.
    Tried(StepIndex),
    /// The attempt was given its answer again, was told its failure again, or took it over.
    Used { step: StepIndex, attempt: AttemptId },
    /// Somebody has accepted that the agent left these out.
    Accepted(Vec<StepIndex>),
}

/// A recorded step that the attempt has not asked for.
#[derive(Clone, Debug)]
struct Unused {
    kind: CallKind,
    tool: Tool,
    class: EffectClass,
    identity: Option<Fingerprint>,
    /// Position of its outcome among the events.
    completed_at: Option<usize>,
    /// As far as is known there is nothing of it.
    is_over: bool,
}

/// The recorded steps that an attempt has not asked for yet.
#[derive(Clone, Debug)]
pub struct Ahead {
    attempt: AttemptId,
    steps: BTreeMap<StepIndex, Unused>,
    /// The lowest step of earlier attempts that this one has used: an agent with a checkpoint of its own begins
    /// there.
    first_used: Option<StepIndex>,
    /// The attempt began with a step of its own, before it used a recorded one: it has no checkpoint.
    began_anew: bool,
    /// Recorded answers of models that this attempt was given, in order.
    heard: Vec<StepIndex>,
    /// The last call of a model that it made is no recorded one.
    asks_anew: bool,
    accepted: BTreeSet<StepIndex>,
    events: usize,
    /// Position of the last step that an earlier attempt began.
    last_begun: usize,
}

impl Ahead {
    /// Of nothing recorded yet.
    pub fn new(attempt: AttemptId) -> Self {
        let (steps, accepted) = (BTreeMap::new(), BTreeSet::new());
        let (first_used, began_anew, heard, asks_anew) = (None, false, Vec::new(), false);
        Self { attempt, steps, first_used, began_anew, heard, asks_anew, accepted, events: 0, last_begun: 0 }
    }

    /// Takes in the next event of the workflow.
    pub fn feed(&mut self, event: Event) {
        self.events += 1;
        match event {
            Event::Begun { step, attempt, kind, tool, class, identity } if attempt < self.attempt => {
                self.last_begun = self.events;
                let unused = Unused { kind, tool, class, identity, completed_at: None, is_over: false };
                self.steps.insert(step, unused);
            }
            Event::Begun { attempt, kind, .. } if attempt == self.attempt => self.begun(kind),
            Event::Begun { .. } => {}
            Event::Completed(step) => {
                if let Some(unused) = self.steps.get_mut(&step) {
                    unused.completed_at = Some(self.events);
                    unused.is_over = false;
                }
            }
            Event::Over(step) => self.set_over(step, true),
            Event::Tried(step) => self.set_over(step, false),
            Event::Used { step, attempt } if attempt == self.attempt => self.used(step),
            Event::Used { .. } => {}
            Event::Accepted(steps) => self.accepted.extend(steps),
        }
    }

    fn set_over(&mut self, step: StepIndex, is_over: bool) {
        if let Some(unused) = self.steps.get_mut(&step) {
            unused.is_over = is_over;
        }
    }

    /// The attempt has asked for this step.
    pub fn used(&mut self, step: StepIndex) {
        if let Some(used) = self.steps.remove(&step) {
            self.first_used = Some(self.first_used.map_or(step, |first| first.min(step)));
            if used.kind == CallKind::Llm {
                self.heard.push(step);
                self.asks_anew = false;
            }
        }
    }

    /// The attempt has begun a step of its own.
    pub fn begun(&mut self, kind: CallKind) {
        self.began_anew |= self.first_used.is_none();
        self.asks_anew |= kind == CallKind::Llm;
    }

    /// Whether what its next request to a model repeats is of its own making.
    pub fn asks_anew(&self) -> bool {
        self.asks_anew
    }

    /// The recorded answers of models that the attempt was given, the last one first: what they ask for is no
    /// other way.
    pub fn heard(&self) -> impl Iterator<Item = StepIndex> + '_ {
        self.heard.iter().rev().copied()
    }

    /// Effects of the same tool that may be what the agent means now in other words: recorded, not asked for, and
    /// not known by another identity.
    pub fn reworded<'a>(
        &'a self,
        tool: &'a Tool,
        identity: Option<&'a Fingerprint>,
    ) -> impl Iterator<Item = StepIndex> + 'a {
        let told_apart = move |unused: &Unused| match (identity, &unused.identity) {
            (Some(asked), Some(recorded)) => asked != recorded,
            _ => false,
        };
        // What the tool does, its rule says now. Of a model it is the request that says it.
        let acts = |unused: &Unused| unused.class == EffectClass::Effect || unused.kind != CallKind::Llm;
        self.open()
            .filter(move |(_, unused)| unused.tool == *tool && acts(unused))
            .filter(move |(_, unused)| !told_apart(unused))
            .map(|(step, _)| step)
    }

    /// Steps that the recorded run had moved past, another one began after their outcome, from the first one on that
    /// the attempt has used.
    pub fn passed(&self) -> impl Iterator<Item = StepIndex> + '_ {
        let is_passed = |unused: &Unused| unused.completed_at.is_some_and(|at| at < self.last_begun);
        let open = self.open().filter(|(step, _)| self.is_since_first(*step));
        open.filter(move |(_, unused)| is_passed(unused)).map(|(step, _)| step)
    }

    /// The recorded step that the agent was most likely to ask for next: the lowest one of this tool, else of this
    /// upstream.
    pub fn expected(&self, tool: &Tool) -> Option<StepIndex> {
        let near = self.open().filter(|(_, unused)| unused.tool.0 == tool.0);
        let nearest =
            near.min_by_key(|(step, unused)| (unused.tool != *tool, !self.is_since_first(*step), *step));
        nearest.map(|(step, _)| step)
    }

    /// Everything that was left out and that nobody has accepted.
    pub fn all(&self) -> impl Iterator<Item = StepIndex> + '_ {
        self.open().map(|(step, _)| step)
    }

    /// The recorded answers that lie ahead of the first one that the attempt has used.
    pub fn completed(&self) -> impl Iterator<Item = StepIndex> + '_ {
        let ahead = self.steps.iter().filter(|(step, unused)| {
            unused.completed_at.is_some() && !unused.is_over && self.is_since_first(**step)
        });
        ahead.map(|(step, _)| *step).filter(|step| !self.accepted.contains(step))
    }

    fn is_since_first(&self, step: StepIndex) -> bool {
        self.first_used.is_none_or(|first| step >= first)
    }

    /// What was left out and may still be there: an agent that resumed from a checkpoint of its own knows what lies
    /// before it.
    fn open(&self) -> impl Iterator<Item = (StepIndex, &Unused)> {
        let counts = |step: StepIndex| self.began_anew || self.is_since_first(step);
        let open = self.steps.iter().filter(|(_, unused)| !unused.is_over);
        let open = open.filter(move |(step, _)| counts(**step) && !self.accepted.contains(step));
        open.map(|(step, unused)| (*step, unused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64) -> StepIndex {
        StepIndex::new(number).unwrap()
    }

    fn attempt(number: u32) -> AttemptId {
        AttemptId::new(number).unwrap()
    }

    fn tool(name: &str) -> Tool {
        (UpstreamName::parse("crm").unwrap(), name.into())
    }

    fn begun(number: u64, by: u32, name: &str) -> Event {
        let (kind, class) = match name {
            "model" => (CallKind::Llm, EffectClass::Read),
            _ => (CallKind::Http, EffectClass::Effect),
        };
        let (step, attempt, tool) = (step(number), attempt(by), tool(name));
        Event::Begun { step, attempt, kind, tool, class, identity: None }
    }

    /// Of attempt 2, after these events.
    fn ahead(events: Vec<Event>) -> Ahead {
        let mut ahead = Ahead::new(attempt(2));
        events.into_iter().for_each(|event| ahead.feed(event));
        ahead
    }

    #[track_caller]
    fn check(ahead: &Ahead, passed: &[u64], reworded: &[u64]) {
        let numbers = |steps: Vec<StepIndex>| steps.into_iter().map(StepIndex::number).collect::<Vec<_>>();
        assert_eq!(numbers(ahead.passed().collect()), passed, "passed");
        assert_eq!(numbers(ahead.reworded(&tool("charge"), None).collect()), reworded, "reworded");
    }

    /// model, charge, model, charge, one after the other.
    fn run() -> Vec<Event> {
        let names = ["model", "charge", "model", "charge"];
        let steps = (1..).zip(names);
        steps.flat_map(|(at, name)| [begun(at, 1, name), Event::Completed(step(at))]).collect()
    }

    #[test]
    fn what_the_run_had_moved_past_is_left_out_until_it_is_asked_for() {
        let mut ahead = ahead(run());
        // The last step is the frontier.
        check(&ahead, &[1, 2, 3], &[2, 4]);
        ahead.used(step(1));
        check(&ahead, &[2, 3], &[2, 4]);
        [2, 3, 4].into_iter().for_each(|at| ahead.used(step(at)));
        check(&ahead, &[], &[]);
    }

    #[test]
    fn an_agent_with_a_checkpoint_begins_where_its_first_match_is() {
        let mut ahead = ahead(run());
        ahead.used(step(3));
        check(&ahead, &[], &[4]);
    }

    #[test]
    fn an_attempt_that_began_with_a_step_of_its_own_has_no_checkpoint() {
        // Learnt from the journal, or while it happens.
        let mut read = ahead([run(), vec![begun(5, 2, "model")]].concat());
        let mut seen = ahead(run());
        seen.begun(CallKind::Llm);
        for ahead in [&mut read, &mut seen] {
            ahead.used(step(3));
            check(ahead, &[], &[2, 4]);
            assert_eq!(ahead.all().count(), 3);
            assert_eq!(ahead.expected(&tool("charge")), Some(step(4)), "the nearest one ahead comes first");
        }
        // What it begins later says nothing.
        let mut resumed = ahead(run());
        resumed.used(step(3));
        resumed.begun(CallKind::Llm);
        check(&resumed, &[], &[4]);
    }

    #[test]
    fn what_a_tool_was_recorded_as_counts_less_than_what_it_is() {
        let mut events = run();
        for event in &mut events {
            if let Event::Begun { class, .. } = event {
                *class = EffectClass::Read;
            }
        }
        let ahead = ahead(events);
        check(&ahead, &[1, 2, 3], &[2, 4]);
        assert_eq!(ahead.reworded(&tool("model"), None).count(), 0);
    }

    #[test]
    fn an_agent_asks_anew_from_its_own_call_of_a_model_until_it_matches_a_recorded_one() {
        let mut ahead = ahead([run(), vec![begun(5, 2, "charge")]].concat());
        let seen = |ahead: &Ahead| (ahead.asks_anew(), ahead.completed().count());
        assert_eq!(seen(&ahead), (false, 4));
        ahead.feed(begun(6, 2, "model"));
        assert_eq!(seen(&ahead), (true, 4));
        ahead.used(step(2));
        assert_eq!(seen(&ahead), (true, 2));
        ahead.used(step(3));
        assert_eq!(seen(&ahead), (false, 1));
    }

    #[test]
    fn calls_that_ran_side_by_side_are_not_past_each_other() {
        let ahead = ahead(vec![
            begun(1, 1, "charge"),
            begun(2, 1, "charge"),
            Event::Completed(step(2)),
            Event::Completed(step(1)),
        ]);
        check(&ahead, &[], &[1, 2]);
    }

    #[test]
    fn what_was_used_accepted_or_came_to_nothing_does_not_count() {
        let mut events = run();
        events.push(Event::Used { step: step(1), attempt: attempt(2) });
        events.push(Event::Used { step: step(2), attempt: attempt(1) });
        events.push(Event::Accepted(vec![step(2)]));
        events.push(begun(5, 1, "charge"));
        events.push(Event::Over(step(5)));
        events.push(begun(6, 2, "charge"));
        check(&ahead(events.clone()), &[3, 4], &[4]);
        events.push(Event::Tried(step(5)));
        check(&ahead(events), &[3, 4], &[4, 5]);
    }

    #[test]
    fn an_effect_in_doubt_counts_and_another_identity_tells_apart() {
        let known = |of: u8| Some(Fingerprint([of; 32]));
        let mut doubtful = begun(1, 1, "charge");
        if let Event::Begun { identity, .. } = &mut doubtful {
            *identity = known(7);
        }
        let ahead = ahead(vec![doubtful]);
        let reworded =
            |identity: Option<Fingerprint>| ahead.reworded(&tool("charge"), identity.as_ref()).count();
        assert_eq!((reworded(None), reworded(known(7)), reworded(known(8))), (1, 1, 0));
        assert_eq!(ahead.reworded(&tool("refund"), None).count(), 0);
        assert_eq!((ahead.expected(&tool("refund")), ahead.passed().count()), (Some(step(1)), 0));
    }
}
