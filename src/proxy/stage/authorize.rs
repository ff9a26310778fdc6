//! Whether a call may be sent, by the policies. Decided under the workflow's lock, where its intent is written: what a
//! decision counts on is reserved in the same commit, before the first byte leaves.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::journal::{Decided, Record, Verdict};
use crate::json::{Tape, Value};
use crate::model::{CallKind, Channel, Dialect, Principal, StepIndex, Timestamp};
use crate::policy::{Decision, Engine, HttpCall, Ledger, McpCall, ModelCall, Moment, Outcome, Run, Subject};
use crate::proxy::call::{Call, Target};
use crate::proxy::facts::{self, Facts};
use crate::proxy::refusal;
use crate::proxy::run::RunState;
use crate::proxy::sidecar::Sidecar;
use crate::wire::mcp;
use crate::wire::refusal::Refusal;

use super::recall::Question;

/// Deepest level of a model request's members that are judged; all of them are read strictly.
const MODEL_DEPTH: usize = 5;

/// A call that policies have let through.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    engine: Arc<Engine>,
    subject: Subject,
    /// The workflow when it was let through.
    run: Run,
}

/// What the policies say of a call that would be sent.
pub(super) enum Judged {
    /// With the record of it, if there are policies.
    Granted(Option<(Grant, Record)>),
    Denied {
        refusal: Refusal,
        record: Record,
    },
}

/// Judges a call that would be the next try of `step`. The caller commits the record with what it leads to.
pub(super) fn judge(
    question: &Question<'_>,
    state: &mut RunState,
    (step, is_new): (StepIndex, bool),
) -> Result<Judged, Refusal> {
    let Question { sidecar, enrolled, call, asked } = *question;
    let Some(engine) = sidecar.policies.clone() else { return Ok(Judged::Granted(None)) };
    let principal = Principal::anonymous();
    let now = sidecar.clock.now();
    let facts = facts_of(sidecar, &enrolled.run.key, state)?;
    let moment = Moment { principal: &principal, run: &facts.run, now, own: (!is_new).then_some(step) };
    let (subject, decision) = decide(&engine, call, &moment, &facts.ledger);
    let verdict = match decision.outcome {
        Outcome::Allow => Verdict::Allowed,
        Outcome::Deny => Verdict::Denied,
        Outcome::Pending(_) => Verdict::Pending,
    };
    let teams = match &decision.outcome {
        Outcome::Pending(teams) => teams,
        Outcome::Allow | Outcome::Deny => &decision.approved_by,
    };
    let record = Record::Decided(Decided {
        step: (verdict == Verdict::Allowed || !is_new).then_some(step),
        attempt: enrolled.attempt,
        action: subject.as_ref().map_or_else(|| named(call), Subject::action),
        exact: asked.exact,
        principal: principal.id.clone(),
        verdict,
        by: decision.by.iter().map(|reason| reason.policy.clone()).collect(),
        policies: engine.hash().to_owned(),
        reserved: decision.reserve.iter().map(|id| facts::reference(*id)).collect(),
        teams: teams.iter().cloned().collect(),
        replayed: false,
        at: now,
    });
    match subject {
        Some(subject) if verdict == Verdict::Allowed => {
            let run = facts.run.clone();
            Ok(Judged::Granted(Some((Grant { engine, subject, run }, record))))
        }
        Some(_) | None => Ok(Judged::Denied { refusal: denied(&engine, &decision), record }),
    }
}

/// Judges a call that is not recorded: it has no workflow, and so no facts.
pub(crate) fn unrecorded(sidecar: &Sidecar, call: &Call) -> Result<(), Refusal> {
    let Some(engine) = &sidecar.policies else { return Ok(()) };
    if is_free(call) {
        return Ok(());
    }
    if call.inspected.mcp.as_ref().is_some_and(|mcp| !mcp.known) {
        return Err(refusal::unknown_method(call.rpc_method().unwrap_or_default()));
    }
    let (principal, run) = (Principal::anonymous(), Run::default());
    let moment = Moment { principal: &principal, run: &run, now: sidecar.clock.now(), own: None };
    let (_, decision) = decide(engine, call, &moment, &Ledger::default());
    if decision.is_allowed() { Ok(()) } else { Err(denied(engine, &decision)) }
}

/// Judges a request that is not looked into.
pub(crate) fn unread(sidecar: &Sidecar, target: &Target, method: &str) -> Result<(), Refusal> {
    let Some(engine) = &sidecar.policies else { return Ok(()) };
    let (principal, run) = (Principal::anonymous(), Run::default());
    let moment = Moment { principal: &principal, run: &run, now: sidecar.clock.now(), own: None };
    let request = HttpCall {
        server: target.upstream.name.as_str().to_owned(),
        method: method.to_owned(),
        path: target.rest.clone(),
    };
    let subject = match target.upstream.dialect {
        Dialect::Http | Dialect::Mcp => Subject::Unmodelled(request),
        Dialect::Anthropic | Dialect::Gemini | Dialect::Openai => Subject::Provider(request),
    };
    let decision = engine.decide(&subject, &moment, &Ledger::default(), &BTreeSet::new());
    if decision.is_allowed() { Ok(()) } else { Err(refusal::denied(&said(&decision))) }
}

/// What the workflow's records say, as far as policies ask; read once.
fn facts_of<'a>(
    sidecar: &Sidecar,
    key: &crate::model::WorkflowKey,
    state: &'a mut RunState,
) -> Result<&'a mut Facts, Refusal> {
    if state.facts.is_none() {
        let records = sidecar.journal.scan(key).map_err(|error| refusal::journal(&error))?;
        state.facts = Some(Facts::of(&key.workflow, &records));
    }
    state.facts.as_mut().ok_or_else(refusal::internal)
}

fn decide(engine: &Engine, call: &Call, moment: &Moment<'_>, ledger: &Ledger) -> (Option<Subject>, Decision) {
    match subject(engine, call) {
        // Approvals come with whoever can give them.
        Ok(subject) => {
            let decision = engine.decide(&subject, moment, ledger, &BTreeSet::new());
            (Some(subject), decision)
        }
        Err(denied) => (None, *denied),
    }
}

/// What a call asks for, as policies see it.
fn subject(engine: &Engine, call: &Call) -> Result<Subject, Box<Decision>> {
    let server = call.upstream.name.as_str();
    match (call.upstream.dialect, call.inspected.operation.channel) {
        (Dialect::Mcp, _) => {
            let tape = crate::policy::strict(&call.body)?;
            let root = tape.root(&call.body);
            let method = call.rpc_method().unwrap_or_default();
            if method == "tools/call" {
                let name = root.pointer("/params/name").and_then(Value::string).unwrap_or_default();
                let arguments = root.pointer("/params/arguments").filter(|value| !value.is_null());
                return engine.tool_call(server, &name, arguments.map_or(b"{}", Value::raw));
            }
            let name = ["/params/uri", "/params/name"].into_iter().find_map(|at| root.pointer(at)?.string());
            let (server, method) = (server.to_owned(), method.to_owned());
            Ok(Subject::Mcp(McpCall { server, method, name: name.map(std::borrow::Cow::into_owned) }))
        }
        (Dialect::Http, _) => Ok(Subject::Unmodelled(request(call))),
        (_, Channel::Step(CallKind::Llm)) => model(call).map(Subject::Model),
        (Dialect::Anthropic | Dialect::Gemini | Dialect::Openai, _) => Ok(Subject::Provider(request(call))),
    }
}

fn request(call: &Call) -> HttpCall {
    HttpCall {
        server: call.upstream.name.as_str().to_owned(),
        method: call.method.as_str().to_owned(),
        path: call.rest.clone(),
    }
}

fn model(call: &Call) -> Result<ModelCall, Box<Decision>> {
    let tape = Tape::parse_shallow(&call.body, MODEL_DEPTH)
        .map_err(|error| Decision::refused("builtin:json", format!("the request is not JSON: {error}")))?;
    if tape.has_duplicate_keys() {
        let message = "the request has one key twice, so that readers differ on what it says".to_owned();
        return Err(Decision::refused("builtin:duplicate_keys", message));
    }
    let root = tape.root(&call.body);
    let limits =
        ["/max_tokens", "/max_completion_tokens", "/max_output_tokens", "/generationConfig/maxOutputTokens"];
    let limit = limits.into_iter().filter_map(|at| root.pointer(at)?.count()).max();
    let mut tools = BTreeSet::new();
    for tool in root.get("tools").into_iter().flat_map(Value::elements) {
        let named = |at: &str| Some(tool.pointer(at)?.string()?.into_owned());
        tools.extend(["/function/name", "/name"].into_iter().find_map(named));
        let declared = tool.get("functionDeclarations").into_iter().flat_map(Value::elements);
        tools.extend(declared.filter_map(|tool| Some(tool.get("name")?.string()?.into_owned())));
    }
    Ok(ModelCall {
        upstream: call.upstream.name.as_str().to_owned(),
        provider: call.upstream.dialect.as_str().to_owned(),
        name: call.inspected.operation.name.to_string(),
        max_output_tokens: limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)),
        tools,
    })
}

/// What keeps a connection and a list going, and does nothing.
fn is_free(call: &Call) -> bool {
    call.upstream.dialect == Dialect::Mcp && call.rpc_method().is_none_or(mcp::is_housekeeping)
}

fn named(call: &Call) -> String {
    match call.inspected.operation.channel {
        Channel::Step(CallKind::Llm) => "llm.call".to_owned(),
        Channel::Step(_) | Channel::List | Channel::Live => {
            format!("{}/{}", call.upstream.name.as_str(), call.inspected.operation.name)
        }
    }
}

/// The refusal of a call, with the words of the policies that refuse it, and what to do first where a fact is missing.
fn denied(engine: &Engine, decision: &Decision) -> Refusal {
    let mut words = said(decision);
    if let Outcome::Pending(teams) = &decision.outcome {
        let teams: Vec<_> = teams.iter().map(String::as_str).collect();
        words = format!("{words} It needs the approval of {}.", teams.join(" and "));
    }
    words.extend(engine.missing(decision).map(|missing| format!(" {missing}")));
    refusal::denied(&words)
}

fn said(decision: &Decision) -> String {
    let reason = |reason: &crate::policy::Reason| match &reason.message {
        Some(message) => format!("{} ({})", message, reason.policy),
        None => reason.policy.clone(),
    };
    decision.by.iter().map(reason).collect::<Vec<_>>().join(" ")
}

impl Grant {
    /// The record of what a completed step proves. `structured`: its result as JSON, if it is a result.
    pub(super) fn prove(
        &self,
        structured: Option<&[u8]>,
        (step, now): (StepIndex, Timestamp),
    ) -> Option<Record> {
        let principal = Principal::anonymous();
        let moment = Moment { principal: &principal, run: &self.run, now, own: None };
        let minted = self.engine.mint(&self.subject, &moment, structured, step);
        for error in &minted.errors {
            tracing::warn!(%step, error, "an evidence policy cannot be evaluated, and has minted nothing");
        }
        facts::record(step, &minted.facts, now)
    }
}
