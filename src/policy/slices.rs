//! A set of policies cut into what each action needs: a decision looks at no policy that is about something else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{Effect, Entities, Entity, PolicySet, Schema};

use super::arguments::Checks;
use super::call::{TYPES, entity};
use super::engine::{Evidence, Guard, Servers};
use super::load::Scope;
use super::meta::Mode;
use super::pin::Pin;
use super::reading::Term;
use super::schema::{HTTP_CALL, LLM_CALL, MCP_CALL, TOOL, server_group, tool_action, unmodelled_action};
use crate::diag::{Code, Problem};

/// What a fact must be bound to, to be what a guard asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Probe {
    pub(super) fact: String,
    pub(super) of: Vec<(String, Term)>,
}

/// The guards of one action, or of several with the same ones.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) enforced: PolicySet,
    /// With those in shadow mode; `None` where there are none.
    pub(super) with_shadow: Option<PolicySet>,
    pub(super) probes: Vec<Probe>,
    pub(super) teams: BTreeSet<String>,
    /// Ids of the enforced permits: what a call could be allowed by.
    pub(super) permits: Vec<String>,
}

/// One action and what is known of it.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) slice: Arc<Slice>,
    /// The action and its groups, for `action in`.
    pub(super) entities: Entities,
    /// A guard names the action itself.
    pub(super) is_named: bool,
    /// Whether the tool may be shown before there is a call: by list-safe guards alone.
    pub(super) listing: Listing,
}

/// What can be said of an action before there is a call.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Guards that look at nothing but who calls what.
    pub(super) safe: PolicySet,
    /// A permit that is not list-safe has the action in its scope.
    pub(super) may_be_permitted: bool,
}

/// A checked set, cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) guard_schema: Schema,
    pub(super) evidence_schema: Schema,
    pub(super) guards: BTreeMap<String, Guard>,
    pub(super) actions: HashMap<String, Action>,
    /// By the action of the tool.
    pub(super) evidence: HashMap<String, (PolicySet, Vec<Evidence>)>,
    /// Every fact, and whether it is bound to something.
    pub(super) facts: BTreeMap<String, bool>,
    /// Of each evidence policy the hash of its text.
    pub(super) hashes: HashMap<String, String>,
    /// By the action of the tool.
    pub(super) checks: HashMap<String, Checks>,
    pub(super) pins: BTreeMap<String, Pin>,
    pub(super) servers: Servers,
}

/// A checked set.
pub(super) struct Parts {
    pub(super) guards: Vec<Guard>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) pins: BTreeMap<String, Pin>,
    pub(super) http: BTreeSet<String>,
    pub(super) servers: Servers,
}

impl Parts {
    /// # Errors
    /// What Cedar refuses of what was checked before: nothing that is known.
    pub(super) fn cut(self, guard_schema: Schema, evidence_schema: Schema) -> Result<Cut, Problem> {
        let mut slices: HashMap<Vec<usize>, Arc<Slice>> = HashMap::new();
        let mut actions = HashMap::new();
        for (action, groups) in self.lineages() {
            let about: Vec<usize> = (self.guards.iter().enumerate())
                .filter(|(_, guard)| is_about(&guard.parsed.scope, &action, &groups))
                .map(|(place, _)| place)
                .collect();
            let guards = || about.iter().filter_map(|place| self.guards.get(*place));
            let listing = listing(guards())?;
            let slice = match slices.get(&about) {
                Some(slice) => Arc::clone(slice),
                None => Arc::new(slice(guards())?),
            };
            slices.insert(about.clone(), Arc::clone(&slice));
            let entities = action_entities(&action, &groups)?;
            let is_named = guards().any(|guard| guard.parsed.scope.names(&action));
            actions.insert(action, Action { slice, entities, is_named, listing });
        }
        let mut evidence: HashMap<String, (PolicySet, Vec<Evidence>)> = HashMap::new();
        for policy in self.evidence {
            let (set, all) = evidence.entry(policy.action.clone()).or_default();
            set.add(policy.parsed.policy.clone()).map_err(|error| refused(&error))?;
            all.push(policy);
        }
        let all = || evidence.values().flat_map(|(_, all)| all);
        let facts = all().map(|policy| (policy.meta.fact.clone(), !policy.meta.bind.is_empty())).collect();
        let hashes = all().map(|policy| (policy.meta.id.clone(), policy.hash.clone())).collect();
        let checks = checks(&self.pins)?;
        let guards = self.guards.into_iter().map(|guard| (guard.meta.id.clone(), guard)).collect();
        let (pins, servers) = (self.pins, self.servers);
        Ok(Cut {
            guard_schema,
            evidence_schema,
            guards,
            actions,
            evidence,
            facts,
            hashes,
            checks,
            pins,
            servers,
        })
    }

    /// Every action with the groups that it is in.
    fn lineages(&self) -> Vec<(String, Vec<String>)> {
        let mut all = vec![
            (LLM_CALL.to_owned(), Vec::new()),
            (MCP_CALL.to_owned(), Vec::new()),
            (HTTP_CALL.to_owned(), Vec::new()),
        ];
        all.extend(self.http.iter().map(|server| (unmodelled_action(server), Vec::new())));
        for (server, pin) in &self.pins {
            for (name, tool) in &pin.tools {
                let mut groups = vec![server_group(server), TOOL.to_owned()];
                groups.extend(tool.groups.iter().cloned());
                all.push((tool_action(server, name), groups));
            }
        }
        all
    }
}

fn checks(pins: &BTreeMap<String, Pin>) -> Result<HashMap<String, Checks>, Problem> {
    let mut all = HashMap::new();
    for (server, pin) in pins {
        for (name, tool) in &pin.tools {
            let action = tool_action(server, name);
            let checks = Checks::of(tool).map_err(|error| {
                Problem::new(
                    Code::BadToolPin,
                    format!("the definition of `{action}` cannot be checked against: {error}"),
                )
            })?;
            all.insert(action, checks);
        }
    }
    Ok(all)
}

fn refused(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::PolicyUnsound, format!("Cedar refuses the set: {error}"))
}

fn is_about(scope: &Scope, action: &str, groups: &[String]) -> bool {
    match scope {
        Scope::Any => true,
        Scope::Of(names) => names.iter().any(|name| name == action || groups.contains(name)),
    }
}

fn policy_set<'a>(guards: impl Iterator<Item = &'a Guard>) -> Result<PolicySet, Problem> {
    let mut set = PolicySet::new();
    for guard in guards {
        set.add(guard.parsed.policy.clone()).map_err(|error| refused(&error))?;
    }
    Ok(set)
}

fn slice<'a>(guards: impl Iterator<Item = &'a Guard> + Clone) -> Result<Slice, Problem> {
    let enforced = || guards.clone().filter(|guard| guard.meta.mode == Mode::Enforce);
    let has_shadow = guards.clone().any(|guard| guard.meta.mode == Mode::Shadow);
    let asks = guards.clone().flat_map(|guard| &guard.reading.asks);
    let probes: BTreeSet<Probe> =
        asks.map(|ask| Probe { fact: ask.fact.clone(), of: ask.of.clone() }).collect();
    let permits = enforced().filter(|guard| guard.parsed.policy.effect() == Effect::Permit);
    Ok(Slice {
        enforced: policy_set(enforced())?,
        with_shadow: if has_shadow { Some(policy_set(guards.clone())?) } else { None },
        probes: probes.into_iter().collect(),
        teams: guards.clone().flat_map(|guard| guard.reading.teams.iter().cloned()).collect(),
        permits: permits.map(|guard| guard.meta.id.clone()).collect(),
    })
}

fn listing<'a>(guards: impl Iterator<Item = &'a Guard> + Clone) -> Result<Listing, Problem> {
    let enforced = || guards.clone().filter(|guard| guard.meta.mode == Mode::Enforce);
    let safe = policy_set(enforced().filter(|guard| !guard.reading.needs_call))?;
    let may_be_permitted =
        enforced().any(|guard| guard.reading.needs_call && guard.parsed.policy.effect() == Effect::Permit);
    Ok(Listing { safe, may_be_permitted })
}

fn action_entities(action: &str, groups: &[String]) -> Result<Entities, Problem> {
    let uid = |name: &str| entity(&TYPES.action, name);
    let tool = uid(TOOL);
    let group = |name: &String| {
        // A server's group is in the group of all tools.
        let parents = if name.starts_with("server:") { [tool.clone()].into() } else { Default::default() };
        Entity::new_no_attrs(uid(name), parents)
    };
    let itself = Entity::new_no_attrs(uid(action), groups.iter().map(|name| uid(name)).collect());
    let all = groups.iter().map(group).chain([itself]);
    Entities::from_entities(all, None).map_err(|error| refused(&error))
}
