//! Reads an exported file to its end before anything of it is used: every line by itself, how the lines
//! follow each other, the chain of every workflow, and whether its records could have been written so.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::model::{BodyHash, Clock, WorkflowKey};

use super::super::memory::Memory;
use super::super::{Batch, Journal, Record, Urgency, codec};
use super::line::{self, Line};
use super::{Error, Sum, Totals};

/// Longest line, in bytes: the longest body that is read back, as base64, with room around it.
const LINE_LEN_MAX: u64 = (1 << 30) / 3 * 4 + (1 << 20);

/// What a file holds, all of it checked.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub workflows: Vec<Planned>,
    pub totals: Totals,
    bodies: HashMap<BodyHash, Spot>,
}

/// A workflow of the file.
#[derive(Clone, Debug)]
pub struct Planned {
    pub key: WorkflowKey,
    /// Number of records.
    pub records: u64,
    /// The chain's head after the last one.
    pub chain: [u8; 32],
    at: Spot,
}

/// Where a line begins.
#[derive(Clone, Copy, Debug)]
struct Spot {
    line: u64,
    offset: u64,
}

/// Lines of a file, one after the other.
struct Lines<R> {
    input: R,
    /// Number of the line read last.
    line: u64,
    /// Where the next one begins.
    offset: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line; where it begins, or `None` at the end.
    fn next(&mut self) -> Result<Option<Spot>, Error> {
        self.text.clear();
        let read = (&mut self.input).take(LINE_LEN_MAX).read_until(b'\n', &mut self.text);
        let len = read.map_err(Error::io("read"))? as u64;
        if len == 0 {
            return Ok(None);
        }
        self.line += 1;
        let spot = Spot { line: self.line, offset: self.offset };
        self.offset += len;
        Ok(Some(spot))
    }
}

/// A workflow whose records are being read.
struct Open {
    planned: Planned,
    sequence: u64,
    chain: [u8; 32],
    /// Takes the records in as a journal would.
    rehearsal: Memory,
    /// The first body that is named and is in no line before, with the line that names it. Only a workflow whose
    /// bodies have expired may lack some.
    missing: Option<(u64, BodyHash)>,
}

/// Reads a file from its first line to its last.
///
/// # Errors
/// [`Error::Bad`] names the line at which it is not what was exported. [`Error::Newer`], [`Error::Io`].
pub fn plan(input: impl BufRead, clock: &Arc<dyn Clock>) -> Result<Plan, Error> {
    let mut lines = Lines { input, line: 0, offset: 0, text: Vec::new() };
    let mut reading = Reading { clock, plan: Plan::default(), keys: HashSet::new(), open: None };
    let mut sum = Sum::new();
    while let Some(spot) = lines.next()? {
        match line::read(spot.line, &lines.text)? {
            Line::End { totals, sha256 } => {
                reading.ended(spot.line)?;
                if lines.next()?.is_some() {
                    return Err(Error::bad(lines.line, "something follows the file's last line"));
                }
                if totals != reading.plan.totals || sha256 != sum.value() {
                    let what = "the lines before this one are not those that were exported";
                    return Err(Error::bad(spot.line, what));
                }
                return Ok(reading.plan);
            }
            line @ (Line::Body { .. } | Line::Header | Line::Record { .. } | Line::Workflow { .. }) => {
                reading.take(spot, line)?;
            }
        }
        sum.add(&lines.text);
    }
    Err(Error::bad(lines.line.max(1), "the file ends here and lacks its last line: it is cut"))
}

/// What was read so far.
struct Reading<'a> {
    clock: &'a Arc<dyn Clock>,
    plan: Plan,
    keys: HashSet<WorkflowKey>,
    open: Option<Open>,
}

impl Reading<'_> {
    fn take(&mut self, at: Spot, line: Line) -> Result<(), Error> {
        if (at.line == 1) != (line == Line::Header) {
            return Err(Error::bad(at.line, "the first line, and no other, says what the file is"));
        }
        match line {
            Line::Header | Line::End { .. } => Ok(()),
            Line::Workflow { key, records, chain } => {
                self.ended(at.line)?;
                if !self.keys.insert(key.clone()) {
                    return Err(Error::bad(at.line, format!("workflow {key} is there a second time")));
                }
                let (sequence, begun) = (0, codec::genesis(&key));
                let rehearsal = Memory::new(Arc::clone(self.clock));
                let planned = Planned { key, records, chain, at };
                self.open = Some(Open { planned, sequence, chain: begun, rehearsal, missing: None });
                Ok(())
            }
            Line::Body { hash, .. } => {
                self.plan.bodies.insert(hash, at);
                self.plan.totals.bodies += 1;
                Ok(())
            }
            Line::Record { sequence, chain, stored, record } => {
                self.plan.totals.records += 1;
                self.record(at.line, sequence, (chain, &stored), *record)
            }
        }
    }

    fn record(
        &mut self,
        line: u64,
        sequence: u64,
        (chain, stored): ([u8; 32], &[u8]),
        record: Record,
    ) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Err(Error::bad(line, "a record of no workflow"));
        };
        if sequence != open.sequence + 1 || sequence > open.planned.records {
            let (last, all) = (open.sequence, open.planned.records);
            return Err(Error::bad(line, format!("record {sequence} follows record {last} of {all}")));
        }
        if codec::chain(&open.chain, stored) != chain {
            return Err(Error::bad(line, format!("record {sequence} is not what was chained")));
        }
        let missing =
            record.bodies().into_iter().flatten().find(|hash| !self.plan.bodies.contains_key(*hash));
        open.missing = open.missing.or_else(|| missing.map(|hash| (line, *hash)));
        let taken = open.rehearsal.commit(
            &open.planned.key,
            open.rehearsal.epoch(),
            Batch::one(record),
            Urgency::Now,
        );
        drop(taken.map_err(|error| Error::bad(line, error.to_string()))?);
        (open.sequence, open.chain) = (sequence, chain);
        Ok(())
    }

    /// The workflow that is being read, if any, must be whole.
    fn ended(&mut self, line: u64) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Planned { key, records, chain, .. } = &open.planned;
        if open.sequence != *records || *records == 0 {
            let what = format!("workflow {key} has {} of {records} records before this line", open.sequence);
            return Err(Error::bad(line, what));
        }
        if open.chain != *chain {
            let what =
                format!("the records of workflow {key} do not end in the chain that it is said to have");
            return Err(Error::bad(line, what));
        }
        if let Some((line, hash)) = open.missing {
            let head = open.rehearsal.attach(key)?;
            if head.is_none_or(|head| head.bodies_expired.is_none()) {
                return Err(Error::bad(line, format!("body {hash} is named and is in no line before")));
            }
        }
        self.plan.workflows.push(open.planned);
        self.plan.totals.workflows += 1;
        Ok(())
    }
}

impl Plan {
    /// The records of a workflow, read from the file once more.
    ///
    /// # Errors
    /// As [`plan`]: the file may have been changed meanwhile.
    pub(super) fn records<R: BufRead + Seek>(
        &self,
        file: &mut R,
        planned: &Planned,
    ) -> Result<Vec<Record>, Error> {
        let mut lines = from(file, planned.at)?;
        let changed = |line| Error::bad(line, "the file was changed while it was read");
        let mut records = Vec::new();
        let mut last = codec::genesis(&planned.key);
        while (records.len() as u64) < planned.records {
            let spot = lines.next()?.ok_or_else(|| changed(lines.line))?;
            match line::read(spot.line, &lines.text)? {
                Line::Record { stored, record, .. } => {
                    last = codec::chain(&last, &stored);
                    records.push(*record);
                }
                Line::Body { .. } => {}
                Line::Workflow { key, .. } if spot.line == planned.at.line && key == planned.key => {}
                Line::End { .. } | Line::Header | Line::Workflow { .. } => return Err(changed(spot.line)),
            }
        }
        if last == planned.chain { Ok(records) } else { Err(changed(planned.at.line)) }
    }

    /// Whether the file has it.
    pub(super) fn has_body(&self, hash: &BodyHash) -> bool {
        self.bodies.contains_key(hash)
    }

    /// A body, read from the file once more; its hash is verified.
    ///
    /// # Errors
    /// As [`Plan::records`].
    pub(super) fn body<R: BufRead + Seek>(&self, file: &mut R, wanted: &BodyHash) -> Result<Vec<u8>, Error> {
        let missing = || Error::bad(1, format!("body {wanted} is not in the file"));
        let spot = *self.bodies.get(wanted).ok_or_else(missing)?;
        let mut lines = from(file, spot)?;
        lines.next()?;
        match line::read(spot.line, &lines.text)? {
            Line::Body { hash, bytes } if hash == *wanted => Ok(bytes),
            Line::Body { .. }
            | Line::End { .. }
            | Line::Header
            | Line::Record { .. }
            | Line::Workflow { .. } => Err(Error::bad(spot.line, "the file was changed while it was read")),
        }
    }
}

/// The lines of `file` from `at` on.
fn from<R: BufRead + Seek>(file: &mut R, at: Spot) -> Result<Lines<&mut R>, Error> {
    file.seek(SeekFrom::Start(at.offset)).map_err(Error::io("read"))?;
    Ok(Lines { input: file, line: at.line - 1, offset: at.offset, text: Vec::new() })
}
