//! A set of policies that passed every check, and the decisions that it makes. Knows nothing of workflows, journals and
//! agents: what happened comes in as facts, and what was decided goes out as a value.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::RestrictedExpression;
use cedar_policy::{Authorizer, Context, Decision as CedarDecision, Entities, Entity, Request};

use super::arguments::Checks;
use super::call::{Moment, Subject, TYPES, entity};
use super::datum::{Bound, Datum, record};
use super::facts::{Fact, FactId, Found, Gone, Ledger};
use super::load::{Parsed, Server};
use super::meta::{EvidenceMeta, GuardMeta};
use super::pin::{Pin, Tool};
use super::question::Question;
use super::reading::Reading;
use super::slices::{Action, Cut};
use crate::diag::Report;

/// Upstreams by their names in the config.
pub type Servers = BTreeMap<String, Server>;

/// A guard, read.
pub(super) struct Guard {
    pub(super) meta: GuardMeta,
    pub(super) reading: Reading,
    pub(super) parsed: Parsed,
}

/// An evidence policy, read.
pub(super) struct Evidence {
    pub(super) meta: EvidenceMeta,
    /// The tool that it is about.
    pub(super) action: String,
    /// Of its text.
    pub(super) hash: String,
    pub(super) parsed: Parsed,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guard").field(&self.meta.id).finish()
    }
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Evidence").field(&self.meta.id).finish()
    }
}

/// A set of policies, ready to decide. Never changed; a reload makes another.
#[derive(Debug)]
pub struct Engine {
    pub(super) cut: Cut,
    hash: String,
    warnings: Vec<Report>,
    pub(super) authorizer: Authorizer,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Allow,
    Deny,
    /// Denied for want of these teams' approval, and of nothing else.
    Pending(BTreeSet<String>),
}

/// A policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// Its id, or `builtin:<rule>`.
    pub policy: String,
    pub message: Option<String>,
}

/// A fact that a guard asked for, and what there was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    pub fact: String,
    pub bound: Bound,
    pub found: Found,
}

/// What was decided of a call, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    /// The policies that decided, in the order of their ids.
    pub by: Vec<Reason>,
    /// Errors of evaluation; with any of them the call is denied.
    pub errors: Vec<String>,
    /// Every fact that the guards of this action ask for.
    pub looked: Vec<Looked>,
    /// Facts that can be used once and without which the call would not be allowed: to be reserved before it is sent.
    pub reserve: Vec<FactId>,
    /// The teams without whose approval the call would not be allowed.
    pub approved_by: BTreeSet<String>,
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        self.outcome == Outcome::Allow
    }

    /// A denial by a rule of the program itself.
    pub fn refused(rule: &str, message: String) -> Box<Self> {
        Box::new(Self::denied(rule, message))
    }

    pub(super) fn denied(policy: &str, message: String) -> Self {
        Self {
            outcome: Outcome::Deny,
            by: vec![Reason { policy: policy.to_owned(), message: Some(message) }],
            errors: Vec::new(),
            looked: Vec::new(),
            reserve: Vec::new(),
            approved_by: BTreeSet::new(),
        }
    }
}

/// What the shadow policies would have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    pub would_allow: bool,
    /// The policies in shadow mode that would have decided.
    pub by: Vec<Reason>,
}

impl Engine {
    pub(super) fn new(cut: Cut, hash: String, warnings: Vec<Report>) -> Self {
        Self { cut, hash, warnings, authorizer: Authorizer::new() }
    }

    /// SHA-256 of everything that the set is made of, in hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What is not wrong with the set, and may not be meant.
    pub fn warnings(&self) -> &[Report] {
        &self.warnings
    }

    pub fn tool(&self, server: &str, tool: &str) -> Option<&Tool> {
        self.pin(server)?.tools.get(tool)
    }

    pub(super) fn checks(&self, server: &str, tool: &str) -> Option<&Checks> {
        self.cut.checks.get(&super::schema::tool_action(server, tool))
    }

    pub fn pin(&self, server: &str) -> Option<&Pin> {
        self.cut.pins.get(server)
    }

    /// The ids of all guards.
    pub fn guards(&self) -> impl Iterator<Item = &str> {
        self.cut.guards.keys().map(String::as_str)
    }

    /// The ids of all evidence policies.
    pub fn evidence(&self) -> impl Iterator<Item = &str> {
        self.cut.evidence.values().flat_map(|(_, all)| all.iter().map(|policy| policy.meta.id.as_str()))
    }

    /// The tools whose results can mint a fact, as actions.
    pub fn minted_by(&self, fact: &str) -> BTreeSet<&str> {
        let all = self.cut.evidence.values().flat_map(|(_, all)| all);
        all.filter(|policy| policy.meta.fact == fact).map(|policy| policy.action.as_str()).collect()
    }

    /// Of a denial what would have to happen first: the facts that were asked for and are not there.
    pub fn missing(&self, decision: &Decision) -> Option<String> {
        let sentence = |looked: &Looked| {
            let Found::Gone(_, why) = looked.found else { return None };
            let bound: Vec<_> = looked.bound.iter().map(|(name, value)| format!("{name} {value}")).collect();
            let what = if bound.is_empty() {
                looked.fact.clone()
            } else {
                format!("{} for {}", looked.fact, bound.join(", "))
            };
            let why = match why {
                Gone::InUse { by } => format!("is in use by step {by}"),
                Gone::Used { by } => format!("was used by step {by}"),
                Gone::Expired { at } => format!("was valid until {at}"),
                Gone::PolicyChanged => "was minted by a policy that has changed".to_owned(),
            };
            let tools: Vec<_> = self.minted_by(&looked.fact).into_iter().collect();
            Some(format!("{what} {why}; it comes from {}.", tools.join(" or ")))
        };
        let all: Vec<_> = decision.looked.iter().filter_map(sentence).collect();
        (!decision.is_allowed() && !all.is_empty()).then(|| all.join(" "))
    }

    /// Whether the policy that minted a fact still says what it said then.
    pub fn is_current(&self, fact: &Fact) -> bool {
        self.cut.hashes.get(&fact.policy) == Some(&fact.policy_hash)
    }

    /// Decides a call, on the facts of its workflow and the approvals that were given for it.
    pub fn decide(
        &self,
        subject: &Subject,
        moment: &Moment<'_>,
        ledger: &Ledger,
        approvals: &BTreeSet<String>,
    ) -> Decision {
        let Some(action) = self.cut.actions.get(&subject.action()) else {
            return self.unknown(subject);
        };
        if let Some(denied) = self.extra_args(subject, action) {
            return denied;
        }
        let question = match Question::new(self, action, subject, moment, ledger) {
            Ok(question) => question,
            Err(message) => return Decision::denied("builtin:policy_error", message),
        };
        question.decide(approvals)
    }

    /// What the policies in shadow mode would have changed of a decision; `None`: nothing.
    pub fn shadow(
        &self,
        subject: &Subject,
        moment: &Moment<'_>,
        ledger: &Ledger,
        approvals: &BTreeSet<String>,
    ) -> Option<Shadowed> {
        let action = self.cut.actions.get(&subject.action())?;
        let with_shadow = action.slice.with_shadow.as_ref()?;
        let question = Question::new(self, action, subject, moment, ledger).ok()?;
        let enforced = question.ask(&action.slice.enforced, &question.facts(), approvals);
        let shadowed = question.ask(with_shadow, &question.facts(), approvals);
        if enforced.allowed == shadowed.allowed {
            return None;
        }
        let by = shadowed.by.into_iter().filter(|id| !enforced.by.contains(id));
        Some(Shadowed { would_allow: shadowed.allowed, by: self.reasons(by) })
    }

    /// Whether a tool is shown in a list: unless it is plain before there is a call that none would be allowed.
    pub fn is_listed(&self, server: &str, tool: &str, moment: &Moment<'_>) -> bool {
        let name = super::schema::tool_action(server, tool);
        let Some(action) = self.cut.actions.get(&name) else { return false };
        if action.listing.may_be_permitted && action.listing.safe.is_empty() {
            return true;
        }
        let Ok(entities) = self.entities(action, server, moment) else { return false };
        let members =
            [("server", server), ("name", tool)].map(|(key, value)| (key, Datum::Text(value.to_owned())));
        let mut tool: Vec<_> =
            members.into_iter().map(|(key, value)| (key.to_owned(), value.expression())).collect();
        tool.push(("extra_args".to_owned(), RestrictedExpression::new_set([])));
        let mut parts = moment.parts();
        parts.push(("tool".to_owned(), record(tool)));
        let Ok(context) = Context::from_pairs(parts) else { return false };
        let agent = entity(&TYPES.agent, &moment.principal.id);
        let resource = entity(&TYPES.server, server);
        // Not checked against the schema: the context lacks what only a call has, and no list-safe guard asks for it.
        let Ok(request) = Request::new(agent, entity(&TYPES.action, &name), resource, context, None) else {
            return false;
        };
        let response = self.authorizer.is_authorized(&request, &action.listing.safe, &entities);
        let forbidden = response.diagnostics().reason().any(|id| {
            let id: &str = id.as_ref();
            self.cut.guards.get(id).is_some_and(Guard::forbids)
        });
        let failed = response.diagnostics().errors().next().is_some();
        !failed
            && !forbidden
            && (response.decision() == CedarDecision::Allow || action.listing.may_be_permitted)
    }

    fn unknown(&self, subject: &Subject) -> Decision {
        match subject {
            Subject::Tool(call) => super::arguments::unknown_tool(&call.server, &call.tool),
            Subject::Unmodelled(_) | Subject::Provider(_) | Subject::Model(_) | Subject::Mcp(_) => {
                let message = format!("no policy can be about `{}` here", subject.action());
                Decision::denied("builtin:unknown_action", message)
            }
        }
    }

    /// Arguments that nobody can see are no business of a tool that a guard names.
    fn extra_args(&self, subject: &Subject, action: &Action) -> Option<Decision> {
        let Subject::Tool(call) = subject else { return None };
        let tool = self.tool(&call.server, &call.tool)?;
        if call.extra_args.is_empty() || tool.allows_extra_args || !action.is_named {
            return None;
        }
        let names: Vec<_> = call.extra_args.iter().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "{} is not an argument of {}/{}; call it without",
            names.join(", "),
            call.server,
            call.tool
        );
        Some(Decision::denied("builtin:extra_args", message))
    }

    pub(super) fn reasons(&self, ids: impl IntoIterator<Item = String>) -> Vec<Reason> {
        let reason = |id: String| {
            let message = self.cut.guards.get(&id).and_then(|guard| guard.meta.message.clone());
            Reason { policy: id, message }
        };
        let mut reasons: Vec<_> = ids.into_iter().map(reason).collect();
        reasons.sort();
        reasons
    }

    /// The action with its groups, who calls, and what is called.
    pub(super) fn entities(
        &self,
        action: &Action,
        server: &str,
        moment: &Moment<'_>,
    ) -> Result<Entities, String> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let principal = moment.principal;
        let mut attributes = vec![
            ("verified", RestrictedExpression::new_bool(principal.verified)),
            ("method", text(principal.proof.as_str())),
            ("trust_domain", text(&principal.trust_domain)),
        ];
        attributes.extend(principal.namespace.as_deref().map(|name| ("namespace", text(name))));
        attributes.extend(principal.service_account.as_deref().map(|name| ("service_account", text(name))));
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let groups: Vec<_> = principal.groups.iter().map(|group| entity(&TYPES.group, group)).collect();
        let agent =
            Entity::new(entity(&TYPES.agent, &principal.id), attributes, groups.iter().cloned().collect());
        let env = self.cut.servers.get(server).map_or("", |server| server.env.as_str());
        let attributes = [("env".to_owned(), text(env))].into();
        let server = Entity::new(entity(&TYPES.server, server), attributes, [].into());
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let mut all = vec![agent.map_err(|error| said(&error))?, server.map_err(|error| said(&error))?];
        all.extend(groups.into_iter().map(|group| Entity::new_no_attrs(group, [].into())));
        action.entities.clone().add_entities(all, None).map_err(|error| said(&error))
    }
}

impl Guard {
    fn forbids(&self) -> bool {
        self.parsed.policy.effect() == cedar_policy::Effect::Forbid
    }
}
