//! The log read from its first frame to its last, trusting no footer and no index: what `verify` and `stats`
//! stand on. Says what is there and what is wrong with it; changes no file.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::model::{BodyHash, WorkflowKey};

use super::super::codec;
use super::super::record::Record;
use super::disk;
use super::footer::{self, Sealed};
use super::frame::{self, Frame, Kind, Seed, Trailer};
use super::open::OpenError;
use super::recover;
use super::row::Place;
use super::scan::{self, Batch, Scan};
use super::segment;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Relative to the journal's directory.
    pub file: String,
    /// In bytes.
    pub offset: u64,
    pub what: String,
    /// Whose records or answers it touches, as far as that is known.
    pub workflows: Vec<WorkflowKey>,
}

/// A workflow as its records left it so far.
#[derive(Clone, Copy, Debug)]
struct Last {
    sequence: u64,
    chain: [u8; 32],
    /// Number of the record with which the run began.
    first: u64,
    bodies_expired: bool,
}

/// A body as it lies in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lies {
    pub(super) place: Place,
    /// What it says its length is before it was stored.
    pub(super) raw_len: u64,
}

/// Who names a body, the first of each run that does.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) key: WorkflowKey,
    /// Number of the record with which its run began.
    pub(super) first: u64,
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Everything that was met.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) segments: usize,
    pub(super) sealed: usize,
    /// Length of the segments' files.
    pub(super) bytes: u64,
    pub(super) batches: u64,
    pub(super) records: u64,
    /// What body frames take, parts of bodies included.
    pub(super) bodies_stored: u64,
    pub(super) bodies: HashMap<BodyHash, Lies>,
    pub(super) named: HashMap<BodyHash, Vec<Named>>,
    /// Of each segment, to read single frames with.
    pub(super) seeds: HashMap<u64, Seed>,
    pub(super) findings: Vec<Finding>,
    /// Workflows with a finding.
    pub(super) touched: HashSet<WorkflowKey>,
    /// What is wrong with how the records of a run follow each other. Nothing is, when another run follows: what
    /// is not needed any more may be gone.
    of_runs: HashMap<WorkflowKey, Vec<Finding>>,
    workflows: HashMap<WorkflowKey, Last>,
    /// Number and hash of the last batch.
    tip: Option<(u64, [u8; 32])>,
    /// Bytes behind the last batch of an unsealed segment: a torn end, unless a batch follows.
    rest: Option<(u64, Range<u64>)>,
    at: u64,
}

/// Reads all segments in `log`, oldest first.
///
/// # Errors
/// When a file cannot be read, or was written by a newer version.
pub(super) fn walk(log: &Path) -> Result<Walk, OpenError> {
    let mut walk = Walk::default();
    let open = |number| {
        let sealed = Sealed::open(&segment::path(log, number), number);
        Ok((number, sealed.map_err(OpenError::io(segment::shown(number)))?))
    };
    let met = numbers(log)?.into_iter().map(open).collect::<Result<Vec<_>, OpenError>>()?;
    let replaced = recover::replaced(&met);
    for (number, sealed) in met.into_iter().filter(|(number, _)| !replaced.contains(number)) {
        walk.segment(log, number, sealed)?;
    }
    let of_runs = std::mem::take(&mut walk.of_runs);
    for (key, findings) in of_runs {
        walk.touched.insert(key);
        walk.findings.extend(findings);
    }
    walk.findings.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    Ok(walk)
}

fn numbers(log: &Path) -> Result<Vec<u64>, OpenError> {
    let listed = fs::read_dir(log).and_then(|entries| {
        let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(segment::number)));
        names.collect::<Result<Vec<_>, _>>()
    });
    let listed = listed.map_err(OpenError::io("listing the log's segments"))?;
    let mut numbers = listed.into_iter().flatten().collect::<Vec<_>>();
    numbers.sort_unstable();
    Ok(numbers)
}

impl Walk {
    pub(super) fn workflows(&self) -> usize {
        self.workflows.len()
    }

    fn segment(&mut self, log: &Path, number: u64, sealed: Option<Sealed>) -> Result<(), OpenError> {
        let path = segment::path(log, number);
        let bytes = disk::read(&path).map_err(OpenError::io(segment::shown(number)))?;
        self.segments += 1;
        self.sealed += usize::from(sealed.is_some());
        self.bytes += bytes.len() as u64;
        let from = sealed.as_ref().map_or(number, Sealed::from);
        if self.at > 0 && from > self.at + 1 {
            self.find(self.at + 1, 0, "is missing".to_owned(), Vec::new());
        }
        self.at = number;
        let head = match segment::Head::read(&bytes) {
            Ok(head) if head.number == number => Some(head),
            Err(segment::BadHead::Newer(format)) => {
                return Err(OpenError::Newer { file: path, what: format!("log format {format}") });
            }
            Ok(_) | Err(segment::BadHead::Broken) => {
                self.find(number, 0, "does not begin like a segment".to_owned(), Vec::new());
                None
            }
        };
        let seed = head.map(|head| head.seed()).or_else(|| sealed.as_ref().map(Sealed::seed));
        // Without its salt no frame of it can be told from anything else.
        let Some(seed) = seed else { return Ok(()) };
        let end = sealed.as_ref().map_or(bytes.len() as u64, |sealed| sealed.ended.end);
        let written = usize::try_from(end).ok().and_then(|end| bytes.get(..end)).unwrap_or(&bytes);
        let scan = scan::scan(&seed, written);
        match &sealed {
            Some(sealed) => self.footer(sealed, &seed, &bytes),
            None if footer::is_broken(&bytes, scan.has_footer) => {
                self.find(number, scan.end(), "has a footer that is damaged".to_owned(), Vec::new());
            }
            None => {}
        }
        for batch in &scan.batches {
            self.batch(number, batch, log)?;
        }
        self.padding(number, &seed, &bytes, segment::HEAD_LEN..scan.end());
        self.ended(number, sealed.as_ref(), &scan);
        self.seeds.insert(number, seed);
        Ok(())
    }

    /// What follows the last batch, and whether the footer tells of the same last batch.
    fn ended(&mut self, number: u64, sealed: Option<&Sealed>, scan: &Scan<'_>) {
        match (sealed, &scan.rest) {
            (Some(_), Some(rest)) => {
                let what = format!("is unreadable from {} to {}", rest.start, rest.end);
                self.find(number, rest.start, what, Vec::new());
            }
            (None, Some(rest)) if !scan.has_footer => self.rest = Some((number, rest.clone())),
            (Some(sealed), None) if self.tip.is_some_and(|(_, hash)| hash != sealed.ended.hash) => {
                let what = "has lost batches before its footer".to_owned();
                self.find(number, scan.end(), what, Vec::new());
            }
            (Some(_) | None, _) => {}
        }
    }

    /// A footer's frames follow each other up to its end.
    fn footer(&mut self, sealed: &Sealed, seed: &Seed, bytes: &[u8]) {
        let end = (bytes.len() - footer::TAIL_LEN.min(bytes.len())) as u64;
        let mut at = sealed.ended.end;
        while at < end {
            let Some(frame) = scan::parse(seed, bytes, at) else {
                self.find(sealed.number, at, "has a footer that is damaged".to_owned(), Vec::new());
                return;
            };
            at = frame.end();
        }
        self.padding(sealed.number, seed, bytes, sealed.ended.end..end);
    }

    /// The few bytes between frames are zeros. Nothing reads them, but a disk that changed them changes more.
    fn padding(&mut self, number: u64, seed: &Seed, bytes: &[u8], range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let Some(frame) = scan::parse(seed, bytes, at) else {
                at += frame::ALIGN as u64;
                continue;
            };
            let from = frame.offset + (frame::HEAD_LEN + frame.payload.len()) as u64;
            at = frame.end();
            let gap = usize::try_from(from).ok().zip(usize::try_from(at).ok());
            let gap = gap.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default();
            if gap.iter().any(|byte| *byte != 0) {
                let what = "has something between two frames; no record is touched".to_owned();
                self.find(number, from, what, Vec::new());
            }
        }
    }

    fn batch(&mut self, number: u64, batch: &Batch<'_>, log: &Path) -> Result<(), OpenError> {
        let Trailer { previous, number: count, named, .. } = &batch.trailer;
        let named = named.iter().filter_map(|named| Some((named.key()?, named))).collect::<Vec<_>>();
        let keys = || named.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        if let Some((at, rest)) = self.rest.take() {
            let what = format!("is unreadable from {} to {}", rest.start, rest.end);
            self.find(at, rest.start, what, Vec::new());
        }
        // The log may begin with a segment whose predecessors were removed with all they held.
        let follows = self.tip.map_or(*count > 1 || *previous == [0; 32], |(_, hash)| hash == *previous);
        if !follows {
            self.find(number, batch.start, "has lost a batch before this offset".to_owned(), Vec::new());
        }
        for bad in &batch.bad {
            self.find(number, bad.start, format!("is unreadable from {} to {}", bad.start, bad.end), keys());
        }
        for frame in &batch.frames {
            self.frame(number, frame, log)?;
        }
        for (key, named) in &named {
            let last = self.workflows.get(key).map(|last| (last.sequence, last.chain));
            let is_told = self.touched.contains(key) || self.of_runs.contains_key(key);
            if last != Some((named.sequence, named.chain)) && !is_told {
                let what = format!("has lost records of workflow {key} before this offset");
                self.find_of_run(number, batch.end, what, key);
            }
        }
        self.batches += 1;
        self.tip = Some((*count, batch.hash));
        Ok(())
    }

    fn frame(&mut self, number: u64, frame: &Frame<'_>, log: &Path) -> Result<(), OpenError> {
        match frame.kind {
            Kind::Record => self.record(number, frame, log),
            Kind::Body => {
                self.body(number, frame);
                Ok(())
            }
            Kind::Damaged => {
                let noted = frame::uncbor::<frame::Damaged>(frame.payload);
                let noted = noted.and_then(|noted| Some((noted.key()?, noted.what)));
                if let Some((key, what)) = noted.filter(|(key, _)| !self.touched.contains(key)) {
                    let what = format!("says of workflow {key} that it was found damaged: {what}");
                    self.find(number, frame.offset, what, vec![key]);
                }
                Ok(())
            }
            Kind::Compacted
            | Kind::Gap
            | Kind::Opened
            | Kind::Seal
            | Kind::Stopped
            | Kind::Table
            | Kind::Trailer => Ok(()),
        }
    }

    fn body(&mut self, number: u64, frame: &Frame<'_>) {
        let len = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        let place = Place { segment: number, offset: frame.offset, len };
        let Some((hash, stored)) = frame::body(frame.payload) else {
            return self.find(number, frame.offset, "holds a body without its hash".to_owned(), Vec::new());
        };
        self.bodies_stored += stored.len() as u64;
        let raw_len = stored.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
        self.bodies.insert(hash, Lies { place, raw_len });
    }

    fn record(&mut self, number: u64, frame: &Frame<'_>, log: &Path) -> Result<(), OpenError> {
        self.records += 1;
        let Some(found) = frame::record(frame.payload) else {
            self.find(number, frame.offset, "holds a record that is of no workflow".to_owned(), Vec::new());
            return Ok(());
        };
        let key = found.key;
        let decoded = codec::decode(found.stored);
        let last = self.workflows.get(&key).copied();
        let begins = decoded.as_ref().is_ok_and(Record::begins_run);
        let mut last = last.filter(|last| !begins || last.sequence >= found.sequence).unwrap_or_else(|| {
            let (first, sequence) =
                if begins { (found.sequence, found.sequence.saturating_sub(1)) } else { (1, 0) };
            Last { sequence, chain: codec::genesis(&key), first, bodies_expired: false }
        });
        if begins {
            self.of_runs.remove(&key);
        }
        let wrong = if found.sequence != last.sequence + 1 {
            Some(format!("has record {} of workflow {key} behind record {}", found.sequence, last.sequence))
        } else if found.chain != codec::chain(&last.chain, found.stored) {
            Some(format!("has record {} of workflow {key}, which is not what was chained", found.sequence))
        } else {
            None
        };
        let is_of_run = wrong.is_some();
        let wrong = match decoded {
            Ok(record) => {
                last.bodies_expired |=
                    matches!(record, Record::BodiesExpired { .. } | Record::Removed { .. });
                for hash in record.bodies().into_iter().flatten() {
                    self.name(hash, &key, last.first, (number, frame.offset));
                }
                wrong
            }
            Err(codec::Error::Newer { what }) => {
                return Err(OpenError::Newer { file: segment::path(log, number), what });
            }
            Err(error @ codec::Error::Malformed(_)) => wrong.or_else(|| Some(format!("holds this: {error}"))),
        };
        let last = Last { sequence: found.sequence, chain: found.chain, ..last };
        self.workflows.insert(key.clone(), last);
        match wrong {
            Some(what) if is_of_run => self.find_of_run(number, frame.offset, what, &key),
            Some(what) => self.find(number, frame.offset, what, vec![key]),
            None => {}
        }
        Ok(())
    }

    fn name(&mut self, hash: &BodyHash, key: &WorkflowKey, first: u64, (segment, offset): (u64, u64)) {
        let named = self.named.entry(*hash).or_default();
        if !named.iter().any(|named| named.key == *key && named.first == first) {
            named.push(Named { key: key.clone(), first, segment, offset });
        }
    }

    /// Who needs a body of those that name it; nobody, when it may be gone.
    pub(super) fn needs<'a>(&self, named: &'a [Named]) -> Option<&'a Named> {
        named.iter().find(|named| {
            let last = self.workflows.get(&named.key);
            last.is_some_and(|last| last.first == named.first && !last.bodies_expired)
        })
    }

    fn find_of_run(&mut self, number: u64, offset: u64, what: String, key: &WorkflowKey) {
        let finding = Finding { file: segment::shown(number), offset, what, workflows: vec![key.clone()] };
        self.of_runs.entry(key.clone()).or_default().push(finding);
    }

    pub(super) fn find(&mut self, number: u64, offset: u64, what: String, workflows: Vec<WorkflowKey>) {
        self.touched.extend(workflows.iter().cloned());
        self.findings.push(Finding { file: segment::shown(number), offset, what, workflows });
    }
}
