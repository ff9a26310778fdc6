//! Tests of policies that security teams write: what happened in a workflow, one call, and what must become of it. Runs
//! them over an engine as the proxy would; reads no files.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::call::{HttpCall, McpCall, ModelCall, Moment, Run, Subject};
use super::engine::{Decision, Engine, Outcome};
use super::facts::Ledger;
use super::number::Decimal;
use super::schema::{LLM_CALL, MCP_CALL};
use crate::model::{Principal, Proof, StepIndex, Timestamp};

/// When a history begins that does not say it: 2026-01-05, a Monday, 10:00 UTC.
const START: Timestamp = Timestamp(1_767_607_200_000);
/// Longest chain of cases that extend each other.
const EXTENDS_MAX: usize = 16;

/// One file of tests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The policy files that the cases are about; the whole set where there are none.
    #[serde(default)]
    pub policy: Vec<String>,
    /// `env` of upstreams, as the config would give it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub cases: Vec<Case>,
}

/// One case. What it leaves out it has of the case that it extends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    extends: Option<String>,
    principal: Option<PrincipalSaid>,
    /// When `t: 0s` is, as RFC 3339.
    start: Option<String>,
    run: Option<RunSaid>,
    history: Option<Vec<CallSaid>>,
    /// Teams that have approved the call.
    approvals: Option<BTreeSet<String>>,
    when: Option<CallSaid>,
    expect: Option<Expected>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalSaid {
    id: String,
    #[serde(default)]
    verified: bool,
    trust_domain: Option<String>,
    namespace: Option<String>,
    service_account: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunSaid {
    id: Option<String>,
    parent: Option<String>,
    steps: Option<u64>,
    tool_calls: Option<u64>,
    tokens: Option<u64>,
    cost_usd: Option<Value>,
    budget_left_usd: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallSaid {
    /// Since the start: `90s`, `16m`, `2h`.
    t: Option<String>,
    call: Option<String>,
    input: Option<Value>,
    /// The arguments as JSON text, for numbers and keys that YAML would change.
    input_json: Option<String>,
    output: Option<Value>,
    model: Option<ModelSaid>,
    mcp: Option<McpSaid>,
    http: Option<HttpSaid>,
}

/// A request to a provider, or to an HTTP upstream, that nothing pinned describes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpSaid {
    server: String,
    method: String,
    path: String,
    /// The upstream's tools are HTTP requests.
    #[serde(default)]
    unmodelled: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct McpSaid {
    server: String,
    method: String,
    name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelSaid {
    name: String,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    upstream: String,
    max_output_tokens: Option<i64>,
    #[serde(default)]
    tools: BTreeSet<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    decision: Wanted,
    by: Option<BTreeSet<String>>,
    consumes: Option<BTreeSet<String>>,
    approval: Option<BTreeSet<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Allow,
    Deny,
    Pending,
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    pub name: String,
    /// What was not as expected; empty when the case passed.
    pub failures: Vec<String>,
    /// The policies that decided any call of it, and those that minted a fact.
    pub decided: BTreeSet<String>,
}

/// A case that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("case `{name}`: {why}")]
pub struct BadCase {
    pub name: String,
    pub why: String,
}

/// Reads a file of tests.
///
/// # Errors
/// What is wrong with the text, with its place.
pub fn parse(text: &str) -> Result<Suite, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

impl Suite {
    /// Runs every case.
    ///
    /// # Errors
    /// [`BadCase`]: the first that cannot be run.
    pub fn run(&self, engine: &Engine) -> Result<Vec<Outcomes>, BadCase> {
        let mut by_name: BTreeMap<&str, &Case> = BTreeMap::new();
        for case in &self.cases {
            if by_name.insert(&case.name, case).is_some() {
                return Err(BadCase {
                    name: case.name.clone(),
                    why: "there are two cases of this name".to_owned(),
                });
            }
        }
        self.cases
            .iter()
            .map(|case| {
                let why = |why| BadCase { name: case.name.clone(), why };
                let whole = whole(case, &by_name, EXTENDS_MAX).map_err(why)?;
                Walk::begin(engine, &whole).and_then(|walk| walk.run(&whole)).map_err(why)
            })
            .collect()
    }
}

/// A case with what it has of others.
fn whole(case: &Case, by_name: &BTreeMap<&str, &Case>, left: usize) -> Result<Case, String> {
    let Some(extends) = &case.extends else { return Ok(case.clone()) };
    let base =
        by_name.get(extends.as_str()).ok_or_else(|| format!("there is no case `{extends}` to extend"))?;
    let left =
        left.checked_sub(1).ok_or_else(|| format!("more than {EXTENDS_MAX} cases extend each other"))?;
    let base = whole(base, by_name, left)?;
    let case = case.clone();
    Ok(Case {
        name: case.name,
        extends: None,
        principal: case.principal.or(base.principal),
        start: case.start.or(base.start),
        run: case.run.or(base.run),
        history: case.history.or(base.history),
        approvals: case.approvals.or(base.approvals),
        when: merged(case.when, base.when),
        expect: case.expect.or(base.expect),
    })
}

/// A call of a case over that of the case it extends; arguments are merged name by name.
fn merged(own: Option<CallSaid>, base: Option<CallSaid>) -> Option<CallSaid> {
    let (own, base) = match (own, base) {
        (Some(own), Some(base)) => (own, base),
        (own, base) => return own.or(base),
    };
    let input = match (own.input, base.input) {
        (Some(Value::Object(own)), Some(Value::Object(mut base))) => {
            base.extend(own);
            Some(Value::Object(base))
        }
        (own, base) => own.or(base),
    };
    Some(CallSaid {
        t: own.t.or(base.t),
        call: own.call.or(base.call),
        input_json: own.input_json.or(if input.is_some() { None } else { base.input_json }),
        input,
        output: own.output.or(base.output),
        model: own.model.or(base.model),
        mcp: own.mcp.or(base.mcp),
        http: own.http.or(base.http),
    })
}

/// One case under way.
struct Walk<'a> {
    engine: &'a Engine,
    principal: Principal,
    run: Run,
    start: Timestamp,
    ledger: Ledger,
    step: StepIndex,
    decided: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    fn begin(engine: &'a Engine, case: &Case) -> Result<Self, String> {
        let start = match &case.start {
            Some(text) => {
                let parsed: jiff::Timestamp = text.parse().map_err(|error| format!("`start`: {error}"))?;
                Timestamp(parsed.as_millisecond())
            }
            None => START,
        };
        let said = case.run.clone().unwrap_or_default();
        let run = Run {
            id: said.id.unwrap_or_else(|| "test".to_owned()),
            parent: said.parent,
            steps: said.steps.unwrap_or(0),
            tool_calls: said.tool_calls.unwrap_or(0),
            tokens: said.tokens.unwrap_or(0),
            cost_usd: amount("cost_usd", said.cost_usd.as_ref())?,
            budget_left_usd: amount("budget_left_usd", said.budget_left_usd.as_ref())?,
        };
        let principal = case.principal.as_ref().map_or_else(Principal::anonymous, principal);
        let (ledger, step) = (Ledger::default(), StepIndex::FIRST);
        Ok(Self { engine, principal, run, start, ledger, step, decided: BTreeSet::new() })
    }

    fn run(mut self, case: &Case) -> Result<Outcomes, String> {
        let mut failures = Vec::new();
        for (number, call) in case.history.iter().flatten().enumerate() {
            if let Some(failure) = self.happen(call)? {
                failures.push(format!("history {}: {failure}", number + 1));
            }
        }
        let call = case.when.as_ref().ok_or("it has no `when`")?;
        let expected = case.expect.as_ref().ok_or("it has no `expect`")?;
        let approvals = case.approvals.clone().unwrap_or_default();
        let decision = self.decide(call, &approvals)?.1;
        failures.extend(self.differences(&decision, expected));
        Ok(Outcomes { name: case.name.clone(), failures, decided: self.decided })
    }

    /// A call of the history: decided, answered, and what it proves minted.
    fn happen(&mut self, call: &CallSaid) -> Result<Option<String>, String> {
        let (subject, decision) = self.decide(call, &BTreeSet::new())?;
        let Some(subject) = subject.filter(|_| decision.is_allowed()) else {
            return Ok(Some(format!("the call is not allowed: {}", because(&decision))));
        };
        self.step = self.step.next();
        let (step, now) = (self.step, self.at(call)?);
        decision.reserve.iter().for_each(|id| self.ledger.reserve(*id, step));
        self.ledger.consume(step);
        let output = call.output.as_ref().map(ToString::to_string);
        let moment = Moment { principal: &self.principal, run: &self.run, now, own: None };
        let minted = self.engine.mint(&subject, &moment, output.as_deref().map(str::as_bytes), step);
        for (id, fact) in minted.facts {
            self.decided.insert(fact.policy.clone());
            self.ledger.mint(id, fact);
        }
        let is_tool = matches!(subject, Subject::Tool(_));
        self.run.steps += 1;
        self.run.tool_calls += u64::from(is_tool);
        Ok(minted.errors.first().map(|error| format!("an evidence policy fails: {error}")))
    }

    fn at(&self, call: &CallSaid) -> Result<Timestamp, String> {
        let Some(text) = &call.t else { return Ok(self.start) };
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let since = units
            .iter()
            .find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<i64>().ok()?.checked_mul(*ms));
        let since =
            since.ok_or_else(|| format!("`t` is a time such as `90s`, `16m` or `2h`, not `{text}`"))?;
        Ok(Timestamp(self.start.0.saturating_add(since)))
    }

    fn decide(
        &mut self,
        call: &CallSaid,
        approvals: &BTreeSet<String>,
    ) -> Result<(Option<Subject>, Decision), String> {
        let moment = Moment { principal: &self.principal, run: &self.run, now: self.at(call)?, own: None };
        let (subject, decision) = match subject(self.engine, call)? {
            Ok(subject) => {
                let decision = self.engine.decide(&subject, &moment, &self.ledger, approvals);
                (Some(subject), decision)
            }
            Err(denied) => (None, *denied),
        };
        self.decided.extend(decision.by.iter().map(|reason| reason.policy.clone()));
        Ok((subject, decision))
    }

    fn differences(&self, decision: &Decision, expected: &Expected) -> Vec<String> {
        let mut all = Vec::new();
        let (found, teams) = match &decision.outcome {
            Outcome::Allow => (Wanted::Allow, BTreeSet::new()),
            Outcome::Deny => (Wanted::Deny, BTreeSet::new()),
            Outcome::Pending(teams) => (Wanted::Pending, teams.clone()),
        };
        if found != expected.decision {
            all.push(format!("expected {}, and it is {}: {}", expected.decision, found, because(decision)));
        }
        let mut differs = |what: &str, wanted: &Option<BTreeSet<String>>, found: BTreeSet<String>| {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != found) {
                all.push(format!("expected {what} {}, and it is {}", names(wanted), names(&found)));
            }
        };
        differs("by", &expected.by, decision.by.iter().map(|reason| reason.policy.clone()).collect());
        let used =
            decision.reserve.iter().filter_map(|id| self.ledger.get(*id)).map(|fact| fact.name.clone());
        differs("consumes", &expected.consumes, used.collect());
        differs("approval", &expected.approval, teams);
        all
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Pending => "pending",
        })
    }
}

fn names(names: &BTreeSet<String>) -> String {
    format!("[{}]", names.iter().cloned().collect::<Vec<_>>().join(", "))
}

fn because(decision: &Decision) -> String {
    let reason = |reason: &super::engine::Reason| match &reason.message {
        Some(message) => format!("{}: {message}", reason.policy),
        None => reason.policy.clone(),
    };
    decision.by.iter().map(reason).collect::<Vec<_>>().join("; ")
}

fn amount(name: &str, said: Option<&Value>) -> Result<Option<Decimal>, String> {
    let Some(said) = said else { return Ok(None) };
    let text = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
    Decimal::parse(&text).map(Some).map_err(|error| format!("`{name}`: {error}"))
}

fn principal(said: &PrincipalSaid) -> Principal {
    Principal {
        id: said.id.clone(),
        verified: said.verified,
        proof: if said.verified { Proof::X509Svid } else { Proof::None },
        trust_domain: said.trust_domain.clone().unwrap_or_default(),
        namespace: said.namespace.clone(),
        service_account: said.service_account.clone(),
        groups: said.groups.clone(),
    }
}

/// What a call of a case asks for, or its denial.
fn subject(engine: &Engine, call: &CallSaid) -> Result<Result<Subject, Box<Decision>>, String> {
    if let Some(model) = &call.model {
        return Ok(Ok(Subject::Model(ModelCall {
            upstream: model.upstream.clone(),
            provider: model.provider.clone(),
            name: model.name.clone(),
            max_output_tokens: model.max_output_tokens,
            tools: model.tools.clone(),
        })));
    }
    if let Some(McpSaid { server, method, name }) = call.mcp.clone() {
        return Ok(Ok(Subject::Mcp(McpCall { server, method, name })));
    }
    if let Some(HttpSaid { server, method, path, unmodelled }) = call.http.clone() {
        let request = HttpCall { server, method, path };
        return Ok(Ok(if unmodelled { Subject::Unmodelled(request) } else { Subject::Provider(request) }));
    }
    let action = call.call.as_deref().ok_or("a call has none of `call`, `model`, `mcp` and `http`")?;
    if [LLM_CALL, MCP_CALL].contains(&action) {
        return Err("a model call says `model: { name: ... }`, another MCP request `mcp: { server: ..., method: ... }`".to_owned());
    }
    let (server, tool) =
        action.split_once('/').ok_or_else(|| format!("`call` is `server/tool`, not `{action}`"))?;
    let arguments = match (&call.input_json, &call.input) {
        (Some(text), _) => text.clone(),
        (None, Some(input)) => input.to_string(),
        (None, None) => "{}".to_owned(),
    };
    Ok(engine.tool_call(server, tool, arguments.as_bytes()))
}
