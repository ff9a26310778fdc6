//! What an MCP server offers (`initialize`, `server/discover`, `*/list`). Live while nothing recorded
//! lies ahead; a restarted agent gets the recorded answer, because a changed list would change its next
//! request to the model (durability.md, section 9).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;

use crate::journal::{Batch, Body, Listed, Record, Urgency};
use crate::model::{Fingerprint, Source};
use crate::proxy::body::WholeBody;
use crate::proxy::call::Call;
use crate::proxy::headers::{self, Said};
use crate::proxy::refusal;
use crate::proxy::sidecar::Sidecar;
use crate::wire::mcp;
use crate::wire::refusal::Refusal;
use crate::wire::status;

use super::divergence;
use super::enroll::{Enrolled, Standing};
use super::fetch::{Broken, ENDLESS, Fetched};
use super::look;
use super::respond::{self, Departure};
use super::{session, strict};

/// Answers a list from the journal or from the upstream.
pub(crate) async fn serve(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
    list: &Fingerprint,
) -> Result<Departure, Refusal> {
    if strict::applies(sidecar) {
        let listed = strict::listed(sidecar, enrolled, call, list)?;
        return recorded(sidecar, enrolled, call, &listed).await;
    }
    let is_closed = enrolled.standing != Standing::Open;
    if (is_closed || lies_ahead(sidecar, enrolled)?)
        && let Some(listed) =
            sidecar.journal.listed(&enrolled.run.key, list).map_err(|error| refusal::journal(&error))?
    {
        if enrolled.standing == Standing::BodiesExpired {
            return Err(refusal::workflow_closed());
        }
        return recorded(sidecar, enrolled, call, &listed).await;
    }
    if is_closed {
        return Err(refusal::workflow_closed());
    }
    live(sidecar, enrolled, call, list).await
}

/// Whether there are recorded answers that the agent is still to be given.
fn lies_ahead(sidecar: &Sidecar, enrolled: &Enrolled) -> Result<bool, Refusal> {
    let head = sidecar.journal.attach(&enrolled.run.key).map_err(|error| refusal::journal(&error))?;
    let Some(head) = head else { return Ok(false) };
    if enrolled.may_be_next {
        // The attempt it would open has used nothing yet.
        return Ok(head.completed > 0);
    }
    // Of an attempt that has done nothing yet the records need not be read.
    let (is_left, has_begun) = (head.ahead() > 0, head.ahead() < head.completed);
    Ok(is_left && (!has_begun || divergence::lies_ahead(sidecar, enrolled)?))
}

async fn recorded(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
    listed: &Listed,
) -> Result<Departure, Refusal> {
    let (journal, hash) = (Arc::clone(&sidecar.journal), listed.body);
    let body =
        tokio::task::spawn_blocking(move || journal.body(&hash)).await.map_err(|_| refusal::internal())?;
    let body = body.map_err(|error| refusal::journal(&error))?;
    let mut headers = headers::restored(&listed.headers);
    let body = respond::readdressed(&body, call, &headers);
    if headers.contains_key(session::SESSION_ID) {
        // The recorded session may be long gone; the agent's new one is the sidecar's until it must be real.
        headers.insert(session::SESSION_ID, session::invent(sidecar));
    }
    let status = StatusCode::from_u16(listed.status).map_err(|_| refusal::internal())?;
    Ok(depart(enrolled, status, headers, body, Source::Replay))
}

async fn live(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
    list: &Fingerprint,
) -> Result<Departure, Refusal> {
    let fetched = look::look(sidecar, &enrolled.run, call).await.map_err(|broken| match broken {
        Broken::Upstream(error) => refusal::upstream_failed(&call.upstream.name, &error),
        Broken::Cut(cut) => refusal::cut(&call.upstream.name, &cut.to_string()),
        Broken::Endless => refusal::cut(&call.upstream.name, ENDLESS),
        Broken::Deserted | Broken::Stopping | Broken::Unread => refusal::stopping(),
    })?;
    let before = sidecar.journal.listed(&enrolled.run.key, list).map_err(|error| refusal::journal(&error))?;
    if let Some(ended) = before.as_ref().filter(|_| is_task(call) && fetched.outcome.is_error) {
        // The server has forgotten the task, and how it ended is known.
        return recorded(sidecar, enrolled, call, ended).await;
    }
    let code = fetched.start.status.as_u16();
    let served = fetched.outcome.mcp_response.clone().or_else(|| fetched.recorded.clone());
    let is_kept = |served: &Bytes| status::is_result(code) && (!is_task(call) || mcp::is_ended_task(served));
    if let Some(served) = served.filter(is_kept) {
        let changed = is_changed(sidecar, before, &served).await;
        if changed {
            tracing::warn!(
                workflow = %enrolled.run.key, upstream = %call.upstream.name, method = call.rpc_method(),
                "the list differs from the recorded one; a restarted agent is shown the recorded one until it has \
                 used every completed step"
            );
        }
        keep(sidecar, enrolled, call, list, &fetched, Kept { served, changed });
    }
    let Some(body) = fetched.recorded else {
        return Err(refusal::cut(&call.upstream.name, "its list is longer than what is recorded"));
    };
    Ok(depart(enrolled, fetched.start.status, fetched.start.headers, body, Source::Live))
}

/// A poll for what has become of a task. Only its end is kept: until then it changes.
fn is_task(call: &Call) -> bool {
    call.rpc_method() == Some("tasks/get")
}

async fn is_changed(sidecar: &Arc<Sidecar>, before: Option<Listed>, served: &Bytes) -> bool {
    let Some(before) = before else { return false };
    let (journal, served) = (Arc::clone(&sidecar.journal), served.clone());
    let reading = tokio::task::spawn_blocking(move || {
        journal.body(&before.body).is_ok_and(|recorded| mcp::is_other_list(&recorded, &served))
    });
    reading.await.unwrap_or(false)
}

/// What is recorded of a list.
struct Kept {
    served: Bytes,
    /// It differs from the one recorded before.
    changed: bool,
}

/// Records what the agent is about to be shown. Rides: a lost list is only asked for again.
fn keep(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    call: &Call,
    list: &Fingerprint,
    fetched: &Fetched,
    kept: Kept,
) {
    let (request, body) = (Body::whole(call.body.clone()), Body::whole(kept.served));
    let listed = |list: Fingerprint, changed: Option<bool>| {
        Record::Listed(Listed {
            list,
            attempt: enrolled.attempt,
            upstream: call.upstream.name.clone(),
            method: call.rpc_method().unwrap_or_default().to_owned(),
            request: request.hash,
            status: fetched.start.status.as_u16(),
            headers: headers::recorded(&fetched.start.headers),
            body: body.hash,
            at: sidecar.clock.now(),
            changed,
        })
    };
    let opens = call.rpc_method() == Some("initialize") && fetched.start.status.is_success();
    let last = opens.then(|| listed(session::last_initialize(call), None));
    let records = [listed(*list, kept.changed.then_some(true))].into_iter().chain(last).collect();
    let batch = Batch { records, bodies: vec![request, body] };
    if let Err(error) =
        sidecar.journal.commit(&enrolled.run.key, sidecar.journal.epoch(), batch, Urgency::Ride)
    {
        tracing::warn!(workflow = %enrolled.run.key, %error, "a list cannot be recorded");
    }
}

fn depart(
    enrolled: &Enrolled,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Bytes,
    source: Source,
) -> Departure {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let said = Said {
        workflow: &enrolled.run.key.workflow,
        attempt: enrolled.attempt,
        reason: enrolled.reason,
        step: None,
        source,
    };
    headers::say(&mut headers, &said);
    let mut departure = Response::new(WholeBody::new(body, None).boxed_unsync());
    *departure.status_mut() = status;
    *departure.headers_mut() = headers;
    departure
}
