//! Legal commits of a few workflows, made from arbitrary numbers, and what a journal must say after them:
//! what the memory engine says.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::super::conformance::{self as records, Ticks, wait};
use super::super::super::memory::Memory;
use super::super::super::record::{Completed, Intent, Record};
use super::super::super::{Batch, Body, Journal, Urgency};
use crate::model::{Fingerprint, WorkflowKey};

/// One commit to be made; the numbers choose among what is legal then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    workflow: u8,
    kind: u8,
    pick: u16,
    size: u16,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    (0u8..3, any::<u8>(), any::<u16>(), 0u16..3000).prop_map(|(workflow, kind, pick, size)| Op {
        workflow,
        kind,
        pick,
        size,
    })
}

pub(super) fn seeded(seed: u64) -> Op {
    let hash = blake3::hash(&seed.to_le_bytes());
    let [a, b, c, d, e, f, ..] = *hash.as_bytes();
    let size = u16::from_le_bytes([e, f]) % 3000;
    Op { workflow: a % 3, kind: b, pick: u16::from_le_bytes([c, d]), size }
}

impl Op {
    pub(super) fn of_workflow(self, workflow: u8) -> Self {
        Self { workflow, ..self }
    }
}

#[derive(Debug, Default)]
struct Told {
    attempt: u32,
    /// For each step: tries, and whether it is completed.
    steps: Vec<(u32, bool)>,
    records: Vec<Record>,
}

/// Makes commits, and remembers what they were.
#[derive(Debug)]
pub(super) struct Script {
    workflows: [Told; 3],
    pub(super) model: Memory,
    pub(super) bodies: Vec<Body>,
}

impl Default for Script {
    fn default() -> Self {
        let model = Memory::new(Arc::new(Ticks::default()));
        Self { workflows: Default::default(), model, bodies: Vec::new() }
    }
}

pub(super) fn keys() -> [WorkflowKey; 3] {
    ["a", "b", "c"].map(records::key)
}

impl Script {
    /// The commit that `op` stands for now.
    pub(super) fn next(&mut self, op: Op) -> (WorkflowKey, Batch) {
        let told = &mut self.workflows[usize::from(op.workflow)];
        let mut bodies = Vec::new();
        let records = told.records(op, &mut bodies);
        told.records.extend(records.iter().cloned());
        self.bodies.extend(bodies.iter().cloned());
        let batch = Batch { records, bodies };
        let key = keys()[usize::from(op.workflow)].clone();
        drop(self.model.commit(&key, self.model.epoch(), batch.clone(), Urgency::Now).unwrap());
        (key, batch)
    }

    /// Every record of a workflow so far.
    pub(super) fn records(&self, workflow: usize) -> &[Record] {
        &self.workflows[workflow].records
    }

    /// Makes the commit and waits for it.
    pub(super) fn commit(&mut self, journal: &dyn Journal, op: Op) {
        let (key, batch) = self.next(op);
        wait(journal.commit(&key, journal.epoch(), batch, Urgency::Now).unwrap()).unwrap();
    }

    /// Asks both everything.
    #[track_caller]
    pub(super) fn check(&self, journal: &dyn Journal) {
        self.check_live(journal);
        assert_eq!(journal.workflows().unwrap(), self.model.workflows().unwrap());
    }

    /// Asks both everything of these workflows; there may be others.
    #[track_caller]
    pub(super) fn check_live(&self, journal: &dyn Journal) {
        for (key, told) in keys().iter().zip(&self.workflows) {
            let model = &self.model;
            let heads = (journal.attach(key).unwrap(), model.attach(key).unwrap());
            assert_eq!(heads.0, heads.1, "{key}");
            for print in (0..6).map(records::print) {
                assert_eq!(
                    journal.find(key, &print).unwrap(),
                    model.find(key, &print).unwrap(),
                    "{key} {print}"
                );
                assert_eq!(journal.listed(key, &print).unwrap(), model.listed(key, &print).unwrap(), "{key}");
            }
            for step in (1..=told.steps.len() as u64 + 1).map(records::step) {
                let both = [journal, model as &dyn Journal].map(|journal| {
                    let step = journal.step(key, step).unwrap();
                    step.map(|step| (step.summary, step.intent, step.completed))
                });
                assert_eq!(both[0], both[1], "{key} step {step}");
                for attempt in (1..=told.attempt + 1).map(records::attempt) {
                    let used = journal.usage(key, attempt, step).unwrap();
                    assert_eq!(used, model.usage(key, attempt, step).unwrap(), "{key} {attempt} {step}");
                }
            }
            assert_eq!(journal.scan(key).unwrap(), told.records, "{key}");
        }
        for body in &self.bodies {
            assert_eq!(journal.body(&body.hash).unwrap(), body.bytes);
        }
    }
}

impl Told {
    fn records(&mut self, op: Op, bodies: &mut Vec<Body>) -> Vec<Record> {
        let pick = u64::from(op.pick);
        if self.records.is_empty() {
            self.attempt = 1;
            return vec![records::workflow_opened(), records::attempt_opened(1)];
        }
        let count = self.steps.len() as u64;
        let (step, at) = (1 + pick % count.max(1), (pick % count.max(1)) as usize);
        let (tries, done) = self.steps.get(at).copied().unwrap_or((0, true));
        match op.kind % 16 {
            0 => {
                self.attempt += 1;
                vec![records::attempt_opened(self.attempt)]
            }
            1 | 2 if count > 0 => vec![records::redelivered(step, self.attempt)],
            3 if count > 0 => vec![records::delivered(step, self.attempt)],
            4 | 5 if !done => {
                self.steps[at].0 = tries + 1;
                vec![records::dispatched(step, tries + 1)]
            }
            6 if !done => {
                self.steps[at].0 = tries + 1;
                vec![records::failed(step, tries + 1, (pick % 2 == 0).then_some(503))]
            }
            7..=10 if !done => {
                self.steps[at].1 = true;
                let body = talk(op);
                let answer = Completed { tried: tries + 1, ..records::completed(step, &body.bytes) };
                bodies.push(body);
                vec![Record::Completed(answer), records::delivered(step, self.attempt)]
            }
            11 => {
                let body = talk(op);
                let listed = records::listed(pick % 6, self.attempt, &body.bytes);
                bodies.push(body);
                vec![Record::Listed(listed)]
            }
            _ => {
                let body = talk(op);
                let normalised: Option<Fingerprint> = (pick % 3 == 0).then(|| records::print(pick % 5));
                let intent = records::intent(count + 1, self.attempt, pick % 6);
                let class = crate::model::EffectClass::Read;
                let (request, request_len) = (body.hash, body.bytes.len() as u64);
                bodies.push(body);
                self.steps.push((0, false));
                vec![Record::Intent(Intent { normalised, request, request_len, class, ..intent })]
            }
        }
    }
}

/// A body with parts that other bodies have too.
fn talk(op: Op) -> Body {
    let mut bytes = Vec::new();
    let mut parts = Vec::new();
    for message in 0..op.pick % 5 {
        bytes.extend_from_slice(b"{\"content\":\"");
        let start = bytes.len();
        let words = format!("message {message} of {}; ", op.pick % 7).repeat(usize::from(op.size) / 60 + 2);
        bytes.extend_from_slice(words.as_bytes());
        parts.push(start..bytes.len());
    }
    bytes.extend_from_slice(&blake3::hash(&op.size.to_le_bytes()).as_bytes()[..8]);
    Body { parts, ..Body::whole(Bytes::from(bytes)) }
}
