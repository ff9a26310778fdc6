//! Opening a log: which segments are sealed, what the others hold, where the log ends, and what is wrong
//! with it (durability.md, section 5, "Damage").
//!
//! An unfinished batch at the very end is a torn tail: cut, kept aside, reported. A bad range with anything
//! valid behind it is damage: it closes the workflows that the batch's trailer names, or, where no trailer
//! does, every workflow that was open there. One case lies between: a bad range inside the last batch of
//! all. The batch has its trailer, so it may have been acknowledged; but after a power cut the disk may
//! have kept the trailer and lost what was written with it. So it is a torn tail when the machine was
//! started again without a clean stop, and damage when it was not.

mod batches;
mod tail;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use crate::model::WorkflowKey;

use super::super::codec;
use super::disk::{self, Disk};
use super::footer::{self, Ended, Sealed};
use super::frame::{self, Compacted, Kind};
use super::index::{INDEX, Index, Watermark};
use super::live::State;
use super::open::{IndexReport, OpenError, OpenReport};
use super::row::{Sheet, Short};
use super::scan::{self, Scan};
use super::segment::{self, BadHead, Segment};
use super::store::{Store, Table};

/// How a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// No file is touched.
    Read,
    Write,
}

/// A log, opened.
#[derive(Debug)]
pub(super) struct Recovered {
    /// What can be written on, in this order; empty when opened for reading. The first one's table is the
    /// store's open one.
    pub(super) segments: Vec<Segment>,
    /// No segment has this number or a later one.
    pub(super) next_number: u64,
    pub(super) tip: Tip,
    /// Damage that no frame in the log tells yet.
    pub(super) notes: Vec<(WorkflowKey, String)>,
    /// Sealed segments that the index does not have, oldest first.
    pub(super) unindexed: Vec<u64>,
    /// Segments that were cut short, with the length they had.
    pub(super) short: Vec<(u64, u64)>,
    pub(super) report: OpenReport,
}

/// Where the log ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Tip {
    /// Number of the last batch; 0 when there is none.
    pub(super) batch: u64,
    /// Its hash.
    pub(super) hash: [u8; 32],
    /// The newest epoch in the log.
    pub(super) epoch: u64,
    /// The boot of the machine under which that owner wrote.
    pub(super) boot_id: String,
}

/// A segment without a whole footer.
struct Unsealed {
    number: u64,
    head: segment::Head,
    bytes: Vec<u8>,
}

/// A file of the log and its footer, if it has a whole one.
type Met = (u64, Option<Sealed>);

impl Unsealed {
    /// The hash of the batch before the segment's first one; zeros when it has none.
    fn previous(&self) -> [u8; 32] {
        previous(&self.scan())
    }

    fn scan(&self) -> Scan<'_> {
        scan::scan(&self.head.seed(), &self.bytes)
    }
}

/// What the segment says of its compaction, if it was compacted.
fn compacted(scan: &Scan<'_>) -> Option<Compacted> {
    let first = scan.batches.first()?;
    let first = first.frames.first().filter(|frame| frame.kind == Kind::Compacted)?;
    frame::uncbor(first.payload)
}

fn previous(scan: &Scan<'_>) -> [u8; 32] {
    scan.batches.first().map_or([0; 32], |batch| batch.trailer.previous)
}

struct Recovery<'a> {
    store: &'a Store,
    log: &'a Path,
    disk: &'a Disk,
    boot_id: &'a str,
    mode: Mode,
    tip: Tip,
    /// The segment at work.
    at: Option<u64>,
    /// Number and last hash of each sealed segment, oldest first.
    sealed: Vec<(u64, [u8; 32])>,
    /// Workflows met in the segment at work, so that their heads are looked up once.
    states: HashMap<Short, State>,
    noted: HashMap<WorkflowKey, String>,
    /// The number of the record with which each workflow's last run begins, as far as it had to be looked up. What
    /// comes before is not needed any more, and some of it may be gone.
    begins: HashMap<WorkflowKey, u64>,
    /// Files whose head cannot be read, with their length and what to say of them.
    headless: Vec<(u64, u64, String)>,
    short: Vec<(u64, u64)>,
    report: OpenReport,
}

/// Opens the log in the journal's directory `dir` into `store`.
///
/// # Errors
/// Why it cannot be opened. Nothing is lost by trying again.
pub(super) fn run(
    store: &Store,
    dir: &Path,
    disk: &Disk,
    boot_id: &str,
    mode: Mode,
) -> Result<Recovered, OpenError> {
    let log = dir.join(segment::LOG);
    let recovery = Recovery {
        store,
        log: &log,
        disk,
        boot_id,
        mode,
        tip: Tip::default(),
        at: None,
        sealed: Vec::new(),
        states: HashMap::new(),
        noted: HashMap::new(),
        begins: HashMap::new(),
        headless: Vec::new(),
        short: Vec::new(),
        report: OpenReport::default(),
    };
    recovery.run(dir)
}

impl Recovery<'_> {
    fn run(mut self, dir: &Path) -> Result<Recovered, OpenError> {
        let numbers = list(self.log, self.mode).map_err(OpenError::io("listing the log's segments"))?;
        let mut tail = Vec::new();
        let mut resealed = false;
        let met = self.met(&numbers)?;
        if met.windows(2).any(|pair| matches!(pair, [(_, None), (_, Some(_))])) {
            self.runs_of_sealed(&met)?;
        }
        for (number, footer) in met {
            let Some(footer) = footer else {
                tail.extend(self.unsealed(number)?);
                continue;
            };
            // Sealed segments come before unsealed ones. Where they do not, a footer was lost.
            let lost = std::mem::take(&mut tail);
            for (at, segment) in lost.iter().enumerate() {
                let next = lost.get(at + 1).map_or(footer.ended.previous, Unsealed::previous);
                self.reseal(segment, next)?;
                resealed = true;
            }
            self.go_on_to(footer.from(), number)?;
            let Ended { batch, hash, epoch, boot_id, .. } = footer.ended.clone();
            self.tip = Tip { batch, hash, epoch: epoch.max(self.tip.epoch), boot_id };
            self.store.add_sealed(&footer);
            self.sealed.push((number, hash));
        }
        let scans = tail.iter().map(Unsealed::scan).collect::<Vec<_>>();
        self.report.clean = stopped(&scans) || numbers.is_empty();
        let indexed = self.open_index(dir, resealed);
        self.runs_of(&scans);
        let segments = self.replay(&tail, &scans)?;
        self.store.resized(0, size(self.log).map_err(OpenError::io("measuring the log"))?);
        // Only now every workflow is known that may have had a record there.
        for (number, len, what) in std::mem::take(&mut self.headless) {
            self.damaged_everywhere(number, 0..len, &what)?;
        }
        let numbers_sealed = self.sealed.iter().map(|(number, _)| *number);
        let unindexed = numbers_sealed.filter(|number| *number > indexed).collect();
        self.report.segments_sealed = self.sealed.len();
        Ok(Recovered {
            segments,
            next_number: numbers.last().map_or(1, |last| last + 1),
            unindexed,
            tip: self.tip,
            notes: self.noted.into_iter().collect(),
            short: self.short,
            report: self.report,
        })
    }

    /// The files of the log in order, without those whose frames a compacted one holds: a process that died
    /// between the two left them behind.
    fn met(&self, numbers: &[u64]) -> Result<Vec<Met>, OpenError> {
        let open = |number: &u64| {
            let footer = Sealed::open(&segment::path(self.log, *number), *number);
            Ok((*number, footer.map_err(OpenError::io(segment::shown(*number)))?))
        };
        let mut met = numbers.iter().map(open).collect::<Result<Vec<Met>, OpenError>>()?;
        let replaced = replaced(&met);
        met.retain(|(number, _)| !replaced.contains(number));
        for number in replaced.iter().filter(|_| self.mode == Mode::Write) {
            let removed = self.disk.remove(&segment::path(self.log, *number));
            removed.map_err(OpenError::io(format!("removing {}", segment::shown(*number))))?;
        }
        Ok(met)
    }

    /// Takes note of the runs that begin in unsealed segments.
    fn runs_of(&mut self, scans: &[Scan<'_>]) {
        let last = scans.iter().rposition(|scan| !scan.batches.is_empty());
        for (at, scan) in scans.iter().enumerate() {
            // A last batch that is not whole may be one that nobody was told is written.
            let cut = scan.batches.last().is_some_and(|batch| last == Some(at) && !batch.bad.is_empty());
            let batches = scan.batches.iter().take(scan.batches.len() - usize::from(cut));
            for frame in batches.flat_map(|batch| &batch.frames).filter(|frame| frame.kind == Kind::Record) {
                let Some(found) = frame::record(frame.payload) else { continue };
                if found.sequence > 1 && codec::decode(found.stored).is_ok_and(|record| record.begins_run()) {
                    self.run_begins(found.key, found.sequence);
                }
            }
        }
    }

    /// Takes note of the runs that sealed segments tell of.
    fn runs_of_sealed(&mut self, met: &[Met]) -> Result<(), OpenError> {
        for sealed in met.iter().filter_map(|(_, footer)| footer.as_ref()) {
            let sheets = sealed.sheets().map_err(OpenError::io(segment::shown(sealed.number)))?;
            for row in sheets.iter().filter_map(|(_, value)| Sheet::read(value)?.head) {
                self.run_begins(row.key, row.head.first);
            }
        }
        Ok(())
    }

    fn run_begins(&mut self, key: WorkflowKey, first: u64) {
        if first > 1 {
            let begins = self.begins.entry(key).or_insert(first);
            *begins = first.max(*begins);
        }
    }

    /// Whether a record of this number is of an earlier run.
    fn is_past(&self, key: &WorkflowKey, sequence: u64) -> bool {
        self.begins.get(key).is_some_and(|begins| sequence < *begins)
    }

    fn unsealed(&mut self, number: u64) -> Result<Option<Unsealed>, OpenError> {
        let file = segment::path(self.log, number);
        let bytes = disk::read(&file).map_err(OpenError::io(segment::shown(number)))?;
        match segment::Head::read(&bytes) {
            Ok(head) if head.number == number => Ok(Some(Unsealed { number, head, bytes })),
            Err(BadHead::Newer(format)) => {
                Err(OpenError::Newer { file, what: format!("log format {format}") })
            }
            Ok(_) | Err(BadHead::Broken) => {
                let what = format!("{} does not begin like a segment", segment::shown(number));
                self.headless.push((number, bytes.len() as u64, what));
                Ok(None)
            }
        }
    }

    /// Goes on to segment `number`, which holds what is needed of all from `from` on; whatever lies between it and
    /// the one before is missing.
    fn go_on_to(&mut self, from: u64, number: u64) -> Result<(), OpenError> {
        let before = self.at.replace(number);
        match before {
            Some(before) if before + 1 < from => {
                let missing = before + 1;
                let what = format!("{} is missing", segment::shown(missing));
                self.damaged_everywhere(missing, 0..0, &what)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Seals a segment that lost its footer and has sealed ones behind it; the next one goes on from the
    /// batch `next`.
    fn reseal(&mut self, lost: &Unsealed, next: [u8; 32]) -> Result<(), OpenError> {
        let shown = segment::shown(lost.number);
        if self.mode == Mode::Read {
            return Err(OpenError::NeedsRepair { file: segment::path(self.log, lost.number) });
        }
        warn!(segment = shown, "a footer is not whole; it is made again from the segment's records");
        let scan = lost.scan();
        self.go_on_to(compacted(&scan).map_or(lost.number, |compacted| compacted.from), lost.number)?;
        self.open_table(lost)?;
        self.batches(lost, &scan, scan.batches.len())?;
        if self.tip.hash != next {
            let what = format!("{shown} has lost its end, from {} on", scan.end());
            self.damaged_everywhere(lost.number, scan.end()..lost.bytes.len() as u64, &what)?;
        }
        self.seal(lost, scan.end(), &scan)
    }

    /// Opens what sled has; the last segment of which it has everything.
    fn open_index(&mut self, dir: &Path, resealed: bool) -> u64 {
        if self.mode == Mode::Read {
            return 0;
        }
        let dir = dir.join(INDEX);
        if self.sealed.is_empty() {
            self.store.set_index(Index::later(&dir));
            return 0;
        }
        let is_trusted = |watermark: &Watermark| {
            let is_of_this_log = self.sealed.contains(&(watermark.segment, watermark.hash));
            is_of_this_log && !resealed && (self.report.clean || watermark.boot_id == self.boot_id)
        };
        let (index, state) = Index::open(&dir, is_trusted);
        self.store.set_index(index);
        match state {
            Ok(watermark) => {
                self.report.index = IndexReport::Trusted;
                watermark.segment
            }
            Err(why) => {
                self.report.index = IndexReport::Rebuilt { why };
                0
            }
        }
    }

    /// Takes in the segments behind the sealed ones, and hands out those that can be written on.
    fn replay(&mut self, tail: &[Unsealed], scans: &[Scan<'_>]) -> Result<Vec<Segment>, OpenError> {
        let last =
            scans.iter().rposition(|scan| !scan.batches.is_empty() || scan.rest.is_some() || scan.has_footer);
        let mut segments = Vec::new();
        let mut has_table = false;
        for (at, (unsealed, scan)) in tail.iter().zip(scans).enumerate() {
            let is_last = last == Some(at);
            if last.is_some_and(|last| at <= last) {
                self.go_on_to(unsealed.number, unsealed.number)?;
                let (end, batches) = self.tail_end(unsealed, scan, is_last)?;
                self.open_table(unsealed)?;
                self.batches(unsealed, scan, batches)?;
                self.report.batches_scanned += batches;
                if self.mode == Mode::Write && (!is_last || scan.has_footer) {
                    self.seal(unsealed, end, scan)?;
                } else if self.mode == Mode::Write {
                    segments.push(self.writable(unsealed, end, scan)?);
                    has_table = true;
                }
            } else if self.mode == Mode::Write {
                if !has_table {
                    self.open_table(unsealed)?;
                    has_table = true;
                }
                segments.push(self.writable(unsealed, segment::HEAD_LEN, scan)?);
            }
            // What is cut off a segment that others go on from shows in the first batch of the next.
            if last.is_none_or(|last| at >= last) {
                self.check_length(unsealed, scan)?;
            }
        }
        Ok(segments)
    }

    fn open_table(&self, unsealed: &Unsealed) -> Result<(), OpenError> {
        let path = segment::path(self.log, unsealed.number);
        let file = File::open(path).map_err(OpenError::io(segment::shown(unsealed.number)))?;
        self.store.open_table(Table::new(unsealed.number, Arc::new(file), unsealed.head.seed()));
        Ok(())
    }

    fn writable(&self, unsealed: &Unsealed, end: u64, scan: &Scan<'_>) -> Result<Segment, OpenError> {
        let file = self.disk.open(&segment::path(self.log, unsealed.number));
        let file = file.map_err(OpenError::io(segment::shown(unsealed.number)))?;
        let head = unsealed.head.clone();
        let filled = unsealed.bytes.len() as u64;
        Ok(Segment { seed: head.seed(), head, file, filled, end, previous: previous(scan) })
    }

    /// Seals the segment whose table is open; its last batch ends at `end`.
    fn seal(&mut self, unsealed: &Unsealed, end: u64, scan: &Scan<'_>) -> Result<(), OpenError> {
        let segment = self.writable(unsealed, end, scan)?;
        let Tip { batch, hash, epoch, boot_id } = self.tip.clone();
        let (previous, compacted) = (segment.previous, compacted(scan));
        let ended = Ended { end, previous, batch, hash, epoch, boot_id, compacted };
        let Some(table) = self.store.freeze() else { return Ok(()) };
        let footer = footer::write(&segment.file, &segment.head, &ended, &table.rows)
            .and_then(|()| Sealed::open(segment.file.path(), unsealed.number));
        let footer = footer.map_err(OpenError::io(format!("sealing {}", segment::shown(unsealed.number))))?;
        if let Some(footer) = footer {
            self.store.add_sealed(&footer);
            self.store.drop_table(unsealed.number);
            self.sealed.push((unsealed.number, hash));
        }
        self.states.clear();
        Ok(())
    }
}

/// Whether the last thing in the log is a clean stop.
fn stopped(scans: &[Scan<'_>]) -> bool {
    let last = scans.iter().rev().find(|scan| !scan.batches.is_empty() || scan.rest.is_some());
    last.filter(|scan| scan.rest.is_none()).and_then(|scan| scan.batches.last()).is_some_and(|batch| {
        batch.bad.is_empty() && batch.frames.iter().any(|frame| frame.kind == Kind::Stopped)
    })
}

/// The numbers of files that are no part of the log any more.
pub(super) fn replaced(met: &[Met]) -> Vec<u64> {
    let spans = met.iter().filter_map(|(number, footer)| Some(footer.as_ref()?.from()..*number));
    let spans = spans.filter(|span| !span.is_empty()).collect::<Vec<_>>();
    let is_replaced = |number: &u64| spans.iter().any(|span| span.contains(number));
    met.iter().map(|(number, _)| *number).filter(is_replaced).collect()
}

/// Length of the segments' files.
fn size(log: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(log)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(segment::number).is_some() {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

/// The numbers of the segments, in order. Removes what was being prepared when the process died.
fn list(log: &Path, mode: Mode) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(log)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        if let Some(number) = segment::number(name) {
            numbers.push(number);
        } else if name.ends_with(".new") && mode == Mode::Write {
            fs::remove_file(entry.path())?;
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
