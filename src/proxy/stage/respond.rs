//! Turns what a stage found into an answer for the agent: a replay, a running step's stream, a refusal.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;

use crate::failpoint::{Point, reach};
use crate::journal::{Completed, Record, Ticket};
use crate::model::{BodyHash, CallKind, Dialect, Fingerprint, Source, StepIndex, StepState};
use crate::proxy::body::{AgentBody, AtEnd, FeedBody, WholeBody};
use crate::proxy::call::Call;
use crate::proxy::feed::{Feed, Reader};
use crate::proxy::headers::{self, Said};
use crate::proxy::refusal::{self, Asker};
use crate::proxy::setbacks::Setback;
use crate::proxy::sidecar::Sidecar;
use crate::telemetry::event::StepEvent;
use crate::wire::mcp::{self, Served as Framing};
use crate::wire::refusal::Refusal;

use super::enroll::Enrolled;
use super::fetch;
use super::order;
use super::recall::Served;

/// An answer and the way to say that it arrived.
pub(crate) type Departure = Response<AgentBody>;

/// Serves a recorded answer again: the same bytes, with the caller's JSON-RPC id.
pub(crate) async fn replayed(
    sidecar: &Arc<Sidecar>,
    served: Served,
    ticket: Option<Ticket>,
    call: &Call,
) -> Result<Departure, Refusal> {
    let from = sidecar.clock.now();
    let completed = recorded(sidecar, &served)?;
    if completed.body_dropped {
        return Err(refusal::not_recorded(served.step));
    }
    let body = stored(sidecar, completed.body, completed.body_len).await?;
    let mut headers = headers::restored(&completed.headers);
    let body = match call.upstream.dialect {
        Dialect::Mcp => readdressed(&body, call, &headers),
        Dialect::Anthropic | Dialect::Gemini | Dialect::Http | Dialect::Openai => body,
    };
    let bodiless = call.method == Method::HEAD || matches!(completed.status, 204 | 304);
    if !bodiless {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    used(ticket).await?;
    reach(Point::UseDurable);
    order::turn(sidecar, &served).await?;
    sidecar.metrics.step(&StepEvent {
        kind: kind(call),
        source: Source::Replay,
        state: StepState::Completed,
        usage: completed.usage,
        usage_missing: false,
        duration_ms: sidecar.clock.now().since_ms(from),
    });
    say(&mut headers, &served, Source::Replay);
    let at_end = at_end(sidecar, served, call);
    let body = if bodiless { Bytes::new() } else { body };
    let mut departure = Response::new(WholeBody::new(body, Some(at_end)).boxed_unsync());
    *departure.status_mut() = StatusCode::from_u16(completed.status).map_err(|_| refusal::internal())?;
    *departure.headers_mut() = headers;
    Ok(departure)
}

/// INVARIANT: an effect's use by this attempt is durable before the end of its answer leaves.
pub(crate) async fn used(ticket: Option<Ticket>) -> Result<(), Refusal> {
    match ticket {
        Some(ticket) => ticket.await.map_err(|error| refusal::journal(&error)),
        None => Ok(()),
    }
}

/// A recorded JSON-RPC response for the request that asks now.
pub(super) fn readdressed(recorded: &Bytes, call: &Call, headers: &HeaderMap) -> Bytes {
    match call.rpc_id() {
        Some(id) => {
            mcp::replay(recorded, id, Framing::of(headers::content_type(headers).unwrap_or_default()))
        }
        None => recorded.clone(),
    }
}

/// A place at the beginning of a running step's answer.
pub(crate) fn reader(sidecar: &Sidecar, feed: &Arc<Feed>, served: &Served) -> Result<Reader, Refusal> {
    let reader = Reader::new(Arc::clone(feed), Arc::clone(&sidecar.clock));
    reader.ok_or_else(|| refusal::not_recorded(served.step))
}

/// Streams a running step to the agent that began or joined it.
pub(crate) async fn running(
    sidecar: &Arc<Sidecar>,
    served: Served,
    reader: Reader,
    source: Source,
    call: &Call,
) -> Result<Departure, Refusal> {
    let start = match reader.start().await {
        Ok(start) => start,
        Err(refusal) => {
            sidecar.metrics.refusal(&refusal.code);
            let at_end = at_end(sidecar, served, call);
            return Ok(refusal::depart(&refusal, &Asker::of(call), Some(at_end)));
        }
    };
    let bodiless = fetch::is_bodiless(call, &start);
    let mut headers = start.headers;
    say(&mut headers, &served, source);
    let at_end = at_end(sidecar, served, call);
    // Nobody polls the body of an answer that has none. Its head is out only when it is recorded.
    let body = if bodiless {
        WholeBody::new(Bytes::new(), Some(at_end)).boxed_unsync()
    } else {
        FeedBody::new(reader, at_end).boxed_unsync()
    };
    let mut departure = Response::new(body);
    *departure.status_mut() = start.status;
    *departure.headers_mut() = headers;
    Ok(departure)
}

/// Refuses a call, which is recorded already; when the agent has been told, that is recorded as well.
pub(crate) fn refused(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
    (refusal, step): (&Refusal, Option<StepIndex>),
    exact: Fingerprint,
) -> Departure {
    sidecar.metrics.refusal(&refusal.code);
    let (sidecar, run, attempt) = (Arc::clone(sidecar), Arc::clone(&enrolled.run), enrolled.attempt);
    // When it is handed over, not when it is written: what the agent does next must come behind it.
    let told: AtEnd =
        Box::new(move || sidecar.note(&run, |_| Some(Record::RefusalDelivered { step, attempt, exact })));
    refusal::depart(refusal, &Asker::of(call), Some(told))
}

/// Tells again what an earlier attempt was told and went on from.
pub(crate) async fn set_back(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
    setback: Setback,
    step: Option<StepIndex>,
) -> Result<Departure, Refusal> {
    let from = sidecar.clock.now();
    let mut departure = match setback {
        Setback::Refusal(refusal) => refusal::depart(&refusal, &Asker::of(call), None),
        Setback::Answer(answer) => {
            let body = stored(sidecar, answer.body, answer.body_len).await?;
            let body = match call.rpc_id() {
                Some(id) if mcp::is_message(&body) => mcp::replay(&body, id, Framing::Json),
                Some(_) | None => body,
            };
            let mut headers = headers::restored(&answer.headers);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            let mut departure = Response::new(WholeBody::new(body, None).boxed_unsync());
            *departure.status_mut() = StatusCode::from_u16(answer.status).map_err(|_| refusal::internal())?;
            *departure.headers_mut() = headers;
            departure
        }
    };
    let said = Said {
        workflow: &enrolled.run.key.workflow,
        attempt: enrolled.attempt,
        reason: enrolled.reason,
        step,
        source: Source::Replay,
    };
    headers::say(departure.headers_mut(), &said);
    sidecar.metrics.step(&StepEvent {
        kind: kind(call),
        source: Source::Replay,
        state: if step.is_some() { StepState::Failed } else { StepState::Refused },
        usage: None,
        usage_missing: false,
        duration_ms: sidecar.clock.now().since_ms(from),
    });
    Ok(departure)
}

/// Waits for a running step to end, for a caller that cannot be given its bytes as they are.
pub(crate) async fn settled(sidecar: &Sidecar, feed: &Arc<Feed>) {
    Reader::of_the_end(Arc::clone(feed), Arc::clone(&sidecar.clock)).settled().await;
}

fn recorded(sidecar: &Sidecar, served: &Served) -> Result<Completed, Refusal> {
    let step =
        sidecar.journal.step(&served.run.key, served.step).map_err(|error| refusal::journal(&error))?;
    step.and_then(|step| step.completed).ok_or_else(refusal::internal)
}

async fn stored(sidecar: &Arc<Sidecar>, hash: BodyHash, len: u64) -> Result<Bytes, Refusal> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    let journal = Arc::clone(&sidecar.journal);
    let read = tokio::task::spawn_blocking(move || journal.body(&hash)).await;
    read.map_err(|_| refusal::internal())?.map_err(|error| refusal::journal(&error))
}

fn kind(call: &Call) -> CallKind {
    match call.inspected.operation.channel {
        crate::model::Channel::Step(kind) => kind,
        crate::model::Channel::List | crate::model::Channel::Live => CallKind::Mcp,
    }
}

fn say(headers: &mut HeaderMap, served: &Served, source: Source) {
    let said = Said {
        workflow: &served.run.key.workflow,
        attempt: served.attempt,
        reason: served.reason,
        step: Some(served.step),
        source,
    };
    headers::say(headers, &said);
}

/// What happens when the end of the answer has been handed over: it is delivered once the connection has
/// written it. Dropped unused, the exchange is lost.
fn at_end(sidecar: &Arc<Sidecar>, served: Served, call: &Call) -> AtEnd {
    let handed = Arc::clone(call.connection.handed());
    let mark = Arc::clone(&served.guard.0);
    let sidecar = Arc::clone(sidecar);
    Box::new(move || {
        mark.handed();
        let is_told = told_of_failure(&sidecar, &served);
        handed.add(delivered(sidecar, served, is_told));
    })
}

/// A failure counts as told when it is handed over: what the agent does next must come behind it in the journal.
/// One that is lost on its way is asked for again, and then it counts no longer.
fn told_of_failure(sidecar: &Sidecar, served: &Served) -> bool {
    let mut failed = false;
    sidecar.note(&served.run, |state| {
        let live = state.attempt.as_mut().filter(|live| live.id == served.attempt);
        failed = live.is_some_and(|live| live.failed.remove(&served.step));
        failed.then_some(Record::Delivered { step: served.step, attempt: served.attempt })
    });
    failed
}

fn delivered(sidecar: Arc<Sidecar>, served: Served, is_noted: bool) -> AtEnd {
    Box::new(move || {
        served.guard.0.delivered();
        reach(Point::AnswerDelivered);
        sidecar.note(&served.run, |state| {
            if let Some(live) = state.attempt.as_mut().filter(|live| live.id == served.attempt) {
                live.answered = true;
                live.active_at = sidecar.clock.since_boot();
                // A later exchange carries the step now, or somebody has resolved it: what arrived is not what counts.
                let mark = live.exchanges.get(&served.step);
                mark.filter(|mark| Arc::ptr_eq(mark, &served.guard.0))?;
            }
            (!is_noted).then_some(Record::Delivered { step: served.step, attempt: served.attempt })
        });
    })
}
