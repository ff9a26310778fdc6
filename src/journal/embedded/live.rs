//! A workflow that somebody is at work on: its head, the commits of it that are not in a table yet, and
//! the lock under which its records get their order.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::model::{AttemptId, Fingerprint, StepIndex, WorkflowKey};

use super::super::state::{Backing, StepEntry, Use};
use super::super::{Error, record::Record};
use super::parcel::{Delta, Spot, StepSpots};
use super::past::Past;
use super::row::{HeadRow, Short};
use super::store::Store;

/// One workflow in memory.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) key: WorkflowKey,
    pub(super) short: Short,
    pub(super) state: Mutex<State>,
    touched: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The head was looked up.
    pub(super) loaded: bool,
    pub(super) head: Option<HeadRow>,
    /// Commits that are not in a table yet, oldest first.
    pub(super) pending: VecDeque<Arc<Delta>>,
    /// Sheets never change, so whoever only looks may bring this up to date.
    past: RefCell<Past>,
}

impl State {
    /// The state of a workflow whose head is known.
    pub(super) fn with_head(head: Option<HeadRow>) -> Self {
        Self { loaded: true, head, ..Self::default() }
    }

    /// What the rows of the present run are named by.
    pub(super) fn run(&self, workflow: Short) -> Short {
        self.head.as_ref().map_or(workflow, HeadRow::run)
    }

    /// Looks the head up, once.
    pub(super) fn load(&mut self, store: &Store, short: Short) -> Result<(), Error> {
        if !self.loaded {
            self.head = store.head(short)?;
            self.loaded = true;
        }
        Ok(())
    }

    /// The commits that are not in a table yet, of the present run alone.
    fn of_run(&self) -> impl DoubleEndedIterator<Item = &Arc<Delta>> {
        let first = self.head.as_ref().map_or(0, |row| row.head.first);
        let begun = move |delta: &&Arc<Delta>| delta.head.as_ref().is_none_or(|row| row.head.first == first);
        self.pending.iter().filter(begun)
    }

    pub(super) fn find(
        &self,
        store: &Store,
        short: Short,
        print: &Fingerprint,
    ) -> Result<Vec<StepIndex>, Error> {
        if self.head.is_none() {
            return Ok(Vec::new());
        }
        let mut steps = store.steps_with(self.run(short), print, &mut self.past.borrow_mut())?;
        for delta in self.of_run() {
            steps.extend(delta.prints.iter().filter(|(found, _)| found == print).map(|(_, step)| *step));
        }
        steps.sort_unstable();
        steps.dedup();
        Ok(steps)
    }

    pub(super) fn step(
        &self,
        store: &Store,
        short: Short,
        step: StepIndex,
    ) -> Result<Option<StepSpots>, Error> {
        if self.head.as_ref().is_none_or(|row| step.number() > row.head.steps) {
            return Ok(None);
        }
        if let Some(spots) = self.of_run().rev().find_map(|delta| delta.steps.get(&step)) {
            return Ok(Some(spots.clone()));
        }
        Ok(store.step(self.run(short), step, &mut self.past.borrow_mut())?.map(StepSpots::from))
    }

    pub(super) fn usage(
        &self,
        store: &Store,
        short: Short,
        attempt: AttemptId,
        step: StepIndex,
    ) -> Result<Option<Use>, Error> {
        if self.head.is_none() {
            return Ok(None);
        }
        if let Some(used) = self.of_run().rev().find_map(|delta| delta.uses.get(&(attempt, step))) {
            return Ok(Some(*used));
        }
        store.usage(self.run(short), attempt, step, &mut self.past.borrow_mut())
    }

    pub(super) fn listed(
        &self,
        store: &Store,
        short: Short,
        list: &Fingerprint,
    ) -> Result<Option<Spot>, Error> {
        for delta in self.of_run().rev() {
            if let Some((_, spot)) = delta.lists.iter().rev().find(|(found, _)| found == list) {
                return Ok(Some(spot.clone()));
            }
        }
        Ok(store.listed(self.run(short), list, &mut self.past.borrow_mut())?.map(Spot::Log))
    }

    /// The spots of all records by their number.
    pub(super) fn records(&self, store: &Store, short: Short) -> Result<BTreeMap<u64, Spot>, Error> {
        let mut records = BTreeMap::new();
        if self.head.is_some() {
            records.extend(
                store.records(self.run(short))?.into_iter().map(|(number, place)| (number, Spot::Log(place))),
            );
        }
        for delta in self.of_run() {
            records.extend(delta.records.iter().cloned());
        }
        Ok(records)
    }
}

/// A state as what a fold looks things up in. Remembers the steps it was asked for: their spots are needed
/// once more for the delta.
pub(super) struct View<'a> {
    pub(super) store: &'a Store,
    pub(super) short: Short,
    pub(super) state: &'a State,
    pub(super) steps: RefCell<HashMap<StepIndex, StepSpots>>,
}

impl<'a> View<'a> {
    pub(super) fn new(store: &'a Store, short: Short, state: &'a State) -> Self {
        Self { store, short, state, steps: RefCell::default() }
    }

    /// The delta of what a fold over this view changed.
    pub(super) fn delta(
        &self,
        key: &WorkflowKey,
        change: super::super::state::Change,
        records: &[Record],
        spot: impl Fn(usize) -> Spot,
    ) -> Delta {
        let known = |step| self.steps.borrow().get(&step).cloned();
        Delta::new(key, self.state.head.as_ref(), change, records, spot, known)
    }
}

impl Backing for View<'_> {
    type Error = Error;

    fn step(&self, step: StepIndex) -> Result<Option<StepEntry>, Error> {
        let Some(spots) = self.state.step(self.store, self.short, step)? else { return Ok(None) };
        let entry = spots.entry.clone();
        self.steps.borrow_mut().insert(step, spots);
        Ok(Some(entry))
    }

    fn usage(&self, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Error> {
        self.state.usage(self.store, self.short, attempt, step)
    }
}

/// The workflows in memory, at most so many of them.
#[derive(Debug)]
pub(super) struct LiveMap {
    max: usize,
    clock: AtomicU64,
    workflows: Mutex<HashMap<WorkflowKey, Arc<Live>>>,
}

impl LiveMap {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), clock: AtomicU64::new(0), workflows: Mutex::default() }
    }

    pub(super) fn get(&self, key: &WorkflowKey) -> Arc<Live> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut workflows = self.workflows.lock();
        if let Some(live) = workflows.get(key) {
            live.touched.store(now, Ordering::Relaxed);
            return Arc::clone(live);
        }
        if workflows.len() >= self.max {
            evict(&mut workflows, self.max);
        }
        let short = Short::of(key);
        let live = Live { key: key.clone(), short, state: Mutex::default(), touched: AtomicU64::new(now) };
        let live = Arc::new(live);
        workflows.insert(key.clone(), Arc::clone(&live));
        live
    }

    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.workflows.lock().values().cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.workflows.lock().len()
    }
}

/// Takes out the quarter that was not touched for longest, of those nobody holds. Whatever has commits
/// that are not in a table yet is held by them.
fn evict(workflows: &mut HashMap<WorkflowKey, Arc<Live>>, max: usize) {
    let mut idle = workflows
        .values()
        .filter(|live| Arc::strong_count(live) == 1)
        .map(|live| live.touched.load(Ordering::Relaxed))
        .collect::<Vec<_>>();
    idle.sort_unstable();
    let Some(until) = idle.get((max / 4).min(idle.len().saturating_sub(1))).copied() else { return };
    workflows.retain(|_, live| Arc::strong_count(live) > 1 || live.touched.load(Ordering::Relaxed) > until);
}
