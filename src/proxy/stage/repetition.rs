//! A second use of a tool by an attempt that cannot be told apart (durability.md, section 3). Where the
//! agent's process is not seen and none of its connections was open for a moment, it may have been started
//! again: the same effect may be meant a second time, or be the first one once more. Then nothing is sent. What it
//! first used after that moment, and uses again without another, is its own.

use std::collections::HashSet;
use std::sync::Arc;

use crate::journal::{Batch, Record, Urgency};
use crate::model::{AttemptId, CallKind, EffectClass, StepIndex};
use crate::proxy::call::Call;
use crate::proxy::refusal;
use crate::proxy::run::RunState;
use crate::proxy::sidecar::Sidecar;
use crate::replay::divergence::Tool;
use crate::wire::refusal::Refusal;

use super::enroll::Enrolled;
use super::recall::Question;
use super::setback;

/// Refuses a new effect that may be a repetition, and records that it did.
pub(super) fn check(question: &Question<'_>, state: &mut RunState) -> Result<Option<Refusal>, Refusal> {
    let Question { sidecar, enrolled, call, asked } = *question;
    let Some(live) = &mut state.attempt else { return Ok(None) };
    let is_meant = call.rule.as_ref().is_some_and(|rule| rule.repeats);
    if asked.class != EffectClass::Effect || is_meant || enrolled.is_told_apart {
        return Ok(None);
    }
    let used = match &live.tools_in_question {
        Some(tools) => tools.contains(&tool(call)),
        None => {
            let tools = used_by(sidecar, enrolled)?;
            live.tools_in_question.insert(tools).contains(&tool(call))
        }
    };
    Ok(used.then(|| refuse(question)))
}

/// An effect of the attempt begins, or is served again.
pub(super) fn note(state: &mut RunState, call: &Call, class: EffectClass) {
    if let Some(live) = state.attempt.as_mut().filter(|_| class == EffectClass::Effect) {
        live.use_tool(tool(call));
    }
}

fn tool(call: &Call) -> Tool {
    (call.upstream.name.clone(), Arc::clone(&call.inspected.operation.name))
}

/// Reads the workflow's records, at the first new effect: needed at most once in an attempt's life here.
fn used_by(sidecar: &Sidecar, enrolled: &Enrolled) -> Result<HashSet<Tool>, Refusal> {
    let records = sidecar.journal.scan(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
    let served: HashSet<_> =
        records.iter().filter_map(|record| served_again(record, enrolled.attempt)).collect();
    let tools = records.iter().filter_map(|record| {
        let Record::Intent(intent) = record else { return None };
        let is_used = intent.attempt == enrolled.attempt || served.contains(&intent.step);
        // Whether the tool acts its rule says now; of a model it is the request that says it.
        let acts = intent.class == EffectClass::Effect || intent.kind != CallKind::Llm;
        (is_used && acts).then(|| (intent.upstream.clone(), Arc::from(intent.operation.as_str())))
    });
    Ok(tools.collect())
}

fn served_again(record: &Record, by: AttemptId) -> Option<StepIndex> {
    if let Record::Redelivered { step, attempt, .. } = record {
        (*attempt == by).then_some(*step)
    } else {
        None
    }
}

fn refuse(question: &Question<'_>) -> Refusal {
    let Question { sidecar, enrolled, call, .. } = *question;
    let refusal = refusal::attempt_unknown(&call.inspected.operation.name, call.upstream.name.as_str());
    let refused = setback::refused(question, None, &refusal);
    // The refusal stands whether or not it can be recorded.
    _ = sidecar.journal.commit(
        &enrolled.run.key,
        sidecar.journal.epoch(),
        Batch::one(refused),
        Urgency::Ride,
    );
    refusal
}
