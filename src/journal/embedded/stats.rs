//! What a journal holds, in figures. Changes no file.

use std::fs;
use std::io;
use std::path::Path;

use crate::model::Timestamp;

use super::super::Journal;
use super::index::INDEX;
use super::open::{OpenError, Options};
use super::{Embedded, segment, walk};

/// Figures of a journal that nobody owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub segments: usize,
    pub segments_sealed: usize,
    /// Length of the segments, room prepared ahead included.
    pub log_bytes: u64,
    /// The index beside the log.
    pub index_bytes: u64,
    pub workflows: usize,
    pub workflows_open: usize,
    pub workflows_closed: usize,
    /// Closed for effects because records are lost; counted as neither open nor closed.
    pub workflows_damaged: usize,
    pub steps: u64,
    pub records: u64,
    /// What of the closed ones is left: a tombstone.
    pub workflows_removed: usize,
    /// Different bodies that records name and that are there.
    pub bodies: usize,
    /// Different bodies that records name and that are gone, as they may be.
    pub bodies_expired: usize,
    /// Bytes of bodies and their parts in the log.
    pub bodies_stored_bytes: u64,
    /// What the bodies that records name come to when each is written out.
    pub bodies_raw_bytes: u64,
    /// When the oldest workflow was opened, and when one changed last.
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
}

/// Counts what is in a journal that nobody owns.
///
/// # Errors
/// [`OpenError`].
pub fn stats(options: &Options) -> Result<Stats, OpenError> {
    let (journal, _) = Embedded::open_read_only(options.clone())?;
    let walk = walk::walk(&options.path.join(segment::LOG))?;
    let rows = journal.workflows().map_err(OpenError::Journal)?;
    let mut stats = Stats {
        segments: walk.segments,
        segments_sealed: walk.sealed,
        log_bytes: walk.bytes,
        index_bytes: size(&options.path.join(INDEX)).map_err(OpenError::io("measuring the index"))?,
        workflows: rows.len(),
        records: walk.records,
        bodies: walk.named.keys().filter(|hash| walk.bodies.contains_key(*hash)).count(),
        bodies_stored_bytes: walk.bodies_stored,
        oldest: rows.iter().map(|row| row.head.opened_at).min(),
        newest: rows.iter().map(|row| row.head.changed_at).max(),
        ..Stats::default()
    };
    stats.bodies_raw_bytes =
        walk.named.keys().filter_map(|hash| walk.bodies.get(hash)).map(|lies| lies.raw_len).sum();
    stats.bodies_expired = walk.named.len() - stats.bodies;
    for row in rows {
        stats.workflows_removed += usize::from(row.head.removed.is_some());
        stats.steps += row.head.steps;
        let count = match (row.head.damage, row.head.closed) {
            (Some(_), _) => &mut stats.workflows_damaged,
            (None, Some(_)) => &mut stats.workflows_closed,
            (None, None) => &mut stats.workflows_open,
        };
        *count += 1;
    }
    Ok(stats)
}

/// Bytes of the files below `dir`; 0 when there is none.
fn size(dir: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}
