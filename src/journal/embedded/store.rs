//! Where rows and frames are found: in the tables of segments that are not sealed, and for sealed ones in
//! the sheets that the index has, or else the footers. The catalog says which segments have a workflow's
//! records, so that no sheet is missed: what the index does not have is read from the footer.

mod moving;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::failpoint::{Defect, is_broken};
use crate::model::{AttemptId, BodyHash, Fingerprint, StepIndex};

use super::super::Error;
use super::super::body::{self, Found, Stored};
use super::super::state::Use;
use super::catalog::Catalog;
use super::footer::Sealed;
use super::frame::{self, Kind, Seed};
use super::index::Index;
use super::known::Known;
use super::parcel::Spot;
use super::past::Past;
use super::row::{self, HeadRow, Place, Rows, Sheet, Short};
use super::segment;
use super::step::StepRow;

/// Footers kept open, each with its file.
const SEALED_OPEN_MAX: usize = 48;

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
    /// Bodies that are certainly in the log, or on their way there ahead of whatever is committed now.
    known: Mutex<Known>,
    /// Bodies that records name, with the segments of those records.
    named: Mutex<Known>,
    /// Held while a place is looked up and read, so that compaction moves nothing in between.
    pins: RwLock<()>,
    /// Held while a commit refers to bodies that are stored and is not queued yet.
    packing: RwLock<()>,
    /// What is committed from now on refers to no body in this segment or one before it.
    unreferable: AtomicU64,
    /// Length of the segments' files.
    bytes: AtomicU64,
}

fn read_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Read { doing, source: Arc::new(source) }
}

fn looking_into(number: u64) -> impl FnOnce(io::Error) -> Error {
    read_error(format!("looking into {}", segment::shown(number)))
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
            named: Mutex::default(),
            pins: RwLock::default(),
            packing: RwLock::default(),
            unreferable: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
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
        let number = self.catalog.read().covering(number).unwrap_or(number);
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

    /// What a sealed segment says of a workflow.
    fn sheet(&self, workflow: Short, number: u64) -> Result<Option<Sheet>, Error> {
        let generation = self.catalog.read().generation(number);
        let hit = self.index().get(&row::sheet_key_of(workflow, number, generation));
        if let Some(sheet) = hit.and_then(|value| Sheet::read(&value)) {
            return Ok(Some(sheet));
        }
        if is_broken(Defect::MissBelieved) {
            return Ok(None);
        }
        let sheet = self.sealed(number).and_then(|sealed| sealed.sheet(workflow));
        sheet.map_err(looking_into(number))
    }

    /// Puts a sealed segment's sheets into the index.
    pub(super) fn put_sheets(&self, sealed: &Sealed, sheets: &[(Short, Vec<u8>)]) {
        let key = |workflow| row::sheet_key_of(workflow, sealed.number, sealed.generation());
        let rows = sheets.iter().map(|(workflow, value)| (key(*workflow), value));
        let rows = rows.collect::<Vec<_>>();
        self.index().put(rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())));
    }

    pub(super) fn head(&self, workflow: Short) -> Result<Option<HeadRow>, Error> {
        if let Some(value) = self.in_tables(&row::head_key(workflow)) {
            return HeadRow::read(&value).map(Some).ok_or_else(|| broken_row("a workflow's head"));
        }
        for number in self.sealed_with(workflow).into_iter().rev() {
            if let Some(head) = self.sheet(workflow, number)?.and_then(|sheet| sheet.head) {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Takes in what was sealed since.
    fn bring_up(&self, workflow: Short, past: &mut Past) -> Result<(), Error> {
        let (version, numbers) = {
            let catalog = self.catalog.read();
            if past.of == Some(workflow) && past.version == catalog.version() {
                return Ok(());
            }
            (catalog.version(), catalog.with(workflow))
        };
        // Another run is another story, and a compacted segment has other sheets.
        if past.of != Some(workflow) || past.version.1 != version.1 {
            past.sheets.clear();
        }
        past.of = Some(workflow);
        let through = past.sheets.last().map_or(0, |(number, _)| *number);
        for number in numbers.into_iter().filter(|number| *number > through) {
            if let Some(sheet) = self.sheet(workflow, number)? {
                past.sheets.push((number, Sheet { head: None, ..sheet }));
            }
        }
        past.version = version;
        Ok(())
    }

    /// The steps recorded under `print`, or under one that begins alike.
    pub(super) fn steps_with(
        &self,
        workflow: Short,
        print: &Fingerprint,
        past: &mut Past,
    ) -> Result<Vec<StepIndex>, Error> {
        let mut found = Rows::new();
        // Tables first: rows move from them into sheets, never back.
        self.prefix_in_tables(&row::print_prefix(workflow, print), &mut found);
        self.bring_up(workflow, past)?;
        let sealed = past.steps_with(row::mark(print));
        let open = found.keys().filter_map(|key| row::last_number(key));
        Ok(open.chain(sealed).filter_map(StepIndex::new).collect())
    }

    pub(super) fn step(
        &self,
        workflow: Short,
        step: StepIndex,
        past: &mut Past,
    ) -> Result<Option<StepRow>, Error> {
        let key = row::step_key(workflow, step);
        let mut value = self.in_tables(&key);
        if value.is_none() {
            self.bring_up(workflow, past)?;
            if let Some(number) = past.segment_of(step) {
                let found = self.sealed(number).and_then(|sealed| sealed.get(&key));
                value = found.map_err(looking_into(number))?;
            }
        }
        let Some(value) = value else { return Ok(None) };
        StepRow::read(&value).map(Some).ok_or_else(|| broken_row("a step"))
    }

    pub(super) fn usage(
        &self,
        workflow: Short,
        attempt: AttemptId,
        step: StepIndex,
        past: &mut Past,
    ) -> Result<Option<Use>, Error> {
        if let Some(value) = self.in_tables(&row::use_key(workflow, attempt, step)) {
            return Ok(row::read_use(&value));
        }
        self.bring_up(workflow, past)?;
        Ok(past.usage(attempt, step))
    }

    pub(super) fn listed(
        &self,
        workflow: Short,
        list: &Fingerprint,
        past: &mut Past,
    ) -> Result<Option<Place>, Error> {
        if let Some(value) = self.in_tables(&row::list_key(workflow, list)) {
            return Ok(frame::uncbor(&value));
        }
        self.bring_up(workflow, past)?;
        Ok(past.listed(row::mark(list)))
    }

    /// The places of a workflow's records by their number.
    pub(super) fn records(&self, workflow: Short) -> Result<BTreeMap<u64, Place>, Error> {
        let prefix = row::record_prefix(workflow);
        let mut found = Rows::new();
        self.prefix_in_tables(&prefix, &mut found);
        for number in self.sealed_with(workflow) {
            let looked = self.sealed(number).and_then(|sealed| sealed.prefix(&prefix, &mut found));
            looked.map_err(looking_into(number))?;
        }
        let place =
            |(key, value): (Vec<u8>, Vec<u8>)| Some((row::last_number(&key)?, frame::uncbor(&value)?));
        Ok(found.into_iter().filter_map(place).collect())
    }

    /// The heads of all workflows that are in a table or a sealed segment.
    pub(super) fn heads(&self) -> Result<Vec<HeadRow>, Error> {
        let mut found = Rows::new();
        self.prefix_in_tables(row::HEADS, &mut found);
        let read = |value: &Vec<u8>| HeadRow::read(value).ok_or_else(|| broken_row("a workflow's head"));
        let mut heads = found.values().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut has = heads.iter().map(|row| Short::of(&row.key)).collect::<HashSet<_>>();
        let sealed = self.catalog.read().sealed.clone();
        for number in sealed.into_iter().rev() {
            let footer = self.sealed(number).map_err(looking_into(number))?;
            for workflow in footer.workflows().filter(|workflow| !has.contains(workflow)).collect::<Vec<_>>()
            {
                if let Some(head) = self.sheet(workflow, number)?.and_then(|sheet| sheet.head) {
                    has.insert(workflow);
                    heads.push(head);
                }
            }
        }
        Ok(heads)
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

    fn find_body(&self, hash: &BodyHash, likely: Option<u64>) -> Result<Option<Spot>, Error> {
        if let Some(spot) = self.fresh.lock().get(hash) {
            return Ok(Some(spot.clone()));
        }
        let key = row::body_key(hash);
        let place = |value: &[u8]| frame::uncbor::<Place>(value).map(Spot::Log);
        if let Some(value) = self.in_tables(&key) {
            return place(&value).map(Some).ok_or_else(|| broken_row("a body's place"));
        }
        // Whoever names a body knows about where it is. When that is wrong it takes longer, and that is all.
        let likely = likely.or_else(|| self.known.lock().get(hash)).or_else(|| self.named.lock().get(hash));
        let near = likely.map(|at| [at, at + 1, at.saturating_sub(1), at + 2]);
        let (sealed, likely) = {
            let catalog = self.catalog.read();
            let likely = near.into_iter().flatten().filter_map(|number| catalog.covering(number));
            (catalog.sealed.clone(), likely.collect::<Vec<_>>())
        };
        for number in likely.into_iter().chain(sealed.into_iter().rev()) {
            let found = self.sealed(number).and_then(|sealed| sealed.get(&key));
            if let Some(value) = found.map_err(looking_into(number))? {
                return place(&value).map(Some).ok_or_else(|| broken_row("a body's place"));
            }
        }
        Ok(None)
    }

    /// What is stored under `hash`.
    fn stored(&self, hash: &BodyHash, likely: Option<u64>) -> Result<Found, Error> {
        let missing = Error::Body { hash: *hash, what: "not in the journal" };
        let spot = self.find_body(hash, likely)?.ok_or(missing)?;
        let broken = || Error::Body { hash: *hash, what: "damaged: its frame is not whole" };
        let payload = self.payload(&spot, Kind::Body)?.ok_or_else(broken)?;
        let (found, stored) = frame::body(&payload).filter(|(found, _)| found == hash).ok_or_else(broken)?;
        let segment = spot.place().map_or(0, |place| place.segment);
        self.known.lock().add(std::iter::once((found, segment)));
        Ok(Found { stored: stored.to_vec(), segment: u32::try_from(segment).unwrap_or(0) })
    }

    /// A body, put together and verified.
    pub(super) fn body(&self, hash: &BodyHash) -> Result<Bytes, Error> {
        let fetch = |part: &BodyHash, segment| self.stored(part, Some(u64::from(segment)));
        body::unpack(hash, &self.stored(hash, None)?, &fetch)
    }

    /// Takes note of bodies that records name: they will be asked for, and are about where the records are.
    pub(super) fn named(&self, bodies: impl Iterator<Item = (BodyHash, u64)>) {
        self.named.lock().add(bodies);
    }

    /// Bodies that are on their way into the log, into segment `number` or one behind it.
    pub(super) fn add_fresh(&self, bodies: &[(BodyHash, Spot)], number: u64) {
        if bodies.is_empty() {
            return;
        }
        self.fresh.lock().extend(bodies.iter().cloned());
        self.known.lock().add(bodies.iter().map(|(hash, _)| (*hash, number)));
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

impl Stored for Store {
    fn has_near(&self, hash: &BodyHash) -> bool {
        self.fresh.lock().contains_key(hash) || self.in_tables(&row::body_key(hash)).is_some()
    }

    /// Not by looking into the footers: storing a body twice is harmless, and a look-up in each is not.
    fn segment_of(&self, hash: &BodyHash) -> Option<u32> {
        let may_be_gone = self.unreferable.load(Ordering::Acquire);
        let known = self.known.lock().get(hash).filter(|number| *number > may_be_gone);
        let number = known.or_else(|| {
            let key = row::body_key(hash);
            let tables = self.tables.read();
            tables.newest_first().find(|table| table.rows.contains_key(&key)).map(|table| table.number)
        });
        number.filter(|number| *number > may_be_gone).and_then(|number| u32::try_from(number).ok())
    }
}
