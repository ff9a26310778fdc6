//! The rules of a workflow's state, each with the records that would break it.

use std::convert::Infallible;

use super::super::conformance::{
    attempt, attempt_opened, completed, delivered, dispatched, failed, in_doubt, intent, listed, redelivered,
    resolved, step, workflow_closed, workflow_opened,
};
use super::*;

/// Knows nothing: everything is in the change.
struct Nothing;

impl Backing for Nothing {
    type Error = Infallible;

    fn step(&self, _: StepIndex) -> Result<Option<StepEntry>, Infallible> {
        Ok(None)
    }

    fn usage(&self, _: AttemptId, _: StepIndex) -> Result<Option<Use>, Infallible> {
        Ok(None)
    }
}

/// A change as the backing of the next one.
struct Known(Change);

impl Backing for Known {
    type Error = Infallible;

    fn step(&self, step: StepIndex) -> Result<Option<StepEntry>, Infallible> {
        Ok(self.0.steps.get(&step).cloned())
    }

    fn usage(&self, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Infallible> {
        Ok(self.0.uses.get(&(attempt, step)).copied())
    }
}

/// Folds the records after an opened workflow with attempt 1, once in one go and once record by record
/// over a backing: both must agree.
#[track_caller]
fn fold(records: &[Record]) -> Result<Change, String> {
    let all =
        [workflow_opened(), attempt_opened(1)].into_iter().chain(records.iter().cloned()).collect::<Vec<_>>();
    let mut state = WorkflowState::new(None, &Nothing);
    let whole = all.iter().try_for_each(|record| state.apply(record, [1; 32])).map(|()| state.finish());
    let mut known = Known(Change::default());
    let mut single = Ok(());
    for record in &all {
        let mut state = WorkflowState::new(known.0.head.clone(), &known);
        single = state.apply(record, [1; 32]);
        let change = state.finish();
        known.0.head = change.head;
        known.0.steps.extend(change.steps);
        known.0.uses.extend(change.uses);
    }
    match (whole, single) {
        (Ok(whole), Ok(())) => {
            assert_eq!(whole, known.0);
            Ok(whole)
        }
        (Err(Fault::OutOfOrder(whole)), Err(Fault::OutOfOrder(single))) => {
            assert_eq!(whole, single);
            Err(whole)
        }
        (whole, single) => panic!("{whole:?} at once, but {single:?} record by record"),
    }
}

#[track_caller]
fn check_refused(records: &[Record], why: &str) {
    let refused = fold(records).unwrap_err();
    assert!(refused.contains(why), "refused because: {refused}");
}

/// State, tries and whether cleared, of step 1 after `records`.
#[track_caller]
fn check_step(records: &[Record], expected: (StepState, u32, bool)) {
    let change = fold(records).unwrap();
    let summary = &change.steps[&step(1)].summary;
    assert_eq!((summary.state, summary.tries, summary.cleared), expected, "after {records:#?}");
}

fn begun(number: u64) -> Record {
    Record::Intent(intent(number, 1, number))
}

fn done(number: u64) -> Record {
    Record::Completed(completed(number, b""))
}

#[test]
fn a_step_goes_from_open_to_its_outcome() {
    use StepState::{Completed, Failed, InDoubt, Open};
    check_step(&[begun(1)], (Open, 0, false));
    check_step(&[begun(1), dispatched(1, 1)], (Open, 1, false));
    check_step(&[begun(1), dispatched(1, 1), done(1)], (Completed, 1, false));
    check_step(&[begun(1), done(1)], (Completed, 1, false));
    check_step(&[begun(1), dispatched(1, 1), failed(1, 1, Some(503))], (Failed, 1, false));
    check_step(&[begun(1), in_doubt(1)], (InDoubt, 0, false));
    check_step(&[begun(1), in_doubt(1), done(1)], (Completed, 1, false));
}

#[test]
fn a_step_is_cleared_only_while_every_try_is_known_not_to_have_been_executed() {
    use StepState::{Failed, InDoubt, Open};
    let (not_sent, busy, broken) = (failed(1, 1, None), failed(1, 1, Some(429)), failed(1, 1, Some(500)));
    check_step(&[begun(1), not_sent.clone()], (Failed, 1, true));
    check_step(&[begun(1), dispatched(1, 1), busy.clone()], (Failed, 1, true));
    check_step(&[begun(1), broken.clone()], (Failed, 1, false));
    // While the second try is open nobody knows; its outcome does not wash the first one.
    check_step(&[begun(1), not_sent.clone(), dispatched(1, 2)], (Open, 2, false));
    check_step(&[begun(1), not_sent.clone(), dispatched(1, 2), failed(1, 2, None)], (Failed, 2, true));
    check_step(&[begun(1), busy, failed(1, 2, Some(401))], (Failed, 2, true));
    check_step(&[begun(1), broken, dispatched(1, 2), failed(1, 2, None)], (Failed, 2, false));
    check_step(&[begun(1), not_sent, dispatched(1, 2), failed(1, 2, Some(502))], (Failed, 2, false));
    // A try without an outcome may have been executed, whatever the next one says.
    check_step(&[begun(1), dispatched(1, 1), failed(1, 2, None)], (Failed, 2, false));
    check_step(&[begun(1), failed(1, 2, None)], (Failed, 2, false));
    check_step(&[begun(1), dispatched(1, 1), dispatched(1, 2), failed(1, 2, None)], (Failed, 2, false));
    // Doubt ends with the knowledge that nothing was sent, and with nothing less.
    check_step(&[begun(1), dispatched(1, 1), in_doubt(1), failed(1, 1, None)], (Failed, 1, true));
    check_step(&[begun(1), in_doubt(1), failed(1, 1, None)], (Failed, 1, true));
    check_step(&[begun(1), dispatched(1, 1), in_doubt(1), failed(1, 1, Some(500))], (InDoubt, 1, false));
    check_step(&[begun(1), failed(1, 1, Some(500)), in_doubt(1), failed(1, 1, None)], (InDoubt, 1, false));
}

#[test]
fn what_somebody_says_of_a_step_in_doubt_decides_what_may_follow() {
    let doubtful = [begun(1), dispatched(1, 1), failed(1, 1, Some(504)), in_doubt(1)];
    let then = |more: &[Record]| [&doubtful[..], more].concat();
    check_step(&then(&[resolved(1, Resolution::Abandoned)]), (StepState::Abandoned, 1, false));
    check_step(&then(&[resolved(1, Resolution::NotExecuted)]), (StepState::Failed, 1, true));
    check_step(&then(&[resolved(1, Resolution::Repeat)]), (StepState::Failed, 1, false));
    check_step(&then(&[resolved(1, Resolution::Completed), done(1)]), (StepState::Completed, 1, false));
    for again in [Resolution::NotExecuted, Resolution::Repeat] {
        check_step(&then(&[resolved(1, again), dispatched(1, 2), done(1)]), (StepState::Completed, 2, false));
    }
    // A try that nobody knows anything of makes the knowledge of the first one worthless.
    let again = then(&[resolved(1, Resolution::NotExecuted), dispatched(1, 2), failed(1, 2, Some(504))]);
    check_step(&again, (StepState::Failed, 2, false));
    let given_up = then(&[resolved(1, Resolution::Abandoned)]);
    for more in [dispatched(1, 2), done(1), failed(1, 1, None), resolved(1, Resolution::NotExecuted)] {
        check_refused(&[&given_up[..], &[more]].concat(), "abandoned");
    }
    check_refused(&[begun(1), dispatched(1, 1), done(1), resolved(1, Resolution::Abandoned)], "completed");
    check_refused(&[begun(1), failed(1, 1, None), resolved(1, Resolution::Abandoned)], "not in doubt");
    check_refused(&then(&[dispatched(1, 2)]), "in doubt and was sent again");
}

#[test]
fn what_was_recorded_as_a_read_is_resolved_where_it_is_in_doubt_and_nowhere_else() {
    let read = Record::Intent(Intent { class: EffectClass::Read, ..intent(1, 1, 1) });
    let broken = [read, dispatched(1, 1), failed(1, 1, Some(504))];
    let then = |more: &[Record]| [&broken[..], more].concat();
    check_step(&then(&[in_doubt(1), resolved(1, Resolution::NotExecuted)]), (StepState::Failed, 1, true));
    check_step(&then(&[in_doubt(1), resolved(1, Resolution::Abandoned)]), (StepState::Abandoned, 1, false));
    check_refused(&then(&[resolved(1, Resolution::Abandoned)]), "not in doubt");
}

#[test]
fn an_effect_in_doubt_is_sent_again_only_under_its_key() {
    let keyed = Record::Intent(Intent { idempotency_key: Some("k".to_owned()), ..intent(1, 1, 1) });
    let records = [keyed, dispatched(1, 1), in_doubt(1), dispatched(1, 2)];
    check_step(&records, (StepState::Open, 2, false));
    let summary = fold(&records).unwrap().steps[&step(1)].summary.clone();
    assert!(summary.keyed && summary.identity.is_none());
}

#[test]
fn what_lies_ahead_is_what_the_current_attempt_has_not_used() {
    let ahead = |records: &[Record]| fold(records).unwrap().head.unwrap().ahead();
    let one = [begun(1), done(1)];
    assert_eq!(ahead(&one), 0);
    let two = [begun(1), done(1), begun(2), attempt_opened(2)];
    assert_eq!(ahead(&two), 1);
    let with = |more: &[Record]| ahead(&[&two[..], more].concat());
    // A drain outlives its attempt; what it completes is ahead until the new attempt uses it.
    assert_eq!(with(&[done(2)]), 2);
    assert_eq!(with(&[done(2), redelivered(2, 2)]), 1);
    assert_eq!(with(&[redelivered(2, 2), done(2)]), 1);
    assert_eq!(with(&[delivered(1, 2)]), 0);
    // Used twice is used once, and what an older attempt is still served does not count.
    assert_eq!(with(&[redelivered(1, 2), redelivered(1, 2), delivered(1, 2)]), 0);
    assert_eq!(with(&[redelivered(1, 1)]), 1);
    assert_eq!(with(&[done(2), redelivered(1, 2), redelivered(2, 2)]), 0);
}

#[test]
fn an_answer_counts_as_delivered_until_a_new_one_is_under_way() {
    let used = |records: &[Record]| fold(records).unwrap().uses[&(attempt(1), step(1))].delivered;
    let shown = [begun(1), failed(1, 1, Some(503)), delivered(1, 1)];
    assert!(!used(&shown[..2]));
    assert!(used(&shown));
    for next in [dispatched(1, 2), failed(1, 2, Some(503)), redelivered(1, 1)] {
        assert!(!used(&[&shown[..], &[next]].concat()));
    }
    let answered = Record::Completed(Completed { tried: 2, ..completed(1, b"") });
    assert!(!used(&[&shown[..], &[answered]].concat()));
    // Not for an attempt that has not asked for it.
    let drained = [begun(1), delivered(1, 1), attempt_opened(2), done(1)];
    assert_eq!(fold(&drained).unwrap().uses.len(), 1);
}

#[test]
fn what_is_out_of_order_is_refused_with_the_reason() {
    check_refused(&[workflow_opened()], "WorkflowOpened of a workflow that is there and not closed");
    check_refused(&[attempt_opened(1)], "attempt 1 opened, the last one is 1");
    check_refused(&[begun(2)], "step 2 begun after 0 steps");
    check_refused(&[begun(1), begun(1)], "step 1 begun after 1 steps");
    check_refused(&[Record::Intent(intent(1, 2, 1))], "begun by attempt 2, the current one is 1");
    check_refused(&[attempt_opened(2), begun(1)], "begun by attempt 1, the current one is 2");
    check_refused(&[done(1)], "step 1 has no Intent");
    check_refused(&[begun(1), done(1), done(1)], "Completed for step 1, which is completed");
    check_refused(&[begun(1), done(1), dispatched(1, 2)], "Dispatched for step 1, which is completed");
    check_refused(&[begun(1), done(1), failed(1, 2, None)], "Failed for step 1, which is completed");
    check_refused(&[begun(1), done(1), in_doubt(1)], "InDoubt for step 1, which is completed");
    check_refused(&[begun(1), dispatched(1, 1), dispatched(1, 1)], "try 1 of step 1 begun, it has had 1");
    check_refused(&[begun(1), dispatched(1, 2), failed(1, 1, None)], "try 1 of step 1 failed, it has had 2");
    check_refused(&[begun(1), in_doubt(1), dispatched(1, 1)], "an effect in doubt and was sent again");
    check_refused(&[redelivered(1, 1)], "step 1 has no Intent");
    check_refused(&[begun(1), redelivered(1, 2)], "attempt 2 was never opened");
    check_refused(&[Record::Listed(listed(1, 2, b""))], "attempt 2 was never opened");
    check_refused(&[workflow_closed(), attempt_opened(2)], "AttemptOpened after WorkflowClosed");
    check_refused(&[workflow_closed(), workflow_closed()], "WorkflowClosed after WorkflowClosed");
}

#[test]
fn a_refused_record_changes_nothing() {
    let mut state = WorkflowState::new(None, &Nothing);
    for record in [workflow_opened(), attempt_opened(1), begun(1)] {
        state.apply(&record, [1; 32]).unwrap();
    }
    let before = state.change.clone();
    state.apply(&begun(3), [2; 32]).unwrap_err();
    state.apply(&dispatched(2, 1), [2; 32]).unwrap_err();
    assert_eq!(state.change, before);
}

#[test]
fn reading_on_after_lost_records_never_makes_a_workflow_clean() {
    let mut state = WorkflowState::new(None, &Nothing);
    for (sequence, record) in [(4, begun(2)), (5, done(2)), (7, done(9)), (8, attempt_opened(3))] {
        let Ok(()) = state.apply_damaged(&record, [3; 32], sequence, "log, offset 80");
    }
    let head = state.head().unwrap();
    assert_eq!(head.damage.as_deref(), Some("log, offset 80"));
    assert_eq!((head.sequence, head.chain), (8, [3; 32]));
}
