//! Failures and refusals in the journal: what is recorded of a refusal, and what a restarted agent is told again
//! because its last life went on from it (durability.md, section 4).

use crate::journal::{Batch, Record, Urgency};
use crate::model::{AttemptId, StepIndex};
use crate::proxy::refusal;
use crate::proxy::run::RunState;
use crate::proxy::setbacks::{self, Left, Setback};
use crate::replay::setback::Subject;
use crate::wire::refusal::Refusal;

use super::enroll::Standing;
use super::recall::Question;
use super::strict;

/// Looks up, once in an attempt's life here, what it is to be told again.
pub(super) fn look_up(question: &Question<'_>, state: &mut RunState) -> Result<(), Refusal> {
    let (journal, enrolled) = (question.sidecar.journal.as_ref(), question.enrolled);
    let of_this = |state: &RunState| state.attempt.as_ref().is_some_and(|live| live.id == enrolled.attempt);
    let is_known = state.attempt.as_ref().is_some_and(|live| live.setbacks.is_some());
    if enrolled.attempt == AttemptId::FIRST || is_known || !of_this(state) {
        return Ok(());
    }
    let head = journal.attach(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
    let left = if head.is_some_and(|head| head.setbacks > 0) {
        let records = journal.scan(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
        setbacks::of(strict::recorded(question, &records), enrolled.attempt)
    } else {
        Left::default()
    };
    if let Some(live) = &mut state.attempt {
        live.setbacks = Some(left);
    }
    Ok(())
}

/// Whether there is something to tell again.
pub(super) fn is_left(state: &RunState, subject: Subject) -> bool {
    let left = state.attempt.as_ref().and_then(|live| live.setbacks.as_ref()?.get(&subject));
    left.is_some_and(|left| !left.is_empty())
}

/// Takes what is told next; it is recorded that it was.
pub(super) fn take(
    question: &Question<'_>,
    state: &mut RunState,
    subject: Subject,
) -> Result<Option<Setback>, Refusal> {
    let left = state.attempt.as_mut().and_then(|live| live.setbacks.as_mut()?.get_mut(&subject));
    let Some(setback) = left.and_then(|left| left.pop_front()) else { return Ok(None) };
    if let Subject::Step(step) = subject
        && let Some(ahead) = state.attempt.as_mut().and_then(|live| live.ahead.as_mut())
    {
        ahead.used(step);
    }
    let (sidecar, enrolled) = (question.sidecar, question.enrolled);
    if enrolled.standing != Standing::Open {
        // What a closed workflow gives is not recorded any more.
        return Ok(Some(setback));
    }
    let step = match subject {
        Subject::Call(_) => None,
        Subject::Step(step) => Some(step),
    };
    let exact = question.asked.exact;
    let told = Record::ToldAgain { step, attempt: enrolled.attempt, exact, at: sidecar.clock.now() };
    let batch = Batch { records: state.with_notes([told]), bodies: Vec::new() };
    let committed = sidecar.journal.commit(&enrolled.run.key, sidecar.journal.epoch(), batch, Urgency::Ride);
    committed.map(|_| Some(setback)).map_err(|error| refusal::journal(&error))
}

/// What is recorded of a refusal. `step`: the one that the call was known to be.
pub(super) fn refused(question: &Question<'_>, step: Option<StepIndex>, refusal: &Refusal) -> Record {
    Record::Refused {
        step,
        attempt: question.enrolled.attempt,
        exact: question.asked.exact,
        operation: question.call.inspected.operation.name.to_string(),
        code: refusal.code.to_string(),
        at: question.sidecar.clock.now(),
        words: Some(setbacks::words(refusal)),
    }
}
