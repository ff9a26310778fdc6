//! The one wide event per step. Metrics derive from it, and so will traces and the audit.

use crate::model::{CallKind, Source, StepState, Usage};

/// What one call of a workflow, or one metered call without one, came to.
#[derive(Clone, Copy, Debug)]
pub struct StepEvent {
    pub kind: CallKind,
    pub source: Source,
    pub state: StepState,
    /// As the provider reported it; for a replay what was saved.
    pub usage: Option<Usage>,
    /// A model answered without saying what it used.
    pub usage_missing: bool,
    /// From the intent to the durable outcome, in milliseconds; for a replay the time to find it.
    pub duration_ms: u64,
}
