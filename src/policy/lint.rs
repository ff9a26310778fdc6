//! What is wrong with policies that are well-typed Cedar: that they fail open, say more than they mean, or leave out what
//! they should be bound to.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Effect;

use super::bind::bound_root;
use super::engine::{Evidence, Guard};
use super::fault::Faults;
use super::load::{Scope, Surroundings};
use super::meta::Kind;
use super::pin::Pin;
use super::reading::Sign;
use crate::diag::{Code, Problem};

/// Adds what is wrong to `faults`; what may be meant comes back as warnings.
pub(super) fn run(
    guards: &[Guard],
    evidence: &[Evidence],
    pins: &BTreeMap<String, Pin>,
    around: &Surroundings,
    faults: &mut Faults,
) -> Faults {
    let mut warnings = Faults::default();
    let kinds: BTreeMap<&str, Kind> =
        evidence.iter().map(|policy| (policy.meta.fact.as_str(), policy.meta.kind)).collect();
    for guard in guards {
        let mut say = |message: String, help: &str| {
            faults.add_where(
                &guard.parsed.file,
                place(&guard.meta.id),
                Problem::new(Code::PolicyUnsound, message).help(help),
            );
        };
        wide_permit(guard, &mut say);
        directions(guard, &kinds, &mut say);
        teams(guard, around, &mut say);
        for form in &guard.reading.bad_forms {
            say(
                format!("in `{}`: {form}", guard.meta.id),
                "a fact is looked up by what it is bound to, however many there are",
            );
        }
    }
    mixed_kinds(evidence, faults);
    for guard in guards {
        unbound(guard, evidence, pins, &mut warnings);
    }
    unasked(guards, evidence, &mut warnings);
    warnings
}

/// What a policy's place is found by.
fn place(id: &str) -> String {
    format!("@id(\"{id}\")")
}

fn wide_permit(guard: &Guard, say: &mut impl FnMut(String, &str)) {
    if guard.parsed.policy.effect() == Effect::Permit && guard.parsed.scope == Scope::Any {
        let message = format!(
            "the permit `{}` is about every action, also those that nobody has reviewed",
            guard.meta.id
        );
        say(
            message,
            "say which: `action in Action::\"tool\"`, `action == Action::\"llm.call\"`, `action in Action::\"server:NAME\"`",
        );
    }
}

/// A fact that is missing must never be what lets a call through, and a taint that is there never what helps it.
fn directions(guard: &Guard, kinds: &BTreeMap<&str, Kind>, say: &mut impl FnMut(String, &str)) {
    for ask in &guard.reading.asks {
        let fact = &ask.fact;
        match (kinds.get(fact.as_str()), ask.sign) {
            (Some(Kind::Evidence), Sign::Hurts | Sign::Both) => say(
                format!(
                    "`{}` is asked for so that a call is let through where the fact `{fact}` is missing",
                    guard.meta.id
                ),
                "evidence stands in `permit ... when` or `forbid ... unless`; what must keep calls back is minted with `@kind(\"taint\")`",
            ),
            (Some(Kind::Taint), Sign::Helps | Sign::Both) => say(
                format!("`{}` lets a call through because of the taint `{fact}`", guard.meta.id),
                "a taint stands in `forbid ... when`",
            ),
            (Some(Kind::Evidence), Sign::Helps) | (Some(Kind::Taint), Sign::Hurts) | (None, _) => {}
        }
    }
}

fn teams(guard: &Guard, around: &Surroundings, say: &mut impl FnMut(String, &str)) {
    if around.teams.as_ref().is_some_and(BTreeSet::is_empty)
        && let Some(team) = guard.reading.teams.first()
    {
        let message =
            format!("`{}` asks for the approval of `{team}`, and nobody can approve", guard.meta.id);
        say(message, "name people and their teams under `approvers` in the config");
    }
}

/// One fact is either evidence or a taint.
fn mixed_kinds(evidence: &[Evidence], faults: &mut Faults) {
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    for policy in evidence {
        if *kinds.entry(&policy.meta.fact).or_insert(policy.meta.kind) != policy.meta.kind {
            let message =
                format!("the fact `{}` is evidence by one policy and a taint by another", policy.meta.fact);
            let problem = Problem::new(Code::PolicyUnsound, message);
            faults.add_where(&policy.parsed.file, place(&policy.meta.id), problem);
        }
    }
}

/// An argument that both tools take, and that the fact is not bound to: a check of one amount, a charge of another.
fn unbound(guard: &Guard, evidence: &[Evidence], pins: &BTreeMap<String, Pin>, warnings: &mut Faults) {
    let Scope::Of(actions) = &guard.parsed.scope else { return };
    let inputs = |action: &str| -> BTreeSet<String> {
        let tool = action.split_once('/').and_then(|(server, tool)| pins.get(server)?.tools.get(tool));
        tool.into_iter().flat_map(|tool| tool.input.iter()).map(|(name, _)| name.to_owned()).collect()
    };
    let guarded: BTreeSet<String> = actions.iter().flat_map(|action| inputs(action)).collect();
    for ask in &guard.reading.asks {
        for policy in evidence
            .iter()
            .filter(|policy| policy.meta.fact == ask.fact && policy.meta.kind == Kind::Evidence)
        {
            let bound: BTreeSet<&str> = policy
                .meta
                .bind
                .iter()
                .filter_map(|path| match bound_root(path) {
                    ("input", rest) => rest.split('.').next(),
                    _ => None,
                })
                .collect();
            let checked = inputs(&policy.action);
            let left_out: Vec<_> = guarded
                .intersection(&checked)
                .filter(|name| !bound.contains(name.as_str()))
                .map(|name| format!("`{name}`"))
                .collect();
            if left_out.is_empty() || actions.contains(&policy.action) {
                continue;
            }
            let message = format!(
                "`{}` accepts `{}` for any {}: {} takes it as well, and the fact is not bound to it",
                guard.meta.id,
                ask.fact,
                left_out.join(", "),
                policy.action
            );
            let help = format!(
                "add it to `@bind` of `{}` and ask for it, unless any value is meant",
                policy.meta.id
            );
            let problem = Problem::new(Code::PolicyUnsound, message).help(help);
            warnings.add_where(&guard.parsed.file, place(&guard.meta.id), problem);
        }
    }
}

fn unasked(guards: &[Guard], evidence: &[Evidence], warnings: &mut Faults) {
    let asked: BTreeSet<&str> =
        guards.iter().flat_map(|guard| &guard.reading.asks).map(|ask| ask.fact.as_str()).collect();
    for policy in evidence.iter().filter(|policy| !asked.contains(policy.meta.fact.as_str())) {
        let message = format!("no guard asks for the fact `{}`", policy.meta.fact);
        let problem = Problem::new(Code::PolicyUnsound, message);
        warnings.add_where(&policy.parsed.file, place(&policy.meta.id), problem);
    }
}
