//! Which bodies are needed: those that a needed record names, and their parts. Reads the log from its newest
//! frame to its oldest, so that whatever refers to a body is met before it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::BodyHash;

use super::super::{Error, body, codec};
use super::compact::{Kept, Measured};
use super::disk;
use super::footer::Sealed;
use super::frame::{self, Frame, Kind};
use super::scan::{self, Scan};
use super::segment;

/// The beginnings of the hashes of the bodies that are needed: two that begin alike keep one too many.
#[derive(Debug, Default)]
pub(super) struct Needed(HashSet<u64>);

impl Needed {
    fn mark(hash: &BodyHash) -> u64 {
        hash.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    pub(super) fn has(&self, hash: &BodyHash) -> bool {
        self.0.contains(&Self::mark(hash))
    }

    fn add(&mut self, hash: &BodyHash) {
        self.0.insert(Self::mark(hash));
    }

    fn meet(&mut self, frame: &Frame<'_>, kept: &Kept) -> Result<(), String> {
        if frame.kind == Kind::Body {
            let (hash, stored) = frame::body(frame.payload).ok_or("a body without its hash")?;
            if self.has(&hash) {
                let parts = body::parts(&hash, stored).map_err(|error| error.to_string())?;
                parts.iter().for_each(|part| self.add(part));
            }
        }
        if frame.kind == Kind::Record {
            let record = frame::record(frame.payload).ok_or("a record of no workflow")?;
            if kept.record(&record) && kept.bodies(&record) {
                let decoded = codec::decode(record.stored).map_err(|error| error.to_string())?;
                decoded.bodies().into_iter().flatten().for_each(|hash| self.add(hash));
            }
        }
        Ok(())
    }
}

/// The bodies that are needed, and how much of each candidate is; `None` when it was told to stop.
///
/// # Errors
/// [`Error::Compaction`], also when something is damaged: nobody knows then what it referred to.
pub(super) fn run(
    log: &Path,
    candidates: &[u64],
    kept: &Kept,
    stopping: &AtomicBool,
) -> Result<Option<(Needed, Vec<Measured>)>, Error> {
    let failed = |number: u64| {
        move |source| Error::compaction(format!("looking through {}", segment::shown(number)), source)
    };
    let first = candidates.first().copied().unwrap_or(0);
    let mut numbers = numbers(log).map_err(failed(first))?;
    numbers.retain(|number| *number >= first);
    let (mut needed, mut measured) = (Needed::default(), Vec::new());
    for number in numbers.into_iter().rev() {
        if stopping.load(Ordering::Acquire) {
            return Ok(None);
        }
        let sealed = Sealed::open(&segment::path(log, number), number).map_err(failed(number))?;
        // What is no candidate has records that refer to candidates, and is not rewritten itself.
        let is_candidate = candidates.binary_search(&number).is_ok();
        let (bytes, seed) = match &sealed {
            Some(sealed) => (sealed.written().map_err(failed(number))?, sealed.seed()),
            None => match unsealed(log, number).map_err(failed(number))? {
                Some(unsealed) => unsealed,
                None => continue,
            },
        };
        let scan = scan::scan(&seed, &bytes);
        if scan.batches.iter().any(|batch| !batch.bad.is_empty()) || (sealed.is_some() && scan.rest.is_some())
        {
            let why = "it is damaged; nothing is compacted until that is seen to (outrigger journal verify)";
            return Err(failed(number)(io::Error::other(why)));
        }
        meet(&scan, kept, &mut needed).map_err(|why| failed(number)(io::Error::other(why)))?;
        if let Some(sealed) = sealed.filter(|_| is_candidate) {
            let footer = sealed.len() - sealed.ended.end;
            let batches = scan.batches.iter().map(|batch| kept.batch_len(batch, &needed)).sum::<u64>();
            let all = sealed.len();
            // A footer shrinks with what it leads to.
            let share = u128::from(footer) * u128::from(batches) / u128::from(sealed.ended.end.max(1));
            let share = u64::try_from(share).unwrap_or(footer);
            measured.push(Measured { number, all, kept: batches + share + segment::HEAD_LEN });
        }
    }
    measured.reverse();
    Ok(Some((needed, measured)))
}

fn meet(scan: &Scan<'_>, kept: &Kept, needed: &mut Needed) -> Result<(), String> {
    for frame in scan.batches.iter().rev().flat_map(|batch| batch.frames.iter().rev()) {
        needed.meet(frame, kept)?;
    }
    Ok(())
}

/// A segment that is being written, or waits to be.
fn unsealed(log: &Path, number: u64) -> io::Result<Option<(Vec<u8>, frame::Seed)>> {
    let bytes = disk::read(&segment::path(log, number))?;
    match segment::Head::read(&bytes) {
        Ok(head) if head.number == number => Ok(Some((bytes, head.seed()))),
        Ok(_) | Err(_) => Err(io::Error::other("it does not begin like a segment")),
    }
}

fn numbers(log: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(log)? {
        numbers.extend(entry?.file_name().to_str().and_then(segment::number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
