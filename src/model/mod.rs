//! The nouns every other layer speaks in: ids, time, calls, steps, usage. Pure: no runtime, no files,
//! no sockets, and no clock but the [`time::Clock`] that somebody else implements.

pub mod call;
pub mod ids;
pub mod principal;
pub mod step;
pub mod time;
pub mod tool;
pub mod usage;

pub use call::{CallKind, Channel, Dialect, EffectClass, Operation, Surface};
pub use ids::{
    AttemptId, BadId, BodyHash, Epoch, Fingerprint, Owner, RunNonce, StepIndex, UpstreamName, WorkflowId,
    WorkflowKey,
};
pub use principal::{Principal, Proof};
pub use step::{AttemptReason, FailureClass, FoundBy, Resolution, Source, StepState};
#[cfg(test)]
pub(crate) use time::TestClock;
pub use time::{Clock, Timestamp};
pub use tool::{BadPointer, InDoubt, KeyPlace, Pointer, Probe, ProbeArgument, ToolRule};
pub use usage::Usage;
