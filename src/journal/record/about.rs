//! What can be asked of any record: when it was, which bodies it names, whether a run begins with it.

use super::Record;
use crate::model::{BodyHash, Timestamp};

impl Record {
    /// Whether the records before this one are of another run, and may be gone. The chain begins anew with
    /// such a record; the numbers go on.
    pub fn begins_run(&self) -> bool {
        matches!(self, Self::WorkflowOpened { .. } | Self::Removed { .. })
    }

    /// The time the record carries; [`Record::Delivered`] and [`Record::RefusalDelivered`] have none.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::WorkflowOpened { at, .. }
            | Self::AttemptOpened { at, .. }
            | Self::Dispatched { at, .. }
            | Self::Failed { at, .. }
            | Self::Refused { at, .. }
            | Self::InDoubt { at, .. }
            | Self::InputRequired { at, .. }
            | Self::Redelivered { at, .. }
            | Self::Resolved { at, .. }
            | Self::Accepted { at, .. }
            | Self::ToldAgain { at, .. }
            | Self::Minted { at, .. }
            | Self::WorkflowClosed { at, .. }
            | Self::BodiesExpired { at }
            | Self::Removed { at, .. } => Some(*at),
            Self::Decided(decided) => Some(decided.at),
            Self::Diverged(diverged) => Some(diverged.at),
            Self::Intent(intent) => Some(intent.at),
            Self::Completed(completed) => Some(completed.at),
            Self::Listed(listed) => Some(listed.at),
            Self::Delivered { .. } | Self::RefusalDelivered { .. } => None,
        }
    }

    /// The bodies the record names: the request, then the answer.
    pub fn bodies(&self) -> [Option<&BodyHash>; 2] {
        match self {
            Self::Intent(intent) => [Some(&intent.request), None],
            Self::Completed(completed) => [None, Some(&completed.body)],
            Self::Listed(listed) => [Some(&listed.request), Some(&listed.body)],
            Self::Failed { answer, .. } => [None, answer.as_ref().map(|answer| &answer.body)],
            Self::WorkflowOpened { .. }
            | Self::AttemptOpened { .. }
            | Self::Dispatched { .. }
            | Self::Refused { .. }
            | Self::InDoubt { .. }
            | Self::InputRequired { .. }
            | Self::Redelivered { .. }
            | Self::Delivered { .. }
            | Self::Resolved { .. }
            | Self::Decided(_)
            | Self::Diverged(_)
            | Self::Minted { .. }
            | Self::Accepted { .. }
            | Self::RefusalDelivered { .. }
            | Self::ToldAgain { .. }
            | Self::WorkflowClosed { .. }
            | Self::BodiesExpired { .. }
            | Self::Removed { .. } => [None, None],
        }
    }
}
