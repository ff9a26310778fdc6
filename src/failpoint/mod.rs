//! Fail-points: named places between two records, two writes or two messages, where a test can end the sidecar;
//! and defects, which a test can build in to see that the proof notices them (durability.md, section 11). With
//! the cargo feature `failpoints` off, as it is by default, a fail-point is an empty function and a defect is
//! never there. Decides nothing: what happens at a point is up to whoever has armed it.

#[cfg(feature = "failpoints")]
mod armed;

#[cfg(feature = "failpoints")]
pub use armed::{BadTrigger, Kill, Trigger, Watcher, arm, break_with, disarm};
#[cfg(feature = "failpoints")]
pub(crate) use armed::{is_broken, reach};

/// A place where the sidecar may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The head of an upstream's answer is here.
    AnswerBegun,
    /// The HTTP library has written the last byte of an answer to the agent's connection.
    AnswerDelivered,
    /// Some bytes of an upstream's answer are here, and forwarded as far as they may be.
    AnswerHalf,
    /// A new attempt is queued for the log.
    AttemptOpened,
    /// A batch is on disk, and nobody was told.
    BatchFlushed,
    /// A batch is about to be written.
    BatchStarted,
    /// Whoever waited for a batch was told; its rows are in no table yet.
    BatchTold,
    /// A batch is written and not flushed.
    BatchWritten,
    /// A call is about to be sent; of an effect the intent is durable.
    CallLeaving,
    /// A refusal of a call in doubt is queued for the log.
    DoubtRecorded,
    /// The end of an answer was given to those who read it.
    EndReleased,
    /// The journal is open and its epoch is on disk.
    EpochOpened,
    /// A failed try is about to be recorded.
    FailureComing,
    /// A failed try is recorded, and nobody was told.
    FailureRecorded,
    /// A footer's last bytes are written and not flushed.
    FooterEnded,
    /// A footer is about to be written.
    FooterStarted,
    /// A footer is on disk but for its last bytes.
    FooterWritten,
    /// The index has been told up to where it is complete.
    IndexMarked,
    /// A sealed segment's sheets are in the index.
    IndexWritten,
    /// An intent is about to be queued for the log.
    IntentComing,
    /// An intent that had to be durable is, and its call has not been sent.
    IntentDurable,
    /// An intent is queued for the log.
    IntentQueued,
    /// That answers were delivered is queued for the log.
    NotesQueued,
    /// An outcome is about to be recorded.
    OutcomeComing,
    /// An outcome is durable, and nobody has the end of its answer.
    OutcomeDurable,
    /// A new segment is on disk under a name that does not count.
    SegmentFilled,
    /// A new segment has its name, which is not flushed.
    SegmentNamed,
    /// The writer has left a full segment for the next one.
    SegmentRotated,
    /// A segment has its footer, and the index does not know.
    SegmentSealed,
    /// Everything is flushed, and the clean stop is not marked.
    StopComing,
    /// A torn tail is kept aside, and not cut off the log yet.
    TailKept,
    /// That an attempt uses a recorded step is about to be queued for the log.
    UseComing,
    /// That an attempt uses a recorded step is durable where it must be, and its answer has not left.
    UseDurable,
}

/// Something built wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The end of an answer leaves before its outcome is recorded.
    EndReleasedFirst,
    /// The log is never flushed.
    FlushLeftOut,
    /// An effect leaves before its intent is durable.
    IntentAfterDispatch,
    /// What the index does not have is taken for not recorded.
    MissBelieved,
    /// That an attempt has used a recorded step is not recorded.
    UseNotWritten,
}

/// Reached a fail-point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn reach(_: Point) {}

/// Whether this is a build with that defect.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn is_broken(_: Defect) -> bool {
    false
}
