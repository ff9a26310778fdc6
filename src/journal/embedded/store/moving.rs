//! How compaction moves what others read: who looks a place up and reads it holds it where it is, and what was
//! moved is found again.

use std::io;
use std::sync::atomic::Ordering;

use parking_lot::RwLockReadGuard;

use super::super::super::Error;
use super::super::footer::Sealed;
use super::super::frame;
use super::super::row::{self, Place, Short};
use super::{Store, looking_into};

impl Store {
    /// Nothing is moved while this is held. Taken once, by whoever is asked from outside: a second time in the
    /// same thread may wait for itself.
    pub(in super::super) fn pin(&self) -> RwLockReadGuard<'_, ()> {
        self.pins.read()
    }

    /// Held from the moment a commit looks for stored bodies until it is queued.
    pub(in super::super) fn packing(&self) -> RwLockReadGuard<'_, ()> {
        self.packing.read()
    }

    /// From now on no commit refers to a body in segment `number` or one before it. Those that do are queued.
    pub(in super::super) fn refer_behind(&self, number: u64) {
        let _none_is_packing = self.packing.write();
        self.unreferable.fetch_max(number, Ordering::AcqRel);
    }

    /// Length of the segments' files, in bytes.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// A file of the log was `before` bytes long, or several were together, and `now` they are.
    pub(in super::super) fn resized(&self, before: u64, now: u64) {
        self.bytes.fetch_add(now, Ordering::AcqRel);
        self.bytes.fetch_sub(before, Ordering::AcqRel);
    }

    /// The sealed segments that no table speaks for any more, oldest first.
    pub(in super::super) fn settled(&self) -> Vec<u64> {
        let sealed = self.catalog.read().sealed.clone();
        let tables = self.tables.read();
        let has_table = |number: &u64| tables.newest_first().any(|table| table.number == *number);
        sealed.into_iter().filter(|number| !has_table(number)).collect()
    }

    /// Puts a compacted segment in the place of those it was made of, while nobody reads. `rename` is what makes
    /// it so on disk.
    pub(in super::super) fn replace(
        &self,
        sealed: &Sealed,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let _nobody_reads = self.pins.write();
        rename()?;
        self.catalog.write().replace(sealed);
        self.opened.lock().retain(|number, _| !(sealed.from()..=sealed.number).contains(number));
        Ok(())
    }

    /// Where a workflow's record is, by its number: `place` says it, unless that segment was compacted since.
    pub(in super::super) fn resolve(&self, run: Short, number: u64, place: Place) -> Result<Place, Error> {
        let compacted = {
            let catalog = self.catalog.read();
            catalog.covering(place.segment).filter(|segment| catalog.generation(*segment) > 0)
        };
        let Some(segment) = compacted else { return Ok(place) };
        let found = self.sealed(segment).and_then(|sealed| sealed.get(&row::record_key(run, number)));
        let found = found.map_err(looking_into(segment))?;
        Ok(found.and_then(|value| frame::uncbor(&value)).unwrap_or(place))
    }

    /// Takes the sheets of a segment that is no more out of the index.
    pub(in super::super) fn drop_sheets(&self, sealed: &Sealed) {
        let key = |workflow| row::sheet_key_of(workflow, sealed.number, sealed.generation());
        self.index().remove(sealed.workflows().map(key));
    }
}
