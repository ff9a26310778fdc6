//! The memory engine: everything in maps, nothing durable. For tests, and the one engine on which a
//! takeover can be played through: an append under an older epoch is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::model::{AttemptId, BodyHash, Clock, Epoch, Fingerprint, StepIndex, WorkflowKey};

use super::record::{Completed, Intent, Listed, Record};
use super::state::{Backing, Change, Fault, Head, StepEntry, StepSummary, Use, WorkflowState};
use super::{
    Batch, Compacted, CompactionBounds, Durability, Error, Journal, StepRecord, Ticket, Urgency, WorkflowRow,
    codec,
};

/// A journal that is gone with the process. Clones share their store; [`Memory::take_over`] gives a second
/// owner of it.
#[derive(Clone)]
pub struct Memory {
    epoch: Epoch,
    clock: Arc<dyn Clock>,
    store: Arc<Mutex<Store>>,
}

#[derive(Default)]
struct Store {
    /// The epoch of the newest owner.
    epoch: u64,
    closed: bool,
    workflows: HashMap<WorkflowKey, Workflow>,
    bodies: HashMap<BodyHash, Bytes>,
}

#[derive(Default)]
struct Workflow {
    head: Option<Head>,
    records: Vec<Record>,
    steps: BTreeMap<StepIndex, Step>,
    found: BTreeSet<(Fingerprint, StepIndex)>,
    uses: HashMap<(AttemptId, StepIndex), Use>,
    lists: HashMap<Fingerprint, Listed>,
}

struct Step {
    entry: StepEntry,
    intent: Intent,
    completed: Option<Completed>,
}

impl Memory {
    /// An empty journal with its first owner.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let store = Store { epoch: 1, ..Store::default() };
        Self { epoch: Epoch(1), clock, store: Arc::new(Mutex::new(store)) }
    }

    /// A new owner of the same store. From now on the old one is refused.
    #[must_use]
    pub fn take_over(&self) -> Self {
        let mut store = self.store.lock();
        store.epoch += 1;
        store.closed = false;
        Self { epoch: Epoch(store.epoch), clock: Arc::clone(&self.clock), store: Arc::clone(&self.store) }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("epoch", &self.epoch)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

impl Backing for Workflow {
    type Error = Infallible;

    fn step(&self, step: StepIndex) -> Result<Option<StepEntry>, Infallible> {
        Ok(self.steps.get(&step).map(|step| step.entry.clone()))
    }

    fn usage(&self, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Infallible> {
        Ok(self.uses.get(&(attempt, step)).copied())
    }
}

impl Workflow {
    fn fold(&self, key: &WorkflowKey, records: &[Record]) -> Result<Change, Error> {
        let mut state = WorkflowState::new(self.head.clone(), self);
        for record in records {
            let before = codec::before(key, state.head().map(|head| &head.chain), record);
            let after = codec::chain(&before, &codec::encode(record));
            match state.apply(record, after) {
                Ok(()) => {}
                Err(Fault::OutOfOrder(why)) => {
                    return Err(Error::OutOfOrder(format!("{why} (workflow {key})")));
                }
                Err(Fault::Backing(never)) => match never {},
            }
        }
        Ok(state.finish())
    }

    fn take_in(&mut self, change: Change, records: Vec<Record>) {
        if records.first().is_some_and(Record::begins_run) {
            *self = Self::default();
        }
        for record in &records {
            if let Record::Intent(intent) = record
                && let Some(entry) = change.steps.get(&intent.step)
            {
                let step = Step { entry: entry.clone(), intent: intent.clone(), completed: None };
                self.steps.insert(intent.step, step);
                self.found.insert((intent.exact, intent.step));
                self.found.extend(intent.normalised.map(|normalised| (normalised, intent.step)));
                self.found.extend(intent.identity.map(|identity| (identity, intent.step)));
            } else if let Record::Completed(completed) = record
                && let Some(step) = self.steps.get_mut(&completed.step)
            {
                step.completed = Some(completed.clone());
            } else if let Record::Listed(listed) = record {
                self.lists.insert(listed.list, listed.clone());
            }
        }
        for (index, entry) in change.steps {
            if let Some(step) = self.steps.get_mut(&index) {
                step.entry = entry;
            }
        }
        self.head = change.head;
        self.uses.extend(change.uses);
        self.records.extend(records);
    }
}

fn held(bodies: &HashMap<BodyHash, Bytes>) -> u64 {
    bodies.values().map(|bytes| bytes.len() as u64).sum()
}

impl Journal for Memory {
    fn durability(&self) -> Durability {
        Durability::None
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn attach(&self, key: &WorkflowKey) -> Result<Option<Head>, Error> {
        Ok(self.store.lock().workflows.get(key).and_then(|workflow| workflow.head.clone()))
    }

    fn find(&self, key: &WorkflowKey, fingerprint: &Fingerprint) -> Result<Vec<StepSummary>, Error> {
        let store = self.store.lock();
        let Some(workflow) = store.workflows.get(key) else { return Ok(Vec::new()) };
        let from = (*fingerprint, StepIndex::FIRST);
        let found = workflow.found.range(from..).take_while(|(found, _)| found == fingerprint);
        Ok(found
            .filter_map(|(_, step)| workflow.steps.get(step))
            .map(|step| step.entry.summary.clone())
            .collect())
    }

    fn usage(&self, key: &WorkflowKey, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Error> {
        let store = self.store.lock();
        Ok(store.workflows.get(key).and_then(|workflow| workflow.uses.get(&(attempt, step)).copied()))
    }

    fn listed(&self, key: &WorkflowKey, list: &Fingerprint) -> Result<Option<Listed>, Error> {
        Ok(self.store.lock().workflows.get(key).and_then(|workflow| workflow.lists.get(list).cloned()))
    }

    fn summary(&self, key: &WorkflowKey, step: StepIndex) -> Result<Option<StepSummary>, Error> {
        let store = self.store.lock();
        let step = store.workflows.get(key).and_then(|workflow| workflow.steps.get(&step));
        Ok(step.map(|step| step.entry.summary.clone()))
    }

    fn step(&self, key: &WorkflowKey, step: StepIndex) -> Result<Option<StepRecord>, Error> {
        let store = self.store.lock();
        let step = store.workflows.get(key).and_then(|workflow| workflow.steps.get(&step));
        Ok(step.map(|step| StepRecord {
            summary: step.entry.summary.clone(),
            intent: step.intent.clone(),
            completed: step.completed.clone(),
        }))
    }

    fn commit(&self, key: &WorkflowKey, epoch: Epoch, batch: Batch, _: Urgency) -> Result<Ticket, Error> {
        let mut store = self.store.lock();
        if epoch.0 != store.epoch {
            return Err(Error::Fenced { ours: epoch, newer: Epoch(store.epoch) });
        }
        if store.closed {
            return Err(super::closed());
        }
        let empty = Workflow::default();
        let change = store.workflows.get(key).unwrap_or(&empty).fold(key, &batch.records)?;
        for body in batch.bodies {
            super::body::parts_in_order(&body)?;
            store.bodies.insert(body.hash, body.bytes);
        }
        if change.head.is_some() {
            store.workflows.entry(key.clone()).or_default().take_in(change, batch.records);
        }
        Ok(Ticket::ready())
    }

    fn body(&self, hash: &BodyHash) -> Result<Bytes, Error> {
        let bytes = self.store.lock().bodies.get(hash).cloned();
        let bytes = bytes.ok_or(Error::Body { hash: *hash, what: "not in the journal" })?;
        super::body::verified(hash, bytes)
    }

    fn scan(&self, key: &WorkflowKey) -> Result<Vec<Record>, Error> {
        let store = self.store.lock();
        Ok(store.workflows.get(key).map(|workflow| workflow.records.clone()).unwrap_or_default())
    }

    fn workflows(&self) -> Result<Vec<WorkflowRow>, Error> {
        let store = self.store.lock();
        let heads = store.workflows.iter().filter_map(|(key, workflow)| {
            workflow.head.clone().map(|head| WorkflowRow { key: key.clone(), head })
        });
        let mut rows = heads.collect::<Vec<_>>();
        super::newest_first(&mut rows);
        Ok(rows)
    }

    fn compact(&self, _: &CompactionBounds) -> Result<Compacted, Error> {
        let mut store = self.store.lock();
        if self.epoch.0 != store.epoch {
            return Err(Error::Fenced { ours: self.epoch, newer: Epoch(store.epoch) });
        }
        if store.closed {
            return Err(super::closed());
        }
        let Store { workflows, bodies, .. } = &mut *store;
        let keeps =
            |workflow: &&Workflow| workflow.head.as_ref().is_some_and(|head| head.bodies_expired.is_none());
        let records = workflows.values().filter(keeps).flat_map(|workflow| &workflow.records);
        let needed = records.flat_map(|record| record.bodies().into_iter().flatten()).copied();
        let needed = needed.collect::<HashSet<_>>();
        let bytes_before = held(bodies);
        bodies.retain(|hash, _| needed.contains(hash));
        Ok(Compacted { bytes_before, bytes_after: held(bodies), ..Compacted::default() })
    }

    fn bytes(&self) -> u64 {
        held(&self.store.lock().bodies)
    }

    fn close(&self) -> Result<(), Error> {
        self.store.lock().closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, Fixture, Ticks};
    use super::*;

    #[derive(Debug)]
    struct Fresh(Memory);

    impl Fixture for Fresh {
        fn journal(&self) -> &dyn Journal {
            &self.0
        }
    }

    #[test]
    fn the_memory_engine_conforms() {
        conformance::run(|| Fresh(Memory::new(Arc::new(Ticks::default()))));
    }

    #[test]
    fn an_owner_that_was_taken_over_is_refused() {
        let old = Memory::new(Arc::new(Ticks::default()));
        let key = conformance::key("w");
        let opened = Batch::one(conformance::workflow_opened());
        drop(old.commit(&key, old.epoch(), opened.clone(), Urgency::Now).unwrap());
        let new = old.take_over();
        let refused = old.commit(&key, old.epoch(), opened, Urgency::Now).unwrap_err();
        assert!(matches!(refused, Error::Fenced { ours: Epoch(1), newer: Epoch(2) }), "{refused}");
        let attempt = Batch::one(conformance::attempt_opened(1));
        drop(new.commit(&key, new.epoch(), attempt, Urgency::Now).unwrap());
        assert_eq!(new.attach(&key).unwrap().unwrap().sequence, 2);
    }
}
