//! One question to Cedar: a call with these facts and those approvals, asked again with fewer to find what it needs.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    Context, Decision as CedarDecision, Entities, Entity, PolicySet, Request, RestrictedExpression, Schema,
};

use super::call::{Moment, Subject, TYPES, entity};
use super::datum::{Bound, Scalar, record};
use super::engine::{Decision, Engine, Looked, Outcome, Reason};
use super::facts::{FactId, Found, Ledger};
use super::reading::Term;
use super::slices::{Action, Probe};

/// What Cedar says to one question.
pub(super) struct Answer {
    pub(super) allowed: bool,
    pub(super) by: Vec<String>,
    pub(super) errors: Vec<String>,
}

/// One call, ready to be asked about with these or those facts and approvals.
pub(super) struct Question<'a> {
    engine: &'a Engine,
    action: &'a Action,
    subject: &'a Subject,
    moment: &'a Moment<'a>,
    ledger: &'a Ledger,
    entities: Entities,
    /// All but the facts and approvals.
    parts: Vec<(String, RestrictedExpression)>,
    looked: Vec<Looked>,
}

impl<'a> Question<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        action: &'a Action,
        subject: &'a Subject,
        moment: &'a Moment<'a>,
        ledger: &'a Ledger,
    ) -> Result<Self, String> {
        let mut entities = engine.entities(action, subject.server(), moment)?;
        if let Subject::Model(call) = subject {
            let provider = RestrictedExpression::new_string(call.provider.clone());
            let model =
                Entity::new(subject.resource(), [("provider".to_owned(), provider)].into(), [].into());
            let model = model.map_err(|error| error.to_string())?;
            entities = entities.add_entities([model], None).map_err(|error| error.to_string())?;
        }
        let mut parts = moment.parts();
        parts.extend(subject.parts().into_iter().map(|(name, value)| (name.to_owned(), value.expression())));
        let mut question =
            Self { engine, action, subject, moment, ledger, entities, parts, looked: Vec::new() };
        question.looked = action.slice.probes.iter().filter_map(|probe| question.look(probe)).collect();
        Ok(question)
    }

    /// Looks a fact up; `None`: the call does not have the values that it would be bound to.
    fn look(&self, probe: &Probe) -> Option<Looked> {
        let value = |(name, term): &(String, Term)| {
            let value = match term {
                Term::Literal(value) => value.clone(),
                Term::Path(path) => self.value(path)?,
            };
            Some((name.clone(), value))
        };
        let bound: Bound = probe.of.iter().map(value).collect::<Option<_>>()?;
        let found = self.ledger.find(&probe.fact, &bound, (self.moment.now, self.moment.own), |fact| {
            self.engine.is_current(fact)
        });
        Some(Looked { fact: probe.fact.clone(), bound, found })
    }

    fn value(&self, path: &[String]) -> Option<Scalar> {
        self.subject.at(path)?.scalar()
    }

    pub(super) fn facts(&self) -> BTreeSet<FactId> {
        let valid = self.looked.iter().filter_map(|looked| match looked.found {
            Found::Valid(id) => Some(id),
            Found::Gone(..) | Found::Never => None,
        });
        valid.collect()
    }

    /// What a set says with exactly these facts and approvals.
    pub(super) fn ask(
        &self,
        set: &PolicySet,
        facts: &BTreeSet<FactId>,
        approvals: &BTreeSet<String>,
    ) -> Answer {
        match self.request(facts, approvals) {
            Ok(request) => {
                let response = self.engine.authorizer.is_authorized(&request, set, &self.entities);
                let diagnostics = response.diagnostics();
                let errors: Vec<_> = diagnostics.errors().map(ToString::to_string).collect();
                let by = diagnostics.reason().map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
                // Cedar leaves out a forbid that fails: what is left would let through what it forbids.
                let allowed = response.decision() == CedarDecision::Allow && errors.is_empty();
                Answer { allowed, by, errors }
            }
            Err(error) => Answer { allowed: false, by: Vec::new(), errors: vec![error] },
        }
    }

    fn request(&self, facts: &BTreeSet<FactId>, approvals: &BTreeSet<String>) -> Result<Request, String> {
        let schema: &Schema = &self.engine.cut.guard_schema;
        let mut parts = self.parts.clone();
        parts.push(("evidence".to_owned(), self.evidence(facts)));
        let teams =
            approvals.iter().map(|team| RestrictedExpression::new_entity_uid(entity(&TYPES.team, team)));
        parts.push(("approvals".to_owned(), RestrictedExpression::new_set(teams)));
        let context = Context::from_pairs(parts).map_err(|error| error.to_string())?;
        let agent = entity(&TYPES.agent, &self.moment.principal.id);
        let action = entity(&TYPES.action, &self.subject.action());
        Request::new(agent, action, self.subject.resource(), context, Some(schema))
            .map_err(|error| error.to_string())
    }

    fn evidence(&self, facts: &BTreeSet<FactId>) -> RestrictedExpression {
        // Every fact is there to be asked for; only those that this call asks for are looked up.
        let mut sets: BTreeMap<&str, Vec<RestrictedExpression>> = BTreeMap::new();
        let mut flags: BTreeSet<&str> = BTreeSet::new();
        for looked in &self.looked {
            let Found::Valid(id) = looked.found else { continue };
            if !facts.contains(&id) {
                continue;
            }
            if looked.bound.is_empty() {
                flags.insert(&looked.fact);
            } else {
                let bound = looked.bound.iter().map(|(name, value)| (name.clone(), value.expression()));
                sets.entry(&looked.fact).or_default().push(record(bound));
            }
        }
        record(self.engine.cut.facts.iter().map(|(name, is_bound)| {
            let value = if *is_bound {
                RestrictedExpression::new_set(sets.remove(name.as_str()).unwrap_or_default())
            } else {
                RestrictedExpression::new_bool(flags.contains(name.as_str()))
            };
            (name.clone(), value)
        }))
    }

    pub(super) fn decide(self, approvals: &BTreeSet<String>) -> Decision {
        let slice = &self.action.slice;
        let facts = self.facts();
        let answer = self.ask(&slice.enforced, &facts, approvals);
        let is_allowed = |facts: &BTreeSet<FactId>, approvals: &BTreeSet<String>| {
            self.ask(&slice.enforced, facts, approvals).allowed
        };
        if answer.allowed {
            let reserve =
                needed(facts.clone(), |id| self.is_single_use(*id), |facts| is_allowed(facts, approvals));
            let approved_by = needed(approvals.clone(), |_| true, |approvals| is_allowed(&facts, approvals));
            let (reserve, by) = (reserve.into_iter().collect(), self.engine.reasons(answer.by));
            let looked = self.looked;
            return Decision {
                outcome: Outcome::Allow,
                by,
                errors: Vec::new(),
                looked,
                reserve,
                approved_by,
            };
        }
        let every: BTreeSet<String> = slice.teams.union(approvals).cloned().collect();
        let mut outcome = Outcome::Deny;
        if answer.errors.is_empty() && every.len() > approvals.len() && is_allowed(&facts, &every) {
            let teams = needed(every, |team| !approvals.contains(team), |teams| is_allowed(&facts, teams));
            outcome = Outcome::Pending(teams);
        }
        let mut by = self.engine.reasons(answer.by);
        if !answer.errors.is_empty() {
            let message = "a policy could not be evaluated for this call, so that it is denied".to_owned();
            by = vec![Reason { policy: "builtin:policy_error".to_owned(), message: Some(message) }];
        } else if by.is_empty() {
            by = vec![no_permit(&slice.permits, &self.subject.action())];
        }
        let (reserve, approved_by) = (Vec::new(), BTreeSet::new());
        Decision { outcome, by, errors: answer.errors, looked: self.looked, reserve, approved_by }
    }

    fn is_single_use(&self, id: FactId) -> bool {
        self.ledger.get(id).is_some_and(|fact| fact.single_use)
    }
}

/// Leaves out one after the other what is not needed for `holds`: of those that `counts` says, what is needed.
fn needed<T: Clone + Ord>(
    all: BTreeSet<T>,
    counts: impl Fn(&T) -> bool,
    holds: impl Fn(&BTreeSet<T>) -> bool,
) -> BTreeSet<T> {
    let mut left = all.clone();
    let mut needed = BTreeSet::new();
    for one in all.into_iter().filter(|one| counts(one)) {
        left.remove(&one);
        if !holds(&left) {
            left.insert(one.clone());
            needed.insert(one);
        }
    }
    needed
}

/// Cedar names no policy when none permits.
fn no_permit(permits: &[String], action: &str) -> Reason {
    let names: Vec<_> = permits.iter().map(|id| format!("`{id}`")).collect();
    let message = if names.is_empty() {
        format!("no policy permits {action}")
    } else {
        format!("no policy permits this call of {action}; those that could are {}", names.join(", "))
    };
    Reason { policy: "builtin:no_permit".to_owned(), message: Some(message) }
}
