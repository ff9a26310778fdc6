//! What becomes of a new step when the agent may have gone another way than the recorded run (durability.md,
//! section 4): model calls and reads go on and are reported, effects wait a moment for the steps that were left
//! out, and are refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::journal::{Batch, Diverged, Record, StepRecord, Urgency};
use crate::json::Tape;
use crate::model::{AttemptId, CallKind, EffectClass, StepIndex};
use crate::proxy::fork;
use crate::proxy::refusal;
use crate::proxy::run::RunState;
use crate::proxy::sidecar::Sidecar;
use crate::replay::difference::{Difference, difference};
use crate::replay::divergence::{Ahead, Tool};
use crate::replay::fingerprint;
use crate::wire::refusal::Refusal;

use super::enroll::Enrolled;
use super::open::Slot;
use super::recall::Question;
use super::{announced, idempotency, setback};

/// How long an effect waits for the recorded steps that have not been asked for: agents that do several things at
/// once ask in any order.
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_POLL: Duration = Duration::from_millis(20);

/// How long a call has waited, and what it knows already.
#[derive(Debug, Default)]
pub(super) struct Patience {
    waited: Duration,
    /// None of so many recorded answers of models asks for it.
    not_in: usize,
}

pub(super) enum Judged {
    GoOn,
    /// Something may have changed: look again which step the call is.
    AskAgain,
    /// And that is recorded.
    Refused(Refusal),
}

/// Whether a call that no recorded step answers may begin a step of its own.
pub(super) async fn judge(
    question: &Question<'_>,
    slot: &Slot,
    patience: &mut Patience,
) -> Result<Judged, Refusal> {
    let is_effect = question.asked.class == EffectClass::Effect;
    // An effect of an earlier attempt that was not carried out is tried anew as if it were new: another attempt may have
    // carried it out in other words.
    let is_tried_anew = slot
        .again()
        .is_some_and(|again| is_effect && again.cleared && again.attempt < question.enrolled.attempt);
    let Some(left_out) = (if slot.is_new() || is_tried_anew { left_out(question)? } else { None }) else {
        return Ok(Judged::GoOn);
    };
    let made = slot.seen().saturating_sub(usize::from(is_tried_anew));
    if left_out.heard.len() > patience.not_in {
        patience.not_in = left_out.heard.len();
        if announced::is_announced(question, left_out.heard.clone(), made).await {
            return Ok(Judged::GoOn);
        }
    }
    let refuses = is_effect && question.sidecar.snapshot().refuses_divergence;
    if refuses && patience.waited < WAIT_MAX {
        tokio::time::sleep(WAIT_POLL).await;
        patience.waited += WAIT_POLL;
        return Ok(Judged::AskAgain);
    }
    if !refuses && left_out.is_told {
        return Ok(Judged::GoOn);
    }
    let found = compare(question, left_out.expected).await;
    Ok(told(question, left_out, found, refuses).map_or(Judged::GoOn, Judged::Refused))
}

/// What the agent has left out, so far as it counts for this call.
struct LeftOut {
    steps: Vec<StepIndex>,
    expected: Option<StepIndex>,
    /// The last recorded answers of models that the agent was given; empty for a call of a model.
    heard: Vec<StepIndex>,
    /// The attempt's divergence is in the journal already.
    is_told: bool,
}

fn left_out(question: &Question<'_>) -> Result<Option<LeftOut>, Refusal> {
    let (sidecar, enrolled, call) = (question.sidecar, question.enrolled, question.call);
    if enrolled.attempt == AttemptId::FIRST {
        return Ok(None);
    }
    let mut state = enrolled.run.state.lock();
    let head = sidecar.journal.attach(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
    // Nothing is unused, and nothing without an answer could be.
    if head.is_none_or(|head| head.ahead() == 0 && head.steps == head.completed) {
        return Ok(None);
    }
    let Some(ahead) = ahead(sidecar, enrolled, &mut state)? else { return Ok(None) };
    let tool: Tool = (call.upstream.name.clone(), Arc::clone(&call.inspected.operation.name));
    let mut steps: Vec<StepIndex> = ahead.passed().collect();
    if question.asked.class == EffectClass::Effect {
        steps.extend(ahead.reworded(&tool, question.asked.identity.as_ref()));
    }
    if steps.is_empty() {
        return Ok(None);
    }
    steps.sort_unstable();
    steps.dedup();
    let expected = ahead.expected(&tool);
    // A model is not asked because a model said so.
    let heard_max = if question.asked.kind == CallKind::Llm { 0 } else { announced::ANSWERS_MAX };
    let heard = ahead.heard().take(heard_max).collect();
    let is_told = state.attempt.as_ref().is_some_and(|live| live.has_diverged);
    Ok(Some(LeftOut { steps, expected, heard, is_told }))
}

/// What lies ahead of the attempt; read from the journal once.
pub(super) fn ahead<'s>(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    state: &'s mut RunState,
) -> Result<Option<&'s Ahead>, Refusal> {
    let Some(live) = state.attempt.as_mut().filter(|live| live.id == enrolled.attempt) else {
        return Ok(None);
    };
    if live.ahead.is_none() {
        let records = sidecar.journal.scan(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
        live.has_diverged = fork::has_diverged(&records, enrolled.attempt);
        live.ahead = Some(fork::ahead(&records, enrolled.attempt));
    }
    Ok(live.ahead.as_ref())
}

/// Whether recorded answers lie ahead of the attempt, for all that a list could change. One that has gone another
/// way has nothing ahead while the last call of a model that it made is its own: the next one repeats that.
pub(super) fn lies_ahead(sidecar: &Sidecar, enrolled: &Enrolled) -> Result<bool, Refusal> {
    let mut state = enrolled.run.state.lock();
    let Some(ahead) = ahead(sidecar, enrolled, &mut state)? else { return Ok(true) };
    let (is_left, asks_anew) = (ahead.completed().next().is_some(), ahead.asks_anew());
    Ok(is_left && !(asks_anew && state.attempt.as_ref().is_some_and(|live| live.has_diverged)))
}

/// Where the call differs from the request that was expected; `None` where that cannot be told.
pub(super) async fn compare(question: &Question<'_>, expected: Option<StepIndex>) -> Option<Difference> {
    let (journal, key) = (Arc::clone(&question.sidecar.journal), question.enrolled.run.key.clone());
    let (expected, asked) = (expected?, question.call.body.clone());
    let mut passed_over = fingerprint::passed_over(question.asked.kind, &question.call.upstream.matching);
    passed_over.extend(idempotency::argument(question.call));
    let reading = tokio::task::spawn_blocking(move || {
        let StepRecord { intent, .. } = journal.step(&key, expected).ok()??;
        first_difference(&journal.body(&intent.request).ok()?, &asked, &passed_over)
    });
    reading.await.ok()?
}

fn first_difference(recorded: &Bytes, asked: &Bytes, passed_over: &[String]) -> Option<Difference> {
    let (one, other) = (Tape::parse(recorded).ok()?, Tape::parse(asked).ok()?);
    difference(one.root(recorded), other.root(asked), passed_over)
}

/// Puts the divergence into the journal, and the refusal with it if there is one.
fn told(
    question: &Question<'_>,
    left_out: LeftOut,
    found: Option<Difference>,
    refuses: bool,
) -> Option<Refusal> {
    let (sidecar, enrolled, call) = (question.sidecar, question.enrolled, question.call);
    let at = sidecar.clock.now();
    let steps: Vec<u64> =
        left_out.steps.iter().map(|step| step.number()).take(Diverged::LEFT_OUT_MAX).collect();
    let refusal = refuses.then(|| {
        let where_ = found.as_ref().map_or_else(String::new, |found| {
            let expected = left_out.expected.map_or_else(String::new, |step| format!(" of step {step}"));
            format!(
                "; its request first differs from that{expected} at `{}`: recorded is {}, asked is {}",
                found.pointer, found.recorded, found.asked
            )
        });
        let (operation, upstream) = (&call.inspected.operation.name, call.upstream.name.as_str());
        refusal::diverged(operation, upstream, &steps, &where_)
    });
    let (pointer, recorded, asked) = match found {
        Some(Difference { pointer, recorded, asked }) => (Some(pointer), Some(recorded), Some(asked)),
        None => (None, None, None),
    };
    let diverged = Record::Diverged(Diverged {
        attempt: enrolled.attempt,
        operation: call.inspected.operation.name.to_string(),
        exact: question.asked.exact,
        expected: left_out.expected,
        pointer,
        recorded,
        asked,
        left_out: steps,
        refused: refuses,
        at,
    });
    let refused = refusal.as_ref().map(|refusal| setback::refused(question, None, refusal));
    tracing::warn!(
        workflow = %enrolled.run.key, attempt = %enrolled.attempt, operation = %call.inspected.operation.name,
        refused = refuses, "the restarted agent has gone another way than the recorded run"
    );
    let mut state = enrolled.run.state.lock();
    if let Some(live) = &mut state.attempt {
        live.has_diverged = true;
    }
    let batch =
        Batch { records: state.with_notes([diverged].into_iter().chain(refused)), bodies: Vec::new() };
    // What is decided stands whether or not it can be recorded.
    _ = sidecar.journal.commit(&enrolled.run.key, sidecar.journal.epoch(), batch, Urgency::Ride);
    refusal
}
