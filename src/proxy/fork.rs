//! What an agent that went another way has left out, told from the journal, and how somebody accepts it
//! (durability.md, section 4). Asks no upstream.

use crate::journal::{Batch, Journal, Record, Urgency};
use crate::model::{AttemptId, Resolution, StepIndex, Timestamp, WorkflowKey};
use crate::replay::divergence::{Ahead, Event};
use crate::wire::status;

use super::operations::{self, OperationError};
use super::sidecar::Sidecar;

/// What lies ahead of an attempt.
pub(crate) fn ahead(records: &[Record], attempt: AttemptId) -> Ahead {
    let mut ahead = Ahead::new(attempt);
    records.iter().filter_map(event).for_each(|event| ahead.feed(event));
    ahead
}

/// Whether a divergence of the attempt is recorded.
pub(crate) fn has_diverged(records: &[Record], attempt: AttemptId) -> bool {
    records.iter().any(|record| matches!(record, Record::Diverged(told) if told.attempt == attempt))
}

fn event(record: &Record) -> Option<Event> {
    match record {
        Record::Intent(intent) => Some(Event::Begun {
            step: intent.step,
            attempt: intent.attempt,
            kind: intent.kind,
            tool: (intent.upstream.clone(), intent.operation.as_str().into()),
            class: intent.class,
            identity: intent.identity,
        }),
        Record::Completed(completed) => Some(Event::Completed(completed.step)),
        Record::Dispatched { step, .. } => Some(Event::Tried(*step)),
        Record::InputRequired { step, .. } => Some(Event::Over(*step)),
        Record::Failed { step, not_sent, status, not_executed, .. } => {
            let rejected = not_executed.unwrap_or(status.is_some_and(status::is_not_executed));
            (*not_sent || rejected).then_some(Event::Over(*step))
        }
        Record::Resolved { step, resolution, .. } => match resolution {
            // Its answer follows.
            Resolution::Completed => None,
            Resolution::Abandoned | Resolution::NotExecuted | Resolution::Repeat => Some(Event::Over(*step)),
        },
        Record::Redelivered { step, attempt, .. } => Some(Event::Used { step: *step, attempt: *attempt }),
        // Told of its failure, or of a refusal: it has asked for the step.
        Record::ToldAgain { step, attempt, .. } => step.map(|step| Event::Used { step, attempt: *attempt }),
        Record::Accepted { steps, .. } => {
            Some(Event::Accepted(steps.iter().copied().filter_map(StepIndex::new).collect()))
        }
        Record::AttemptOpened { .. }
        | Record::BodiesExpired { .. }
        | Record::Decided(_)
        | Record::Delivered { .. }
        | Record::Diverged(_)
        | Record::InDoubt { .. }
        | Record::Minted { .. }
        | Record::Listed(_)
        | Record::RefusalDelivered { .. }
        | Record::Refused { .. }
        | Record::Removed { .. }
        | Record::WorkflowClosed { .. }
        | Record::WorkflowOpened { .. } => None,
    }
}

/// What to commit to accept whatever the current attempt has left out; the steps, lowest first.
///
/// # Errors
/// [`OperationError`]: `Closed`, `Damaged`, `Journal`, `NothingLeftOut`, `Unknown`.
pub fn accept(
    journal: &dyn Journal,
    key: &WorkflowKey,
    by: &str,
    at: Timestamp,
) -> Result<(Vec<u64>, Batch), OperationError> {
    let head = journal.attach(key)?.ok_or(OperationError::Unknown)?;
    operations::writable(&head)?;
    let attempt = head.attempt.map_or(AttemptId::FIRST, |current| current.attempt);
    let steps: Vec<u64> = ahead(&journal.scan(key)?, attempt).all().map(StepIndex::number).collect();
    if steps.is_empty() {
        return Err(OperationError::NothingLeftOut);
    }
    let accepted = Record::Accepted { steps: steps.clone(), by: by.to_owned(), at };
    Ok((steps, Batch::one(accepted)))
}

impl Sidecar {
    /// Accepts that the current attempt has left recorded steps out: they count no longer, and its effects are
    /// sent. An effect that was recorded is still found and never sent again.
    ///
    /// # Errors
    /// As [`accept`].
    pub async fn accept_fork(&self, key: &WorkflowKey, by: &str) -> Result<Vec<u64>, OperationError> {
        if self.journal.attach(key)?.is_none() {
            return Err(OperationError::Unknown);
        }
        let run = self.runs.of(key);
        let (steps, ticket) = {
            let mut state = run.state.lock();
            let (steps, mut batch) = accept(self.journal.as_ref(), key, by, self.clock.now())?;
            batch.records = state.with_notes(batch.records);
            let ticket = self.journal.commit(key, self.journal.epoch(), batch, Urgency::Now)?;
            // Looked up again, with what was just accepted.
            if let Some(live) = &mut state.attempt {
                live.ahead = None;
            }
            (steps, ticket)
        };
        ticket.await?;
        Ok(steps)
    }
}
