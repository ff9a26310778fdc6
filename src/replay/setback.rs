//! Which failures and refusals a restarted agent is told again (durability.md, section 4, "Errors"):
//! those that an earlier attempt went on from. Whoever went on built its next requests on what it was
//! told; whoever did not is sent, or decided, anew. Pure; knows nothing of how a setback reads.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::model::{AttemptId, Fingerprint, StepIndex};

/// What a setback belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A call that is no recorded step.
    Call(Fingerprint),
    Step(StepIndex),
}

/// What happened in a workflow, as far as it matters here, in order. `T`: what the agent was told.
#[derive(Clone, Debug)]
pub enum Event<T> {
    /// A step began.
    Begun { step: StepIndex, attempt: AttemptId, exact: Fingerprint },
    /// An attempt was given a recorded answer, or took its step over.
    Used { step: StepIndex, attempt: AttemptId },
    /// Another try of the step left: an equal request came.
    Tried(StepIndex),
    /// Its last try is no result. `None`: what the agent was told is not known.
    Failed { step: StepIndex, told: Option<T> },
    /// The sidecar said no.
    Refused { subject: Subject, attempt: AttemptId, exact: Fingerprint, told: Option<T> },
    /// The agent's side was handed a step's answer, or its failure.
    Delivered { step: StepIndex, attempt: AttemptId },
    /// The agent's side was handed a refusal.
    RefusalDelivered { subject: Subject, attempt: AttemptId },
    /// An attempt was told a setback of an earlier one again.
    ToldAgain { subject: Subject, attempt: AttemptId },
    /// Somebody has said what became of the step.
    Resolved(StepIndex),
    /// The step has its result.
    Completed(StepIndex),
}

/// Setbacks of one subject, one after the other without anything in between.
#[derive(Clone, Debug)]
struct Series<T> {
    told: VecDeque<T>,
    exact: Option<Fingerprint>,
    /// The attempt that was told the last of them first.
    attempt: AttemptId,
    is_delivered: bool,
    has_gone_on: bool,
    /// The last attempt that was told some of them again, and how many.
    again: Option<(AttemptId, usize)>,
}

/// Follows a workflow's records.
#[derive(Clone, Debug)]
pub struct Setbacks<T> {
    series: HashMap<Subject, Series<T>>,
    /// Delivered, and nothing shows yet that the agent went on.
    waiting: HashSet<Subject>,
    /// The fingerprint of every step and the attempt that asked for it last.
    steps: HashMap<StepIndex, (Fingerprint, AttemptId)>,
    resolved: HashSet<StepIndex>,
}

impl<T> Default for Setbacks<T> {
    fn default() -> Self {
        let (series, waiting) = (HashMap::new(), HashSet::new());
        Self { series, waiting, steps: HashMap::new(), resolved: HashSet::new() }
    }
}

impl<T> Setbacks<T> {
    /// Longest series that is kept; of a longer one the first are told again.
    pub const SERIES_MAX: usize = 256;

    /// Takes in the next event of the workflow.
    pub fn feed(&mut self, event: Event<T>) {
        match event {
            Event::Begun { step, attempt, exact } => {
                self.steps.insert(step, (exact, attempt));
                self.goes_on(attempt, Some(exact), None);
                if let Some(equal) = self.series.get_mut(&Subject::Call(exact)) {
                    // It was decided anew, and let through.
                    equal.has_gone_on = false;
                }
            }
            Event::Used { step, attempt } => {
                let Some((exact, user)) = self.steps.get_mut(&step) else { return };
                *user = attempt;
                let exact = *exact;
                self.goes_on(attempt, Some(exact), Some(Subject::Step(step)));
            }
            Event::Tried(step) => self.asked_anew(Subject::Step(step)),
            Event::Failed { step, told } => {
                if let Some((exact, attempt)) = self.steps.get(&step).copied() {
                    self.set_back(Subject::Step(step), attempt, Some(exact), told);
                }
            }
            Event::Refused { subject, attempt, exact, told } => {
                self.set_back(subject, attempt, Some(exact), told);
            }
            Event::Delivered { step, attempt } => self.delivered(Subject::Step(step), attempt),
            Event::RefusalDelivered { subject, attempt } => self.delivered(subject, attempt),
            Event::ToldAgain { subject, attempt } => {
                let exact = self.series.get_mut(&subject).and_then(|series| {
                    let before = series.again.filter(|(by, _)| *by == attempt).map_or(0, |(_, times)| times);
                    series.again = Some((attempt, before + 1));
                    series.exact
                });
                self.goes_on(attempt, exact, Some(subject));
            }
            Event::Resolved(step) => {
                self.resolved.insert(step);
            }
            // What a person found out later does not change what the agent built on.
            Event::Completed(step) if self.resolved.contains(&step) => {}
            Event::Completed(step) => {
                self.series.remove(&Subject::Step(step));
                self.waiting.remove(&Subject::Step(step));
            }
        }
    }

    /// What `attempt` is to be told again, each in the order in which it was told.
    pub fn of(self, attempt: AttemptId) -> HashMap<Subject, VecDeque<T>> {
        let counts = |series: &Series<T>| series.has_gone_on && series.attempt < attempt;
        let series = self.series.into_iter().filter(|(_, series)| counts(series));
        let left = series.map(|(subject, mut series)| {
            if let Some((by, times)) = series.again
                && by == attempt
            {
                series.told.drain(..times.min(series.told.len()));
            }
            (subject, series.told)
        });
        left.filter(|(_, told)| !told.is_empty()).collect()
    }

    fn set_back(
        &mut self,
        subject: Subject,
        attempt: AttemptId,
        exact: Option<Fingerprint>,
        told: Option<T>,
    ) {
        self.waiting.remove(&subject);
        let Some(told) = told else {
            self.series.remove(&subject);
            return;
        };
        let goes_on_from = |series: &Series<T>| {
            series.attempt == attempt || series.again.is_some_and(|(by, _)| by == attempt)
        };
        let before = self.series.remove(&subject).filter(goes_on_from);
        let mut all = before.map(|series| series.told).unwrap_or_default();
        if all.len() < Self::SERIES_MAX {
            all.push_back(told);
        }
        let series =
            Series { told: all, exact, attempt, is_delivered: false, has_gone_on: false, again: None };
        self.series.insert(subject, series);
    }

    fn asked_anew(&mut self, subject: Subject) {
        self.waiting.remove(&subject);
        if let Some(series) = self.series.get_mut(&subject) {
            series.has_gone_on = false;
        }
    }

    fn delivered(&mut self, subject: Subject, attempt: AttemptId) {
        if let Some(series) = self.series.get_mut(&subject).filter(|series| series.attempt == attempt) {
            series.is_delivered = true;
            self.waiting.insert(subject);
        }
    }

    /// The attempt asked for something else than what it was told no about. Calls that were under way beside it
    /// began before it was delivered and say nothing.
    fn goes_on(&mut self, attempt: AttemptId, exact: Option<Fingerprint>, subject: Option<Subject>) {
        let series = &mut self.series;
        self.waiting.retain(|waiting| {
            let Some(series) = series.get_mut(waiting) else { return false };
            let is_other = series.exact != exact && Some(*waiting) != subject;
            series.has_gone_on |= series.is_delivered && series.attempt == attempt && is_other;
            !series.has_gone_on
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = &'static str;

    fn step(number: u64) -> StepIndex {
        StepIndex::new(number).unwrap()
    }

    fn attempt(number: u32) -> AttemptId {
        AttemptId::new(number).unwrap()
    }

    fn print(of: u8) -> Fingerprint {
        Fingerprint([of; 32])
    }

    fn begun(number: u8, by: u32) -> Event<Told> {
        Event::Begun { step: step(u64::from(number)), attempt: attempt(by), exact: print(number) }
    }

    fn failed(number: u64, told: Told) -> Event<Told> {
        Event::Failed { step: step(number), told: Some(told) }
    }

    fn delivered(number: u64, by: u32) -> Event<Told> {
        Event::Delivered { step: step(number), attempt: attempt(by) }
    }

    /// A refusal of the call with fingerprint `of`, delivered.
    fn refused(of: u8, by: u32, told: Told) -> [Event<Told>; 2] {
        let (subject, attempt) = (Subject::Call(print(of)), attempt(by));
        [
            Event::Refused { subject, attempt, exact: print(of), told: Some(told) },
            Event::RefusalDelivered { subject, attempt },
        ]
    }

    #[track_caller]
    fn check(events: &[Event<Told>], by: u32, expected: &[(Subject, &[Told])]) {
        let mut setbacks = Setbacks::default();
        events.iter().cloned().for_each(|event| setbacks.feed(event));
        let found = setbacks.of(attempt(by));
        let expected: HashMap<_, VecDeque<_>> =
            expected.iter().map(|(subject, told)| (*subject, told.iter().copied().collect())).collect();
        assert_eq!(found, expected, "after {events:#?}");
    }

    const STEP_1: Subject = Subject::Step(StepIndex::FIRST);

    #[test]
    fn a_failure_that_the_agent_went_on_from_is_told_again_and_only_to_later_attempts() {
        let events = [begun(1, 1), failed(1, "503"), delivered(1, 1), begun(2, 1)];
        check(&events, 2, &[(STEP_1, &["503"])]);
        check(&events, 1, &[]);
        check(&events[..3], 2, &[]);
    }

    #[test]
    fn parallel_siblings_and_other_attempts_are_no_going_on() {
        check(&[begun(1, 1), begun(2, 1), failed(1, "503"), delivered(1, 1)], 2, &[]);
        check(&[begun(1, 1), failed(1, "503"), begun(2, 1), delivered(1, 1)], 2, &[]);
        check(&[begun(1, 1), failed(1, "503"), delivered(1, 1), begun(2, 2)], 3, &[]);
    }

    #[test]
    fn tries_of_an_impatient_client_are_told_again_one_by_one() {
        let mut events = vec![begun(1, 1)];
        for told in ["a", "b", "c"] {
            events.extend([Event::Tried(step(1)), failed(1, told), delivered(1, 1)]);
        }
        events.push(begun(2, 1));
        check(&events, 2, &[(STEP_1, &["a", "b", "c"])]);
        // Two of them were told before the sidecar ended.
        let again = Event::ToldAgain { subject: STEP_1, attempt: attempt(2) };
        events.extend([again.clone(), again]);
        check(&events, 2, &[(STEP_1, &["c"])]);
        check(&events, 3, &[(STEP_1, &["a", "b", "c"])]);
    }

    #[test]
    fn an_equal_request_or_a_result_ends_it() {
        let gone_on = [begun(1, 1), failed(1, "503"), delivered(1, 1), begun(2, 1)];
        for later in [Event::Tried(step(1)), Event::Completed(step(1))] {
            check(&[&gone_on[..], &[later]].concat(), 2, &[]);
        }
        // Tried anew by the next attempt, which then goes on from another failure.
        let anew = [
            Event::Used { step: step(1), attempt: attempt(2) },
            Event::Tried(step(1)),
            failed(1, "504"),
            delivered(1, 2),
            begun(3, 2),
        ];
        check(&[&gone_on[..], &anew].concat(), 3, &[(STEP_1, &["504"])]);
    }

    #[test]
    fn what_is_resolved_later_does_not_change_what_the_agent_built_on() {
        let events = [
            begun(1, 1),
            failed(1, "504"),
            delivered(1, 1),
            begun(2, 1),
            Event::Resolved(step(1)),
            Event::Completed(step(1)),
        ];
        check(&events, 2, &[(STEP_1, &["504"])]);
    }

    #[test]
    fn a_refusal_is_told_again_until_it_is_decided_anew() {
        let call = Subject::Call(print(9));
        let mut events = refused(9, 1, "no").to_vec();
        check(&events, 2, &[]);
        events.push(begun(1, 1));
        check(&events, 2, &[(call, &["no"])]);
        // Another life is told, and is stopped before it goes on: the first one had gone on.
        events.push(Event::ToldAgain { subject: call, attempt: attempt(2) });
        check(&events, 2, &[]);
        check(&events, 3, &[(call, &["no"])]);
        events.push(Event::Begun { step: step(2), attempt: attempt(3), exact: print(9) });
        check(&events, 4, &[]);
    }

    #[test]
    fn being_told_again_is_a_sign_that_the_attempt_went_on_from_what_was_before() {
        let call = Subject::Call(print(9));
        let mut events = refused(9, 1, "no").to_vec();
        events.push(begun(1, 1));
        events.extend(refused(8, 2, "neither"));
        check(&events, 3, &[(call, &["no"])]);
        events.push(Event::ToldAgain { subject: call, attempt: attempt(2) });
        check(&events, 3, &[(call, &["no"]), (Subject::Call(print(8)), &["neither"])]);
    }

    #[test]
    fn a_failure_whose_words_are_unknown_is_never_told_again() {
        let unknown = Event::Failed { step: step(1), told: None };
        check(&[begun(1, 1), unknown, delivered(1, 1), begun(2, 1)], 2, &[]);
    }

    #[test]
    fn a_long_series_is_cut() {
        let mut events = vec![begun(1, 1)];
        for _ in 0..=Setbacks::<Told>::SERIES_MAX {
            events.extend([failed(1, "503"), delivered(1, 1)]);
        }
        events.push(begun(2, 1));
        check(&events, 2, &[(STEP_1, &["503"; Setbacks::<Told>::SERIES_MAX])]);
    }
}
