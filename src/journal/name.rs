//! What messages call a record.

use super::record::Record;

impl Record {
    /// The record's name as messages show it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WorkflowOpened { .. } => "WorkflowOpened",
            Self::AttemptOpened { .. } => "AttemptOpened",
            Self::Intent(_) => "Intent",
            Self::Dispatched { .. } => "Dispatched",
            Self::Completed(_) => "Completed",
            Self::Failed { .. } => "Failed",
            Self::Refused { .. } => "Refused",
            Self::InDoubt { .. } => "InDoubt",
            Self::Redelivered { .. } => "Redelivered",
            Self::Delivered { .. } => "Delivered",
            Self::Listed(_) => "Listed",
            Self::WorkflowClosed { .. } => "WorkflowClosed",
            Self::Resolved { .. } => "Resolved",
            Self::Diverged(_) => "Diverged",
            Self::Accepted { .. } => "Accepted",
            Self::RefusalDelivered { .. } => "RefusalDelivered",
            Self::ToldAgain { .. } => "ToldAgain",
            Self::Decided(_) => "Decided",
            Self::Minted { .. } => "Minted",
            Self::InputRequired { .. } => "InputRequired",
            Self::BodiesExpired { .. } => "BodiesExpired",
            Self::Removed { .. } => "Removed",
        }
    }
}
