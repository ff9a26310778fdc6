//! Why a sidecar does not start or stop.

use std::net::SocketAddr;

use crate::diag::{Code, Report};
use crate::journal;
use crate::journal::embedded::OpenError;
use crate::model::UpstreamName;
use crate::upstream::TlsError;

use super::socket_file::SocketError;

/// A part that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Journal(OpenError),
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Policies(Vec<Report>),
    #[error(transparent)]
    Socket(SocketError),
    #[error("upstream `{name}`: {source}")]
    Upstream { name: UpstreamName, source: TlsError },
}

impl StartError {
    /// The page that says what to do about it; `None` for a defect of ours.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some(Code::PortTaken)
            }
            Self::Bind { .. } | Self::Metrics(_) | Self::Policies(_) => None,
            Self::Journal(error) => journal_code(error),
            Self::Socket(_) => Some(Code::SocketTaken),
            Self::Upstream { .. } => Some(Code::BadCaFile),
        }
    }
}

fn journal_code(error: &OpenError) -> Option<Code> {
    Some(match error {
        OpenError::Locked { .. } => Code::JournalLocked,
        OpenError::Missing { .. } | OpenError::NotAJournal { .. } => Code::NotAJournal,
        OpenError::NetworkFileSystem { .. } => Code::NetworkFileSystem,
        OpenError::Newer { .. } => Code::JournalNewer,
        OpenError::Space { .. } => Code::NoSpace,
        OpenError::Unwritable { .. } => Code::JournalUnwritable,
        OpenError::Io { .. } | OpenError::Journal(_) | OpenError::NeedsRepair { .. } => return None,
    })
}

/// The journal could not be closed cleanly. What was acknowledged is on disk all the same.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error(transparent)]
    Journal(journal::Error),
    #[error("closing the journal met a defect: {0}")]
    Panicked(String),
}
