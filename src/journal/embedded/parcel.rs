//! One commit on its way into the log: its frames, where they will be, and what they change. Reads see
//! it from the moment of the commit; once it is durable and in a table, only its rows remain.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::model::{AttemptId, BodyHash, Fingerprint, StepIndex, WorkflowKey};

use super::super::record::Record;
use super::super::state::{Change, StepEntry, Use};
use super::frame::{self, HEAD_LEN, Kind, Seed};
use super::row::{self, HeadRow, Place, Short};
use super::step::StepRow;

/// The frames of one commit. Their payloads are fixed; their heads depend on where the log has room.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    /// Payloads, each padded.
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// Bytes in the log, heads included.
    len: u64,
    /// Segment and offset of the first frame, once known.
    base: OnceLock<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    kind: Kind,
    crc: u32,
    /// Of the payload in `bytes`.
    start: usize,
    len: u32,
    /// Of the frame behind the parcel's first one.
    at: u64,
}

impl Parcel {
    /// Puts a frame in whose payload `write` appends; its number within the parcel.
    pub(super) fn add(&mut self, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let payload = self.bytes.get(start..).unwrap_or_default();
        let (len, crc) = (payload.len(), crc32fast::hash(payload));
        self.bytes.resize(start + frame::padded(len), 0);
        let piece = Piece { kind, crc, start, len: u32::try_from(len).unwrap_or(u32::MAX), at: self.len };
        self.len += (HEAD_LEN + frame::padded(len)) as u64;
        self.pieces.push(piece);
        self.pieces.len() - 1
    }

    /// Bytes it takes in the log.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The payload of a frame.
    pub(super) fn payload(&self, number: usize) -> &[u8] {
        let Some(piece) = self.pieces.get(number) else { return &[] };
        self.bytes.get(piece.start..piece.start + piece.len as usize).unwrap_or_default()
    }

    /// Says where it goes. Only the first answer counts.
    pub(super) fn put_at(&self, segment: u64, offset: u64) {
        let _ = self.base.set((segment, offset));
    }

    /// Head and padded payload of each frame, for a parcel that begins at `offset`.
    pub(super) fn frames(&self, seed: &Seed, offset: u64) -> impl Iterator<Item = ([u8; HEAD_LEN], &[u8])> {
        self.pieces.iter().map(move |piece| {
            let head = seed.head(offset + piece.at, piece.kind, piece.len, piece.crc);
            let end = piece.start + frame::padded(piece.len as usize);
            (head, self.bytes.get(piece.start..end).unwrap_or_default())
        })
    }

    fn place(&self, number: usize) -> Option<Place> {
        let ((segment, base), piece) = (self.base.get()?, self.pieces.get(number)?);
        Some(Place { segment: *segment, offset: base + piece.at, len: piece.len })
    }
}

/// Where a frame's payload can be read.
#[derive(Clone, Debug)]
pub(super) enum Spot {
    /// In a commit that is not in a table yet.
    Fresh(Arc<Parcel>, usize),
    Log(Place),
}

impl Spot {
    /// `None` while the commit has no place.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Fresh(parcel, number) => parcel.place(*number),
            Self::Log(place) => Some(*place),
        }
    }
}

/// A step with the spots of the records that make it.
#[derive(Clone, Debug)]
pub(super) struct StepSpots {
    pub(super) entry: StepEntry,
    pub(super) intent: Spot,
    pub(super) completed: Option<Spot>,
}

impl From<StepRow> for StepSpots {
    fn from(row: StepRow) -> Self {
        Self { entry: row.entry, intent: Spot::Log(row.intent), completed: row.completed.map(Spot::Log) }
    }
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) head: Option<HeadRow>,
    pub(super) steps: BTreeMap<StepIndex, StepSpots>,
    pub(super) prints: Vec<(Fingerprint, StepIndex)>,
    pub(super) uses: BTreeMap<(AttemptId, StepIndex), Use>,
    pub(super) lists: Vec<(Fingerprint, Spot)>,
    /// With their sequence numbers.
    pub(super) records: Vec<(u64, Spot)>,
    pub(super) bodies: Vec<(BodyHash, Spot)>,
}

impl Delta {
    /// What folding `records` changed. `known` knows the changed steps that were there before; `spot` says
    /// where the n-th record is.
    pub(super) fn new(
        key: &WorkflowKey,
        before: Option<&HeadRow>,
        change: Change,
        records: &[Record],
        spot: impl Fn(usize) -> Spot,
        known: impl Fn(StepIndex) -> Option<StepSpots>,
    ) -> Self {
        let mut delta = Self::default();
        let begins = records.first().is_some_and(Record::begins_run);
        let begun = change.head.as_ref().map_or(1, |head| head.first);
        let first = before.filter(|_| !begins).map_or(begun, |before| before.head.sequence + 1);
        let mut intents = BTreeMap::new();
        let mut answers = BTreeMap::new();
        for (at, record) in records.iter().enumerate() {
            delta.records.push((first + at as u64, spot(at)));
            if let Record::Intent(intent) = record {
                intents.insert(intent.step, spot(at));
                delta.prints.push((intent.exact, intent.step));
                let normalised = intent.normalised.filter(|normalised| *normalised != intent.exact);
                delta.prints.extend(normalised.map(|normalised| (normalised, intent.step)));
                delta.prints.extend(intent.identity.map(|identity| (identity, intent.step)));
            } else if let Record::Completed(completed) = record {
                answers.insert(completed.step, spot(at));
            } else if let Record::Listed(listed) = record {
                delta.lists.push((listed.list, spot(at)));
            }
        }
        for (step, entry) in change.steps {
            let old = known(step);
            let answered = old.as_ref().and_then(|old| old.completed.clone());
            let Some(intent) = intents.remove(&step).or_else(|| old.map(|old| old.intent)) else { continue };
            let completed = answers.remove(&step).or(answered);
            delta.steps.insert(step, StepSpots { entry, intent, completed });
        }
        delta.uses = change.uses;
        delta.head = change.head.map(|head| HeadRow { key: key.clone(), head });
        delta
    }

    /// The rows that say the same, once every frame has its place.
    pub(super) fn rows(&self, workflow: Short, rows: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        let head = self.head.as_ref().map(|head| (row::head_key(workflow), head.value()));
        // Of whatever else it changes, a commit changes the head too.
        let workflow = self.head.as_ref().map_or(workflow, HeadRow::run);
        rows.extend(head);
        let place = |spot: &Spot| spot.place().map(|place| frame::cbor(&place));
        for (step, spots) in &self.steps {
            let Some(intent) = spots.intent.place() else { continue };
            let completed = spots.completed.as_ref().and_then(Spot::place);
            let value = StepRow { entry: spots.entry.clone(), intent, completed }.value();
            rows.push((row::step_key(workflow, *step), value));
        }
        rows.extend(
            self.prints.iter().map(|(print, step)| (row::print_key(workflow, print, *step), Vec::new())),
        );
        let uses = self.uses.iter();
        rows.extend(
            uses.map(|((attempt, step), used)| {
                (row::use_key(workflow, *attempt, *step), row::use_value(*used))
            }),
        );
        let lists = self.lists.iter();
        rows.extend(lists.filter_map(|(list, spot)| Some((row::list_key(workflow, list), place(spot)?))));
        let records = self.records.iter();
        rows.extend(
            records.filter_map(|(number, spot)| Some((row::record_key(workflow, *number), place(spot)?))),
        );
        let bodies = self.bodies.iter();
        rows.extend(bodies.filter_map(|(hash, spot)| Some((row::body_key(hash), place(spot)?))));
    }
}
