//! Facts from a completed step. Minted only from a live, typed result of the tool that an evidence policy is about;
//! the caller sees to it that the step was no replay, no failure and no model's words.

use std::collections::BTreeMap;

use cedar_policy::{Context, Request};

use super::bind::bound_root;
use super::call::{Moment, Subject, TYPES, ToolCall, entity};
use super::datum::{Bound, Datum};
use super::engine::{Engine, Evidence};
use super::facts::{Fact, FactId};
use crate::model::{StepIndex, Timestamp};

/// What a completed step proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minted {
    pub facts: Vec<(FactId, Fact)>,
    /// Evidence policies that could not be evaluated, and so minted nothing.
    pub errors: Vec<String>,
}

impl Engine {
    /// The facts that a completed call mints. `structured`: its result as JSON, `structuredContent` of an MCP tool, or
    /// the body of an HTTP tool.
    pub fn mint(
        &self,
        subject: &Subject,
        moment: &Moment<'_>,
        structured: Option<&[u8]>,
        step: StepIndex,
    ) -> Minted {
        let Subject::Tool(call) = subject else { return Minted::default() };
        let action = subject.action();
        let Some((set, policies)) = self.cut.evidence.get(&action) else { return Minted::default() };
        let output = structured.and_then(|text| self.result(&call.server, &call.tool, text));
        let is_typed = self.tool(&call.server, &call.tool).is_some_and(|tool| tool.output.is_some());
        if is_typed && output.is_none() {
            return Minted::default();
        }
        let request = match self.evidence_request(subject, moment, output.as_ref()) {
            Ok(request) => request,
            Err(error) => return Minted { facts: Vec::new(), errors: vec![error] },
        };
        let Some(known) = self.cut.actions.get(&action) else { return Minted::default() };
        let entities = match self.entities(known, &call.server, moment) {
            Ok(entities) => entities,
            Err(error) => return Minted { facts: Vec::new(), errors: vec![error] },
        };
        let response = self.authorizer.is_authorized(&request, set, &entities);
        let satisfied: Vec<&str> = response.diagnostics().reason().map(AsRef::as_ref).collect();
        let errors = response.diagnostics().errors().map(ToString::to_string).collect();
        let satisfied = policies.iter().filter(|policy| satisfied.contains(&policy.meta.id.as_str()));
        let minted = satisfied.filter_map(|policy| fact(policy, call, output.as_ref(), moment.now));
        let id = |nth| FactId { step, nth };
        Minted { facts: (0..).map(id).zip(minted).collect(), errors }
    }

    fn evidence_request(
        &self,
        subject: &Subject,
        moment: &Moment<'_>,
        output: Option<&Datum>,
    ) -> Result<Request, String> {
        let mut parts = moment.parts();
        parts.extend(subject.parts().into_iter().map(|(name, value)| (name.to_owned(), value.expression())));
        parts.extend(output.map(|output| ("output".to_owned(), output.expression())));
        let context = Context::from_pairs(parts).map_err(|error| error.to_string())?;
        let agent = entity(&TYPES.agent, &moment.principal.id);
        let action = entity(&TYPES.action, &subject.action());
        let schema = Some(&self.cut.evidence_schema);
        Request::new(agent, action, subject.resource(), context, schema).map_err(|error| error.to_string())
    }
}

fn fact(policy: &Evidence, call: &ToolCall, output: Option<&Datum>, now: Timestamp) -> Option<Fact> {
    let meta = &policy.meta;
    let input = Datum::Record(call.input.clone());
    let value = |path: &String| {
        let (root, rest) = bound_root(path);
        let root = if root == "output" { output? } else { &input };
        let names: Vec<String> = rest.split('.').map(str::to_owned).collect();
        Some((names.last()?.clone(), root.at(&names)?.scalar()?))
    };
    let bound: Bound = meta.bind.iter().map(value).collect::<Option<BTreeMap<_, _>>>()?;
    let valid_until = meta
        .valid_for
        .map(|time| Timestamp(now.0.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))));
    Some(Fact {
        name: meta.fact.clone(),
        bound,
        minted_at: now,
        valid_until,
        single_use: meta.single_use,
        kind: meta.kind,
        policy: meta.id.clone(),
        policy_hash: policy.hash.clone(),
    })
}
