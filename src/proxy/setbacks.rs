//! What an agent was told that was no result, read from the journal: answers of upstreams and the sidecar's own
//! words, as `replay::setback` sorts them (durability.md, section 4).

use std::collections::{HashMap, VecDeque};

use crate::journal::{FailedAnswer, Record, Words};
use crate::model::AttemptId;
use crate::replay::setback::{Event, Setbacks, Subject};
use crate::wire::refusal::Refusal;

/// What is told again.
#[derive(Clone, Debug)]
pub(crate) enum Setback {
    Answer(FailedAnswer),
    Refusal(Refusal),
}

/// By what they belong to, in the order in which they were told.
pub(crate) type Left = HashMap<Subject, VecDeque<Setback>>;

/// What `attempt` is to be told again.
pub(crate) fn of(records: &[Record], attempt: AttemptId) -> Left {
    let mut setbacks = Setbacks::default();
    records.iter().filter_map(event).for_each(|event| setbacks.feed(event));
    setbacks.of(attempt)
}

fn event(record: &Record) -> Option<Event<Setback>> {
    let subject = |step: &Option<_>, exact: &_| step.map_or(Subject::Call(*exact), Subject::Step);
    match record {
        Record::Intent(intent) => {
            Some(Event::Begun { step: intent.step, attempt: intent.attempt, exact: intent.exact })
        }
        Record::Redelivered { step, attempt, .. } => Some(Event::Used { step: *step, attempt: *attempt }),
        Record::Dispatched { step, .. } => Some(Event::Tried(*step)),
        Record::Failed { step, answer, words, .. } => {
            let answer = answer.clone().map(Setback::Answer);
            let told = answer.or_else(|| words.as_ref().map(restored).map(Setback::Refusal));
            Some(Event::Failed { step: *step, told })
        }
        // Its question is not asked again: what it asked under may be stale.
        Record::InputRequired { step, .. } => Some(Event::Failed { step: *step, told: None }),
        Record::Refused { step, attempt, exact, words, .. } => {
            let told = words.as_ref().map(restored).map(Setback::Refusal);
            Some(Event::Refused { subject: subject(step, exact), attempt: *attempt, exact: *exact, told })
        }
        Record::Delivered { step, attempt } => Some(Event::Delivered { step: *step, attempt: *attempt }),
        Record::RefusalDelivered { step, attempt, exact } => {
            Some(Event::RefusalDelivered { subject: subject(step, exact), attempt: *attempt })
        }
        Record::ToldAgain { step, attempt, exact, .. } => {
            Some(Event::ToldAgain { subject: subject(step, exact), attempt: *attempt })
        }
        Record::Resolved { step, .. } => Some(Event::Resolved(*step)),
        Record::Completed(completed) => Some(Event::Completed(completed.step)),
        Record::Accepted { .. }
        | Record::AttemptOpened { .. }
        | Record::BodiesExpired { .. }
        | Record::Decided(_)
        | Record::Diverged(_)
        | Record::Minted { .. }
        | Record::InDoubt { .. }
        | Record::Listed(_)
        | Record::Removed { .. }
        | Record::WorkflowClosed { .. }
        | Record::WorkflowOpened { .. } => None,
    }
}

/// A refusal as the journal keeps it.
pub(crate) fn words(refusal: &Refusal) -> Words {
    let Refusal { status, code, message, again, retry_after_s, mcp } = refusal.clone();
    Words { status, code: code.into_owned(), message, again, retry_after_s, mcp }
}

/// The reverse of [`words`].
fn restored(words: &Words) -> Refusal {
    let Words { status, code, message, again, retry_after_s, mcp } = words.clone();
    Refusal { status, code: code.into(), message, again, retry_after_s, mcp }
}
