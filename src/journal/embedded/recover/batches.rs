//! What the batches of an unsealed segment hold, taken in: records into the tables, damage to the
//! workflows it touches. Decides nothing about where the log ends; `recover` does.

use std::ops::Range;

use tracing::error;

use crate::model::{Timestamp, WorkflowKey};

use super::super::super::codec;
use super::super::super::record::Record;
use super::super::super::state::{Fault, Head, WorkflowState};
use super::super::frame::{self, Frame, Kind, Opened};
use super::super::live::{State, View};
use super::super::open::{Damage, OpenError};
use super::super::parcel::Spot;
use super::super::row::{self, HeadRow, Place, Short};
use super::super::scan::{Batch, Scan};
use super::super::segment;
use super::{Recovery, Unsealed};

/// A record as it was met in the log.
struct Met {
    sequence: u64,
    chain: [u8; 32],
    stored: Vec<u8>,
    record: Record,
    place: Place,
}

/// Records of one workflow, run by run.
fn runs(met: Vec<Met>) -> Vec<Vec<Met>> {
    let mut runs = Vec::<Vec<Met>>::new();
    for met in met {
        match runs.last_mut().filter(|_| !met.record.begins_run()) {
            Some(run) => run.push(met),
            None => runs.push(vec![met]),
        }
    }
    runs
}

impl Recovery<'_> {
    /// Takes in a segment's first `count` batches.
    pub(super) fn batches(
        &mut self,
        unsealed: &Unsealed,
        scan: &Scan<'_>,
        count: usize,
    ) -> Result<(), OpenError> {
        let shown = segment::shown(unsealed.number);
        let is_compacted = super::compacted(scan).is_some();
        for batch in scan.batches.iter().take(count) {
            let follows = batch.trailer.previous == self.tip.hash;
            // The log may begin with a segment whose predecessors were removed with all they held.
            let is_first = self.tip.batch == 0 && batch.trailer.number > 1;
            if !follows && !is_first {
                let what = format!("{shown} has lost a batch before offset {}", batch.end);
                self.damaged_everywhere(unsealed.number, batch.start..batch.end, &what)?;
            }
            for bad in &batch.bad {
                let what = format!("{shown} is unreadable from {} to {}", bad.start, bad.end);
                let named = batch.trailer.named.iter().filter_map(frame::Named::key).collect();
                self.damaged(unsealed.number, bad.clone(), named, &what)?;
            }
            self.batch(unsealed, batch, is_compacted)?;
        }
        Ok(())
    }

    fn batch(&mut self, unsealed: &Unsealed, batch: &Batch<'_>, is_compacted: bool) -> Result<(), OpenError> {
        let mut bodies = Vec::new();
        let mut records: Vec<(WorkflowKey, Vec<Met>)> = Vec::new();
        for frame in &batch.frames {
            let len = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
            let place = Place { segment: unsealed.number, offset: frame.offset, len };
            match frame.kind {
                Kind::Record => {
                    let Some((key, met)) = self.meet(unsealed.number, frame, place)? else { continue };
                    if self.is_past(&key, met.sequence) {
                        continue;
                    }
                    match records.last_mut().filter(|(last, _)| *last == key) {
                        Some((_, same)) => same.push(met),
                        None => records.push((key, vec![met])),
                    }
                }
                Kind::Body => {
                    let body = frame::body(frame.payload);
                    bodies.extend(body.map(|(hash, _)| (row::body_key(&hash), frame::cbor(&place))));
                }
                Kind::Opened => {
                    if let Some(opened) = frame::uncbor::<Opened>(frame.payload) {
                        self.tip.epoch = self.tip.epoch.max(opened.epoch);
                        self.tip.boot_id = opened.boot_id;
                    }
                }
                Kind::Damaged => {
                    let noted = frame::uncbor::<frame::Damaged>(frame.payload);
                    if let Some((key, noted)) = noted.and_then(|noted| Some((noted.key()?, noted))) {
                        self.mark(&key, &noted.what)?;
                        self.noted.remove(&key);
                    }
                }
                Kind::Compacted | Kind::Gap | Kind::Seal | Kind::Stopped | Kind::Table | Kind::Trailer => {}
            }
        }
        self.store.put(bodies);
        for (key, met) in records {
            for run in runs(met) {
                self.records(unsealed.number, &key, run)?;
            }
        }
        // A compacted batch that is whole names workflows whose records are not needed any more.
        let named = batch.trailer.named.iter().filter(|_| !is_compacted || !batch.bad.is_empty());
        for named in named {
            let Some(key) = named.key().filter(|key| !self.is_past(key, named.sequence)) else { continue };
            let head = self.head(&key)?.map(|head| (head.sequence, head.chain, head.damage.is_some()));
            if !head.is_some_and(|(sequence, chain, damaged)| {
                damaged || (sequence, chain) == (named.sequence, named.chain)
            }) {
                let what = format!(
                    "{} has lost records before offset {}",
                    segment::shown(unsealed.number),
                    batch.end
                );
                self.damaged(unsealed.number, batch.start..batch.end, vec![key], &what)?;
            }
        }
        self.tip.batch = batch.trailer.number;
        self.tip.hash = batch.hash;
        self.tip.epoch = self.tip.epoch.max(batch.trailer.epoch);
        Ok(())
    }

    fn meet(
        &mut self,
        number: u64,
        frame: &Frame<'_>,
        place: Place,
    ) -> Result<Option<(WorkflowKey, Met)>, OpenError> {
        let what =
            format!("{}, offset {}: the record cannot be decoded", segment::shown(number), frame.offset);
        let range = frame.offset..frame.end();
        let Some(found) = frame::record(frame.payload) else {
            self.damaged_everywhere(number, range, &what)?;
            return Ok(None);
        };
        match codec::decode(found.stored) {
            Ok(record) => {
                let stored = found.stored.to_vec();
                Ok(Some((
                    found.key,
                    Met { sequence: found.sequence, chain: found.chain, stored, record, place },
                )))
            }
            Err(codec::Error::Newer { what }) => {
                Err(OpenError::Newer { file: segment::path(self.log, number), what })
            }
            Err(codec::Error::Malformed(_)) => {
                self.damaged(number, range, vec![found.key], &what)?;
                Ok(None)
            }
        }
    }

    /// Takes in records of one workflow that follow each other.
    fn records(&mut self, number: u64, key: &WorkflowKey, met: Vec<Met>) -> Result<(), OpenError> {
        let short = Short::of(key);
        let mut state = self.take_state(key)?;
        let view = View::new(self.store, short, &state);
        let mut fold = WorkflowState::new(state.head.as_ref().map(|row| row.head.clone()), &view);
        let mut wrong = None;
        for met in &met {
            let before = fold.head();
            let clean = before.is_none_or(|head| head.damage.is_none());
            let sequence = before.map_or(0, |head| head.sequence);
            let chain = codec::before(key, before.map(|head| &head.chain), &met.record);
            let at = format!("{}, offset {}", segment::shown(number), met.place.offset);
            // What comes before the first record of a run is not needed any more, and may be gone.
            let begins = met.record.begins_run() && met.sequence > sequence;
            if begins && clean {
                fold.pass(met.sequence.saturating_sub(1));
            }
            let what = if met.sequence != sequence + 1 && !begins {
                format!("{at}: record {} follows record {sequence}", met.sequence)
            } else if met.chain != codec::chain(&chain, &met.stored) {
                format!("{at}: record {} is not what was chained", met.sequence)
            } else if clean {
                match fold.apply(&met.record, met.chain) {
                    Ok(()) => continue,
                    Err(Fault::Backing(error)) => return Err(OpenError::Journal(error)),
                    Err(Fault::OutOfOrder(why)) => format!("{at}: {why}"),
                }
            } else {
                String::new()
            };
            fold.apply_damaged(&met.record, met.chain, met.sequence, &what).map_err(OpenError::Journal)?;
            if clean {
                wrong = Some((what, met.place));
            }
        }
        let change = fold.finish();
        let (numbers, records) =
            (met.iter().map(|met| met.sequence), met.iter().map(|met| met.record.clone()));
        let spot = |at: usize| {
            met.get(at).map_or(Spot::Log(Place { segment: 0, offset: 0, len: 0 }), |met| Spot::Log(met.place))
        };
        let mut delta = view.delta(key, change, &records.collect::<Vec<_>>(), spot);
        for (record, number) in delta.records.iter_mut().zip(numbers) {
            record.0 = number;
        }
        let mut rows = Vec::new();
        delta.rows(short, &mut rows);
        self.store.put(rows);
        // Not a new state: it would read the sheets of all sealed segments again for each batch.
        state.head = delta.head;
        self.states.insert(short, state);
        match wrong {
            None => Ok(()),
            Some((what, place)) => {
                let range = place.offset..place.offset + u64::from(place.len);
                self.note(key, &what);
                self.report_damage(number, range, vec![key.clone()], &what);
                Ok(())
            }
        }
    }

    pub(super) fn take_state(&mut self, key: &WorkflowKey) -> Result<State, OpenError> {
        let short = Short::of(key);
        if let Some(state) = self.states.remove(&short) {
            return Ok(state);
        }
        let mut head = self.store.head(short).map_err(OpenError::Journal)?;
        if let (Some(head), Some(what)) = (&mut head, self.noted.get(key)) {
            head.head.damage.get_or_insert_with(|| what.clone());
        }
        Ok(State::with_head(head))
    }

    pub(super) fn head(&mut self, key: &WorkflowKey) -> Result<Option<&Head>, OpenError> {
        let state = self.take_state(key)?;
        let state = self.states.entry(Short::of(key)).insert_entry(state).into_mut();
        Ok(state.head.as_ref().map(|row| &row.head))
    }

    /// Marks a workflow as damaged; says whether it was not before.
    pub(super) fn mark(&mut self, key: &WorkflowKey, what: &str) -> Result<bool, OpenError> {
        let short = Short::of(key);
        let mut state = self.take_state(key)?;
        let lost = || HeadRow { key: key.clone(), head: Head::lost(Timestamp::default()) };
        let row = state.head.get_or_insert_with(lost);
        let is_new = row.head.damage.is_none();
        if is_new {
            row.head.damage = Some(what.to_owned());
            self.store.put([(row::head_key(short), row.value())]);
        }
        self.states.insert(short, state);
        Ok(is_new)
    }

    pub(super) fn note(&mut self, key: &WorkflowKey, what: &str) {
        self.noted.entry(key.clone()).or_insert_with(|| what.to_owned());
    }

    pub(super) fn damaged(
        &mut self,
        number: u64,
        range: Range<u64>,
        keys: Vec<WorkflowKey>,
        what: &str,
    ) -> Result<(), OpenError> {
        for key in &keys {
            if self.mark(key, what)? {
                self.note(key, what);
            }
        }
        self.report_damage(number, range, keys, what);
        Ok(())
    }

    /// Nothing says whose records are lost: whoever was open may have lost one.
    pub(super) fn damaged_everywhere(
        &mut self,
        number: u64,
        range: Range<u64>,
        what: &str,
    ) -> Result<(), OpenError> {
        let heads = self.store.heads().map_err(OpenError::Journal)?;
        let open = heads.into_iter().filter(|row| row.head.closed.is_none()).map(|row| row.key);
        self.damaged(number, range, open.collect(), what)
    }

    pub(super) fn report_damage(
        &mut self,
        number: u64,
        range: Range<u64>,
        workflows: Vec<WorkflowKey>,
        what: &str,
    ) {
        error!(
            what,
            workflows = workflows.len(),
            "the journal is damaged; these workflows are closed for effects"
        );
        let (offset, len) = (range.start, range.end - range.start);
        let file = segment::shown(number);
        self.report.damage.push(Damage { file, offset, len, what: what.to_owned(), workflows });
    }
}
