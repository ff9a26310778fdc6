//! Where rows and frames are found: in the tables of segments that are not sealed, in the index, and, when
//! both have none, in the footers. Reads only; what is in a table was put there by the keeper.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::model::{BodyHash, Fingerprint, StepIndex};

use super::super::{Error, body};
use super::footer::Sealed;
use super::frame::{self, Kind, Seed};
use super::index::Index;
use super::parcel::Spot;
use super::row::{self, HeadRow, Place, Rows, Short};
use super::segment;

/// Footers kept open, each with its file.
const SEALED_OPEN_MAX: usize = 48;

/// Hashes of bodies known to be in the log, per generation: saves a look-up for each message that an agent
/// sends again with every turn.
const KNOWN_MAX: usize = 16 << 10;

/// The rows of a segment that is not sealed.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) number: u64,
    file: Arc<File>,
    seed: Seed,
    pub(super) rows: Rows,
}

impl Table {
    pub(super) fn new(number: u64, file: Arc<File>, seed: Seed) -> Self {
        Self { number, file, seed, rows: Rows::new() }
    }
}

#[derive(Debug, Default)]
struct Tables {
    open: Option<Table>,
    /// Oldest first; their segments are being sealed.
    frozen: Vec<Arc<Table>>,
}

impl Tables {
    fn newest_first(&self) -> impl Iterator<Item = &Table> {
        self.open.iter().chain(self.frozen.iter().rev().map(Arc::as_ref))
    }
}

/// The sealed segments, and which workflows have records in which of them.
#[derive(Debug, Default)]
struct Catalog {
    /// Oldest first.
    sealed: Vec<u64>,
    /// The beginning of a workflow's name and a segment, in order: 16 bytes for each pair, and a million
    /// workflows are no reason to keep more. Names that begin alike cost a look-up in vain.
    pairs: Vec<(u32, u64)>,
    /// The youngest pairs, in no order: put in order together, a few hundred at a time.
    recent: Vec<(u32, u64)>,
    /// The last one with the hash of its last batch.
    newest: Option<(u64, [u8; 32])>,
}

impl Catalog {
    const RECENT_MAX: usize = 512;

    fn mark(workflow: Short) -> u32 {
        workflow.0.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn add(&mut self, sealed: &Sealed) {
        self.sealed.push(sealed.number);
        self.newest = Some((sealed.number, sealed.ended.hash));
        self.recent.extend(sealed.workflows().map(|workflow| (Self::mark(workflow), sealed.number)));
        if self.recent.len() >= Self::RECENT_MAX {
            self.pairs.append(&mut self.recent);
            // A long run that is in order and a short one that is not: what this sort is good at.
            self.pairs.sort();
        }
    }

    fn with(&self, workflow: Short) -> Vec<u64> {
        let mark = Self::mark(workflow);
        let from = self.pairs.partition_point(|(found, _)| *found < mark);
        let pairs = self.pairs.get(from..).unwrap_or_default();
        let old = pairs.iter().take_while(|(found, _)| *found == mark);
        // Segments come in order, so what is recent is newer.
        old.chain(self.recent.iter().filter(|(found, _)| *found == mark)).map(|(_, number)| *number).collect()
    }
}

/// Marks of the fingerprints a workflow has in sealed segments: what lets a miss of the index count.
#[derive(Debug, Default)]
pub(super) struct Seen {
    through: u64,
    marks: HashMap<u64, u32>,
}

#[derive(Debug, Default)]
struct Known {
    young: HashSet<BodyHash>,
    old: HashSet<BodyHash>,
}

/// The read side of the engine.
#[derive(Debug)]
pub(super) struct Store {
    log: PathBuf,
    tables: RwLock<Tables>,
    catalog: RwLock<Catalog>,
    opened: Mutex<BTreeMap<u64, (u64, Arc<Sealed>)>>,
    index: RwLock<Arc<Index>>,
    /// Bodies of commits that are not in a table yet.
    fresh: Mutex<HashMap<BodyHash, Spot>>,
    known: Mutex<Known>,
}

fn read_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Read { doing, source: Arc::new(source) }
}

fn broken_row(what: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, "the row cannot be decoded");
    read_error(format!("reading {what}"))(source)
}

impl Store {
    pub(super) fn new(log: &Path) -> Self {
        Self {
            log: log.to_owned(),
            tables: RwLock::default(),
            catalog: RwLock::default(),
            opened: Mutex::default(),
            index: RwLock::new(Arc::new(Index::none())),
            fresh: Mutex::default(),
            known: Mutex::default(),
        }
    }

    pub(super) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read())
    }

    pub(super) fn set_index(&self, index: Index) {
        *self.index.write() = Arc::new(index);
    }

    /// Makes a sealed segment known.
    pub(super) fn add_sealed(&self, sealed: &Sealed) {
        self.catalog.write().add(sealed);
    }

    /// The newest sealed segment with the hash of its last batch.
    pub(super) fn newest_sealed(&self) -> Option<(u64, [u8; 32])> {
        self.catalog.read().newest
    }

    /// Makes `table` the one that [`Store::put`] writes to; the one before is frozen.
    pub(super) fn open_table(&self, table: Table) -> Option<Arc<Table>> {
        let mut tables = self.tables.write();
        let frozen = tables.open.replace(table).map(Arc::new);
        tables.frozen.extend(frozen.clone());
        frozen
    }

    /// Freezes the open table without another one.
    pub(super) fn freeze(&self) -> Option<Arc<Table>> {
        let mut tables = self.tables.write();
        let frozen = tables.open.take().map(Arc::new);
        tables.frozen.extend(frozen.clone());
        frozen
    }

    /// Forgets the table of a segment that is sealed.
    pub(super) fn drop_table(&self, number: u64) {
        self.tables.write().frozen.retain(|table| table.number != number);
    }

    /// Puts rows into the open table.
    pub(super) fn put(&self, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
        if let Some(table) = &mut self.tables.write().open {
            table.rows.extend(rows);
        }
    }

    fn in_tables(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.tables.read().newest_first().find_map(|table| table.rows.get(key)).cloned()
    }

    fn prefix_in_tables(&self, prefix: &[u8], found: &mut Rows) {
        for table in self.tables.read().newest_first() {
            let rows = table.rows.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
            for (key, value) in rows {
                found.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }

    /// The sealed segments with records of `workflow`, oldest first.
    fn sealed_with(&self, workflow: Short) -> Vec<u64> {
        self.catalog.read().with(workflow)
    }

    fn sealed(&self, number: u64) -> io::Result<Arc<Sealed>> {
        let mut opened = self.opened.lock();
        let tick = opened.values().map(|(tick, _)| *tick).max().unwrap_or(0) + 1;
        if let Some((used, sealed)) = opened.get_mut(&number) {
            *used = tick;
            return Ok(Arc::clone(sealed));
        }
        let sealed = Sealed::open(&segment::path(&self.log, number), number)?
            .ok_or_else(|| io::Error::other(format!("{} has lost its footer", segment::shown(number))))?;
        let sealed = Arc::new(sealed);
        if opened.len() >= SEALED_OPEN_MAX
            && let Some(oldest) = opened.iter().min_by_key(|(_, (used, _))| *used).map(|(number, _)| *number)
        {
            opened.remove(&oldest);
        }
        opened.insert(number, (tick, Arc::clone(&sealed)));
        Ok(sealed)
    }

    /// A workflow's row, looked for in segments from `from` on.
    pub(super) fn row(&self, workflow: Short, key: &[u8], from: u64) -> Result<Option<Vec<u8>>, Error> {
        if let Some(value) = self.in_tables(key) {
            return Ok(Some(value));
        }
        // A miss counts only when the footers have none either. They are not asked without reason: a row
        // that can be in no sealed segment is in none.
        let sealed = self.sealed_with(workflow);
        if !sealed.iter().any(|number| *number >= from) {
            return Ok(None);
        }
        if let Some(value) = self.index().get(key) {
            return Ok(Some(value));
        }
        for number in sealed.into_iter().rev().take_while(|number| *number >= from) {
            let found = self.sealed(number).and_then(|sealed| sealed.get(key));
            if let Some(value) =
                found.map_err(read_error(format!("looking into {}", segment::shown(number))))?
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    pub(super) fn head(&self, workflow: Short) -> Result<Option<HeadRow>, Error> {
        let Some(value) = self.row(workflow, &row::head_key(workflow), 0)? else { return Ok(None) };
        HeadRow::read(&value).map(Some).ok_or_else(|| broken_row("a workflow's head"))
    }

    /// The steps recorded under `print`, or under one that begins alike.
    pub(super) fn steps_with(
        &self,
        workflow: Short,
        print: &Fingerprint,
        seen: &mut Seen,
    ) -> Result<Vec<StepIndex>, Error> {
        let prefix = row::print_prefix(workflow, print);
        let mut found = Rows::new();
        self.prefix_in_tables(&prefix, &mut found);
        let expected = self.sealed_marks(workflow, row::mark(print), seen)?;
        if expected > 0 {
            let mut hits = Rows::new();
            self.index().prefix(&prefix, &mut hits);
            if hits.len() < expected as usize {
                for number in self.sealed_with(workflow).into_iter().rev() {
                    let looked = self.sealed(number).and_then(|sealed| sealed.prefix(&prefix, &mut hits));
                    looked.map_err(read_error(format!("looking into {}", segment::shown(number))))?;
                }
            }
            found.append(&mut hits);
        }
        Ok(found.keys().filter_map(|key| row::last_number(key)).filter_map(StepIndex::new).collect())
    }

    /// How many steps of `workflow` in sealed segments have a fingerprint with `mark`.
    fn sealed_marks(&self, workflow: Short, mark: u64, seen: &mut Seen) -> Result<u32, Error> {
        let new = self.sealed_with(workflow).into_iter().filter(|number| *number > seen.through);
        for number in new.collect::<Vec<_>>() {
            let marks = self.sealed(number).and_then(|sealed| sealed.marks(workflow));
            for mark in marks.map_err(read_error(format!("looking into {}", segment::shown(number))))? {
                *seen.marks.entry(mark).or_default() += 1;
            }
            seen.through = number;
        }
        Ok(seen.marks.get(&mark).copied().unwrap_or(0))
    }

    /// The places of a workflow's records by their number.
    pub(super) fn records(&self, workflow: Short) -> Result<BTreeMap<u64, Place>, Error> {
        let prefix = row::record_prefix(workflow);
        let mut found = Rows::new();
        self.prefix_in_tables(&prefix, &mut found);
        for number in self.sealed_with(workflow) {
            let looked = self.sealed(number).and_then(|sealed| sealed.prefix(&prefix, &mut found));
            looked.map_err(read_error(format!("looking into {}", segment::shown(number))))?;
        }
        let place =
            |(key, value): (Vec<u8>, Vec<u8>)| Some((row::last_number(&key)?, frame::uncbor(&value)?));
        Ok(found.into_iter().filter_map(place).collect())
    }

    /// The heads of all workflows that are in a table or a sealed segment.
    pub(super) fn heads(&self) -> Result<Vec<HeadRow>, Error> {
        let mut found = Rows::new();
        self.prefix_in_tables(row::HEADS, &mut found);
        self.index().prefix(row::HEADS, &mut found);
        let has = found.keys().filter_map(|key| row::headed(key)).map(Catalog::mark).collect::<HashSet<_>>();
        let (sealed, missing) = {
            let catalog = self.catalog.read();
            let mut all = catalog.pairs.iter().chain(&catalog.recent);
            (catalog.sealed.clone(), all.any(|(mark, _)| !has.contains(mark)))
        };
        if missing {
            for number in sealed.into_iter().rev() {
                let looked = self.sealed(number).and_then(|sealed| sealed.prefix(row::HEADS, &mut found));
                looked.map_err(read_error(format!("looking into {}", segment::shown(number))))?;
            }
        }
        let read = |value: &Vec<u8>| HeadRow::read(value).ok_or_else(|| broken_row("a workflow's head"));
        found.values().map(read).collect()
    }

    /// The payload at `spot`; `None` when there is no whole frame of that kind.
    pub(super) fn payload(&self, spot: &Spot, kind: Kind) -> Result<Option<Bytes>, Error> {
        let place = match spot {
            Spot::Fresh(parcel, number) => return Ok(Some(Bytes::copy_from_slice(parcel.payload(*number)))),
            Spot::Log(place) => *place,
        };
        let unsealed = self
            .tables
            .read()
            .newest_first()
            .find(|table| table.number == place.segment)
            .map(|table| (Arc::clone(&table.file), table.seed.clone()));
        let read = match unsealed {
            Some((file, seed)) => segment::payload(&file, &seed, place, kind),
            None => self.sealed(place.segment).and_then(|sealed| sealed.payload(place, kind)),
        };
        let doing = || format!("reading {} at {}", segment::shown(place.segment), place.offset);
        Ok(read.map_err(|source| read_error(doing())(source))?.map(Bytes::from))
    }

    fn find_body(&self, hash: &BodyHash) -> Result<Option<Spot>, Error> {
        if let Some(spot) = self.fresh.lock().get(hash) {
            return Ok(Some(spot.clone()));
        }
        let key = row::body_key(hash);
        let place = |value: &[u8]| frame::uncbor::<Place>(value).map(Spot::Log);
        if let Some(value) = self.in_tables(&key).or_else(|| self.index().get(&key)) {
            return place(&value).map(Some).ok_or_else(|| broken_row("a body's place"));
        }
        let sealed = self.catalog.read().sealed.clone();
        for number in sealed.into_iter().rev() {
            let found = self.sealed(number).and_then(|sealed| sealed.get(&key));
            if let Some(value) =
                found.map_err(read_error(format!("looking into {}", segment::shown(number))))?
            {
                return place(&value).map(Some).ok_or_else(|| broken_row("a body's place"));
            }
        }
        Ok(None)
    }

    /// What is stored under `hash`.
    fn stored(&self, hash: &BodyHash) -> Result<Vec<u8>, Error> {
        let missing = Error::Body { hash: *hash, what: "not in the journal" };
        let spot = self.find_body(hash)?.ok_or(missing)?;
        let broken = || Error::Body { hash: *hash, what: "damaged: its frame is not whole" };
        let payload = self.payload(&spot, Kind::Body)?.ok_or_else(broken)?;
        let (found, stored) = frame::body(&payload).ok_or_else(broken)?;
        if found != *hash {
            return Err(broken());
        }
        Ok(stored.to_vec())
    }

    /// A body, put together and verified.
    pub(super) fn body(&self, hash: &BodyHash) -> Result<Bytes, Error> {
        body::unpack(hash, &self.stored(hash)?, &|part| self.stored(part))
    }

    /// Whether a body is certainly in the log, or on its way there ahead of whatever is committed now.
    pub(super) fn has_body(&self, hash: &BodyHash) -> bool {
        let known = self.known.lock();
        if known.young.contains(hash) || known.old.contains(hash) {
            return true;
        }
        drop(known);
        let key = row::body_key(hash);
        let has = self.fresh.lock().contains_key(hash) || self.in_tables(&key).is_some();
        // Not the footers: storing it twice is harmless, and a look-up in each of them is not.
        let has = has || self.index().get(&key).is_some();
        if has {
            self.know(std::iter::once(*hash));
        }
        has
    }

    fn know(&self, hashes: impl Iterator<Item = BodyHash>) {
        let mut known = self.known.lock();
        known.young.extend(hashes);
        if known.young.len() >= KNOWN_MAX {
            known.old = std::mem::take(&mut known.young);
        }
    }

    /// Bodies that are on their way into the log.
    pub(super) fn add_fresh(&self, bodies: &[(BodyHash, Spot)]) {
        if bodies.is_empty() {
            return;
        }
        self.fresh.lock().extend(bodies.iter().cloned());
        self.know(bodies.iter().map(|(hash, _)| *hash));
    }

    /// Bodies that are in a table now.
    pub(super) fn drop_fresh(&self, bodies: &[(BodyHash, Spot)]) {
        let mut fresh = self.fresh.lock();
        for (hash, spot) in bodies {
            // The same body may be on its way a second time.
            let same = |found: &Spot| found.place().is_some() && found.place() == spot.place();
            if fresh.get(hash).is_some_and(same) {
                fresh.remove(hash);
            }
        }
    }
}
