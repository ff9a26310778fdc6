//! What happens behind the writer's back, on two threads. The keeper moves durable commits into the open
//! segment's table. The sealer prepares segments, gives full ones their footer, and brings the index up to
//! date. Nothing is acknowledged from either.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use tracing::{info, warn};

use crate::failpoint::{Point, reach};

use super::disk::Disk;
use super::footer::{self, Ended, Sealed};
use super::frame::Seed;
use super::index::Watermark;
use super::queue::Entry;
use super::segment::{self, Segment};
use super::store::{Store, Table};
use super::writer::Poison;

/// Batches that may wait for the keeper.
pub(super) const KEEPER_WAITING_MAX: usize = 64;

/// How often the sealer goes on with a rebuild while nobody asks for a segment.
const REBUILD_PAUSE: Duration = Duration::from_millis(1);

/// Segments of a rebuild that are still put into the index when the journal is closed.
const REBUILD_LAST_MAX: usize = 64;

/// From the writer.
#[derive(Debug)]
pub(super) enum ToKeeper {
    /// These commits are on disk in the open segment.
    Durable(Vec<Entry>),
    /// `full` gets no more batches; the next ones go into `number`.
    Rotate { full: Box<Segment>, ended: Ended, number: u64, seed: Seed, reader: Arc<File> },
}

/// To the sealer.
#[derive(Debug)]
pub(super) enum ToSealer {
    /// Have a segment with this number ready.
    Prepare(u64),
    Seal {
        full: Box<Segment>,
        ended: Ended,
        table: Arc<Table>,
    },
    /// Give these segments at least these lengths, unless they are sealed meanwhile.
    Lengthen {
        short: Vec<(u64, u64)>,
        done: SyncSender<io::Result<()>>,
    },
}

/// Runs until the writer is gone.
pub(super) fn keep(store: &Store, from_writer: &Receiver<ToKeeper>, sealer: &Sender<ToSealer>) {
    let mut rows = Vec::new();
    for message in from_writer {
        match message {
            ToKeeper::Durable(entries) => {
                for (live, delta) in entries.into_iter().filter_map(|entry| entry.change) {
                    delta.rows(live.short, &mut rows);
                    // INVARIANT: under the workflow's lock nobody sees the commit in neither place.
                    let mut state = live.state.lock();
                    store.put(rows.drain(..));
                    if state.pending.front().is_some_and(|first| Arc::ptr_eq(first, &delta)) {
                        state.pending.pop_front();
                    }
                    drop(state);
                    store.drop_fresh(&delta.bodies);
                }
            }
            ToKeeper::Rotate { full, ended, number, seed, reader } => {
                let table = store.open_table(Table::new(number, reader, seed));
                // The sealer is there as long as this thread. Preparing comes first: the writer waits for it.
                let _ = sealer.send(ToSealer::Prepare(number + 1));
                if let Some(table) = table {
                    let _ = sealer.send(ToSealer::Seal { full, ended, table });
                }
            }
        }
    }
}

/// What the sealer works with.
#[derive(Debug)]
pub(super) struct Sealer {
    pub(super) store: Arc<Store>,
    pub(super) disk: Disk,
    pub(super) log: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) boot_id: String,
    pub(super) prepared: SyncSender<io::Result<Segment>>,
    pub(super) poison: Arc<Poison>,
    /// Sealed segments that the index does not have, oldest first.
    pub(super) unindexed: Vec<u64>,
    /// The newest sealed segment with its last hash.
    pub(super) newest: Option<(u64, [u8; 32])>,
}

impl Sealer {
    /// Runs until the keeper is gone.
    pub(super) fn run(mut self, from_keeper: &Receiver<ToSealer>) {
        let rebuilt = self.unindexed.len();
        loop {
            let message = if self.unindexed.is_empty() {
                from_keeper.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                from_keeper.recv_timeout(REBUILD_PAUSE)
            };
            match message {
                Ok(ToSealer::Prepare(number)) => self.prepare(number),
                Ok(ToSealer::Seal { full, ended, table }) => self.seal(&full, &ended, &table),
                Ok(ToSealer::Lengthen { short, done }) => {
                    let _ = done.send(self.lengthen(&short));
                }
                Err(RecvTimeoutError::Timeout) => self.index_one(rebuilt),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // A rebuild that is nearly through is finished; a long one begins anew with the next start.
        if self.unindexed.len() <= REBUILD_LAST_MAX {
            while !self.unindexed.is_empty() {
                self.index_one(rebuilt);
            }
        }
    }

    fn prepare(&self, number: u64) {
        let make = || {
            let head = segment::Head::new(number, self.segment_bytes)?;
            segment::prepare(&self.disk, &self.log, head)
        };
        let made = make().or_else(|error| {
            // Nothing depends on the first one yet. The second one's error is the writer's.
            warn!(%error, segment = number, "the log's next segment cannot be prepared; trying once more");
            make()
        });
        if let Ok(segment) = &made {
            self.store.resized(0, segment.filled);
        }
        let _ = self.prepared.send(made);
    }

    fn lengthen(&self, short: &[(u64, u64)]) -> io::Result<()> {
        for (number, len) in short {
            let path = segment::path(&self.log, *number);
            if Sealed::open(&path, *number)?.is_none() && fs::metadata(&path)?.len() < *len {
                self.disk.open(&path).and_then(|file| file.set_len(*len).and_then(|()| file.sync()))?;
            }
        }
        Ok(())
    }

    fn seal(&mut self, full: &Segment, ended: &Ended, table: &Table) {
        let number = full.head.number;
        let footer = footer::write(&full.file, &full.head, ended, &table.rows)
            .and_then(|()| Sealed::open(full.file.path(), number))
            .and_then(|footer| {
                footer.ok_or_else(|| io::Error::other("a footer was written and is not there"))
            });
        let footer = match footer {
            Ok(footer) => footer,
            Err(error) => {
                // The table stays: whatever is recorded can be read until the process ends.
                self.poison.set(&format!("sealing {}", segment::shown(number)), error);
                return;
            }
        };
        self.store.resized(full.filled, footer.len());
        self.store.add_sealed(&footer);
        reach(Point::SegmentSealed);
        self.index(&footer);
        reach(Point::IndexWritten);
        self.newest = Some((number, ended.hash));
        if self.unindexed.is_empty() {
            self.mark();
        }
        self.store.drop_table(number);
    }

    /// Puts a sealed segment's sheets into the index.
    fn index(&self, sealed: &Sealed) {
        match sealed.sheets() {
            Ok(sheets) => self.store.put_sheets(sealed, &sheets),
            Err(error) => warn!(%error, segment = sealed.number, "a footer cannot be read for the index"),
        }
    }

    /// Goes on with a rebuild, the newest segment first: it is what will be asked for.
    fn index_one(&mut self, all: usize) {
        let Some(number) = self.unindexed.pop() else { return };
        // Compaction may have taken it away, and has indexed what it put in its place.
        let is_there = self.store.settled().binary_search(&number).is_ok();
        match Sealed::open(&segment::path(&self.log, number), number) {
            Ok(sealed) => sealed.iter().for_each(|sealed| self.index(sealed)),
            Err(_) if !is_there => {}
            Err(error) => warn!(%error, segment = number, "a footer cannot be read for the index"),
        }
        if self.unindexed.is_empty() {
            self.mark();
            info!(segments = all, "the journal's index is complete again");
        }
    }

    fn mark(&self) {
        if let Some((segment, hash)) = self.newest {
            self.store.index().mark(&Watermark { segment, hash, boot_id: self.boot_id.clone() });
            reach(Point::IndexMarked);
        }
    }
}
