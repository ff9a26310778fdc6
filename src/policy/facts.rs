//! The facts of one workflow: minted from completed steps, found by what they are bound to, reserved and consumed.
//! Holds no policy and decides nothing; how long a look-up takes does not depend on how many facts there are.

use std::collections::HashMap;

use super::datum::Bound;
use super::meta::Kind;
use crate::model::{StepIndex, Timestamp};

/// Most facts of one name and binding that a look-up goes through, from the newest.
const LOOKED_AT_MAX: usize = 64;

/// One fact, by the step that it was minted from and its place among that step's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FactId {
    pub step: StepIndex,
    /// From 0.
    pub nth: u32,
}

/// Something that provably happened in a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub name: String,
    pub bound: Bound,
    /// When the answer that it is minted from had arrived.
    pub minted_at: Timestamp,
    /// `None`: as long as the workflow.
    pub valid_until: Option<Timestamp>,
    pub single_use: bool,
    pub kind: Kind,
    /// The evidence policy that minted it.
    pub policy: String,
    /// Hash of that policy's text: a fact does not outlive it, unless it is a taint.
    pub policy_hash: String,
}

/// Why a fact that was minted does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gone {
    /// A call that is under way counts on it.
    InUse { by: StepIndex },
    /// It could be used once, and was.
    Used { by: StepIndex },
    /// It was valid until then; or the clock has gone back behind its minting.
    Expired { at: Timestamp },
    /// The policy that minted it says something else now.
    PolicyChanged,
}

/// What there is of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Valid(FactId),
    /// The newest one does not count.
    Gone(FactId, Gone),
    /// There never was one.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Reserved(StepIndex),
    Used(StepIndex),
}

#[derive(Clone, Debug)]
struct Entry {
    id: FactId,
    fact: Fact,
    used: Use,
}

/// Facts of one name and one binding.
#[derive(Clone, Debug, Default)]
struct Shelf {
    /// Places in the list of all; the newest last.
    free: Vec<usize>,
    /// The newest one that was reserved or used.
    taken: Option<usize>,
}

/// A fact's name and what it is bound to.
type Key = (String, Bound);

/// All facts of one workflow.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
    places: HashMap<FactId, usize>,
    shelves: HashMap<Key, Shelf>,
    /// What each step has taken.
    taken: HashMap<StepIndex, Vec<FactId>>,
}

impl Ledger {
    /// Takes a fact in. One that is there already is left as it is: a replay mints nothing.
    pub fn mint(&mut self, id: FactId, fact: Fact) {
        if self.places.contains_key(&id) {
            return;
        }
        let place = self.entries.len();
        self.shelves.entry((fact.name.clone(), fact.bound.clone())).or_default().free.push(place);
        self.places.insert(id, place);
        self.entries.push(Entry { id, fact, used: Use::Free });
    }

    /// A call that is about to be sent counts on the fact.
    pub fn reserve(&mut self, id: FactId, by: StepIndex) {
        self.take(id, Use::Reserved(by));
        self.taken.entry(by).or_default().push(id);
    }

    /// The call was carried out: what it has reserved is used.
    pub fn consume(&mut self, by: StepIndex) {
        for id in self.taken.get(&by).cloned().unwrap_or_default() {
            self.take(id, Use::Used(by));
        }
    }

    /// The call provably was not carried out: what it has reserved is free again.
    pub fn release(&mut self, by: StepIndex) {
        for id in self.taken.remove(&by).unwrap_or_default() {
            self.free(id);
        }
    }

    fn free(&mut self, id: FactId) {
        let Some((place, entry)) = self.entry(id) else { return };
        if !matches!(entry.used, Use::Reserved(_)) {
            return;
        }
        entry.used = Use::Free;
        let key = (entry.fact.name.clone(), entry.fact.bound.clone());
        let shelf = self.shelves.entry(key).or_default();
        let at = shelf.free.partition_point(|free| *free < place);
        shelf.free.insert(at, place);
        if shelf.taken == Some(place) {
            shelf.taken = None;
        }
    }

    fn take(&mut self, id: FactId, used: Use) {
        let Some((place, entry)) = self.entry(id) else { return };
        entry.used = used;
        let key = (entry.fact.name.clone(), entry.fact.bound.clone());
        let shelf = self.shelves.entry(key).or_default();
        shelf.free.retain(|free| *free != place);
        shelf.taken = shelf.taken.max(Some(place));
    }

    fn entry(&mut self, id: FactId) -> Option<(usize, &mut Entry)> {
        let place = *self.places.get(&id)?;
        self.entries.get_mut(place).map(|entry| (place, entry))
    }

    pub fn get(&self, id: FactId) -> Option<&Fact> {
        self.entries.get(*self.places.get(&id)?).map(|entry| &entry.fact)
    }

    /// The newest fact of this name and binding that counts at `now`, or why none does. `is_current` says whether a
    /// policy still has the text that a hash is of. What the step `own` has reserved is free for its next try.
    pub fn find(
        &self,
        name: &str,
        bound: &Bound,
        (now, own): (Timestamp, Option<StepIndex>),
        is_current: impl Fn(&Fact) -> bool,
    ) -> Found {
        let reserved = own.and_then(|step| self.taken.get(&step)).into_iter().flatten();
        for id in reserved {
            let fact = self.get(*id).filter(|fact| fact.name == name && fact.bound == *bound);
            if fact.is_some_and(|fact| standing(fact, now, &is_current).is_none()) {
                return Found::Valid(*id);
            }
        }
        let Some(shelf) = self.shelves.get(&(name.to_owned(), bound.clone())) else { return Found::Never };
        let entry = |place: &usize| self.entries.get(*place);
        let mut gone = None;
        for entry in shelf.free.iter().rev().take(LOOKED_AT_MAX).filter_map(entry) {
            match standing(&entry.fact, now, &is_current) {
                None => return Found::Valid(entry.id),
                // The newest says most of why none counts.
                Some(why) => gone = gone.or(Some((entry.id, why))),
            }
        }
        let taken = shelf.taken.as_ref().and_then(entry).map(|entry| {
            let why = match entry.used {
                Use::Reserved(by) => Gone::InUse { by },
                Use::Used(by) => Gone::Used { by },
                Use::Free => Gone::PolicyChanged,
            };
            (entry.id, why)
        });
        match gone.into_iter().chain(taken).max_by_key(|(id, _)| *id) {
            Some((id, why)) => Found::Gone(id, why),
            None => Found::Never,
        }
    }

    /// How many facts there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Why a fact that nobody has taken does not count.
fn standing(fact: &Fact, now: Timestamp, is_current: impl Fn(&Fact) -> bool) -> Option<Gone> {
    if fact.kind == Kind::Taint {
        return None;
    }
    if !is_current(fact) {
        return Some(Gone::PolicyChanged);
    }
    // A clock that has gone back says nothing of how old something is.
    let until = fact.valid_until?;
    (now > until || now < fact.minted_at).then_some(Gone::Expired { at: until })
}

#[cfg(test)]
mod tests {
    use super::super::datum::Scalar;
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn id(step: u64) -> FactId {
        FactId { step: StepIndex::new(step).unwrap(), nth: 0 }
    }

    fn by(step: u64) -> StepIndex {
        StepIndex::new(step).unwrap()
    }

    fn bound(invoice: &str) -> Bound {
        [("invoice_id".to_owned(), Scalar::Text(invoice.to_owned()))].into()
    }

    fn fact(invoice: &str) -> Fact {
        Fact {
            name: "checked".to_owned(),
            bound: bound(invoice),
            minted_at: NOW,
            valid_until: Some(Timestamp(NOW.0 + 900_000)),
            single_use: true,
            kind: Kind::Evidence,
            policy: "ev".to_owned(),
            policy_hash: "h".to_owned(),
        }
    }

    #[track_caller]
    fn check(ledger: &Ledger, invoice: &str, at_ms: i64, expected: Found) {
        let now = Timestamp(NOW.0 + at_ms);
        assert_eq!(
            ledger.find("checked", &bound(invoice), (now, None), |fact| fact.policy_hash == "h"),
            expected
        );
    }

    #[test]
    fn a_fact_counts_for_what_it_is_bound_to_and_for_its_time() {
        let mut ledger = Ledger::default();
        ledger.mint(id(1), fact("INV-7"));
        check(&ledger, "INV-7", 0, Found::Valid(id(1)));
        check(&ledger, "inv-7", 0, Found::Never);
        check(&ledger, "INV-7 ", 0, Found::Never);
        check(&ledger, "INV-7", 900_000, Found::Valid(id(1)));
        let at = Timestamp(NOW.0 + 900_000);
        check(&ledger, "INV-7", 900_001, Found::Gone(id(1), Gone::Expired { at }));
        check(&ledger, "INV-7", -1, Found::Gone(id(1), Gone::Expired { at }));
    }

    #[test]
    fn a_fact_is_reserved_and_used_once_and_released_only_from_a_reservation() {
        let mut ledger = Ledger::default();
        ledger.mint(id(1), fact("a"));
        ledger.reserve(id(1), by(2));
        check(&ledger, "a", 0, Found::Gone(id(1), Gone::InUse { by: by(2) }));
        let own = ledger.find("checked", &bound("a"), (NOW, Some(by(2))), |_| true);
        assert_eq!(own, Found::Valid(id(1)), "its own next try");
        ledger.release(by(2));
        check(&ledger, "a", 0, Found::Valid(id(1)));
        ledger.reserve(id(1), by(3));
        ledger.consume(by(3));
        ledger.release(by(3));
        check(&ledger, "a", 0, Found::Gone(id(1), Gone::Used { by: by(3) }));
        // A replay tells the same again.
        ledger.mint(id(1), fact("a"));
        check(&ledger, "a", 0, Found::Gone(id(1), Gone::Used { by: by(3) }));
        ledger.mint(id(4), fact("a"));
        check(&ledger, "a", 0, Found::Valid(id(4)));
    }

    #[test]
    fn the_newest_of_several_is_taken_first_and_an_older_one_then() {
        let mut ledger = Ledger::default();
        ledger.mint(id(1), fact("a"));
        ledger.mint(id(2), fact("a"));
        check(&ledger, "a", 0, Found::Valid(id(2)));
        ledger.reserve(id(2), by(9));
        check(&ledger, "a", 0, Found::Valid(id(1)));
        ledger.release(by(9));
        check(&ledger, "a", 0, Found::Valid(id(2)));
    }

    #[test]
    fn an_older_fact_counts_where_the_newest_does_not() {
        let mut ledger = Ledger::default();
        ledger.mint(id(1), Fact { valid_until: None, ..fact("a") });
        ledger.mint(id(2), fact("a"));
        check(&ledger, "a", 900_001, Found::Valid(id(1)));
    }

    #[test]
    fn a_fact_does_not_outlive_its_policy_and_a_taint_outlives_everything() {
        let mut ledger = Ledger::default();
        ledger.mint(id(1), Fact { policy_hash: "old".to_owned(), ..fact("a") });
        check(&ledger, "a", 0, Found::Gone(id(1), Gone::PolicyChanged));
        let taint = Fact { kind: Kind::Taint, policy_hash: "old".to_owned(), ..fact("b") };
        ledger.mint(id(2), taint);
        check(&ledger, "b", i64::MAX / 2, Found::Valid(id(2)));
    }
}
