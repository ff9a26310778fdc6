//! What is kept in mind of a workflow, its attempt and its steps: enough to find and judge a step without
//! reading a record. Pure; how records add up to it is `state`'s business.

use crate::model::{
    AttemptId, AttemptReason, CallKind, EffectClass, Fingerprint, RunNonce, StepIndex, StepState, Timestamp,
};

use super::record::Peer;

/// The attempt opened last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptHead {
    pub attempt: AttemptId,
    pub reason: AttemptReason,
    pub peer: Option<Peer>,
    pub at: Timestamp,
    /// Completed steps this attempt has used (its own and redelivered ones).
    pub used_completed: u64,
}

/// Everything about a workflow that fits in one small value, whatever its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub nonce: RunNonce,
    pub opened_at: Timestamp,
    /// Time of the last record that carries one.
    pub changed_at: Timestamp,
    /// Number of records, those of earlier runs included.
    pub sequence: u64,
    /// Number of the record with which the present run began, 1 for the first run; of a workflow whose records
    /// are gone, number of its tombstone.
    pub first: u64,
    /// SHA-256 chain over the stored record bytes of the run.
    pub chain: [u8; 32],
    /// Number of steps.
    pub steps: u64,
    /// Number of steps in state completed.
    pub completed: u64,
    /// Number of failures and refusals recorded.
    pub setbacks: u64,
    pub attempt: Option<AttemptHead>,
    pub closed: Option<Timestamp>,
    /// Since when its bodies may be gone.
    pub bodies_expired: Option<Timestamp>,
    /// Since when all its records but the tombstone may be gone.
    pub removed: Option<Timestamp>,
    /// Names file and offset when records of this workflow are lost or unreadable.
    pub damage: Option<String>,
}

impl Head {
    /// Completed steps that the current attempt has not used: what a restarted agent has yet to replay.
    pub fn ahead(&self) -> u64 {
        self.attempt.as_ref().map_or(0, |attempt| self.completed.saturating_sub(attempt.used_completed))
    }

    /// Number of records of the present run.
    pub fn records(&self) -> u64 {
        (self.sequence + 1).saturating_sub(self.first)
    }

    /// A head without any record: what an opening record fills, and all there is of a workflow whose
    /// opening is lost.
    pub(super) fn lost(at: Timestamp) -> Self {
        Self {
            nonce: RunNonce([0; 16]),
            opened_at: at,
            changed_at: at,
            sequence: 0,
            first: 1,
            chain: [0; 32],
            steps: 0,
            completed: 0,
            setbacks: 0,
            attempt: None,
            closed: None,
            bodies_expired: None,
            removed: None,
            damage: None,
        }
    }
}

/// What matching needs to know of a step, without reading its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSummary {
    pub step: StepIndex,
    /// The attempt that began it.
    pub attempt: AttemptId,
    pub kind: CallKind,
    pub class: EffectClass,
    pub exact: Fingerprint,
    pub normalised: Option<Fingerprint>,
    pub identity: Option<Fingerprint>,
    /// It was sent under an idempotency key that the upstream honours.
    pub keyed: bool,
    pub occurrence: u32,
    /// `Abandoned`, `Completed`, `Failed`, `InDoubt` or `Open`; refusals make no step.
    pub state: StepState,
    /// Tries begun or failed so far; 0 before the first `Dispatched` or `Failed`.
    pub tries: u32,
    /// Number of the workflow's record with which it began.
    pub begun: u64,
    /// The same of its answer; 0 while it has none.
    pub answered: u64,
    /// Every try so far is known to have sent nothing, or was answered with a status that says the call
    /// was not executed.
    pub cleared: bool,
}

impl StepSummary {
    /// Whether this is an effect that may have happened, given that nobody is at work on it: one without an answer, of
    /// which it is not known that it was never carried out.
    pub fn may_have_happened(&self) -> bool {
        match self.state {
            StepState::InDoubt => true,
            StepState::Failed | StepState::Open => self.class == EffectClass::Effect && !self.cleared,
            StepState::Abandoned | StepState::Completed | StepState::Refused => false,
        }
    }
}

/// How an attempt has used a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The exchange that last carried the step to the agent in that attempt was handed the end of its
    /// answer. False again when a new try or a redelivery begins.
    pub delivered: bool,
}

/// A step's summary with what the next record about it needs beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEntry {
    pub summary: StepSummary,
    /// Every try before the one that is open is known not to have been executed. `summary.cleared` alone
    /// cannot say that: it is false while a try is open.
    pub clean: bool,
}
