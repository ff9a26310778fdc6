//! Whether everything in a journal is as it was written: the log frame by frame, every body that a record
//! names against its hash, and then every workflow once more the way a sidecar would read it. Changes no file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use crate::model::BodyHash;

use super::super::body::{self, Found};
use super::super::{Error, Journal};
use super::open::{OpenError, Options, Torn};
use super::walk::{self, Finding, Walk};
use super::{Embedded, disk, frame, segment, start};

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub segments: usize,
    pub batches: u64,
    pub records: u64,
    pub workflows: usize,
    /// Bodies that records name and that are there.
    pub bodies: usize,
    /// Bodies that records name and that are gone, as they may be.
    pub bodies_expired: usize,
    /// In the order of the log. Empty: the journal is whole.
    pub findings: Vec<Finding>,
    /// An unfinished end. Nobody was told that it is written, so it is no damage.
    pub torn: Vec<Torn>,
}

/// Segment files kept open while bodies are read.
const FILES_MAX: usize = 64;

/// Reads a journal that nobody owns from its first byte to its last.
///
/// # Errors
/// [`OpenError`] when it cannot be read at all. Damage is no error here: it is what was asked for.
pub fn verify(options: &Options) -> Result<Verified, OpenError> {
    start::check_free(&options.path)?;
    let log = options.path.join(segment::LOG);
    let mut walk = walk::walk(&log)?;
    let bodies = Bodies { log: &log, files: RefCell::default() };
    let bodies_expired = bodies.verify(&mut walk);
    let torn = read_as_a_sidecar(options, &mut walk)?;
    // What was never acknowledged is no loss, wherever in its batch it is bad.
    walk.findings.retain(|finding| {
        !torn.iter().any(|torn| {
            torn.file == finding.file && (torn.offset..torn.offset + torn.len).contains(&finding.offset)
        })
    });
    // Somebody who opened it in between has changed what was being read.
    start::check_free(&options.path)?;
    Ok(Verified {
        segments: walk.segments,
        batches: walk.batches,
        records: walk.records,
        workflows: walk.workflows(),
        bodies: walk.named.len() - bodies_expired,
        bodies_expired,
        findings: walk.findings,
        torn,
    })
}

/// Opens the journal and scans each workflow: the footers must lead to what the log holds.
fn read_as_a_sidecar(options: &Options, walk: &mut Walk) -> Result<Vec<Torn>, OpenError> {
    let (journal, report) = match Embedded::open_read_only(options.clone()) {
        Ok(opened) => opened,
        // A footer that is lost or damaged: the walk has said where.
        Err(OpenError::Journal(_) | OpenError::NeedsRepair { .. }) if !walk.findings.is_empty() => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    for damage in report.damage {
        let told = walk.findings.iter().any(|finding| finding.file == damage.file);
        if !told || damage.workflows.iter().any(|key| !walk.touched.contains(key)) {
            walk.touched.extend(damage.workflows.iter().cloned());
            let (file, offset, what) = (damage.file, damage.offset, damage.what);
            walk.findings.push(Finding { file, offset, what, workflows: damage.workflows });
        }
    }
    let rows = match journal.workflows() {
        Ok(rows) => rows,
        Err(_) if !walk.findings.is_empty() => return Ok(report.torn),
        Err(error) => return Err(OpenError::Journal(error)),
    };
    for row in rows {
        if walk.touched.contains(&row.key) {
            continue;
        }
        let wrong = match row.head.damage {
            Some(damage) => Some(damage),
            None => journal.scan(&row.key).err().map(|error| error.to_string()),
        };
        if let Some(what) = wrong {
            walk.touched.insert(row.key.clone());
            let file = segment::LOG.to_owned();
            walk.findings.push(Finding { file, offset: 0, what, workflows: vec![row.key] });
        }
    }
    Ok(report.torn)
}

/// The bodies of a log, read where the walk met them.
struct Bodies<'a> {
    log: &'a Path,
    files: RefCell<HashMap<u64, File>>,
}

impl Bodies<'_> {
    /// How many bodies are gone that nobody needs.
    fn verify(&self, walk: &mut Walk) -> usize {
        let mut expired = 0;
        let needed =
            walk.named.iter().map(|(hash, named)| (*hash, walk.needs(named).cloned(), named.clone()));
        let mut named = Vec::new();
        for (hash, needed, all) in needed {
            match needed.or_else(|| all.first().filter(|_| walk.bodies.contains_key(&hash)).cloned()) {
                Some(one) => named.push((hash, one)),
                None => expired += 1,
            }
        }
        // Neighbours share a file, and findings come in the order of the log.
        named.sort_by_key(|(hash, named)| (named.segment, named.offset, *hash));
        for (hash, named) in named {
            let is_needed = walk.named.get(&hash).is_some_and(|all| walk.needs(all).is_some());
            let fetch = |part: &BodyHash, _: u32| self.fetch(walk, part);
            let read = self.fetch(walk, &hash).and_then(|found| body::unpack(&hash, &found, &fetch));
            if read.is_err() && !is_needed {
                // Its parts are gone, or it is broken: nobody will ask for it.
                expired += 1;
            } else if let Err(error) = read {
                let what = format!("has a record of workflow {} whose {error}", named.key);
                let (number, offset) = match walk.bodies.get(&hash) {
                    Some(lies) => (lies.place.segment, lies.place.offset),
                    None => (named.segment, named.offset),
                };
                walk.find(number, offset, what, vec![named.key]);
            }
        }
        expired
    }

    fn fetch(&self, walk: &Walk, hash: &BodyHash) -> Result<Found, Error> {
        let missing = Error::Body { hash: *hash, what: "not in the journal" };
        let place = walk.bodies.get(hash).ok_or_else(|| missing.clone())?.place;
        let seed = walk.seeds.get(&place.segment).ok_or(missing)?;
        let payload =
            self.payload(place.segment, |file| segment::payload(file, seed, place, frame::Kind::Body));
        let broken = || Error::Body { hash: *hash, what: "damaged: its frame is not whole" };
        let payload = payload.ok().flatten().ok_or_else(broken)?;
        let (found, stored) = frame::body(&payload).ok_or_else(broken)?;
        let segment = u32::try_from(place.segment).unwrap_or(0);
        if found == *hash { Ok(Found { stored: stored.to_vec(), segment }) } else { Err(broken()) }
    }

    fn payload<T>(&self, number: u64, read: impl FnOnce(&File) -> std::io::Result<T>) -> std::io::Result<T> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.get(&number) {
            return read(file);
        }
        if files.len() >= FILES_MAX {
            files.clear();
        }
        let file = disk::open_to_read(&segment::path(self.log, number))?;
        read(files.entry(number).or_insert(file))
    }
}
