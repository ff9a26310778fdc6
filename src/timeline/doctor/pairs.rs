//! Which calls of two attempts correspond: what the later one asked for and did not find, and what the earlier one
//! had asked for and the later one left out. Looks at names and order; how alike two requests are, it is told.

use std::collections::BTreeMap;

use crate::journal::{Intent, Record};
use crate::model::{AttemptId, FoundBy, StepIndex};

/// The calls of two attempts.
#[derive(Debug)]
pub(super) struct Sides<'a> {
    /// Of the earlier attempt, and not asked for by the later one, in order.
    pub(super) left_out: Vec<&'a Intent>,
    /// Begun by the later attempt, in order.
    pub(super) new: Vec<&'a Intent>,
    /// Recorded steps that the later attempt found, whoever had begun them.
    pub(super) found: usize,
    /// How many of them not by an equal request.
    pub(super) loosely: usize,
}

pub(super) fn sides(records: &[Record], earlier: AttemptId, later: AttemptId) -> Sides<'_> {
    let mut intents: BTreeMap<StepIndex, &Intent> = BTreeMap::new();
    let (mut before, mut after): (Vec<StepIndex>, BTreeMap<StepIndex, Option<FoundBy>>) = Default::default();
    for record in records {
        let (step, by, found_by) = if let Record::Intent(intent) = record {
            intents.insert(intent.step, intent);
            (intent.step, intent.attempt, None)
        } else if let Record::Redelivered { step, attempt, found_by, .. } = record {
            (*step, *attempt, *found_by)
        } else {
            continue;
        };
        if by == earlier && !before.contains(&step) {
            before.push(step);
        } else if by == later {
            after.entry(step).or_insert(found_by);
        }
    }
    let is_found = |step: &StepIndex| intents.get(step).is_some_and(|intent| intent.attempt != later);
    let found = after.iter().filter(|(step, _)| is_found(step));
    let loosely = found.clone().filter(|(_, by)| by.is_some_and(|by| by != FoundBy::Exact)).count();
    let of = |step: &StepIndex| intents.get(step).copied();
    Sides {
        left_out: before.iter().filter(|step| !after.contains_key(step)).filter_map(of).collect(),
        new: after.keys().filter_map(of).filter(|intent| intent.attempt == later).collect(),
        found: found.count(),
        loosely,
    }
}

/// Most calls that one call is compared with.
const RIVALS_MAX: usize = 8;

/// Pairs every new call with the call left out that it is most alike, of those with its name and of the next few in
/// order; without one of its name, with one to the same upstream. `unlikeness`: the fewer the more alike; 0 or 1
/// ends the search.
pub(super) fn pair<'a>(
    sides: &Sides<'a>,
    mut unlikeness: impl FnMut(&'a Intent, &'a Intent) -> usize,
) -> Vec<(&'a Intent, &'a Intent)> {
    let mut free = sides.left_out.clone();
    let mut pairs = Vec::new();
    for new in &sides.new {
        let is_of = |left: &Intent| left.kind == new.kind && left.upstream == new.upstream;
        let same = |left: &Intent| is_of(left) && left.operation == new.operation;
        let has_same = free.iter().any(|left| same(left));
        let rivals =
            free.iter().enumerate().filter(|(_, left)| if has_same { same(left) } else { is_of(left) });
        let mut best: Option<(usize, usize)> = None;
        for (at, left) in rivals.take(RIVALS_MAX) {
            let unlike = unlikeness(left, new);
            if best.is_none_or(|(_, least)| unlike < least) {
                best = Some((at, unlike));
            }
            if unlike <= 1 {
                break;
            }
        }
        if let Some((at, _)) = best {
            pairs.push((free.remove(at), *new));
        }
    }
    pairs
}
