//! Compaction: sealed segments written anew without what is not needed any more. Records, bodies and trailers
//! are copied as they are; only where they lie changes. Writes nothing that a crash could leave half done: the
//! new file takes the name of the last old one in one step, and the others are removed after that
//! (docs/decisions/0007).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::super::state::Head;
use super::super::{Compacted, CompactionBounds, Error, Journal};
use super::Embedded;
use super::disk::Disk;
use super::footer::{self, Ended, Sealed};
use super::frame::{self, Frame, Gap, Kind, Seed};
use super::mark::{self, Needed};
use super::row::{self, Place, Rows, Sheet, Short};
use super::scan::{self, Batch};
use super::segment;

/// A segment is written anew when at least one in so many of its bytes is not needed.
const DEAD_PART: u64 = 4;

/// What compaction needs to know of every workflow.
#[derive(Debug)]
pub(super) struct Kept {
    /// By the workflow's name.
    heads: HashMap<Short, Head>,
    /// Names of the present runs.
    runs: HashSet<Short>,
}

impl Kept {
    fn new(journal: &Embedded) -> Result<Self, Error> {
        let rows = journal.workflows()?;
        let runs = rows.iter().map(|row| Short::of_run(&row.key, row.head.first)).collect();
        Ok(Self { heads: rows.into_iter().map(|row| (Short::of(&row.key), row.head)).collect(), runs })
    }

    /// Whether a record is of a workflow's present run. Of a workflow that nobody knows every record is kept.
    pub(super) fn record(&self, record: &frame::RecordFrame<'_>) -> bool {
        self.heads.get(&Short::of(&record.key)).is_none_or(|head| record.sequence >= head.first)
    }

    /// Whether the bodies that such a record names are needed too.
    pub(super) fn bodies(&self, record: &frame::RecordFrame<'_>) -> bool {
        self.heads.get(&Short::of(&record.key)).is_none_or(|head| head.bodies_expired.is_none())
    }

    fn frame(&self, frame: &Frame<'_>, needed: &Needed) -> bool {
        match frame.kind {
            Kind::Record => frame::record(frame.payload).is_none_or(|record| self.record(&record)),
            Kind::Body => frame::body(frame.payload).is_none_or(|(hash, _)| needed.has(&hash)),
            Kind::Damaged => {
                let noted = frame::uncbor::<frame::Damaged>(frame.payload).and_then(|noted| noted.key());
                noted.is_none_or(|key| {
                    self.heads.get(&Short::of(&key)).is_none_or(|head| head.damage.is_some())
                })
            }
            // What these tell, the footer tells too.
            Kind::Compacted
            | Kind::Gap
            | Kind::Opened
            | Kind::Seal
            | Kind::Stopped
            | Kind::Table
            | Kind::Trailer => false,
        }
    }

    /// Bytes of a batch that stay.
    pub(super) fn batch_len(&self, batch: &Batch<'_>, needed: &Needed) -> u64 {
        let kept = batch.frames.iter().filter(|frame| self.frame(frame, needed));
        let len = kept.map(|frame| frame.end() - frame.offset).sum::<u64>();
        if len == 0 { 0 } else { len + (batch.last.end() - batch.last.offset) }
    }
}

/// How large a sealed segment is, and how large what is needed of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) number: u64,
    pub(super) all: u64,
    pub(super) kept: u64,
}

impl Embedded {
    /// See [`Journal::compact`].
    pub(super) fn compact_now(&self, bounds: &CompactionBounds) -> Result<Compacted, Error> {
        self.refuse(self.epoch)?;
        let _alone = self.compacting.lock();
        let candidates = self.store.settled();
        let Some(last) = candidates.last().copied() else { return Ok(Compacted::default()) };
        // INVARIANT: whatever is committed from here on refers to no body that is judged below; whatever was
        // committed before is in the log when it is; and so is what says that something is not needed any more.
        self.store.refer_behind(last);
        let kept = Kept::new(self)?;
        self.flush_all()?;
        let marked = mark::run(&self.log, &candidates, &kept, &self.stopping)?;
        let Some((needed, measured)) = marked else {
            return Ok(Compacted { more: true, ..Compacted::default() });
        };
        let groups = groups(&measured, self.segment_bytes, bounds.segments_max.max(1));
        let mut done = Compacted::default();
        for group in groups {
            let is_enough = done.segments > 0 && done.segments + group.len() > bounds.segments_max;
            if is_enough || self.stopping.load(Ordering::Acquire) {
                done.more = true;
                break;
            }
            let (before, after) = self.rewrite(&group, &kept, &needed)?;
            done.segments += group.len();
            done.bytes_before += before;
            done.bytes_after += after;
        }
        if done.segments > 0 {
            let (segments, before, after) = (done.segments, done.bytes_before, done.bytes_after);
            info!(segments, bytes_before = before, bytes_after = after, "the journal was compacted");
        }
        Ok(done)
    }

    /// Writes the segments of a group into one, and puts it in their place. Bytes before and after.
    fn rewrite(&self, group: &[u64], kept: &Kept, needed: &Needed) -> Result<(u64, u64), Error> {
        let [.., last] = group else { return Ok((0, 0)) };
        let shown = segment::shown(*last);
        let failed = |source| Error::compaction(format!("writing {shown} anew"), source);
        let old = group.iter().map(|number| open(&self.log, *number)).collect::<io::Result<Vec<_>>>();
        let old = old.map_err(&failed)?;
        let unfinished = segment::path(&self.log, *last).with_extension("new");
        let made = merge(&old, kept, needed).and_then(|merged| merged.write(&self.disk, &unfinished));
        let new = made.map_err(|source| {
            // The next opening removes what this cannot.
            let _ = std::fs::remove_file(&unfinished);
            failed(source)
        })?;
        let path = segment::path(&self.log, *last);
        self.store.replace(&new, || self.disk.rename(&unfinished, &path)).map_err(&failed)?;
        // INVARIANT: the old files go when the name of the new one is durable.
        self.disk.sync_dir(&self.log).map_err(&failed)?;
        for number in group.iter().filter(|number| *number != last) {
            if let Err(error) = self.disk.remove(&segment::path(&self.log, *number)) {
                warn!(%error, segment = number, "a segment that was compacted cannot be removed; the next start does");
            }
        }
        self.index_anew(&old, &new);
        let before = old.iter().map(Sealed::len).sum();
        self.store.resized(before, new.len());
        Ok((before, new.len()))
    }

    fn index_anew(&self, old: &[Sealed], new: &Sealed) {
        old.iter().for_each(|old| self.store.drop_sheets(old));
        match new.sheets() {
            Ok(sheets) => self.store.put_sheets(new, &sheets),
            Err(error) => warn!(%error, segment = new.number, "a footer cannot be read for the index"),
        }
    }
}

fn open(log: &Path, number: u64) -> io::Result<Sealed> {
    let sealed = Sealed::open(&segment::path(log, number), number)?;
    sealed.ok_or_else(|| io::Error::other(format!("{} has lost its footer", segment::shown(number))))
}

/// Runs of neighbours to be written into one segment each: those of which much is not needed, and small ones.
fn groups(measured: &[Measured], segment_bytes: u64, len_max: usize) -> Vec<Vec<u64>> {
    let dead = |one: &Measured| one.all.saturating_sub(one.kept) >= (one.all / DEAD_PART).max(1);
    let small = |one: &Measured| one.all <= segment_bytes / DEAD_PART;
    let mut groups = Vec::new();
    let mut group = Vec::<Measured>::new();
    let mut end = |group: &mut Vec<Measured>| {
        let group = std::mem::take(group);
        if group.len() > 1 || group.iter().any(dead) {
            groups.push(group.iter().map(|one| one.number).collect());
        }
    };
    for one in measured {
        let kept = group.iter().map(|one| one.kept).sum::<u64>();
        if !(dead(one) || small(one)) || kept + one.kept > segment_bytes || group.len() >= len_max {
            end(&mut group);
        }
        if dead(one) || small(one) {
            group.push(*one);
        }
    }
    end(&mut group);
    groups
}

/// A segment in the making.
struct Merged {
    head: segment::Head,
    seed: Seed,
    bytes: Vec<u8>,
    /// Where the frames of the old segments are now.
    moved: HashMap<(u64, u64), Place>,
    gap: Option<Gap>,
    rows: Rows,
    sheets: BTreeMap<Short, Sheet>,
    ended: Ended,
}

/// What is needed of `old`, in one segment.
fn merge(old: &[Sealed], kept: &Kept, needed: &Needed) -> io::Result<Merged> {
    let ([first, ..], [.., last]) = (old, old) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // It gets its name together with its footer, so its head has no length to say.
    let head = segment::Head::new(last.number, 0)?;
    let generation = old.iter().map(Sealed::generation).max().unwrap_or(0).saturating_add(1);
    let compacted = frame::Compacted { from: first.from(), generation };
    let mut merged = Merged {
        seed: head.seed(),
        bytes: head.bytes().to_vec(),
        head,
        moved: HashMap::new(),
        gap: None,
        rows: Rows::new(),
        sheets: BTreeMap::new(),
        ended: Ended { previous: first.ended.previous, compacted: Some(compacted), ..last.ended.clone() },
    };
    merged.put(Kind::Compacted, &frame::cbor(&compacted))?;
    for sealed in old {
        let bytes = sealed.written()?;
        let scan = scan::scan(&sealed.seed(), &bytes);
        for batch in &scan.batches {
            merged.batch(sealed.number, batch, kept, needed)?;
        }
        merged.take_rows(sealed, kept)?;
    }
    merged.put_gap()?;
    merged.ended.end = merged.bytes.len() as u64;
    Ok(merged)
}

impl Merged {
    fn put(&mut self, kind: Kind, payload: &[u8]) -> io::Result<Place> {
        let offset = self.bytes.len() as u64;
        let too_long = || io::Error::other("a frame is longer than 4 GiB");
        let frame = self.seed.frame(offset, kind, payload).ok_or_else(too_long)?;
        self.bytes.extend_from_slice(&frame);
        let len = u32::try_from(payload.len()).map_err(|_| too_long())?;
        Ok(Place { segment: self.head.number, offset, len })
    }

    fn put_gap(&mut self) -> io::Result<()> {
        let Some(gap) = self.gap.take() else { return Ok(()) };
        self.put(Kind::Gap, &frame::cbor(&gap)).map(drop)
    }

    fn batch(&mut self, number: u64, batch: &Batch<'_>, kept: &Kept, needed: &Needed) -> io::Result<()> {
        let frames = batch.frames.iter().filter(|frame| kept.frame(frame, needed)).collect::<Vec<_>>();
        let trailer = &batch.trailer;
        if frames.is_empty() {
            let previous = self.gap.as_ref().map_or(trailer.previous, |gap| gap.previous);
            self.gap = Some(Gap { epoch: trailer.epoch, number: trailer.number, previous, hash: batch.hash });
            return Ok(());
        }
        self.put_gap()?;
        for frame in frames {
            let place = self.put(frame.kind, frame.payload)?;
            self.moved.insert((number, frame.offset), place);
        }
        self.put(batch.last.kind, batch.last.payload).map(drop)
    }

    /// Takes the rows of a segment over whose batches are in.
    fn take_rows(&mut self, sealed: &Sealed, kept: &Kept) -> io::Result<()> {
        let mut with_records = HashSet::new();
        for (key, value) in sealed.rows()? {
            match key.first() {
                Some(&(row::BODY | row::RECORD)) => {
                    let Some(place) = self.moved_to(&value) else { continue };
                    with_records
                        .extend(row::split(&key).filter(|(kind, ..)| *kind == row::RECORD).map(|it| it.1));
                    self.rows.insert(key, frame::cbor(&place));
                }
                // A step's places may be stale: its records are found by their numbers.
                Some(&row::STEP) if row::split(&key).is_some_and(|(_, run, _)| kept.runs.contains(&run)) => {
                    self.rows.insert(key, value);
                }
                _ => {}
            }
        }
        for (name, value) in sealed.sheets()? {
            let broken = || io::Error::other(format!("{} has a sheet that cannot be read", sealed.number));
            let mut sheet = Sheet::read(&value).ok_or_else(broken)?;
            let head = sheet.head.take().filter(|row| {
                row.head.damage.is_some()
                    || with_records.contains(&Short::of(&row.key))
                    || with_records.contains(&row.run())
            });
            let mut taken = if kept.runs.contains(&name) { sheet } else { Sheet::default() };
            taken.lists = taken
                .lists
                .into_iter()
                .filter_map(|(list, place)| {
                    let at = (place.segment, place.offset);
                    self.moved.get(&at).map(|place| (list, *place))
                })
                .collect();
            taken.head = head;
            // A run without a sheet would not be looked for here.
            if taken.head.is_some() || with_records.contains(&name) || taken != Sheet::default() {
                self.sheets.entry(name).or_default().merge(taken);
            }
        }
        Ok(())
    }

    fn moved_to(&self, place: &[u8]) -> Option<Place> {
        let place = frame::uncbor::<Place>(place)?;
        self.moved.get(&(place.segment, place.offset)).copied()
    }

    /// Writes the segment under a name that is no segment's, durable but for that name.
    fn write(self, disk: &Disk, unfinished: &Path) -> io::Result<Sealed> {
        let file = disk.create(unfinished)?;
        file.write_at(&self.bytes, 0)?;
        footer::write_with(&file, &self.head, &self.ended, &self.rows, &self.sheets)?;
        let gone = || io::Error::other("a footer was written and is not there");
        Sealed::open(unfinished, self.head.number)?.ok_or_else(gone)
    }
}
