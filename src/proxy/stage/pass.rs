//! Calls that are neither recorded nor replayed: everything without a workflow, and the live side of MCP
//! (event streams, notifications, pings, session ends). They end with their client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::model::{CallKind, Channel, Dialect, Source, StepState};
use crate::proxy::answer_body::AnswerBody;
use crate::proxy::body::{Joiner, Torn, WholeBody};
use crate::proxy::call::{Call, Target};
use crate::proxy::headers;
use crate::proxy::leaving::Portion;
use crate::proxy::refusal;
use crate::proxy::run::Run;
use crate::proxy::sidecar::{Sidecar, Upstream};
use crate::telemetry::event::StepEvent;
use crate::upstream::{Error, OutBody, Resend};
use crate::wire::answer::{Answer, AnswerHead, AnswerOptions, Piece};
use crate::wire::mcp::McpMessage;
use crate::wire::refusal::Refusal;

use super::fetch;
use super::listen;
use super::respond::Departure;
use super::session;

/// Forwards a request whose body is not looked at, in both directions as a stream.
pub(crate) async fn stream(
    target: &Target,
    method: Method,
    arrived: &HeaderMap,
    body: OutBody,
) -> Result<Departure, Refusal> {
    let mut request = http::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = fetch::uri(&target.upstream, &target.rest, target.query.as_deref());
    *request.headers_mut() = headers::outbound(arrived, false);
    let response = forward(&target.upstream, request).await?;
    let (mut head, body) = response.into_parts();
    headers::strip(&mut head.headers);
    let body = PassBody::new(body.into(), target.upstream.idle, None);
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

async fn forward(
    upstream: &Upstream,
    request: http::Request<OutBody>,
) -> Result<Response<Incoming>, Refusal> {
    tokio::time::timeout(upstream.idle, upstream.client.send(request, Resend::Never))
        .await
        .unwrap_or_else(|_| Err(Error::silent(upstream.idle)))
        .map_err(|error| refusal::upstream_failed(&upstream.name, &error))
}

/// Forwards a call without a workflow. A model's answer is read along for its usage.
pub(crate) async fn metered(sidecar: &Arc<Sidecar>, call: &Call) -> Result<Departure, Refusal> {
    let mut outbound = fetch::outbound(call);
    if !matches!(call.inspected.operation.channel, Channel::Step(CallKind::Llm)) {
        outbound.headers = headers::outbound(&call.headers, false);
    }
    let response = fetch::send(call, &mut outbound, call.inspected.operation.class)
        .await
        .map_err(|error| refusal::upstream_failed(&call.upstream.name, &error))?;
    let (mut head, body) = response.into_parts();
    headers::strip(&mut head.headers);
    let tap = matches!(call.inspected.operation.channel, Channel::Step(CallKind::Llm)).then(|| Tap {
        answer: Answer::new(
            call.inspected.operation.surface,
            &AnswerHead {
                status: head.status.as_u16(),
                content_type: headers::content_type(&head.headers),
                content_encoding: headers::content_encoding(&head.headers),
            },
            AnswerOptions { hide_usage: outbound.asked_usage, rpc_id: None },
        ),
        pieces: Vec::new(),
        sidecar: Arc::clone(sidecar),
        succeeded: head.status.is_success(),
        begun: sidecar.clock.now(),
    });
    if outbound.asked_usage || tap.as_ref().is_some_and(|tap| tap.answer.has_own_end()) {
        head.headers.remove(CONTENT_LENGTH);
    }
    Ok(Response::from_parts(head, passed(sidecar, call, body, tap).boxed_unsync()))
}

/// The event streams that an MCP client listens on. They say nothing for as long as nothing happens, and
/// have no end of their own.
fn listens(call: &Call) -> bool {
    let listens = call.method == Method::GET || call.rpc_method() == Some("subscriptions/listen");
    call.upstream.dialect == Dialect::Mcp && listens
}

/// The body of an answer that is forwarded and not looked at.
pub(super) fn unread(sidecar: &Sidecar, call: &Call, body: Incoming) -> PassBody {
    passed(sidecar, call, body.into(), None)
}

/// The answer to a call that is forwarded.
fn passed(sidecar: &Sidecar, call: &Call, body: AnswerBody, tap: Option<Tap>) -> PassBody {
    let mut passed = PassBody::new(body, call.upstream.idle, tap);
    if listens(call) {
        passed.idle = LISTENING_SILENCE;
        passed.silence.as_mut().reset(deadline(LISTENING_SILENCE));
        passed.last_call = Some(Box::pin(sidecar.drained()));
    }
    passed
}

const LISTENING_SILENCE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The live side of MCP for a closed workflow: what a session of the sidecar's own is told stays here, and nothing
/// leaves.
pub(crate) fn closed(run: &Run, call: &Call) -> Result<Departure, Refusal> {
    answered_here(run, call).ok_or_else(refusal::workflow_closed)
}

/// The answer to a call of a session that no upstream knows of yet, where none need know.
fn answered_here(run: &Run, call: &Call) -> Option<Departure> {
    let departure = session::is_unopened(run, call).then(|| unopened(call)).flatten()?;
    if call.method == Method::DELETE {
        session::end(run, call);
    }
    Some(departure)
}

/// Forwards the live side of MCP for a workflow, under the session that stands behind the agent's.
pub(crate) async fn live(sidecar: &Arc<Sidecar>, run: &Arc<Run>, call: &Call) -> Result<Departure, Refusal> {
    if takes_back_effect(run, call) {
        return Ok(answered(StatusCode::ACCEPTED, Bytes::new()));
    }
    let ends = call.method == Method::DELETE;
    if call.method == Method::GET && session::is_unopened(run, call) {
        return Ok(listen::later(sidecar, run, call));
    }
    if let Some(departure) = answered_here(run, call) {
        return Ok(departure);
    }
    let mut outgoing = headers::outbound(&call.headers, false);
    let used = session::put(sidecar, run, call, &mut outgoing)
        .await
        .map_err(|error| refusal::upstream_failed(&call.upstream.name, &error))?;
    let mut response = forward_live(call, &outgoing).await?;
    // Where no new session can be had, the agent is told of the dead one and opens its own.
    if session::is_dead(&response, used.as_ref())
        && !ends
        && session::renew(sidecar, run, call, used.as_ref(), &mut outgoing).await.is_ok()
    {
        response = forward_live(call, &outgoing).await?;
    }
    if ends && response.status().is_success() {
        session::end(run, call);
    }
    let (mut head, body) = response.into_parts();
    headers::strip(&mut head.headers);
    Ok(Response::from_parts(head, unread(sidecar, call, body).boxed_unsync()))
}

pub(super) async fn forward_live(call: &Call, outgoing: &HeaderMap) -> Result<Response<Incoming>, Refusal> {
    let body = http_body_util::Full::new(call.body.clone()).map_err(|never| match never {}).boxed_unsync();
    forward(&call.upstream, fetch::request(&call.upstream, call, outgoing.clone(), body)).await
}

/// Whether a client no longer waits for an effect that is at work. The effect goes on: half of it may have
/// happened, and a server that is told to stop says no more of it.
fn takes_back_effect(run: &Run, call: &Call) -> bool {
    let cancels = call.inspected.mcp.as_ref().and_then(|mcp| mcp.cancels.as_deref());
    cancels.is_some_and(|id| run.state.lock().dialogues.has_effect(call, id))
}

pub(super) fn answered(status: StatusCode, body: Bytes) -> Departure {
    let mut departure = Response::new(WholeBody::new(body, None).boxed_unsync());
    *departure.status_mut() = status;
    departure
}

/// What an agent gets whose session exists only towards the sidecar so far. `None`: a call that needs
/// the upstream's session.
pub(super) fn unopened(call: &Call) -> Option<Departure> {
    let mcp = call.inspected.mcp.as_ref();
    let (status, body) = match call.method {
        Method::DELETE => (StatusCode::OK, Bytes::new()),
        _ => match (mcp.map(|mcp| mcp.message)?, call.rpc_method(), call.rpc_id()) {
            (McpMessage::Notification | McpMessage::Response, ..) => (StatusCode::ACCEPTED, Bytes::new()),
            (McpMessage::Request, Some("ping"), Some(id)) => {
                (StatusCode::OK, Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)))
            }
            (McpMessage::Batch | McpMessage::Other | McpMessage::Request, ..) => return None,
        },
    };
    let mut departure = answered(status, body);
    if status == StatusCode::OK && call.method != Method::DELETE {
        departure.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Some(departure)
}

/// Reads a model's answer along for its usage.
struct Tap {
    answer: Answer,
    pieces: Vec<Piece>,
    sidecar: Arc<Sidecar>,
    succeeded: bool,
    begun: crate::model::Timestamp,
}

impl Tap {
    fn end(mut self, joiner: &mut Joiner) -> Result<(), Torn> {
        let outcome = self.answer.finish(&mut self.pieces);
        for piece in self.pieces {
            joiner.add(bytes_of(piece));
        }
        let state = if outcome.is_ok() { StepState::Completed } else { StepState::Failed };
        let usage = outcome.as_ref().ok().and_then(|outcome| outcome.usage);
        self.sidecar.metrics.step(&StepEvent {
            kind: CallKind::Llm,
            source: Source::Live,
            state,
            usage,
            usage_missing: usage.is_none() && self.succeeded,
            duration_ms: self.sidecar.clock.now().since_ms(self.begun),
        });
        // A stream that ended too early must not look whole.
        outcome.map(drop).map_err(|_| Torn)
    }
}

/// Without a journal nothing has to be waited for.
fn bytes_of(piece: Piece) -> Bytes {
    match piece {
        Piece::Comment(bytes) | Piece::Event { bytes, .. } | Piece::Forward(bytes) | Piece::Hold(bytes) => {
            bytes
        }
    }
}

/// An upstream's body on its way to the agent.
pub(super) struct PassBody {
    body: AnswerBody,
    idle: Duration,
    silence: Pin<Box<Sleep>>,
    joiner: Joiner,
    trailers: Option<Frame<Portion>>,
    tap: Option<Tap>,
    /// Ends a stream that has no end of its own: nobody waits for it at shutdown.
    last_call: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ended: bool,
    torn: bool,
}

impl PassBody {
    fn new(body: AnswerBody, idle: Duration, tap: Option<Tap>) -> Self {
        let silence = Box::pin(tokio::time::sleep(idle));
        Self {
            body,
            idle,
            silence,
            joiner: Joiner::default(),
            trailers: None,
            tap,
            last_call: None,
            ended: false,
            torn: false,
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(bytes) => match &mut self.tap {
                None => self.joiner.add(bytes),
                Some(tap) => {
                    self.torn = tap.answer.feed(bytes, &mut tap.pieces).is_err();
                    for piece in tap.pieces.drain(..) {
                        self.joiner.add(bytes_of(piece));
                    }
                }
            },
            Err(trailers) => self.trailers = Some(trailers.map_data(Portion::from)),
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(tap) = self.tap.take() {
            self.torn = tap.end(&mut self.joiner).is_err();
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let stops =
            self.last_call.as_mut().is_some_and(|last_call| last_call.as_mut().poll(context).is_ready());
        stops || self.silence.as_mut().poll(context).is_ready()
    }
}

impl Body for PassBody {
    type Data = Portion;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, Torn>>> {
        let this = &mut *self;
        loop {
            if this.joiner.is_full() || (this.ended || this.torn) && !this.joiner.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(this.joiner.take().into()))));
            }
            if this.torn {
                // As in a running step's body: first what is buffered, then the error.
                if this.joiner.turn(context) {
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Err(Torn)));
            }
            if this.ended {
                return Poll::Ready(this.trailers.take().map(Ok));
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.silence.as_mut().reset(deadline(this.idle));
                    this.take(frame);
                }
                Poll::Ready(Some(Err(_))) => this.torn = true,
                Poll::Ready(None) => this.end(),
                Poll::Pending if this.joiner.is_empty() && this.is_over(context) => this.torn = true,
                Poll::Pending if this.joiner.is_empty() => return Poll::Pending,
                Poll::Pending if this.joiner.waits(context) => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Some(Ok(Frame::data(this.joiner.take().into())))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tap.is_none()
            && self.joiner.is_empty()
            && self.trailers.is_none()
            && !self.torn
            && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        if self.tap.is_none() { self.body.size_hint() } else { http_body::SizeHint::default() }
    }
}

fn deadline(wait: Duration) -> Instant {
    Instant::now() + wait
}
