//! Recorded model calls under another config. A scrub is declared after a divergence was seen, so the fingerprints
//! in the journal are those of the config before it: what is recorded is normalised anew, once per workflow, when a
//! call finds nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::journal::{self, Journal, Record, StepSummary};
use crate::json::Tape;
use crate::model::{AttemptId, CallKind, Fingerprint, StepIndex, WorkflowKey};
use crate::proxy::call::Call;
use crate::proxy::refusal;
use crate::proxy::run::RunState;
use crate::replay::cursor::Decision;
use crate::wire::refusal::Refusal;

use super::recall::{self, Question};
use super::route;

/// Most recorded requests that are read for one workflow, in bytes; those behind them are found as they were
/// recorded.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// Kinds of calls (path, query, headers) of one workflow for which its records are read again.
const HEADS_MAX: usize = 8;

/// Makes sure that what is recorded can be found under the present config, where that may matter for this call.
pub(super) async fn recorded(question: &Question<'_>) -> Result<(), Refusal> {
    let Question { sidecar, enrolled, call, asked } = *question;
    let may_matter = asked.normalised.is_some()
        && call.upstream.matching.normalise.is_changed()
        && enrolled.attempt != AttemptId::FIRST;
    if !may_matter || !is_needed(question, None)? {
        return Ok(());
    }
    let head = route::without_body(call);
    let _one_at_a_time = enrolled.run.renewing.lock().await;
    if !is_needed(question, Some(&head))? {
        return Ok(());
    }
    let (journal, key, like) = (Arc::clone(&sidecar.journal), enrolled.run.key.clone(), call.detached());
    let renewed = tokio::task::spawn_blocking(move || renewed(journal.as_ref(), &key, &like)).await;
    let renewed = renewed.map_err(|_| refusal::internal())?.map_err(|error| refusal::journal(&error))?;
    let mut state = enrolled.run.state.lock();
    state.renewed.heads.push(head);
    for (fingerprint, steps) in renewed {
        state.renewed.steps.entry(fingerprint).or_default().extend(steps);
    }
    Ok(())
}

/// Whether the call finds nothing although something is recorded that it could find.
fn is_needed(question: &Question<'_>, head: Option<&Fingerprint>) -> Result<bool, Refusal> {
    let (sidecar, run) = (question.sidecar, &question.enrolled.run);
    let state = run.state.lock();
    let is_known = head.is_some_and(|head| state.renewed.heads.contains(head));
    if is_known || state.renewed.heads.len() >= HEADS_MAX {
        return Ok(false);
    }
    let recorded = sidecar.journal.attach(&run.key).map_err(|error| refusal::journal(&error))?;
    if recorded.is_none_or(|head| head.ahead() == 0 && head.steps == head.completed) {
        return Ok(false);
    }
    Ok(recall::look_up(question, &state)?.decision == Decision::New)
}

/// What calls like this one, recorded before this process had the journal, are normalised to now.
fn renewed(
    journal: &dyn Journal,
    key: &WorkflowKey,
    like: &Call,
) -> Result<HashMap<Fingerprint, Vec<StepIndex>>, journal::Error> {
    let (mut found, mut bytes): (HashMap<Fingerprint, Vec<StepIndex>>, u64) = (HashMap::new(), 0);
    for record in journal.scan(key)? {
        let Record::Intent(intent) = record else { continue };
        // What this process has recorded has the present fingerprints.
        let is_older = intent.epoch < journal.epoch();
        if !is_older || intent.kind != CallKind::Llm || intent.upstream != like.upstream.name {
            continue;
        }
        bytes = bytes.saturating_add(intent.request_len);
        if bytes > BODY_BYTES_MAX {
            tracing::warn!(
                workflow = %key, step = %intent.step,
                "the workflow is too large to be normalised anew; later steps are found as they were recorded"
            );
            break;
        }
        // A request that is not there any more finds nothing.
        let Ok(body) = journal.body(&intent.request) else { continue };
        if let Some(fingerprint) = normalised(like, body, &intent.exact)
            && Some(fingerprint) != intent.normalised
        {
            found.entry(fingerprint).or_default().push(intent.step);
        }
    }
    Ok(found)
}

/// What the recorded body is normalised to, if its call was like this one in everything else: then its exact
/// fingerprint comes out again.
fn normalised(like: &Call, body: Bytes, exact: &Fingerprint) -> Option<Fingerprint> {
    let json = Tape::parse(&body).ok()?;
    let recorded = Call { body, ..like.clone() };
    let fingerprints = route::fingerprints(&recorded, Some(&json));
    fingerprints.normalised.filter(|_| fingerprints.exact == *exact)
}

/// Adds the steps that are found by this fingerprint under the present config alone.
pub(super) fn add(
    question: &Question<'_>,
    state: &RunState,
    fingerprint: &Fingerprint,
    summaries: &mut Vec<StepSummary>,
) -> Result<(), Refusal> {
    let Some(steps) = state.renewed.steps.get(fingerprint) else { return Ok(()) };
    let (journal, key) = (question.sidecar.journal.as_ref(), &question.enrolled.run.key);
    for step in steps {
        let summary = journal.summary(key, *step).map_err(|error| refusal::journal(&error))?;
        summaries.extend(summary);
    }
    summaries.sort_by_key(|summary| summary.step);
    Ok(())
}
