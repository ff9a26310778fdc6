//! Which workflows have records in which sealed segments: small enough to be in memory whatever the store
//! holds, so that no look-up goes to a segment in vain.

use std::collections::BTreeMap;

use super::footer::Sealed;
use super::frame::Compacted;
use super::row::Short;

/// The sealed segments, and which workflows have records in which of them.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Oldest first.
    pub(super) sealed: Vec<u64>,
    /// The beginning of a workflow's name and a segment, in order: 16 bytes for each pair, and a million
    /// workflows are no reason to keep more. Names that begin alike cost a look-up in vain.
    pairs: Vec<(u32, u64)>,
    /// The youngest pairs, in no order: put in order together, a few hundred at a time.
    recent: Vec<(u32, u64)>,
    /// The last one with the hash of its last batch.
    pub(super) newest: Option<(u64, [u8; 32])>,
    /// Those that were compacted.
    compacted: BTreeMap<u64, Compacted>,
    /// How many segments were added, and how often some of them were compacted.
    version: (u64, u64),
}

impl Catalog {
    const RECENT_MAX: usize = 512;

    fn mark(workflow: Short) -> u32 {
        workflow.0.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    pub(super) fn add(&mut self, sealed: &Sealed) {
        self.version.0 += 1;
        self.sealed.push(sealed.number);
        self.newest = Some((sealed.number, sealed.ended.hash));
        self.compacted.extend(sealed.ended.compacted.map(|compacted| (sealed.number, compacted)));
        self.recent.extend(sealed.workflows().map(|workflow| (Self::mark(workflow), sealed.number)));
        if self.recent.len() >= Self::RECENT_MAX {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.pairs.append(&mut self.recent);
        // A long run that is in order and a short one that is not: what this sort is good at.
        self.pairs.sort();
    }

    /// Puts a compacted segment in the place of those it was made of, which have its own number or earlier ones.
    pub(super) fn replace(&mut self, sealed: &Sealed) {
        let (from, to) = (sealed.from(), sealed.number);
        self.version.1 += 1;
        self.sealed.retain(|number| *number == to || !(from..=to).contains(number));
        self.compacted.retain(|number, _| !(from..=to).contains(number));
        self.compacted.extend(sealed.ended.compacted.map(|compacted| (to, compacted)));
        self.settle();
        self.pairs.retain(|(_, number)| !(from..=to).contains(number));
        self.pairs.extend(sealed.workflows().map(|workflow| (Self::mark(workflow), to)));
        self.pairs.sort();
    }

    pub(super) fn version(&self) -> (u64, u64) {
        self.version
    }

    /// The sealed segment in which the frames of segment `number` are, as far as they are needed.
    pub(super) fn covering(&self, number: u64) -> Option<u64> {
        let at = self.sealed.partition_point(|sealed| *sealed < number);
        let found = self.sealed.get(at).copied()?;
        let from = self.compacted.get(&found).map_or(found, |compacted| compacted.from);
        (from <= number).then_some(found)
    }

    /// How often a segment was compacted.
    pub(super) fn generation(&self, number: u64) -> u32 {
        self.compacted.get(&number).map_or(0, |compacted| compacted.generation)
    }

    /// The sealed segments with records of `workflow`, oldest first, and now and then one without.
    pub(super) fn with(&self, workflow: Short) -> Vec<u64> {
        let mark = Self::mark(workflow);
        let from = self.pairs.partition_point(|(found, _)| *found < mark);
        let pairs = self.pairs.get(from..).unwrap_or_default();
        let old = pairs.iter().take_while(|(found, _)| *found == mark);
        // Segments come in order, so what is recent is newer.
        old.chain(self.recent.iter().filter(|(found, _)| *found == mark)).map(|(_, number)| *number).collect()
    }
}
