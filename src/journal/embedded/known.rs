//! Where bodies are, as far as it is kept in mind: bounded, and never needed to find one.

use std::collections::HashMap;

use crate::model::BodyHash;

/// Bodies whose place is kept in mind, per generation. What an agent sends again with every turn is stored
/// once while it is among them.
const KNOWN_MAX: usize = 16 << 10;

/// Where bodies are, of two generations: the older one is dropped when the younger one is full.
#[derive(Debug, Default)]
pub(super) struct Known {
    young: HashMap<BodyHash, u64>,
    old: HashMap<BodyHash, u64>,
}

impl Known {
    pub(super) fn add(&mut self, bodies: impl Iterator<Item = (BodyHash, u64)>) {
        self.young.extend(bodies.filter(|(_, segment)| *segment > 0));
        if self.young.len() >= KNOWN_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(super) fn get(&self, hash: &BodyHash) -> Option<u64> {
        self.young.get(hash).or_else(|| self.old.get(hash)).copied()
    }
}
