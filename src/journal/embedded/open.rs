//! What opening a journal takes and tells: options, report, and the errors that say what to do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Clock, Epoch, WorkflowKey};

use super::super::Error;
use super::disk::Disk;

/// How an embedded journal is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The journal's directory; made when it is not there.
    pub path: PathBuf,
    /// Length of a segment, in bytes: the log is written, sealed and one day removed in pieces of this
    /// size, and the records of one piece are read when the journal is opened. Two are prepared ahead.
    pub segment_bytes: u64,
    /// How long a commit that asks for no flush of its own waits for one, in milliseconds.
    pub ride_ms_max: u64,
    /// Workflows kept in memory; others cost a look-up when they are asked for.
    pub workflows_live_max: usize,
    /// Bytes of commits that may wait for the disk. A commit beyond that waits in the call.
    pub queue_bytes_max: u64,
    /// The version of this program, for the log.
    pub version: String,
    /// URL of the admin listener, for the lock file; [`super::Embedded::tell_admin`] when it is not known yet.
    pub admin: Option<String>,
    pub clock: Arc<dyn Clock>,
    pub(super) disk: Disk,
    /// In place of the machine's own, so that a test can start it again.
    pub(super) boot_id: Option<String>,
}

impl Options {
    /// The documented defaults: segments of 8 MiB, 20 ms of riding, 4,096 workflows in memory, 64 MiB of
    /// waiting commits.
    pub fn new(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            path: path.into(),
            segment_bytes: 8 << 20,
            ride_ms_max: 20,
            workflows_live_max: 4096,
            queue_bytes_max: 64 << 20,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            admin: None,
            clock,
            disk: Disk::default(),
            boot_id: None,
        }
    }

    /// Puts a test's layer before the disk, and another boot in the place of the machine's.
    #[cfg(feature = "failpoints")]
    #[must_use]
    pub fn behind(self, watch: Arc<dyn super::disk::Watch>, boot_id: &str) -> Self {
        Self { disk: Disk { watch: Some(watch) }, boot_id: Some(boot_id.to_owned()), ..self }
    }
}

/// What was found when the journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The epoch this owner writes under.
    pub epoch: Epoch,
    /// The owner before stopped cleanly, or there was none.
    pub clean: bool,
    /// Unfinished batches at the end of the log, which nobody was ever told are written.
    pub torn: Vec<Torn>,
    /// Bytes that were written once and cannot be read.
    pub damage: Vec<Damage>,
    pub index: IndexReport,
    pub segments_sealed: usize,
    /// Batches that were read because their segment was not sealed.
    pub batches_scanned: usize,
}

impl Default for OpenReport {
    fn default() -> Self {
        Self {
            epoch: Epoch(0),
            clean: true,
            torn: Vec::new(),
            damage: Vec::new(),
            index: IndexReport::default(),
            segments_sealed: 0,
            batches_scanned: 0,
        }
    }
}

/// An unfinished end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Relative to the journal's directory.
    pub file: String,
    /// Where it was, in bytes.
    pub offset: u64,
    /// In bytes.
    pub len: u64,
    /// Where it is now (when the journal was opened for writing).
    pub kept: PathBuf,
}

/// A bad range of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Relative to the journal's directory.
    pub file: String,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub len: u64,
    pub what: String,
    /// The workflows that are closed for effects because of it.
    pub workflows: Vec<WorkflowKey>,
}

/// What became of the index beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IndexReport {
    /// There is nothing to have an index of, or the journal is opened for reading.
    #[default]
    Empty,
    /// It is made again from the log's footers while the journal is at work; look-ups read the footers
    /// until then.
    Rebuilt {
        why: String,
    },
    Trusted,
}

/// Why a journal was not opened. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the journal ({doing}): {source}")]
    Io { doing: String, source: io::Error },
    #[error("the journal cannot be read while it is opened")]
    Journal(#[source] Error),
    #[error(
        "the journal in {path} is in use by process {pid}{admin}; ask that one, stop it, or choose another \
         directory with `journal.path`",
        path = path.display(),
        admin = admin.as_ref().map(|url| format!(" (admin {url})")).unwrap_or_default()
    )]
    Locked { path: PathBuf, pid: u32, admin: Option<String> },
    #[error("there is no journal in {path}; nothing was recorded there yet", path = path.display())]
    Missing { path: PathBuf },
    #[error(
        "{file} has lost its footer, and only an owner may write it again; run `outrigger serve` on this journal \
         once, then read it",
        file = file.display()
    )]
    NeedsRepair { file: PathBuf },
    #[error(
        "{path} is on a network file system ({kind}), where a lock and a flush do not promise what a journal \
         needs; put `journal.path` on a local disk",
        path = path.display()
    )]
    NetworkFileSystem { path: PathBuf, kind: String },
    #[error("{file} was written by a newer version ({what}); open it with that version", file = file.display())]
    Newer { file: PathBuf, what: String },
    #[error(
        "{path} holds other files and no journal; choose an empty directory with `journal.path`",
        path = path.display()
    )]
    NotAJournal { path: PathBuf },
    #[error(
        "the disk under {path} has {available} bytes left and the journal needs {needed}; free some space or put \
         `journal.path` elsewhere",
        path = path.display()
    )]
    Space { path: PathBuf, needed: u64, available: u64 },
    #[error(
        "cannot write to {path}: {source}; give this user the right to write there, or choose another directory \
         with `journal.path`",
        path = path.display()
    )]
    Unwritable { path: PathBuf, source: io::Error },
}

impl OpenError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
