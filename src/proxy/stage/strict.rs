//! Strict replay: what becomes of a call that no recorded step answers. It is refused, with how far it is from what is
//! recorded; nothing is ever sent.

use std::collections::HashSet;
use std::sync::Arc;

use crate::journal::{Listed, Record, StepSummary};
use crate::model::{AttemptId, Fingerprint, StepIndex, StepState};
use crate::proxy::call::Call;
use crate::proxy::refusal;
use crate::proxy::sidecar::Sidecar;
use crate::replay::difference::Difference;
use crate::replay::divergence::Tool;
use crate::wire::refusal::Refusal;

use super::divergence;
use super::enroll::Enrolled;
use super::pass;
use super::recall::Question;
use super::respond::Departure;

/// Whether only what is recorded is answered.
pub(crate) fn applies(sidecar: &Sidecar) -> bool {
    sidecar.snapshot().recording.is_some()
}

/// The records that count for an attempt: of a strict replay those of the recorded run, because its attempts know
/// nothing of each other; otherwise all.
pub(super) fn recorded<'r>(question: &Question<'_>, records: &'r [Record]) -> &'r [Record] {
    let snapshot = question.sidecar.snapshot();
    let run = snapshot.recording.as_ref().and_then(|runs| runs.run(&question.enrolled.run.key.workflow));
    run.map_or(records, |run| run.recorded(records))
}

/// The refusal of a step. `again`: it is recorded, and has no answer.
pub(super) async fn not_recorded(question: &Question<'_>, again: Option<&StepSummary>) -> Refusal {
    let call = question.call;
    let shown = format!("`{}` at {}", call.inspected.operation.name, call.upstream.name);
    let told = match again {
        Some(step) => {
            Ok(format!("{shown} is step {} of the recorded run, which {}", step.step, ended(step.state)))
        }
        None => nearest(question, &shown).await,
    };
    told.map_or_else(|refusal| refusal, |what| refusal::not_in_run(&what))
}

fn ended(state: StepState) -> &'static str {
    match state {
        StepState::Failed => "failed and has no recorded answer",
        StepState::Abandoned
        | StepState::Completed
        | StepState::InDoubt
        | StepState::Open
        | StepState::Refused => "has no recorded answer",
    }
}

/// What the recorded run has in place of a call that it has not.
async fn nearest(question: &Question<'_>, shown: &str) -> Result<String, Refusal> {
    let (sidecar, key, call) = (question.sidecar, &question.enrolled.run.key, question.call);
    let mut equal = Vec::new();
    for fingerprint in [Some(question.asked.exact), question.asked.normalised].into_iter().flatten() {
        if equal.is_empty() {
            equal = sidecar.journal.find(key, &fingerprint).map_err(|error| refusal::journal(&error))?;
        }
    }
    if let Some(last) = equal.last() {
        let times = if equal.len() == 1 { "once".to_owned() } else { format!("{} times", equal.len()) };
        return Ok(format!(
            "{shown} was asked {times} in the recorded run (step {}), and this attempt has asked for it before. Each \
             recorded answer is given once per attempt; the next attempt (`/w/{}/a/<n>/...`) begins the run anew",
            last.step, key.workflow
        ));
    }
    let tool: Tool = (call.upstream.name.clone(), Arc::clone(&call.inspected.operation.name));
    let expected = {
        let mut state = question.enrolled.run.state.lock();
        divergence::ahead(sidecar, question.enrolled, &mut state)?.and_then(|ahead| ahead.expected(&tool))
    };
    let Some(step) = expected else {
        return Ok(format!(
            "{shown} is not in the recorded run, of which no step at {} is left to be asked for",
            call.upstream.name
        ));
    };
    let operation = sidecar.journal.step(key, step).map_err(|error| refusal::journal(&error))?;
    let operation = operation.map(|step| step.intent.operation).unwrap_or_default();
    let difference = divergence::compare(question, Some(step)).await;
    Ok(format!(
        "{shown} is not in the recorded run. Nearest is step {step} (`{operation}`); {}",
        described(difference.as_ref())
    ))
}

fn described(difference: Option<&Difference>) -> String {
    match difference {
        Some(found) => format!(
            "the request first differs from it at `{}`: recorded is {}, asked is {}",
            found.pointer, found.recorded, found.asked
        ),
        None => "the requests differ in method, path, query, headers or a body that is not JSON".to_owned(),
    }
}

/// The list as the recorded run had seen it when it came to the first step that this attempt has not asked for: a list
/// that changed during the run changes at the same place.
pub(super) fn listed(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    call: &Call,
    list: &Fingerprint,
) -> Result<Listed, Refusal> {
    let records = sidecar.journal.scan(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
    let is_ahead = {
        let uses = records.iter().filter_map(|record| used_by(record, enrolled.attempt));
        let used: HashSet<StepIndex> = uses.collect();
        let answered: HashSet<StepIndex> = records.iter().filter_map(answered).collect();
        move |step: &StepIndex| answered.contains(step) && !used.contains(step)
    };
    let mut seen = None;
    for record in &records {
        if let Record::Intent(intent) = record
            && seen.is_some()
            && is_ahead(&intent.step)
        {
            break;
        } else if let Record::Listed(listed) = record
            && listed.list == *list
        {
            seen = Some(listed);
        }
    }
    seen.cloned().ok_or_else(|| not_listed(&records, call))
}

fn used_by(record: &Record, attempt: AttemptId) -> Option<StepIndex> {
    if let Record::Redelivered { step, attempt: by, .. } = record {
        (*by == attempt).then_some(*step)
    } else {
        None
    }
}

fn answered(record: &Record) -> Option<StepIndex> {
    if let Record::Completed(completed) = record { Some(completed.step) } else { None }
}

/// The refusal of a list that no answer is recorded for.
fn not_listed(records: &[Record], call: &Call) -> Refusal {
    let method = call.rpc_method().unwrap_or_default();
    let is_near = |record: &Record| {
        matches!(record, Record::Listed(listed)
            if listed.upstream == call.upstream.name && listed.method == method)
    };
    let how = if records.iter().any(is_near) {
        "recorded only for another protocol version, page or path"
    } else {
        "not in the recorded run"
    };
    refusal::not_in_run(&format!("`{method}` at {} is {how}", call.upstream.name))
}

/// Answers the live side of MCP in the place of a server that is not there: pings, notifications and the end of a
/// session. There is no stream of events.
pub(crate) fn live(call: &Call) -> Result<Departure, Refusal> {
    if call.method == http::Method::GET {
        // The specification's answer of a server that offers no stream of its own.
        return Ok(pass::answered(http::StatusCode::METHOD_NOT_ALLOWED, bytes::Bytes::new()));
    }
    pass::unopened(call).ok_or_else(|| {
        let method = call.rpc_method().unwrap_or(call.method.as_str());
        refusal::not_in_run(&format!("`{method}` at {} is never recorded", call.upstream.name))
    })
}
