//! The rows by which records are found: one by one in the table of a segment that is not sealed, and in a
//! sealed segment's footer, where most of what is known of a workflow is one [`Sheet`]. A sheet never
//! changes, so whoever has a copy of it (sled) has the truth or nothing. Everything a row says can be told
//! again from the records. Pure.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::model::{
    AttemptId, AttemptReason, BodyHash, Fingerprint, Owner, RunNonce, StepIndex, Timestamp, WorkflowId,
    WorkflowKey,
};

use super::super::record::Peer;
use super::super::state::{AttemptHead, Head, Use};
use super::super::via;
use super::frame;

/// Rows in the order of their keys.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where a frame's payload is: everything a single read needs.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub(super) struct Place {
    #[n(0)]
    pub(super) segment: u64,
    /// Of the frame's head.
    #[n(1)]
    pub(super) offset: u64,
    /// Of the payload.
    #[n(2)]
    pub(super) len: u32,
}

/// What rows name a workflow by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Short(pub(super) [u8; Self::LEN]);

impl Short {
    pub(super) const LEN: usize = 16;

    pub(super) fn of(key: &WorkflowKey) -> Self {
        let mut bytes = Vec::with_capacity(64);
        frame::put_key(&mut bytes, key);
        Self(cut(blake3::hash(&bytes).as_bytes()))
    }

    /// What rows name the run by that began with record `first`: those of an earlier run are not found any more.
    pub(super) fn of_run(key: &WorkflowKey, first: u64) -> Self {
        if first <= 1 {
            return Self::of(key);
        }
        let mut bytes = Vec::with_capacity(72);
        frame::put_key(&mut bytes, key);
        bytes.extend_from_slice(&first.to_le_bytes());
        Self(cut(blake3::hash(&bytes).as_bytes()))
    }
}

fn cut(hash: &[u8; 32]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(hash.split_at(16).0);
    short
}

/// The first byte of a key says what the row is.
pub(super) const BODY: u8 = b'b';
const HEAD: u8 = b'w';
const LIST: u8 = b'l';
const PRINT: u8 = b'f';
pub(super) const RECORD: u8 = b'r';
const SHEET: u8 = b'x';
pub(super) const STEP: u8 = b's';
const USE: u8 = b'u';

fn join(kind: u8, workflow: Short, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.push(kind);
    key.extend_from_slice(&workflow.0);
    for part in rest {
        key.extend_from_slice(part);
    }
    key
}

pub(super) fn head_key(workflow: Short) -> Vec<u8> {
    join(HEAD, workflow, &[])
}

pub(super) fn step_key(workflow: Short, step: StepIndex) -> Vec<u8> {
    join(STEP, workflow, &[&step.number().to_be_bytes()])
}

pub(super) fn print_key(workflow: Short, print: &Fingerprint, step: StepIndex) -> Vec<u8> {
    join(PRINT, workflow, &[&cut(&print.0), &step.number().to_be_bytes()])
}

/// What the keys of all steps recorded under `print` begin with.
pub(super) fn print_prefix(workflow: Short, print: &Fingerprint) -> Vec<u8> {
    join(PRINT, workflow, &[&cut(&print.0)])
}

pub(super) fn use_key(workflow: Short, attempt: AttemptId, step: StepIndex) -> Vec<u8> {
    join(USE, workflow, &[&attempt.number().to_be_bytes(), &step.number().to_be_bytes()])
}

pub(super) fn list_key(workflow: Short, list: &Fingerprint) -> Vec<u8> {
    join(LIST, workflow, &[&cut(&list.0)])
}

pub(super) fn record_key(workflow: Short, sequence: u64) -> Vec<u8> {
    join(RECORD, workflow, &[&sequence.to_be_bytes()])
}

/// What the keys of all records of a workflow begin with.
pub(super) fn record_prefix(workflow: Short) -> Vec<u8> {
    join(RECORD, workflow, &[])
}

pub(super) fn body_key(hash: &BodyHash) -> Vec<u8> {
    let mut key = Vec::with_capacity(33);
    key.push(BODY);
    key.extend_from_slice(&hash.0);
    key
}

/// What the keys of all heads begin with.
pub(super) const HEADS: &[u8] = &[HEAD];

/// The number at the end of a key: a step's or a record's.
pub(super) fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// What the keys of all sheets begin with.
pub(super) const SHEETS: &[u8] = &[SHEET];

pub(super) fn sheet_key(workflow: Short) -> Vec<u8> {
    join(SHEET, workflow, &[])
}

/// The key of a sheet where those of all segments are together. Compaction gives a segment new sheets, and with its
/// generation a new key: what was kept of the old ones is not found any more.
pub(super) fn sheet_key_of(workflow: Short, segment: u64, generation: u32) -> Vec<u8> {
    let generation = generation.to_be_bytes();
    let generation = if generation == [0; 4] { &[][..] } else { &generation };
    join(SHEET, workflow, &[&segment.to_be_bytes(), generation])
}

/// Kind, workflow and the rest of a key of a workflow's row.
pub(super) fn split(key: &[u8]) -> Option<(u8, Short, &[u8])> {
    let (kind, rest) = key.split_first()?;
    let (workflow, rest) = rest.split_first_chunk()?;
    Some((*kind, Short(*workflow), rest))
}

/// The workflow a sheet's key names.
pub(super) fn sheet_of(key: &[u8]) -> Option<Short> {
    split(key).filter(|(kind, ..)| *kind == SHEET).map(|(_, workflow, _)| workflow)
}

/// Whether a row of a table is found on a sheet in the footer, and not for itself.
pub(super) fn is_on_sheet(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(HEAD | LIST | PRINT | USE)))
}

/// Enough of a fingerprint to find a step by; whoever finds it compares the rest.
pub(super) fn mark(print: &Fingerprint) -> u64 {
    print.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What a sealed segment says of a workflow, but for the steps themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sheet {
    pub(super) head: Option<HeadRow>,
    /// Steps with a row in the segment, in order.
    pub(super) steps: Vec<u64>,
    /// Marks of fingerprints of steps that begin in the segment, with their steps, in order.
    pub(super) marks: Vec<(u64, u64)>,
    /// Attempt, step, and whether it was delivered, in order.
    pub(super) uses: Vec<(u32, u64, bool)>,
    /// Marks of lists, with the places of their last records.
    pub(super) lists: Vec<(u64, Place)>,
}

#[derive(Decode, Encode)]
#[cbor(map)]
struct StoredSheet {
    #[cbor(n(1), with = "minicbor::bytes")]
    head: Vec<u8>,
    #[n(2)]
    steps: Vec<u64>,
    #[n(3)]
    marks: Vec<(u64, u64)>,
    #[n(4)]
    uses: Vec<(u32, u64, bool)>,
    #[n(5)]
    lists: Vec<(u64, Place)>,
}

impl Sheet {
    /// The sheets that the rows of a table come to.
    pub(super) fn of(rows: &Rows) -> BTreeMap<Short, Self> {
        let mut sheets = BTreeMap::<Short, Self>::new();
        for (key, value) in rows {
            let Some((kind, workflow, rest)) = split(key).filter(|(kind, ..)| *kind != BODY) else {
                continue;
            };
            let first = rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            let last = last_number(key).unwrap_or_default();
            let sheet = sheets.entry(workflow).or_default();
            match kind {
                HEAD => sheet.head = HeadRow::read(value),
                STEP => sheet.steps.push(last),
                PRINT => sheet.marks.push((first, last)),
                LIST => sheet.lists.extend(frame::uncbor(value).map(|place| (first, place))),
                USE => {
                    let attempt = rest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                    sheet.uses.push((attempt, last, value.as_slice() == [1]));
                }
                _ => {}
            }
        }
        sheets
    }

    /// Takes in what a later segment says of the same workflow.
    pub(super) fn merge(&mut self, later: Self) {
        self.head = later.head.or(self.head.take());
        self.steps.extend(later.steps);
        self.steps.sort_unstable();
        self.steps.dedup();
        self.marks.extend(later.marks);
        self.marks.sort_unstable();
        self.marks.dedup();
        let uses = self.uses.drain(..).chain(later.uses);
        let uses = uses.map(|(attempt, step, delivered)| ((attempt, step), delivered));
        let uses = uses.collect::<BTreeMap<_, _>>().into_iter();
        self.uses = uses.map(|((attempt, step), delivered)| (attempt, step, delivered)).collect();
        self.lists.retain(|(list, _)| !later.lists.iter().any(|(later, _)| later == list));
        self.lists.extend(later.lists);
    }

    pub(super) fn value(&self) -> Vec<u8> {
        frame::cbor(&StoredSheet {
            head: self.head.as_ref().map(HeadRow::value).unwrap_or_default(),
            // Numbers that follow each other are small as differences.
            steps: differences(&self.steps),
            marks: self.marks.clone(),
            uses: self.uses.clone(),
            lists: self.lists.clone(),
        })
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let StoredSheet { head, steps, marks, uses, lists } = frame::uncbor(value)?;
        let head = if head.is_empty() { None } else { Some(HeadRow::read(&head)?) };
        let mut sum = 0u64;
        let steps = steps.into_iter().map(|step| {
            sum = sum.wrapping_add(step);
            sum
        });
        Some(Self { head, steps: steps.collect(), marks, uses, lists })
    }
}

fn differences(numbers: &[u64]) -> Vec<u64> {
    let before = std::iter::once(&0).chain(numbers);
    numbers.iter().zip(before).map(|(number, before)| number.wrapping_sub(*before)).collect()
}

/// A workflow's head with the key it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadRow {
    pub(super) key: WorkflowKey,
    pub(super) head: Head,
}

#[derive(Decode, Encode)]
#[cbor(map)]
struct StoredHead {
    #[n(1)]
    owner: String,
    #[n(2)]
    workflow: String,
    #[cbor(n(3), with = "via")]
    nonce: RunNonce,
    #[cbor(n(4), with = "via")]
    opened_at: Timestamp,
    #[cbor(n(5), with = "via")]
    changed_at: Timestamp,
    #[n(6)]
    sequence: u64,
    #[cbor(n(7), with = "minicbor::bytes")]
    chain: [u8; 32],
    #[n(8)]
    steps: u64,
    #[n(9)]
    completed: u64,
    #[n(10)]
    attempt: Option<StoredAttempt>,
    #[cbor(n(11), with = "via", has_nil)]
    closed: Option<Timestamp>,
    #[n(12)]
    damage: Option<String>,
    #[n(13)]
    setbacks: Option<u64>,
    #[n(14)]
    first: Option<u64>,
    #[cbor(n(15), with = "via", has_nil)]
    bodies_expired: Option<Timestamp>,
    #[cbor(n(16), with = "via", has_nil)]
    removed: Option<Timestamp>,
}

#[derive(Decode, Encode)]
#[cbor(map)]
struct StoredAttempt {
    #[cbor(n(1), with = "via")]
    attempt: AttemptId,
    #[cbor(n(2), with = "via")]
    reason: AttemptReason,
    #[n(3)]
    peer: Option<Peer>,
    #[cbor(n(4), with = "via")]
    at: Timestamp,
    #[n(5)]
    used_completed: u64,
}

impl HeadRow {
    /// What the rows of the present run are named by. The head's own are named by the workflow alone.
    pub(super) fn run(&self) -> Short {
        Short::of_run(&self.key, self.head.first)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let Self { key, head } = self;
        frame::cbor(&StoredHead {
            owner: key.owner.as_str().to_owned(),
            workflow: key.workflow.as_str().to_owned(),
            nonce: head.nonce,
            opened_at: head.opened_at,
            changed_at: head.changed_at,
            sequence: head.sequence,
            chain: head.chain,
            steps: head.steps,
            completed: head.completed,
            attempt: head.attempt.as_ref().map(|attempt| StoredAttempt {
                attempt: attempt.attempt,
                reason: attempt.reason,
                peer: attempt.peer.clone(),
                at: attempt.at,
                used_completed: attempt.used_completed,
            }),
            closed: head.closed,
            damage: head.damage.clone(),
            setbacks: Some(head.setbacks),
            first: (head.first > 1).then_some(head.first),
            bodies_expired: head.bodies_expired,
            removed: head.removed,
        })
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let stored = frame::uncbor::<StoredHead>(value)?;
        let workflow = WorkflowId::parse(&stored.workflow).ok()?;
        Some(Self {
            key: WorkflowKey { owner: Owner::recorded(&stored.owner), workflow },
            head: Head {
                nonce: stored.nonce,
                opened_at: stored.opened_at,
                changed_at: stored.changed_at,
                sequence: stored.sequence,
                chain: stored.chain,
                steps: stored.steps,
                completed: stored.completed,
                setbacks: stored.setbacks.unwrap_or_default(),
                attempt: stored.attempt.map(|attempt| AttemptHead {
                    attempt: attempt.attempt,
                    reason: attempt.reason,
                    peer: attempt.peer,
                    at: attempt.at,
                    used_completed: attempt.used_completed,
                }),
                closed: stored.closed,
                damage: stored.damage,
                first: stored.first.unwrap_or(1),
                bodies_expired: stored.bodies_expired,
                removed: stored.removed,
            },
        })
    }
}

pub(super) fn use_value(used: Use) -> Vec<u8> {
    vec![u8::from(used.delivered)]
}

pub(super) fn read_use(value: &[u8]) -> Option<Use> {
    match value {
        [0] => Some(Use { delivered: false }),
        [1] => Some(Use { delivered: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::conformance::{attempt, key, print, step};
    use super::*;

    #[test]
    fn keys_of_one_workflow_and_kind_stand_together_in_the_order_of_their_numbers() {
        let short = Short::of(&key("w"));
        let other = Short::of(&key("v"));
        let keys = [1, 2, 255, 256, 70_000].map(|number| step_key(short, step(number)));
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| key[1..17] == short.0 && last_number(key) >= Some(1)));
        assert_ne!(head_key(short), head_key(other));
        assert_eq!(sheet_of(&sheet_key(short)), Some(short));
        assert_eq!(sheet_of(&sheet_key_of(short, 7, 1)), Some(short));
        assert_eq!(sheet_of(&head_key(short)), None);
        assert!(print_key(short, &print(1), step(1)).starts_with(&print_prefix(short, &print(1))));
        assert_ne!(use_key(short, attempt(1), step(2)), use_key(short, attempt(2), step(1)));
    }

    #[test]
    fn values_come_back_as_they_were() {
        let head = Head {
            closed: Some(Timestamp(5)),
            damage: Some("log, offset 3".to_owned()),
            sequence: 9,
            attempt: Some(AttemptHead {
                attempt: attempt(3),
                reason: AttemptReason::Rewind,
                peer: None,
                at: Timestamp(4),
                used_completed: 2,
            }),
            ..Head::lost(Timestamp(1))
        };
        let row = HeadRow { key: key("w"), head };
        assert_eq!(HeadRow::read(&row.value()), Some(row.clone()));
        let place = Place { segment: 1 << 40, offset: 9, len: 8 };
        let sheet = Sheet {
            head: Some(row),
            steps: vec![1, 2, 70_000, u64::MAX],
            marks: vec![(u64::MAX, 1), (0, 2)],
            uses: vec![(1, 1, true), (u32::MAX, 2, false)],
            lists: vec![(4, place)],
        };
        assert_eq!(Sheet::read(&sheet.value()), Some(sheet));
        assert_eq!(Sheet::read(&Sheet::default().value()), Some(Sheet::default()));
        for used in [Use { delivered: false }, Use { delivered: true }] {
            assert_eq!(read_use(&use_value(used)), Some(used));
        }
    }
}
