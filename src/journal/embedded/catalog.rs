//! Which workflows have records in which sealed segments: small enough to be in memory whatever the store
//! holds, so that no look-up goes to a segment in vain.

use super::footer::Sealed;
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
}

impl Catalog {
    const RECENT_MAX: usize = 512;

    fn mark(workflow: Short) -> u32 {
        workflow.0.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    pub(super) fn add(&mut self, sealed: &Sealed) {
        self.sealed.push(sealed.number);
        self.newest = Some((sealed.number, sealed.ended.hash));
        self.recent.extend(sealed.workflows().map(|workflow| (Self::mark(workflow), sealed.number)));
        if self.recent.len() >= Self::RECENT_MAX {
            self.pairs.append(&mut self.recent);
            // A long run that is in order and a short one that is not: what this sort is good at.
            self.pairs.sort();
        }
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
