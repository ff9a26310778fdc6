//! What becomes of a call of a step in doubt (durability.md, section 6): the tool's probe is asked, the call waits
//! for somebody to resolve the step, or it is refused. Nothing here sends the effect.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use crate::failpoint::{Point, reach};
use crate::journal::{Batch, Record, StepRecord, Urgency};
use crate::model::{Dialect, InDoubt, KeyPlace, Probe, StepIndex, StepState};
use crate::proxy::call::Call;
use crate::proxy::refusal;
use crate::proxy::resolve::{Answer, Outcome};
use crate::telemetry::metrics::Metrics;
use crate::wire::probe::{self, Finding};
use crate::wire::refusal::Refusal;

use super::look;
use super::recall::Question;
use super::{setback, strict};

/// Longest that a probe may take.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(10);
/// A call that is held asks the probe again after so long.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// How often a call that is held looks whether the sidecar is shutting down.
const HOLD_POLL: Duration = Duration::from_millis(250);

const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// How long a call has been held, and when it asked the probe.
#[derive(Debug, Default)]
pub(super) struct Held {
    waited: Duration,
    /// Time waited when the probe was asked last.
    asked_at: Option<Duration>,
    counted: Option<Counted>,
}

/// One call among those that are held, for the metric.
#[derive(Debug)]
struct Counted(Arc<Metrics>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.held(-1);
    }
}

pub(super) enum Judged {
    /// Something may have changed: look again which step the call is.
    AskAgain,
    /// And that is recorded.
    Refused(Refusal),
}

/// Whether there is an end to the doubt.
pub(super) async fn judge(
    question: &Question<'_>,
    step: StepIndex,
    held: &mut Held,
) -> Result<Judged, Refusal> {
    let sidecar = question.sidecar;
    // A strict replay asks nobody and waits for nobody.
    let rule = question.call.rule.as_deref().filter(|_| !strict::applies(sidecar));
    let is_due = held.asked_at.is_none_or(|at| held.waited.saturating_sub(at) >= PROBE_AGAIN);
    if let Some(probe) = rule.and_then(|rule| rule.probe.as_ref()).filter(|_| is_due) {
        held.asked_at = Some(held.waited);
        if let Some(outcome) = ask(question, step, probe).await {
            let by = format!("probe {}", probe.tool);
            let key = &question.enrolled.run.key;
            match sidecar.resolve_step(key, step, outcome, &by).await {
                Ok(()) => return Ok(Judged::AskAgain),
                Err(error) => {
                    tracing::warn!(workflow = %key, %step, %error, "a probe's finding is not taken")
                }
            }
        }
    }
    match rule.map(|rule| rule.in_doubt) {
        Some(InDoubt::Hold(hold)) if held.waited < hold => wait(question, step, hold, held).await,
        Some(InDoubt::Hold(_) | InDoubt::Refuse | InDoubt::Retry) | None => {
            Ok(Judged::Refused(refuse(question, step)))
        }
    }
}

/// Waits for somebody to resolve the step, a little while.
async fn wait(
    question: &Question<'_>,
    step: StepIndex,
    hold: Duration,
    held: &mut Held,
) -> Result<Judged, Refusal> {
    let (sidecar, run) = (question.sidecar, &question.enrolled.run);
    if sidecar.is_draining() {
        // Whoever asks again finds the step in doubt as before.
        return Err(refusal::shutting_down());
    }
    let resolved = run.resolved.notified();
    if held.counted.is_none() {
        sidecar.metrics.held(1);
        held.counted = Some(Counted(Arc::clone(&sidecar.metrics)));
        tracing::warn!(
            workflow = %run.key, %step, operation = %question.call.inspected.operation.name,
            hold_s = hold.as_secs(), "a call in doubt is held until somebody resolves it (outrigger resolve)"
        );
        note(question, step, None);
    }
    let from = sidecar.clock.since_boot();
    let slice = HOLD_POLL.min(hold.saturating_sub(held.waited));
    _ = tokio::time::timeout(slice, resolved).await;
    // At least the slice where the clock stands still, so that a held call has an end.
    held.waited += sidecar.clock.since_boot().saturating_sub(from).max(Duration::from_millis(1));
    Ok(Judged::AskAgain)
}

/// Refuses the call, and says in the journal that its step is in doubt.
fn refuse(question: &Question<'_>, step: StepIndex) -> Refusal {
    let call = question.call;
    let refusal = refusal::in_doubt(step, &call.inspected.operation.name, call.upstream.name.as_str());
    note(question, step, Some(setback::refused(question, Some(step), &refusal)));
    refusal
}

/// Records that the step is in doubt, unless that is recorded, and what else there is to say.
fn note(question: &Question<'_>, step: StepIndex, more: Option<Record>) {
    let (sidecar, run) = (question.sidecar, &question.enrolled.run);
    let mut state = run.state.lock();
    let summary = sidecar.journal.summary(&run.key, step).ok().flatten();
    let is_known = summary.is_some_and(|summary| summary.state == StepState::InDoubt);
    let cause = "its request may have been sent, and no answer is recorded".to_owned();
    let doubt = (!is_known).then(|| Record::InDoubt { step, cause, at: sidecar.clock.now() });
    let records = state.with_notes(doubt.into_iter().chain(more));
    // What is decided stands whether or not it can be recorded.
    let batch = Batch { records, bodies: Vec::new() };
    _ = sidecar.journal.commit(&run.key, sidecar.journal.epoch(), batch, Urgency::Ride);
    reach(Point::DoubtRecorded);
}

/// Asks the tool's probe. `None`: it does not tell, or cannot be asked.
async fn ask(question: &Question<'_>, step: StepIndex, probe: &Probe) -> Option<Outcome> {
    let (sidecar, run) = (question.sidecar, &question.enrolled.run);
    let unknown = |why: &str| {
        tracing::warn!(workflow = %run.key, %step, probe = probe.tool, why, "a probe does not tell");
        None
    };
    let (journal, key) = (Arc::clone(&sidecar.journal), run.key.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let StepRecord { intent, .. } = journal.step(&key, step).ok()??;
        journal.body(&intent.request).ok()
    });
    let Some(request) = reading.await.ok().flatten() else { return unknown("the request is not readable") };
    let Some(call) = probe_call(question.call, probe, &request) else {
        return unknown("the call has no argument that it needs");
    };
    let looked = tokio::time::timeout(PROBE_WAIT_MAX, look::look(sidecar, run, &call)).await;
    let Ok(Ok(fetched)) = looked else { return unknown("it was not answered") };
    let finding = match (call.upstream.dialect, fetched.outcome.mcp_response, fetched.recorded) {
        (Dialect::Mcp, Some(response), _) => probe::of_mcp(probe, &response),
        (Dialect::Http, _, Some(body)) if fetched.start.status.is_success() => probe::of_http(probe, &body),
        _ => Finding::Nothing,
    };
    match finding {
        Finding::Happened(body) => Some(Outcome::Completed(Answer { status: 200, content_type: None, body })),
        Finding::NotHappened if is_settled(question, step, probe.settle) => Some(Outcome::NotExecuted),
        Finding::NotHappened => unknown("the call was sent so short a while ago that it may be on its way"),
        Finding::Nothing => unknown("its answer says neither"),
    }
}

/// Whether the effect's last try left so long ago that it has been carried out by now, or never will be.
fn is_settled(question: &Question<'_>, step: StepIndex, settle: Duration) -> bool {
    let (sidecar, run) = (question.sidecar, &question.enrolled.run);
    let Ok(records) = sidecar.journal.scan(&run.key) else { return false };
    let sent_at = records.iter().rev().find_map(|record| {
        let Record::Dispatched { step: sent, at, .. } = record else { return None };
        (*sent == step).then_some(*at)
    });
    sent_at.is_some_and(|at| {
        let since_ms = u128::from(sidecar.clock.now().since_ms(at));
        since_ms >= settle.as_millis()
    })
}

/// The agent's call, changed into the probe: its headers and its session, another request.
fn probe_call(call: &Call, probe: &Probe, effect: &Bytes) -> Option<Call> {
    let arguments = probe::arguments(probe, call.inspected.operation.surface, effect)?;
    let mut asking = call.detached();
    without_body_and_key(&mut asking.headers, call);
    if call.upstream.dialect == Dialect::Mcp {
        asking.body = probe::request(probe, &arguments, &call.body)?;
        if let Some(name) = asking.headers.get_mut(MCP_NAME) {
            *name = HeaderValue::from_str(&probe.tool).ok()?;
        }
        if let Some(content_type) = call.headers.get(CONTENT_TYPE) {
            asking.headers.insert(CONTENT_TYPE, content_type.clone());
        }
        return Some(asking);
    }
    let (path, query) = call.upstream.tools.http(&probe.tool)?.path.filled(&probe::plain(&arguments)?)?;
    Some(Call { method: Method::GET, rest: path, query, body: Bytes::new(), ..asking })
}

fn without_body_and_key(headers: &mut HeaderMap, call: &Call) {
    for name in [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE] {
        headers.remove(name);
    }
    if let Some(KeyPlace::Header(name)) = call.rule.as_ref().and_then(|rule| rule.key.as_ref()) {
        headers.remove(name.as_str());
    }
}
