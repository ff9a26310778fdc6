//! The journal port: what a workflow has done, appended once and never changed. Engines live beside this
//! file; whoever uses the journal sees only [`Journal`].
//!
//! A commit is visible to every read of the same process as soon as [`Journal::commit`] returns, and
//! durable when its [`Ticket`] resolves. Nothing here retries a failed write: an engine whose flush failed
//! stays poisoned until the process ends (durability.md, section 5).

mod body;
pub mod codec;
#[cfg(test)]
pub(crate) mod conformance;
pub mod embedded;
pub mod export;
pub mod lease;
pub mod memory;
mod name;
pub mod record;
pub mod state;
mod summary;
mod via;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::model::{AttemptId, BodyHash, Epoch, Fingerprint, StepIndex, WorkflowKey};
pub use record::{
    BoundValue, Completed, Decided, Diverged, FactRef, FailedAnswer, Intent, Listed, MintedFact, Peer,
    Record, Verdict, Words,
};
pub use state::{Head, StepSummary, Use};

/// What a resolved [`Ticket`] survives. An engine claims only what its conformance run has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: gone with the process.
    None,
    /// The death of the process.
    ProcessKill,
    /// A power cut.
    PowerLoss,
}

impl Durability {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ProcessKill => "process_kill",
            Self::PowerLoss => "power_loss",
        }
    }
}

/// Whether a commit asks for a flush of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Flush now, together with whatever else waits.
    Now,
    /// Ride the next flush that somebody asks for, or the engine's timer (`ride_ms_max`).
    Ride,
}

/// A body to be stored under its hash. What was stored a short while ago is not stored again.
#[derive(Clone, Debug)]
pub struct Body {
    /// BLAKE3 of `bytes`.
    pub hash: BodyHash,
    pub bytes: Bytes,
    /// Ranges of `bytes`, ascending and disjoint, likely to occur again in other bodies (the messages of
    /// a conversation); stored once each. Empty: stored whole.
    pub parts: Vec<Range<usize>>,
}

impl Body {
    /// A body that is stored whole.
    pub fn whole(bytes: Bytes) -> Self {
        Self { hash: BodyHash(*blake3::hash(&bytes).as_bytes()), bytes, parts: Vec::new() }
    }
}

/// Records of one workflow that become durable together, in order, with the bodies they name.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub records: Vec<Record>,
    pub bodies: Vec<Body>,
}

impl Batch {
    pub fn one(record: Record) -> Self {
        Self { records: vec![record], bodies: Vec::new() }
    }
}

/// What to do with a journal that says no.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A newer owner opened this journal; this one may write no more.
    #[error("a newer owner has opened this journal (epoch {newer:?}, this one has {ours:?})")]
    Fenced { ours: Epoch, newer: Epoch },
    /// The workflow's records are damaged; it is closed for new effects.
    #[error("the journal of workflow {workflow} is damaged: {what}")]
    Damaged { workflow: WorkflowKey, what: String },
    /// A body the records name is not there, or its bytes do not have its hash.
    #[error("body {hash} is {what}")]
    Body { hash: BodyHash, what: &'static str },
    /// Reading failed; the journal can still be written.
    #[error("cannot read the journal while {doing}: {source}")]
    Read { doing: String, source: Arc<std::io::Error> },
    /// Writing failed; this and every later commit is refused until the process is started again.
    #[error("the journal cannot be written any more ({doing}): {source}")]
    Poisoned { doing: String, source: Arc<std::io::Error> },
    /// Taking away what is not needed any more failed; nothing is lost, and the journal can still be written.
    #[error("cannot compact the journal ({doing}): {source}")]
    Compaction { doing: String, source: Arc<std::io::Error> },
    /// The commit would break the order of records (a defect of the caller, never of the agent).
    #[error("the journal refuses a record out of order: {0}")]
    OutOfOrder(String),
}

impl Error {
    fn compaction(doing: String, source: std::io::Error) -> Self {
        Self::Compaction { doing, source: Arc::new(source) }
    }
}

/// Resolves when the commit it belongs to is durable, or has failed for good.
#[must_use = "a commit is durable only when its ticket has resolved"]
pub struct Ticket(Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>);

impl Ticket {
    pub fn new(done: impl Future<Output = Result<(), Error>> + Send + 'static) -> Self {
        Self(Box::pin(done))
    }

    /// A commit that is as durable as its engine makes it already.
    pub fn ready() -> Self {
        Self::new(std::future::ready(Ok(())))
    }
}

impl Future for Ticket {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

/// One workflow as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowRow {
    pub key: WorkflowKey,
    pub head: Head,
}

/// How much one [`Journal::compact`] may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionBounds {
    /// Files of the log that are written anew.
    pub segments_max: usize,
}

/// What a [`Journal::compact`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files of the log that were written anew or removed.
    pub segments: usize,
    /// Their length, in bytes.
    pub bytes_before: u64,
    /// The length of those in their place.
    pub bytes_after: u64,
    /// There is more to do, and it may have ended before its end.
    pub more: bool,
}

/// The port. Methods block at most for an index look-up or one read of a file; none waits for a flush.
pub trait Journal: Send + Sync + fmt::Debug {
    fn durability(&self) -> Durability;

    /// The epoch this owner writes under.
    fn epoch(&self) -> Epoch;

    /// The workflow's head as of its last commit; `None` when it was never opened. Costs the same for a
    /// workflow of ten steps and of ten thousand.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn attach(&self, key: &WorkflowKey) -> Result<Option<Head>, Error>;

    /// Steps recorded under `fingerprint` (exact, normalised or their identity), lowest first.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    fn find(&self, key: &WorkflowKey, fingerprint: &Fingerprint) -> Result<Vec<StepSummary>, Error>;

    /// Whether and how `attempt` has used `step`: by its own intent or by a redelivery.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn usage(&self, key: &WorkflowKey, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Error>;

    /// The last answer recorded for a list (`initialize`, `tools/list` ...), keyed by its fingerprint.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    fn listed(&self, key: &WorkflowKey, list: &Fingerprint) -> Result<Option<Listed>, Error>;

    /// One step's summary.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn summary(&self, key: &WorkflowKey, step: StepIndex) -> Result<Option<StepSummary>, Error>;

    /// One step's summary, intent and, when it has one, its recorded answer.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    fn step(&self, key: &WorkflowKey, step: StepIndex) -> Result<Option<StepRecord>, Error>;

    /// Appends. The first record ever of a workflow is `WorkflowOpened`; the order within a workflow is
    /// the order of the calls. Refuses what [`state::WorkflowState`] says is out of order.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Poisoned`], [`Error::OutOfOrder`].
    fn commit(
        &self,
        key: &WorkflowKey,
        epoch: Epoch,
        batch: Batch,
        urgency: Urgency,
    ) -> Result<Ticket, Error>;

    /// The bytes stored under `hash`, verified against it.
    ///
    /// # Errors
    /// [`Error::Body`], [`Error::Read`].
    fn body(&self, hash: &BodyHash) -> Result<Bytes, Error>;

    /// Every record of a workflow, oldest first, chain verified.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    fn scan(&self, key: &WorkflowKey) -> Result<Vec<Record>, Error>;

    /// All workflows, most recently opened first.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn workflows(&self) -> Result<Vec<WorkflowRow>, Error>;

    /// Takes away what no reader is given any more: records before [`Head::first`], and bodies that are named by
    /// no record but those and those of workflows with [`Head::bodies_expired`]. What is left reads as before.
    /// Takes long, and keeps nobody else waiting; not for an async context.
    ///
    /// # Errors
    /// [`Error::Compaction`]; [`Error::Fenced`] and [`Error::Poisoned`] as a commit.
    fn compact(&self, bounds: &CompactionBounds) -> Result<Compacted, Error>;

    /// What the journal takes on disk, room prepared ahead included; for an engine without a disk what it holds.
    fn bytes(&self) -> u64;

    /// Flushes what waits and marks a clean stop. Later commits are refused.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    fn close(&self) -> Result<(), Error>;
}

/// A step with the records that make it.
#[derive(Clone, Debug)]
pub struct StepRecord {
    pub summary: StepSummary,
    pub intent: Intent,
    pub completed: Option<Completed>,
}

/// The answer to a commit after [`Journal::close`].
fn closed() -> Error {
    let source = std::io::Error::other("the journal is closed; start the process again to write to it");
    Error::Poisoned { doing: "appending after the last flush".to_owned(), source: Arc::new(source) }
}

/// The order of [`Journal::workflows`].
fn newest_first(rows: &mut [WorkflowRow]) {
    rows.sort_by(|a, b| (b.head.opened_at, &a.key).cmp(&(a.head.opened_at, &b.key)));
}
