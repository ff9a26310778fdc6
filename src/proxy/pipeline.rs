//! One call, top to bottom. Read this first: the only place that knows the order of the stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::model::{Channel, EffectClass, Source, WorkflowId};

use super::body::WholeBody;
use super::call::{Call, Target};
use super::connection::Connection;
use super::headers;
use super::refusal::{self, Asker};
use super::sidecar::{JournalUnavailable, Sidecar};
use super::stage::enroll::Standing;
use super::stage::open::{OpenStep, Opened};
use super::stage::recall::{Asked, Recall, Served};
use super::stage::respond::Departure;
use super::stage::{authorize, enroll, list, pass, recall, record, respond, resume, route, strict};
use crate::wire::refusal::Refusal;

/// Answers one request. A refusal is rendered in the dialect the caller speaks, as far as it is known.
pub(crate) async fn answer(
    sidecar: Arc<Sidecar>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Departure {
    let mut asker = Asker::unknown();
    match walk(&sidecar, connection, request, &mut asker).await {
        Ok(departure) => departure,
        Err(refusal) => {
            sidecar.metrics.refusal(&refusal.code);
            if let Some(recording) = &sidecar.snapshot().recording {
                recording.note(&refusal);
            }
            refusal::depart(&refusal, &asker, None)
        }
    }
}

async fn walk(
    sidecar: &Arc<Sidecar>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    asker: &mut Asker,
) -> Result<Departure, Refusal> {
    let snapshot = sidecar.snapshot(); // one version of everything for the whole call
    let (parts, body) = request.into_parts();
    if route::wants_tunnel(&parts.method, &parts.headers) {
        return Err(refusal::tunnel());
    }
    if let Some(dialect) = route::dialect(&snapshot, &parts.uri) {
        asker.upstream(dialect);
    }
    let target = route::target(&snapshot, &parts.uri, &parts.headers)?;
    if let Some(recording) = snapshot.recording.as_ref().filter(|_| target.workflow.is_none()) {
        return Err(refusal::no_such_run(recording));
    }
    if !route::is_inspected(&target) {
        return pass_through(sidecar, &target, parts, body).await;
    }
    let call = route::call(&snapshot, target, connection, parts, body).await?;
    asker.call(&call.inspected);
    match call.workflow.clone() {
        None => anonymous(sidecar, &call).await,
        Some(workflow) => durable(sidecar, call, &workflow).await,
    }
}

async fn pass_through(
    sidecar: &Arc<Sidecar>,
    target: &Target,
    parts: http::request::Parts,
    body: Incoming,
) -> Result<Departure, Refusal> {
    if sidecar.is_draining() {
        return Err(refusal::shutting_down());
    }
    authorize::unread(sidecar, target, parts.method.as_str())?;
    let bytes_max = sidecar.snapshot().limits.body_bytes_max;
    if headers::content_length(&parts.headers).is_some_and(|len| len > bytes_max) {
        return Err(refusal::body_too_large(bytes_max));
    }
    // A body whose length nobody announced is found too large while it is on its way.
    let too_large = Arc::new(AtomicBool::new(false));
    let noticed = Arc::clone(&too_large);
    let body = Limited::new(body, bytes_max).map_err(move |error| {
        noticed.fetch_or(error.is::<LengthLimitError>(), Ordering::AcqRel);
        error
    });
    let passed = pass::stream(target, parts.method, &parts.headers, body.boxed_unsync()).await;
    passed.map_err(|refusal| {
        if too_large.load(Ordering::Acquire) { refusal::body_too_large(bytes_max) } else { refusal }
    })
}

/// A call without a workflow is forwarded and metered, never recorded.
async fn anonymous(sidecar: &Arc<Sidecar>, call: &Call) -> Result<Departure, Refusal> {
    if sidecar.is_draining() {
        return Err(refusal::shutting_down());
    }
    authorize::unrecorded(sidecar, call)?;
    pass::metered(sidecar, call).await
}

/// A call of a workflow.
async fn durable(sidecar: &Arc<Sidecar>, call: Call, workflow: &WorkflowId) -> Result<Departure, Refusal> {
    let kind = match call.inspected.operation.channel {
        Channel::Step(kind) => kind,
        Channel::List => return listed(sidecar, &call, workflow).await,
        Channel::Live => return live(sidecar, &call, workflow).await,
    };
    let Some(fingerprints) = call.fingerprints else { return Err(refusal::internal()) };
    let asked = Asked {
        kind,
        class: call.inspected.operation.class,
        exact: fingerprints.exact,
        normalised: fingerprints.normalised,
        identity: call.identity,
    };
    let enrolled = match enroll::attempt(sidecar, &call, workflow, Some(&asked.exact)).await {
        Err(refusal) if may_pass_unrecorded(sidecar, &refusal, asked.class) => {
            return anonymous(sidecar, &call).await;
        }
        other => other?,
    };
    let (open, served) = loop {
        match recall::step(sidecar, &enrolled, &call, &asked).await? {
            Recall::Recorded { served, ticket } => {
                return respond::replayed(sidecar, served, ticket, &call).await;
            }
            Recall::InFlight { served, feed, ticket } if call.rpc_id().is_none() => {
                let reader = respond::reader(sidecar, &feed, &served)?;
                respond::used(ticket).await?;
                return respond::running(sidecar, served, reader, Source::Join, &call).await;
            }
            // An MCP answer carries the id of the request that began it: whoever joins waits for its end and
            // asks again, and gets the recorded answer under its own id.
            Recall::InFlight { served, feed, .. } => {
                respond::settled(sidecar, &feed).await;
                drop(served);
            }
            Recall::Refused { refusal, step } => {
                return Ok(respond::refused(sidecar, &enrolled, &call, (&refusal, step), asked.exact));
            }
            Recall::SetBack { setback, step } => {
                return respond::set_back(sidecar, &enrolled, &call, setback, step).await;
            }
            Recall::Fresh(slot) => {
                if sidecar.is_draining() {
                    return Err(refusal::shutting_down());
                }
                // From here on the outcome is owed: nothing the client does ends the work.
                match slot.open(sidecar, &call, &asked) {
                    Ok(Opened::Begun(open, served)) => break (*open, served),
                    Ok(Opened::AskAgain) => {}
                    Ok(Opened::Denied { refusal, step }) => {
                        return Ok(respond::refused(
                            sidecar,
                            &enrolled,
                            &call,
                            (&refusal, step),
                            asked.exact,
                        ));
                    }
                    Err(refusal) if may_pass_unrecorded(sidecar, &refusal, asked.class) => {
                        return anonymous(sidecar, &call).await;
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
        }
    };
    begin(sidecar, open, served, call, asked).await
}

async fn begin(
    sidecar: &Arc<Sidecar>,
    open: OpenStep,
    served: Served,
    call: Call,
    asked: Asked,
) -> Result<Departure, Refusal> {
    // Before the work begins: it lets go of what nobody reads.
    let reader = respond::reader(sidecar, &open.feed, &served)?;
    sidecar.tasks.spawn(record::carry(Arc::clone(sidecar), open, call.detached(), asked));
    respond::running(sidecar, served, reader, Source::Live, &call).await
}

async fn listed(sidecar: &Arc<Sidecar>, call: &Call, workflow: &WorkflowId) -> Result<Departure, Refusal> {
    let Some(fingerprints) = call.fingerprints else { return Err(refusal::internal()) };
    let enrolled = enroll::attempt(sidecar, call, workflow, None).await?;
    let departure = list::serve(sidecar, &enrolled, call, &fingerprints.exact).await?;
    if let Some(session) = headers::text(departure.headers(), &headers::MCP_SESSION) {
        enroll::give_session(&enrolled, call, session);
    }
    Ok(departure)
}

async fn live(sidecar: &Arc<Sidecar>, call: &Call, workflow: &WorkflowId) -> Result<Departure, Refusal> {
    if call.inspected.mcp.as_ref().is_some_and(|mcp| !mcp.known) {
        return Err(refusal::unknown_method(call.rpc_method().unwrap_or_default()));
    }
    let enrolled = enroll::attempt(sidecar, call, workflow, None).await?;
    if strict::applies(sidecar) {
        return strict::live(call);
    }
    if enrolled.standing != Standing::Open {
        return pass::closed(&enrolled.run, call);
    }
    authorize::unrecorded(sidecar, call)?;
    if let Some(departure) = resume::rest(sidecar, &enrolled, call).await? {
        return Ok(departure);
    }
    pass::live(sidecar, &enrolled.run, call).await
}

/// With `journal.unavailable: passthrough` a call that may be repeated goes on without a journal.
fn may_pass_unrecorded(sidecar: &Sidecar, refusal: &Refusal, class: EffectClass) -> bool {
    refusal::is_journal_unavailable(refusal)
        && class == EffectClass::Read
        && sidecar.snapshot().journal_unavailable == JournalUnavailable::Passthrough
}

/// An empty answer with a status.
pub(crate) fn bare(status: http::StatusCode) -> Departure {
    let mut departure = http::Response::new(WholeBody::new(bytes::Bytes::new(), None).boxed_unsync());
    *departure.status_mut() = status;
    departure
}
