//! What people and the wrapper ask of a workflow: open its next attempt, close it. Both are durable when
//! they are answered. Answers no agent's call.

use crate::journal::{self, Batch, Head, Journal, Record, Ticket, Urgency};
use crate::model::{AttemptId, AttemptReason, StepIndex, StepState, Timestamp, WorkflowKey};

use super::run::RunState;
use super::sidecar::{Reuse, Sidecar};

/// Why an operation on a workflow was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// An agent of it is connected.
    #[error("an agent is connected")]
    Attended,
    /// The answer that somebody gives cannot be one of this call.
    #[error("{0}")]
    BadAnswer(String),
    /// A closed workflow takes no new attempt.
    #[error("the workflow is closed; a new run needs a new workflow id")]
    Closed,
    /// Records of it are lost; it takes no new ones.
    #[error("the workflow's records are damaged: {0}")]
    Damaged(String),
    #[error("the sidecar met a defect of its own: {0}")]
    Defect(String),
    /// The sidecar is shutting down.
    #[error("the sidecar is shutting down")]
    Draining,
    /// An effect of it may have happened, and nobody knows.
    #[error("step {0} is in doubt: its call may have been carried out, and its answer was lost")]
    InDoubt(StepIndex),
    #[error(transparent)]
    Journal(journal::Error),
    /// There is nothing to accept.
    #[error("the current attempt has left no recorded step out")]
    NothingLeftOut,
    /// There is nothing to decide about it.
    #[error("step {step} cannot be resolved: {why}")]
    NotInDoubt { step: StepIndex, why: &'static str },
    /// It has calls under way.
    #[error("step {step} is still running{}", others(*.count))]
    Running {
        /// The first of them.
        step: StepIndex,
        count: usize,
    },
    /// It was never opened.
    #[error("there is no such workflow")]
    Unknown,
}

impl From<journal::Error> for OperationError {
    fn from(error: journal::Error) -> Self {
        match error {
            journal::Error::Damaged { what, .. } => Self::Damaged(what),
            journal::Error::Body { .. }
            | journal::Error::Compaction { .. }
            | journal::Error::Fenced { .. }
            | journal::Error::OutOfOrder(_)
            | journal::Error::Poisoned { .. }
            | journal::Error::Read { .. } => Self::Journal(error),
        }
    }
}

fn others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    }
}

/// What closing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It had been closed before.
    Already,
    Done,
}

impl Sidecar {
    /// Opens the workflow's next attempt, and the workflow with it when it is new. Whoever acts for an
    /// older attempt is refused from now on.
    ///
    /// # Errors
    /// [`OperationError`]: `Closed`, `Damaged`, `Draining`, `Journal`.
    pub async fn open_attempt(
        &self,
        key: &WorkflowKey,
        reason: AttemptReason,
    ) -> Result<AttemptId, OperationError> {
        if self.is_draining() {
            return Err(OperationError::Draining);
        }
        let run = self.runs.of(key);
        let (attempt, ticket) = {
            let mut state = run.state.lock();
            let head = self.journal.attach(key)?;
            // What is closed begins anew, where the config lets it.
            let begins = |head: &Head| self.snapshot().reuse == Reuse::NewRun && head.closed.is_some();
            let head = head.filter(|head| head.damage.is_some() || !begins(head));
            let last = head.as_ref().map(writable).transpose()?.and_then(|head| head.attempt.as_ref());
            let attempt = last.map_or(AttemptId::FIRST, |last| last.attempt.next());
            let records = self.opening(head.is_none(), attempt, reason);
            if head.is_none() {
                state.forget()?;
            }
            let batch = Batch { records, bodies: Vec::new() };
            let ticket = self.journal.commit(key, self.journal.epoch(), batch, Urgency::Now)?;
            state.begin(attempt, last, self.clock.since_boot());
            (attempt, ticket)
        };
        ticket.await?;
        Ok(attempt)
    }

    fn opening(&self, is_new: bool, attempt: AttemptId, reason: AttemptReason) -> Vec<Record> {
        let at = self.clock.now();
        let opened = is_new.then(|| Record::WorkflowOpened {
            nonce: self.fresh_nonce(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at,
        });
        let epoch = self.journal.epoch();
        let begun = Record::AttemptOpened { attempt, epoch, reason, peer: None, at };
        opened.into_iter().chain([begun]).collect()
    }

    /// Closes the workflow: from now on its calls are refused, whatever they match. Refused while a step
    /// runs, and while an effect is in doubt.
    ///
    /// # Errors
    /// [`OperationError`]: all but `Closed` and `Draining`.
    pub async fn close_workflow(&self, key: &WorkflowKey, reason: &str) -> Result<Closing, OperationError> {
        if self.journal.attach(key)?.is_none() {
            // A name that was only asked for takes no place among the live workflows.
            return Err(OperationError::Unknown);
        }
        let run = self.runs.of(key);
        let ticket = {
            let state = run.state.lock();
            state.rests()?;
            close(self.journal.as_ref(), key, reason, self.clock.now())?
        };
        let Some(ticket) = ticket else { return Ok(Closing::Already) };
        ticket.await?;
        Ok(Closing::Done)
    }
}

impl RunState {
    /// No step of it is running.
    pub(super) fn rests(&self) -> Result<(), OperationError> {
        match self.running.keys().min() {
            Some(step) => Err(OperationError::Running { step: *step, count: self.running.len() }),
            None => Ok(()),
        }
    }

    /// Forgets an earlier run, of which no step is running.
    pub(super) fn forget(&mut self) -> Result<(), OperationError> {
        self.rests()?;
        *self = Self::default();
        Ok(())
    }
}

/// Closes a workflow of which no step is running. `Ok(None)`: it had been closed before. It is closed for
/// good when the ticket has resolved.
///
/// # Errors
/// [`OperationError`]: `Damaged`, `InDoubt`, `Journal`, `Unknown`.
pub fn close(
    journal: &dyn Journal,
    key: &WorkflowKey,
    reason: &str,
    at: Timestamp,
) -> Result<Option<Ticket>, OperationError> {
    let head = journal.attach(key)?.ok_or(OperationError::Unknown)?;
    if let Some(damage) = &head.damage {
        return Err(OperationError::Damaged(damage.clone()));
    }
    if head.closed.is_some() {
        return Ok(None);
    }
    if let Some(step) = in_doubt(journal, key, &head)? {
        return Err(OperationError::InDoubt(step));
    }
    let closed = Batch::one(Record::WorkflowClosed { reason: reason.to_owned(), at });
    Ok(Some(journal.commit(key, journal.epoch(), closed, Urgency::Now)?))
}

/// The head of a workflow that takes new records.
///
/// # Errors
/// [`OperationError`]: `Closed`, `Damaged`.
pub(super) fn writable(head: &Head) -> Result<&Head, OperationError> {
    match (&head.damage, head.closed) {
        (Some(damage), _) => Err(OperationError::Damaged(damage.clone())),
        (None, Some(_)) => Err(OperationError::Closed),
        (None, None) => Ok(head),
    }
}

/// The newest step in doubt. Looks from the newest step back and stops when every step without an answer
/// has been seen: those are few and new.
pub(super) fn in_doubt(
    journal: &dyn Journal,
    key: &WorkflowKey,
    head: &Head,
) -> Result<Option<StepIndex>, journal::Error> {
    let mut unanswered = head.steps.saturating_sub(head.completed);
    for step in (1..=head.steps).rev().filter_map(StepIndex::new) {
        if unanswered == 0 {
            break;
        }
        let Some(found) = journal.step(key, step)? else { continue };
        // Nothing runs: an open one was left behind by a process that died.
        if found.summary.may_have_happened() {
            return Ok(Some(step));
        }
        unanswered -= u64::from(found.summary.state != StepState::Completed);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::Intent;
    use crate::journal::memory::Memory;
    use crate::model::{
        BodyHash, CallKind, Dialect, EffectClass, Epoch, FailureClass, Fingerprint, Owner, TestClock,
        UpstreamName, WorkflowId,
    };
    use crate::proxy::feed::Feed;
    use crate::proxy::sidecar::Snapshot;

    fn sidecar() -> Arc<Sidecar> {
        let now = Timestamp::default();
        Sidecar::bare(Snapshot::bare(), Memory::new(Arc::new(TestClock(now))), now)
    }

    fn key() -> WorkflowKey {
        WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse("w").unwrap() }
    }

    fn append(sidecar: &Sidecar, records: Vec<Record>) {
        let batch = Batch { records, bodies: Vec::new() };
        drop(sidecar.journal.commit(&key(), sidecar.journal.epoch(), batch, Urgency::Now).unwrap());
    }

    fn intent(class: EffectClass) -> Record {
        Record::Intent(Intent {
            step: StepIndex::FIRST,
            attempt: AttemptId::FIRST,
            epoch: Epoch(1),
            kind: CallKind::Mcp,
            dialect: Dialect::Mcp,
            upstream: UpstreamName::parse("payments").unwrap(),
            operation: "charge".to_owned(),
            class,
            exact: Fingerprint([0; 32]),
            normalised: None,
            occurrence: 1,
            idempotency_key: None,
            request: BodyHash([0; 32]),
            request_len: 0,
            at: Timestamp(0),
            identity: None,
            key_place: None,
        })
    }

    fn failed(not_sent: bool) -> Record {
        let (step, at) = (StepIndex::FIRST, Timestamp(0));
        let detail = "broke off".to_owned();
        Record::Failed {
            step,
            tried: 1,
            class: FailureClass::Reset,
            status: None,
            not_sent,
            detail,
            at,
            not_executed: None,
            answer: None,
            words: None,
        }
    }

    /// What closing says to a workflow of one step with these records.
    async fn closing(records: Vec<Record>) -> Result<Closing, OperationError> {
        let sidecar = sidecar();
        sidecar.open_attempt(&key(), AttemptReason::Explicit).await.unwrap();
        append(&sidecar, records);
        sidecar.close_workflow(&key(), "test").await
    }

    #[tokio::test]
    async fn an_effect_that_may_have_happened_keeps_its_workflow_open() {
        let doubt = Record::InDoubt { step: StepIndex::FIRST, cause: "lost".to_owned(), at: Timestamp(0) };
        for records in [vec![], vec![failed(false)], vec![doubt.clone()], vec![failed(false), doubt]] {
            let records = [intent(EffectClass::Effect)].into_iter().chain(records).collect();
            let closed = closing(records).await;
            assert!(matches!(closed, Err(OperationError::InDoubt(StepIndex::FIRST))), "{closed:?}");
        }
    }

    #[tokio::test]
    async fn what_was_never_sent_or_may_be_repeated_keeps_nothing_open() {
        for records in [
            vec![],
            vec![intent(EffectClass::Effect), failed(true)],
            vec![intent(EffectClass::Read)],
            vec![intent(EffectClass::Read), failed(false)],
        ] {
            assert_eq!(closing(records).await.unwrap(), Closing::Done);
        }
    }

    #[tokio::test]
    async fn a_running_step_keeps_its_workflow_open_and_the_first_is_named() {
        let sidecar = sidecar();
        sidecar.open_attempt(&key(), AttemptReason::Explicit).await.unwrap();
        let run = sidecar.runs.of(&key());
        for step in [4, 2] {
            run.state.lock().running.insert(StepIndex::new(step).unwrap(), Arc::new(Feed::default()));
        }
        let refused = sidecar.close_workflow(&key(), "test").await.unwrap_err();
        assert_eq!(refused.to_string(), "step 2 is still running, and 1 more");
        run.state.lock().running.clear();
        assert_eq!(sidecar.close_workflow(&key(), "test").await.unwrap(), Closing::Done);
        assert_eq!(sidecar.close_workflow(&key(), "test").await.unwrap(), Closing::Already);
    }

    #[tokio::test]
    async fn the_next_attempt_takes_the_place_of_the_last_one_at_once() {
        let sidecar = sidecar();
        for number in 1..=3 {
            let attempt = sidecar.open_attempt(&key(), AttemptReason::Explicit).await.unwrap();
            assert_eq!(attempt.number(), number);
            let run = sidecar.runs.of(&key());
            assert_eq!(run.state.lock().attempt.as_ref().map(|live| live.id), Some(attempt));
        }
        sidecar.close_workflow(&key(), "test").await.unwrap();
        let refused = sidecar.open_attempt(&key(), AttemptReason::Explicit).await;
        assert!(matches!(refused, Err(OperationError::Closed)), "{refused:?}");
    }

    #[tokio::test]
    async fn a_name_that_was_only_asked_for_takes_no_place() {
        let sidecar = sidecar();
        let refused = sidecar.close_workflow(&key(), "test").await;
        assert!(matches!(refused, Err(OperationError::Unknown)), "{refused:?}");
        assert_eq!(sidecar.live_workflows(), 0);
    }
}
