//! The one thread that writes the log: takes whatever waits, writes it as one batch with one call, flushes
//! once, and tells those who wait. A failed write or flush is never tried again (durability.md, section 5).

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::error;

use crate::failpoint::{Point, reach};

use super::super::Error;
use super::footer::Ended;
use super::frame::{self, HEAD_LEN, Kind, Named, Trailer};
use super::keeper::ToKeeper;
use super::parcel::Parcel;
use super::queue::{Entry, Queue};
use super::recover::Tip;
use super::row::Short;
use super::segment::{self, Segment};

/// The first thing that went wrong with writing. Everything after it is refused.
#[derive(Debug, Default)]
pub(super) struct Poison(OnceLock<(String, Arc<io::Error>)>);

impl Poison {
    /// Poisons the journal, unless it is; the error everybody gets.
    pub(super) fn set(&self, doing: &str, source: io::Error) -> Error {
        let full = source.kind() == io::ErrorKind::StorageFull;
        let advice = if full { ": the disk is full; free some space and start again" } else { "" };
        let (doing, source) = self.0.get_or_init(|| {
            error!(doing, error = %source, "the journal cannot be written any more; new effects are refused");
            (format!("{doing}{advice}"), Arc::new(source))
        });
        Error::Poisoned { doing: doing.clone(), source: Arc::clone(source) }
    }

    pub(super) fn get(&self) -> Option<Error> {
        let (doing, source) = self.0.get()?;
        Some(Error::Poisoned { doing: doing.clone(), source: Arc::clone(source) })
    }
}

/// The log's open end.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) segment: Segment,
    pub(super) tip: Tip,
    /// Segments prepared ahead.
    pub(super) prepared: Receiver<io::Result<Segment>>,
    pub(super) keeper: SyncSender<ToKeeper>,
    pub(super) poison: Arc<Poison>,
    /// Number of the segment that is written; for those who must know where a commit cannot be.
    pub(super) current: Arc<AtomicU64>,
}

impl Writer {
    /// Writes until the queue ends, and hands the end of the log back.
    pub(super) fn run(mut self, queue: &Queue, ride: Duration) -> Self {
        while let Some(entries) = queue.take(ride) {
            self.flush(entries);
        }
        self
    }

    /// Makes entries durable and tells whoever waits.
    pub(super) fn flush(&mut self, mut entries: Vec<Entry>) {
        while !entries.is_empty() {
            let fitting = match self.poison.get() {
                Some(poisoned) => Err(poisoned),
                None => self.make_room(&entries).and_then(|count| {
                    let (now, _) = entries.split_at(count);
                    self.write(now).map(|()| count)
                }),
            };
            match fitting {
                Ok(count) => {
                    let later = entries.split_off(count);
                    self.durable(std::mem::replace(&mut entries, later));
                }
                Err(poisoned) => {
                    for done in entries.drain(..).filter_map(|entry| entry.done) {
                        let _ = done.send(Err(poisoned.clone()));
                    }
                }
            }
        }
    }

    fn durable(&self, mut entries: Vec<Entry>) {
        for done in entries.iter_mut().filter_map(|entry| entry.done.take()) {
            let _ = done.send(Ok(()));
        }
        reach(Point::BatchTold);
        // The keeper ends only after the writer.
        let _ = self.keeper.send(ToKeeper::Durable(entries));
    }

    /// How many of the entries go into the open segment, at least one; goes on to the next one if need be.
    fn make_room(&mut self, entries: &[Entry]) -> Result<usize, Error> {
        loop {
            let room = self.segment.filled.saturating_sub(self.segment.end);
            let mut needed = trailer_len(None);
            let fits = entries.iter().take_while(|entry| {
                needed += entry.parcel.len() + trailer_len(Some(entry));
                needed <= room
            });
            let count = fits.count();
            if count > 0 {
                return Ok(count);
            }
            if self.segment.end == segment::HEAD_LEN {
                // One commit that is longer than a segment has one of its own, as long as it takes.
                return Ok(1);
            }
            self.rotate()?;
        }
    }

    fn rotate(&mut self) -> Result<(), Error> {
        // The thread that prepares segments is there as long as this one.
        let gone = || Err(io::Error::other("the thread that prepares segments is gone"));
        let next = self.prepared.recv().unwrap_or_else(|_| gone());
        let next = next.map_err(|source| self.poison.set("preparing the log's next segment", source))?;
        self.current.store(next.head.number, Ordering::Release);
        reach(Point::SegmentRotated);
        let (number, seed, reader) = (next.head.number, next.seed.clone(), next.file.reader());
        let full = std::mem::replace(&mut self.segment, next);
        let Tip { batch, hash, epoch, boot_id } = self.tip.clone();
        let (end, previous) = (full.end, full.previous);
        let ended = Ended { end, previous, batch, hash, epoch, boot_id, compacted: None };
        let _ = self.keeper.send(ToKeeper::Rotate { full: Box::new(full), ended, number, seed, reader });
        Ok(())
    }

    /// Writes one batch into the open segment and flushes it.
    fn write(&mut self, entries: &[Entry]) -> Result<(), Error> {
        if entries.iter().all(|entry| entry.parcel.len() == 0) {
            return Ok(());
        }
        let start = self.segment.end;
        if start == segment::HEAD_LEN {
            self.segment.previous = self.tip.hash;
        }
        let number = self.tip.batch + 1;
        let named = named(entries);
        let trailer = Trailer { epoch: self.tip.epoch, number, previous: self.tip.hash, start, named };
        let payload = frame::cbor(&trailer);
        let hash = frame::batch_hash(&payload);
        let mut end = Parcel::default();
        end.add(Kind::Trailer, |out| out.extend_from_slice(&payload));
        let mut frames = Vec::with_capacity(entries.len() * 3 + 1);
        let mut at = start;
        for parcel in entries.iter().map(|entry| entry.parcel.as_ref()).chain([&end]) {
            parcel.put_at(self.segment.head.number, at);
            frames.extend(parcel.frames(&self.segment.seed, at));
            at += parcel.len();
        }
        let slices = frames.iter().flat_map(|(head, payload)| [IoSlice::new(head), IoSlice::new(payload)]);
        reach(Point::BatchStarted);
        let written = self.segment.file.write_all_at(&mut slices.collect::<Vec<_>>(), start);
        reach(Point::BatchWritten);
        let flushed = written.and_then(|()| self.segment.file.sync());
        flushed.map_err(|source| {
            let doing = format!("writing to {}", segment::shown(self.segment.head.number));
            self.poison.set(&doing, source)
        })?;
        reach(Point::BatchFlushed);
        self.segment.end = at;
        self.segment.filled = self.segment.filled.max(at);
        self.tip.batch = number;
        self.tip.hash = hash;
        Ok(())
    }
}

/// The workflows with records in a batch, each as its last commit left it.
fn named(entries: &[Entry]) -> Vec<Named> {
    let mut named = BTreeMap::new();
    for (live, delta) in entries.iter().filter_map(|entry| entry.change.as_ref()) {
        if let Some(row) = delta.head.as_ref().filter(|_| !delta.records.is_empty()) {
            named.insert(live.short, (live, row));
        }
    }
    let named = named.into_iter().map(|(_, (live, row)): (Short, _)| Named {
        owner: live.key.owner.as_str().to_owned(),
        workflow: live.key.workflow.as_str().to_owned(),
        sequence: row.head.sequence,
        chain: row.head.chain,
    });
    named.collect()
}

/// At most what a trailer takes in the log, without and with one more entry named in it.
fn trailer_len(entry: Option<&Entry>) -> u64 {
    match entry {
        None => (HEAD_LEN + 128) as u64,
        Some(entry) => entry.change.as_ref().map_or(0, |(live, _)| {
            (live.key.owner.as_str().len() + live.key.workflow.as_str().len() + 64) as u64
        }),
    }
}

/// Writes a batch of the engine's own before the writer is at work.
pub(super) fn write_first(writer: &mut Writer, frames: Vec<(Kind, Vec<u8>)>) -> Result<(), Error> {
    let entries = [own(frames)];
    writer.make_room(&entries)?;
    writer.write(&entries)
}

/// Writes the last batch, after everybody who prepares or seals segments has gone: where there is no room
/// the segment grows.
pub(super) fn write_last(writer: &mut Writer, frames: Vec<(Kind, Vec<u8>)>) -> Result<(), Error> {
    writer.write(&[own(frames)])
}

fn own(frames: Vec<(Kind, Vec<u8>)>) -> Entry {
    let mut parcel = Parcel::default();
    for (kind, payload) in frames {
        parcel.add(kind, |out| out.extend_from_slice(&payload));
    }
    Entry { parcel: Arc::new(parcel), change: None, done: None }
}
