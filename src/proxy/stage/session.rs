//! MCP sessions (durability.md, section 9). An agent that replays has no session upstream: the sidecar
//! answers for it, and opens the upstream's session at the first call that has to be sent. A session the
//! upstream has forgotten (404) is opened again once.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::journal::Listed;
use crate::model::{Dialect, FailureClass, Fingerprint};
use crate::proxy::call::Call;
use crate::proxy::headers;
use crate::proxy::run::{Run, UpstreamSession};
use crate::proxy::sidecar::Sidecar;
use crate::replay::fingerprint;
use crate::upstream::{Error, OutBody, Resend};

use super::fetch;

pub(crate) use headers::MCP_SESSION as SESSION_ID;
/// Sessions that the sidecar invented for a replaying agent begin with this.
const OWN_PREFIX: &str = "outrigger-";
/// The JSON-RPC method under which the last `initialize` of an upstream is kept, whatever its version.
const LAST_INITIALIZE: &str = "initialize#last";
/// Largest answer to an `initialize` that is read.
const INITIALIZE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest time that a session may take to open, where the upstream may be silent for longer than that.
const INITIALIZE_WAIT: Duration = Duration::from_secs(60);

/// A session id for an agent whose `initialize` was answered from the journal.
pub(crate) fn invent(sidecar: &Sidecar) -> HeaderValue {
    let text = format!("{OWN_PREFIX}{}", sidecar.fresh_nonce());
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(OWN_PREFIX))
}

/// The key under which a workflow keeps the last `initialize` it sent to an upstream.
pub(crate) fn last_initialize(call: &Call) -> Fingerprint {
    fingerprint::list(&fingerprint::ListAsked {
        route: call.upstream.name.as_str(),
        path: &call.rest,
        method: LAST_INITIALIZE,
        protocol_version: None,
        cursor: None,
    })
}

/// The session a call was sent under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    shown: String,
    sent: Option<String>,
    ended: bool,
}

/// Whether the agent's session is one the sidecar invented and no upstream session stands behind it yet.
pub(crate) fn is_unopened(run: &Run, call: &Call) -> bool {
    shown(call).is_some_and(|shown| shown.starts_with(OWN_PREFIX) && mapped(run, call, shown).is_none())
}

/// Resolves when an upstream session stands behind the agent's.
pub(crate) async fn opened(run: &Run, call: &Call) {
    let Some(shown) = shown(call) else { return };
    loop {
        let changed = run.session_opened.notified();
        if mapped(run, call, shown).is_some() {
            return;
        }
        changed.await;
    }
}

/// Puts the upstream's session id into the headers of a call that carries the agent's.
pub(crate) async fn put(
    sidecar: &Sidecar,
    run: &Run,
    call: &Call,
    headers: &mut HeaderMap,
) -> Result<Option<Used>, Error> {
    let Some(shown) = shown(call).filter(|_| call.upstream.dialect == Dialect::Mcp) else { return Ok(None) };
    let session = match mapped(run, call, shown) {
        Some(session) => session,
        None if shown.starts_with(OWN_PREFIX) => open(sidecar, run, call, shown, None).await?,
        None => UpstreamSession { id: Some(shown.to_owned()), ended: false },
    };
    write(headers, session.id.as_deref());
    Ok(Some(Used { shown: shown.to_owned(), sent: session.id, ended: session.ended }))
}

/// The agent ends its session. Whoever asks under it afterwards is told so by the upstream.
pub(crate) fn end(run: &Run, call: &Call) {
    let Some(shown) = shown(call) else { return };
    let id = mapped(run, call, shown).and_then(|session| session.id).unwrap_or_else(|| shown.to_owned());
    keep(run, call, shown, UpstreamSession { id: Some(id), ended: true });
}

/// Whether the upstream has forgotten the session: it did not look at the call.
pub(crate) fn is_dead<B>(response: &Response<B>, used: Option<&Used>) -> bool {
    response.status() == StatusCode::NOT_FOUND && used.is_some_and(|used| used.sent.is_some() && !used.ended)
}

/// Opens a new upstream session in place of a dead one.
pub(crate) async fn renew(
    sidecar: &Sidecar,
    run: &Run,
    call: &Call,
    used: Option<&Used>,
    headers: &mut HeaderMap,
) -> Result<(), Error> {
    if let Some(used) = used {
        let session = open(sidecar, run, call, &used.shown, used.sent.as_deref()).await?;
        write(headers, session.id.as_deref());
    }
    Ok(())
}

fn shown(call: &Call) -> Option<&str> {
    headers::text(&call.headers, &SESSION_ID)
}

fn mapped(run: &Run, call: &Call, shown: &str) -> Option<UpstreamSession> {
    run.state.lock().sessions.get(&(call.upstream.name.clone(), shown.to_owned())).cloned()
}

fn write(headers: &mut HeaderMap, id: Option<&str>) {
    match id.and_then(|id| HeaderValue::from_str(id).ok()) {
        Some(id) => _ = headers.insert(SESSION_ID, id),
        None => _ = headers.remove(SESSION_ID),
    }
}

/// Opens an upstream session for the one the agent was shown, with the `initialize` the agent sent then.
/// `dead` is the upstream session it replaces; somebody else may have replaced it already.
async fn open(
    sidecar: &Sidecar,
    run: &Run,
    call: &Call,
    shown: &str,
    dead: Option<&str>,
) -> Result<UpstreamSession, Error> {
    let _one_at_a_time = run.opening_session.lock().await;
    if let Some(session) = mapped(run, call, shown).filter(|session| session.id.as_deref() != dead) {
        return Ok(session);
    }
    let Some(request) = recorded_initialize(sidecar, run, call) else {
        return Err(unopened("no `initialize` of this workflow is recorded for it"));
    };
    let wait = INITIALIZE_WAIT.min(call.upstream.idle);
    let id = tokio::time::timeout(wait, initialize(call, request))
        .await
        .unwrap_or_else(|_| Err(Error { not_sent: true, ..Error::silent(wait) }))?;
    let session = UpstreamSession { id, ended: false };
    keep(run, call, shown, session.clone());
    Ok(session)
}

fn keep(run: &Run, call: &Call, shown: &str, session: UpstreamSession) {
    let mut state = run.state.lock();
    if state.sessions.len() >= SESSIONS_MAX {
        state.sessions.clear();
    }
    state.sessions.insert((call.upstream.name.clone(), shown.to_owned()), session);
    run.session_opened.notify_waiters();
}

fn recorded_initialize(sidecar: &Sidecar, run: &Run, call: &Call) -> Option<Bytes> {
    let listed: Listed = sidecar.journal.listed(&run.key, &last_initialize(call)).ok()??;
    sidecar.journal.body(&listed.request).ok()
}

fn unopened(why: &str) -> Error {
    let detail = format!("no MCP session could be opened: {why}");
    // What was sent so far was no call of the agent.
    Error { class: FailureClass::Connect, not_sent: true, tls: false, detail }
}

/// `initialize`, then `notifications/initialized`; the id the upstream gave, if it gives any.
async fn initialize(call: &Call, request: Bytes) -> Result<Option<String>, Error> {
    let response = post(call, request, None).await?;
    if !response.status().is_success() {
        return Err(unopened(&format!("`initialize` was answered {}", response.status())));
    }
    let id = headers::text(response.headers(), &SESSION_ID).map(ToOwned::to_owned);
    // The session exists when its answer is there; what it says was recorded the first time.
    read_to_end(response).await?;
    let initialized = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    read_to_end(post(call, initialized, id.as_deref()).await?).await?;
    Ok(id)
}

async fn read_to_end(response: Response<Incoming>) -> Result<(), Error> {
    let body = Limited::new(response.into_body(), INITIALIZE_BYTES_MAX);
    body.collect().await.map(drop).map_err(|error| unopened(&error.to_string()))
}

/// Posts as the agent: its headers, another body.
async fn post(call: &Call, body: Bytes, session: Option<&str>) -> Result<Response<Incoming>, Error> {
    let mut headers = headers::outbound(&call.headers, true);
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("mcp-")).cloned().collect();
    for name in named.into_iter().filter(|name| session.is_none() || name.as_str() != "mcp-protocol-version")
    {
        headers.remove(name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    write(&mut headers, session);
    let body: OutBody = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = fetch::uri(&call.upstream, &call.rest, call.query.as_deref());
    *request.headers_mut() = headers;
    call.upstream.client.send(request, Resend::Never).await.map_err(|error| Error { not_sent: true, ..error })
}

/// Sessions kept per workflow; agents that open one for every call would fill the memory otherwise. What
/// is forgotten costs one more `initialize`.
const SESSIONS_MAX: usize = 1024;
