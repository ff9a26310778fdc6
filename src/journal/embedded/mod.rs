//! The embedded engine: an append-only log of segments that is the journal, and sled beside it as a
//! shortcut (durability.md, section 5). One process owns it at a time.
//!
//! A commit becomes a parcel of frames under its workflow's lock, which gives the workflow's records their
//! order. The writer's thread puts all parcels that wait into one batch: one write, one flush, one answer
//! to each. Reads look into the commits in memory, the tables of the segments that are not sealed, sled,
//! and the footers of the sealed segments, in this order; only the log is ever acknowledged from.

mod catalog;
mod compact;
mod disk;
mod footer;
mod frame;
mod index;
mod keeper;
mod known;
mod live;
mod mark;
mod open;
mod parcel;
mod past;
mod queue;
mod rebuild;
mod recover;
mod row;
mod scan;
mod segment;
mod start;
mod stats;
mod step;
mod store;
mod verify;
mod walk;
mod writer;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::failpoint::{Point, reach};
use crate::model::{AttemptId, BodyHash, Clock, Epoch, Fingerprint, StepIndex, WorkflowKey};

use super::body::Packer;
use super::lease::{Holder, Lock};
use super::record::{Listed, Record};
use super::state::{Fault, Head, StepSummary, Use, WorkflowState};
use super::{
    Batch, Compacted, CompactionBounds, Durability, Error, Journal, StepRecord, Ticket, Urgency, WorkflowRow,
    closed, codec, newest_first,
};
use disk::Disk;
#[cfg(any(test, feature = "failpoints"))]
pub use disk::Watch;
use frame::Kind;
use live::{Live, LiveMap, View};
pub use open::{Damage, IndexReport, OpenError, OpenReport, Options, Torn};
use parcel::{Delta, Parcel, Spot};
use queue::{Entry, Queue};
pub use rebuild::{Rebuilt, rebuild_index};
use row::Short;
use start::Threads;
pub use stats::{Stats, stats};
use store::Store;
pub use verify::{Verified, verify};
pub use walk::Finding;
use writer::Poison;

/// A journal in a directory of this machine.
pub struct Embedded {
    store: Arc<Store>,
    live: LiveMap,
    queue: Arc<Queue>,
    packer: Packer,
    poison: Arc<Poison>,
    epoch: Epoch,
    durability: Durability,
    clock: Arc<dyn Clock>,
    /// Number of the segment that is written: no record committed from now on is in an earlier one.
    current: Arc<AtomicU64>,
    log: PathBuf,
    disk: Disk,
    segment_bytes: u64,
    /// One compaction at a time.
    compacting: Mutex<()>,
    /// A compaction under way ends at the next opportunity.
    stopping: AtomicBool,
    /// `None` when opened for reading.
    lock: Option<Lock>,
    holder: Mutex<Holder>,
    /// `None` when opened for reading, and after the end.
    threads: Mutex<Option<Threads>>,
}

impl Embedded {
    /// Opens the journal in `options.path`, makes it when there is none, and owns it from then on.
    ///
    /// # Errors
    /// [`OpenError`]; the journal is then as it was.
    pub fn open(options: Options) -> Result<(Self, OpenReport), OpenError> {
        start::open(options)
    }

    /// Opens a journal that nobody owns, to look at it. Touches no file; every commit is refused.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when somebody owns it, [`OpenError::Missing`] when there is none.
    pub fn open_read_only(options: Options) -> Result<(Self, OpenReport), OpenError> {
        start::open_read_only(options)
    }

    /// Writes the admin listener's URL into the lock file, where the command line looks for it.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn tell_admin(&self, url: &str) -> io::Result<()> {
        let mut holder = self.holder.lock();
        holder.admin = Some(url.to_owned());
        self.lock.as_ref().map_or(Ok(()), |lock| lock.tell(&holder))
    }

    fn with_state<T>(
        &self,
        key: &WorkflowKey,
        ask: impl FnOnce(&Arc<Live>, &mut live::State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let live = self.live.get(key);
        let mut state = live.state.lock();
        state.load(&self.store, live.short)?;
        ask(&live, &mut state)
    }

    /// Record `number` of the run, which was last seen at `spot`.
    fn numbered(&self, key: &WorkflowKey, run: Short, number: u64, spot: Spot) -> Result<Record, Error> {
        let spot = match spot {
            Spot::Log(place) => Spot::Log(self.store.resolve(run, number, place)?),
            fresh @ Spot::Fresh(..) => fresh,
        };
        self.record(key, &spot)
    }

    fn record(&self, key: &WorkflowKey, spot: &Spot) -> Result<Record, Error> {
        let shown = || match spot.place() {
            Some(place) => format!("{}, offset {}", segment::shown(place.segment), place.offset),
            None => "a record in memory".to_owned(),
        };
        let Some(payload) = self.store.payload(spot, Kind::Record)? else {
            return Err(self.damaged(key, format!("{} holds no whole record", shown())));
        };
        let Some(found) = frame::record(&payload).filter(|found| found.key == *key) else {
            return Err(self.damaged(key, format!("{} holds no record of it", shown())));
        };
        codec::decode(found.stored).map_err(|error| self.damaged(key, format!("{}: {error}", shown())))
    }

    /// Closes a workflow for effects, durably: one of its records cannot be read.
    fn damaged(&self, key: &WorkflowKey, what: String) -> Error {
        error!(workflow = %key, what, "the journal is damaged; the workflow is closed for effects");
        let live = self.live.get(key);
        let mut state = live.state.lock();
        if let Some(row) = state.head.as_mut().filter(|row| row.head.damage.is_none()) {
            row.head.damage = Some(what.clone());
            let delta = Arc::new(Delta { head: Some(row.clone()), ..Delta::default() });
            let mut parcel = Parcel::default();
            parcel.add(Kind::Damaged, |out| out.extend(frame::cbor(&frame::Damaged::new(key, &what))));
            let change = Some((Arc::clone(&live), Arc::clone(&delta)));
            let entry = Entry { parcel: Arc::new(parcel), change, done: None };
            if self.queue.push(entry, Urgency::Now, || ()).is_ok() {
                state.pending.push_back(delta);
            }
        }
        Error::Damaged { workflow: key.clone(), what }
    }

    /// The parcel's body frames: whatever of the bodies is not in the log yet.
    fn pack(&self, batch: &Batch) -> Result<(Parcel, Vec<(BodyHash, usize)>), Error> {
        let mut parcel = Parcel::default();
        let (mut bodies, mut seen) = (Vec::new(), HashSet::new());
        for body in &batch.bodies {
            for packed in self.packer.pack(body, self.store.as_ref())? {
                if seen.insert(packed.hash) {
                    let put = |out: &mut Vec<u8>| frame::put_body(out, &packed.hash, &packed.stored);
                    bodies.push((packed.hash, parcel.add(Kind::Body, put)));
                }
            }
        }
        Ok((parcel, bodies))
    }

    fn refuse(&self, epoch: Epoch) -> Result<(), Error> {
        if self.lock.is_none() {
            let source = io::Error::other("opened for reading only; ask the owner, or open it for writing");
            return Err(Error::Poisoned { doing: "appending".to_owned(), source: Arc::new(source) });
        }
        if epoch != self.epoch {
            return Err(Error::Fenced { ours: epoch, newer: self.epoch });
        }
        self.poison.get().map_or(Ok(()), Err)
    }

    /// Waits until everything committed before is in the log.
    fn flush_all(&self) -> Result<(), Error> {
        let (done, told) = oneshot::channel();
        let entry = Entry { parcel: Arc::default(), change: None, done: Some(done) };
        self.queue.push(entry, Urgency::Now, || ())?;
        // A thread of its own may wait, wherever this one stands.
        let waited = thread::scope(|scope| scope.spawn(|| told.blocking_recv()).join());
        let gone =
            || self.poison.set("waiting for the writer", io::Error::other("the journal's writer is gone"));
        waited.ok().and_then(Result::ok).unwrap_or_else(|| Err(gone()))
    }

    /// Folds the records over the workflow's state, puts them into the parcel, and the parcel into the queue.
    fn append(
        &self,
        live: &Arc<Live>,
        state: &mut live::State,
        commit: Commit,
        urgency: Urgency,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let Commit { mut parcel, bodies, records, stored } = commit;
        let view = View::new(&self.store, live.short, state);
        let mut fold = WorkflowState::new(state.head.as_ref().map(|row| row.head.clone()), &view);
        let mut numbers = Vec::with_capacity(records.len());
        for (record, stored) in records.iter().zip(&stored) {
            let before = fold.head();
            let sequence = before.map_or(1, |head| head.sequence + 1);
            let chain = codec::before(&live.key, before.map(|head| &head.chain), record);
            let chain = codec::chain(&chain, stored);
            fold.apply(record, chain).map_err(|fault| match fault {
                Fault::Backing(error) => error,
                Fault::OutOfOrder(why) => Error::OutOfOrder(format!("{why} (workflow {})", live.key)),
            })?;
            let put = |out: &mut Vec<u8>| frame::put_record(out, &live.key, sequence, &chain, stored);
            numbers.push(parcel.add(Kind::Record, put));
        }
        let change = fold.finish();
        let parcel = Arc::new(parcel);
        let fresh = |number: usize| Spot::Fresh(Arc::clone(&parcel), number);
        let spot = |at: usize| fresh(numbers.get(at).copied().unwrap_or(usize::MAX));
        let mut delta = view.delta(&live.key, change, &records, spot);
        delta.bodies = bodies.into_iter().map(|(hash, number)| (hash, fresh(number))).collect();
        let delta = Arc::new(delta);
        let (done, told) = oneshot::channel();
        let change = Some((Arc::clone(live), Arc::clone(&delta)));
        let entry = Entry { parcel, change, done: Some(done) };
        // INVARIANT: whoever finds a body here is queued behind the commit that brings it.
        let segment = self.current.load(Ordering::Acquire);
        self.queue.push(entry, urgency, || self.store.add_fresh(&delta.bodies, segment))?;
        if delta.head.is_some() {
            state.head.clone_from(&delta.head);
        }
        state.pending.push_back(delta);
        Ok(told)
    }
}

/// A commit before its workflow's lock is taken: whatever can be done without it is done.
struct Commit {
    /// With the body frames in it.
    parcel: Parcel,
    bodies: Vec<(BodyHash, usize)>,
    records: Vec<Record>,
    stored: Vec<Vec<u8>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // What waits is still written; only the clean mark is missing. `close` is the way out.
        if let Some(threads) = self.threads.lock().take() {
            warn!("the journal was dropped without being closed");
            self.queue.end();
            threads.join();
        }
    }
}

impl Journal for Embedded {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn attach(&self, key: &WorkflowKey) -> Result<Option<Head>, Error> {
        let _pin = self.store.pin();
        self.with_state(key, |_, state| Ok(state.head.as_ref().map(|row| row.head.clone())))
    }

    fn find(&self, key: &WorkflowKey, fingerprint: &Fingerprint) -> Result<Vec<StepSummary>, Error> {
        let _pin = self.store.pin();
        self.with_state(key, |live, state| {
            let mut found = Vec::new();
            for step in state.find(&self.store, live.short, fingerprint)? {
                let summary = state.step(&self.store, live.short, step)?.map(|spots| spots.entry.summary);
                // Rows are found by the beginning of a fingerprint.
                let is_it = |summary: &StepSummary| {
                    [Some(summary.exact), summary.normalised, summary.identity].contains(&Some(*fingerprint))
                };
                found.extend(summary.filter(is_it));
            }
            Ok(found)
        })
    }

    fn usage(&self, key: &WorkflowKey, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Error> {
        let _pin = self.store.pin();
        self.with_state(key, |live, state| state.usage(&self.store, live.short, attempt, step))
    }

    fn listed(&self, key: &WorkflowKey, list: &Fingerprint) -> Result<Option<Listed>, Error> {
        let _pin = self.store.pin();
        let spot = self.with_state(key, |live, state| state.listed(&self.store, live.short, list))?;
        match spot.map(|spot| self.record(key, &spot)).transpose()? {
            Some(Record::Listed(listed)) if listed.list == *list => Ok(Some(listed)),
            Some(_) | None => Ok(None),
        }
    }

    fn summary(&self, key: &WorkflowKey, step: StepIndex) -> Result<Option<StepSummary>, Error> {
        let _pin = self.store.pin();
        let spots = self.with_state(key, |live, state| state.step(&self.store, live.short, step))?;
        Ok(spots.map(|spots| spots.entry.summary))
    }

    fn step(&self, key: &WorkflowKey, step: StepIndex) -> Result<Option<StepRecord>, Error> {
        let _pin = self.store.pin();
        let found = self.with_state(key, |live, state| {
            Ok((state.step(&self.store, live.short, step)?, state.run(live.short)))
        })?;
        let (Some(spots), run) = found else { return Ok(None) };
        let summary = &spots.entry.summary;
        let wrong =
            |record: &Record| self.damaged(key, format!("step {step} leads to a record {}", record.name()));
        let places = (spots.intent.place(), spots.completed.as_ref().and_then(Spot::place));
        let record = self.numbered(key, run, summary.begun, spots.intent)?;
        let Record::Intent(intent) = record else { return Err(wrong(&record)) };
        let answer = spots.completed.map(|spot| self.numbered(key, run, summary.answered, spot));
        let completed = match answer.transpose()? {
            None => None,
            Some(Record::Completed(completed)) if completed.step == step => Some(completed),
            Some(other) => return Err(wrong(&other)),
        };
        // Whoever asks for a step asks for its bodies next.
        let segment = places.0.map_or(0, |place| place.segment);
        let answered = places.1.map_or(0, |place| place.segment);
        let bodies = [Some((intent.request, segment)), completed.as_ref().map(|it| (it.body, answered))];
        self.store.named(bodies.into_iter().flatten());
        Ok(Some(StepRecord { summary: spots.entry.summary, intent, completed }))
    }

    fn commit(
        &self,
        key: &WorkflowKey,
        epoch: Epoch,
        batch: Batch,
        urgency: Urgency,
    ) -> Result<Ticket, Error> {
        self.refuse(epoch)?;
        self.queue.wait_for_room();
        // In this order: whoever waits for one of them holds neither.
        let (_pin, _packing) = (self.store.pin(), self.store.packing());
        let (parcel, bodies) = self.pack(&batch)?;
        let stored = batch.records.iter().map(codec::encode).collect();
        let commit = Commit { parcel, bodies, records: batch.records, stored };
        let told = self.with_state(key, |live, state| {
            let damage = state.head.as_ref().and_then(|row| row.head.damage.clone());
            if let Some(what) =
                damage.filter(|_| !matches!(commit.records.as_slice(), [Record::WorkflowClosed { .. }]))
            {
                return Err(Error::Damaged { workflow: key.clone(), what });
            }
            self.append(live, state, commit, urgency)
        })?;
        let poison = Arc::clone(&self.poison);
        Ok(Ticket::new(async move {
            let gone =
                || poison.set("waiting for the writer", io::Error::other("the journal's writer is gone"));
            told.await.unwrap_or_else(|_| Err(gone()))
        }))
    }

    fn body(&self, hash: &BodyHash) -> Result<Bytes, Error> {
        let _pin = self.store.pin();
        self.store.body(hash)
    }

    fn scan(&self, key: &WorkflowKey) -> Result<Vec<Record>, Error> {
        let _pin = self.store.pin();
        let (head, spots) = self.with_state(key, |live, state| {
            Ok((state.head.clone(), state.records(&self.store, live.short)?))
        })?;
        let Some(head) = head.map(|row| row.head) else { return Ok(Vec::new()) };
        let mut chain = codec::genesis(key);
        let mut records = Vec::with_capacity(spots.len());
        for (expected, (number, spot)) in (head.first..).zip(spots) {
            if number != expected {
                return Err(self.damaged(key, format!("record {expected} is missing")));
            }
            let payload = self.store.payload(&spot, Kind::Record)?;
            let found = payload.as_ref().and_then(|payload| frame::record(payload));
            let Some(found) = found.filter(|found| found.key == *key && found.sequence == number) else {
                return Err(self.damaged(key, format!("record {number} is not where it was written")));
            };
            chain = codec::chain(&chain, found.stored);
            if chain != found.chain {
                return Err(self.damaged(key, format!("record {number} is not what was chained")));
            }
            let decoded = codec::decode(found.stored);
            records.push(decoded.map_err(|error| self.damaged(key, format!("record {number}: {error}")))?);
        }
        if (records.len() as u64, chain) != (head.records(), head.chain) {
            return Err(
                self.damaged(key, format!("{} of {} records are there", records.len(), head.records()))
            );
        }
        Ok(records)
    }

    fn workflows(&self) -> Result<Vec<WorkflowRow>, Error> {
        let _pin = self.store.pin();
        let heads = self.store.heads()?.into_iter().map(|row| (row.key, row.head));
        let mut heads = heads.collect::<HashMap<_, _>>();
        for live in self.live.all() {
            if let Some(row) = live.state.lock().head.clone() {
                heads.insert(row.key, row.head);
            }
        }
        let mut rows = heads.into_iter().map(|(key, head)| WorkflowRow { key, head }).collect::<Vec<_>>();
        newest_first(&mut rows);
        Ok(rows)
    }

    fn compact(&self, bounds: &CompactionBounds) -> Result<Compacted, Error> {
        self.compact_now(bounds)
    }

    fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    fn close(&self) -> Result<(), Error> {
        self.stopping.store(true, Ordering::Release);
        let _nothing_is_compacted = self.compacting.lock();
        self.queue.end();
        let Some(threads) = self.threads.lock().take() else { return self.poison.get().map_or(Ok(()), Err) };
        let mut writer = threads.join().ok_or_else(closed)?;
        if let Some(poisoned) = self.poison.get() {
            return Err(poisoned);
        }
        reach(Point::StopComing);
        // INVARIANT: the clean mark says that the index is on disk, so it is written after the index is.
        if let Err(error) = self.store.index().sync() {
            warn!(%error, "the journal's index cannot be flushed; it will be made again");
            return Ok(());
        }
        let stopped = frame::Stopped { epoch: self.epoch.0, at: self.clock.now().0 };
        writer::write_last(&mut writer, vec![(Kind::Stopped, frame::cbor(&stopped))])
    }
}

#[cfg(test)]
mod tests;
