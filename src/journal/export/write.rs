//! Writes workflows as lines. A workflow is read as a whole before its first line is written, so that one
//! that is damaged leaves no half of itself behind.

use std::collections::HashSet;
use std::io::Write;

use crate::model::{BodyHash, WorkflowKey};

use super::super::{Journal, codec};
use super::{Error, Sum, Totals, line};

/// A file that is being exported.
pub struct Writer<W> {
    out: W,
    sum: Sum,
    totals: Totals,
    /// Bodies that are in the file.
    written: HashSet<BodyHash>,
}

impl<W> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(out: W) -> Result<Self, Error> {
        let mut writer = Self { out, sum: Sum::new(), totals: Totals::default(), written: HashSet::new() };
        writer.line(&line::header())?;
        Ok(writer)
    }

    /// Writes a workflow; `false` when the journal has none of this name.
    ///
    /// # Errors
    /// [`Error::Journal`] when it is damaged or cannot be read; nothing of it is written then.
    /// [`Error::Io`].
    pub fn workflow(&mut self, journal: &dyn Journal, key: &WorkflowKey) -> Result<bool, Error> {
        let Some(head) = journal.attach(key)? else { return Ok(false) };
        if let Some(what) = head.damage {
            return Err(super::super::Error::Damaged { workflow: key.clone(), what }.into());
        }
        let records = journal.scan(key)?;
        let named = || records.iter().flat_map(|record| record.bodies().into_iter().flatten());
        let mut gone = HashSet::new();
        for hash in named().filter(|hash| !self.written.contains(hash)).collect::<HashSet<_>>() {
            match journal.body(hash) {
                Err(super::super::Error::Body { .. }) if head.bodies_expired.is_some() => {
                    _ = gone.insert(*hash)
                }
                read => _ = read?,
            }
        }
        let mut chain = codec::genesis(key);
        let stored = records.iter().map(|record| {
            let stored = codec::encode(record);
            chain = codec::chain(&chain, &stored);
            (chain, stored)
        });
        let stored = stored.collect::<Vec<_>>();
        if chain != head.chain {
            // Written with members that this version does not know; what is encoded anew is something else.
            let what = "its records hold more than this version knows".to_owned();
            return Err(super::super::Error::Damaged { workflow: key.clone(), what }.into());
        }
        self.line(&line::workflow(key, records.len() as u64, &chain))?;
        for (sequence, (record, (chain, stored))) in (1..).zip(records.iter().zip(&stored)) {
            for hash in record.bodies().into_iter().flatten() {
                if !gone.contains(hash) && self.written.insert(*hash) {
                    self.line(&line::body(hash, &journal.body(hash)?))?;
                    self.totals.bodies += 1;
                }
            }
            self.line(&line::record(sequence, chain, stored, record))?;
        }
        self.totals.records += records.len() as u64;
        self.totals.workflows += 1;
        Ok(true)
    }

    /// Ends the file: without its last line it counts as cut.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(W, Totals), Error> {
        let end = line::end(self.totals, &self.sum.value());
        self.line(&end)?;
        self.out.flush().map_err(Error::io("written"))?;
        Ok((self.out, self.totals))
    }

    fn line(&mut self, text: &str) -> Result<(), Error> {
        for part in [text.as_bytes(), b"\n"] {
            self.sum.add(part);
            self.out.write_all(part).map_err(Error::io("written"))?;
        }
        Ok(())
    }
}
