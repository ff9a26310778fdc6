//! Sends a call upstream and reads its answer to the end. Runs in a task of its own: the agent may leave,
//! the answer is still read and recorded, within bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::failpoint::{Point, reach};
use crate::model::EffectClass;
use crate::proxy::answer_body::AnswerBody;
use crate::proxy::call::Call;
use crate::proxy::feed::{AnswerStart, Feed};
use crate::proxy::headers;
use crate::proxy::pieces::Pieces;
use crate::proxy::sidecar::{Sidecar, Upstream};
use crate::upstream::{Error, OutBody, Resend};
use crate::wire::answer::{Answer, AnswerHead, AnswerOptions, Cut, Outcome, Piece};

use super::resume;

/// How often a running answer is looked at for readers that have left.
const DESERTED_POLL: Duration = Duration::from_millis(500);

/// How long an MCP stream may stay open behind its response before it counts as ended.
const CLOSING_WAIT: Duration = Duration::from_millis(200);

/// What goes out for a call, and what that means for its answer.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) body: Pieces,
    pub(crate) headers: HeaderMap,
    /// The usage option was added; its traces are taken out of the answer.
    pub(crate) asked_usage: bool,
}

/// The call as it goes upstream: the agent's bytes, but for the usage option.
pub(crate) fn outbound(call: &Call) -> Outbound {
    let edit = call.inspected.usage_edit.as_ref().filter(|_| call.upstream.asks_usage());
    let asked_usage = edit.is_some();
    Outbound {
        body: edit.map_or_else(|| call.body.clone().into(), |edit| Pieces::edited(&call.body, edit)),
        headers: headers::outbound(&call.headers, true),
        asked_usage,
    }
}

/// Largest refusal that is searched for the name of the usage option; a longer one passes as it is.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Sends the request and waits for the answer's head. An upstream that refuses the usage option gets the
/// agent's own bytes instead, and is not asked again.
pub(crate) async fn send(
    call: &Call,
    outbound: &mut Outbound,
    class: EffectClass,
) -> Result<Response<AnswerBody>, Error> {
    let response = send_once(call, outbound, class).await?;
    if !outbound.asked_usage || !matches!(response.status().as_u16(), 400 | 422) {
        return Ok(response.map(AnswerBody::from));
    }
    let mut response = response.map(AnswerBody::from);
    let idle = call.upstream.idle;
    let peeked = tokio::time::timeout(idle, peek(response.body_mut(), idle)).await;
    let refusal = peeked.unwrap_or_else(|_| Err(Error::silent(idle)))?;
    if refusal.is_none_or(|refusal| memchr::memmem::find(&refusal, b"stream_options").is_none()) {
        return Ok(response);
    }
    call.upstream.observe();
    outbound.body = call.body.clone().into();
    outbound.asked_usage = false;
    Ok(send_once(call, outbound, class).await?.map(AnswerBody::from))
}

/// A refusal as a whole, which stays in `body`; `None` when it is longer than what is searched.
async fn peek(body: &mut AnswerBody, idle: Duration) -> Result<Option<Bytes>, Error> {
    let (mut read, mut len, mut is_whole) = (Vec::new(), 0, false);
    while !is_whole && len <= REFUSAL_BYTES_MAX {
        match next(body, idle).await? {
            Some(chunk) => {
                len += chunk.len();
                read.push(chunk);
            }
            None => is_whole = true,
        }
    }
    let read = join(&read);
    body.put_back(read.clone());
    Ok(is_whole.then_some(read))
}

async fn send_once(
    call: &Call,
    outbound: &Outbound,
    class: EffectClass,
) -> Result<Response<Incoming>, Error> {
    let body = outbound.body.clone().map_err(|never| match never {}).boxed_unsync();
    let request = request(&call.upstream, call, outbound.headers.clone(), body);
    let resend = if class == EffectClass::Effect { Resend::Never } else { Resend::Allowed };
    let waiting = call.upstream.client.send(request, resend);
    tokio::time::timeout(call.upstream.idle, waiting)
        .await
        .unwrap_or_else(|_| Err(Error::silent(call.upstream.idle)))
}

/// Builds the request for `upstream`: its own path in front of the call's.
pub(crate) fn request(
    upstream: &Upstream,
    call: &Call,
    headers: HeaderMap,
    body: OutBody,
) -> Request<OutBody> {
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = uri(upstream, &call.rest, call.query.as_deref());
    *request.headers_mut() = headers;
    request
}

pub(crate) fn uri(upstream: &Upstream, rest: &str, query: Option<&str>) -> http::Uri {
    let path = format!("{}{rest}", upstream.base_path);
    let path_and_query = match query {
        Some(query) => format!("{path}?{query}"),
        None if path.is_empty() => "/".to_owned(),
        None => path,
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(upstream.scheme.clone());
    parts.authority = Some(upstream.authority.clone());
    parts.path_and_query = path_and_query.parse().ok();
    http::Uri::from_parts(parts).unwrap_or_default()
}

/// A whole answer, read to its end.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) start: AnswerStart,
    /// What a replay will serve; `None` when it was longer than what is recorded.
    pub(crate) recorded: Option<Bytes>,
    pub(crate) outcome: Outcome,
    /// What the agent gets only once the outcome is durable.
    pub(crate) held: Vec<Bytes>,
}

/// Why an answer was not read to its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The upstream closed, reset or fell silent.
    Upstream(Error),
    /// It ended cleanly and too early.
    Cut(Cut),
    /// It has come to its end and does not stop.
    Endless,
    /// Nobody was left to read it, and the time to go on alone was over.
    Deserted,
    /// The sidecar is stopping.
    Stopping,
    /// It is too long to be kept, and whoever asked for it does not read on.
    Unread,
}

/// What [`Broken::Endless`] tells people.
pub(crate) const ENDLESS: &str =
    "the stream goes on behind its end for longer than an answer that is recorded";

/// Reads the answer, feeding the agent's exchanges as far as they may see it now. `sent` is what the
/// answer answers: the rest of an MCP stream that ends early is asked for in the same way.
pub(crate) async fn read(
    sidecar: &Sidecar,
    call: &Call,
    sent: &Outbound,
    response: Response<AnswerBody>,
    feed: &Arc<Feed>,
) -> Result<Fetched, Broken> {
    let (head, mut body) = response.into_parts();
    let (mut answer, start) = follow(call, sent, head);
    let mut taken = Taken::new(feed, &start);
    if headers::is_event_stream(&start.headers) && !is_bodiless(call, &start) {
        taken.announce();
    }
    let limit = sidecar.snapshot().limits.recorded_bytes_max;
    let mut pieces = Vec::new();
    let mut tries = resume::Tries::default();
    let mut closing = None;
    let ending = sidecar.tasks.ending();
    let deserted = deserted(sidecar, feed, call.upstream.drain);
    tokio::pin!(ending, deserted);
    loop {
        let frame = tokio::select! {
            // Not every server closes a stream that has brought the response.
            () = closed_late(&answer, &mut closing) => break,
            frame = next(&mut body, call.upstream.idle) => frame,
            () = &mut deserted => return Err(Broken::Deserted),
            () = &mut ending => return Err(Broken::Stopping),
        };
        let chunk = match frame {
            Ok(Some(chunk)) => chunk,
            _ if answer.has_response() => break,
            early => {
                let rest = resume::rest_of(call, &early, &mut answer, &mut pieces);
                taken.take(&mut pieces, limit);
                if rest.is_some() && early.is_ok() {
                    feed.pause();
                }
                let resumed = tokio::select! {
                    resumed = resume::again(call, &sent.headers, rest.as_ref(), &mut tries) => resumed,
                    () = &mut deserted => return Err(Broken::Deserted),
                    () = &mut ending => return Err(Broken::Stopping),
                };
                let Some(resumed) = resumed else {
                    early.map_err(Broken::Upstream)?;
                    break;
                };
                body = resumed;
                continue;
            }
        };
        tries.brought_something();
        let fed = answer.feed(chunk, &mut pieces).map_err(Broken::Cut);
        if answer.calls_tools() {
            // Said before its bytes leave: whoever acts on them finds it said.
            feed.call_tools();
        }
        taken.take(&mut pieces, limit);
        fed?;
        if taken.behind > limit {
            if answer.has_response() {
                break;
            }
            return Err(Broken::Endless);
        }
        // Whoever holds up an answer that is not kept holds up the upstream, but not for ever.
        tokio::select! {
            waited = tokio::time::timeout(call.upstream.idle, feed.room()) => {
                waited.map_err(|_| Broken::Unread)?;
            }
            () = &mut deserted => return Err(Broken::Deserted),
            () = &mut ending => return Err(Broken::Stopping),
        }
    }
    let outcome = answer.finish(&mut pieces).map_err(Broken::Cut);
    taken.take(&mut pieces, limit);
    let outcome = outcome?;
    Ok(Fetched { recorded: taken.recorded.map(|parts| join(&parts)), outcome, held: taken.held, start })
}

/// What follows the answer, and its head as the agent gets it.
fn follow(call: &Call, sent: &Outbound, mut head: http::response::Parts) -> (Answer, AnswerStart) {
    headers::strip(&mut head.headers);
    let options =
        AnswerOptions { hide_usage: sent.asked_usage, rpc_id: call.rpc_id().map(ToOwned::to_owned) };
    let seen = AnswerHead {
        status: head.status.as_u16(),
        content_type: headers::content_type(&head.headers),
        content_encoding: headers::content_encoding(&head.headers),
    };
    let answer = Answer::new(call.inspected.operation.surface, &seen, options);
    let mut start = AnswerStart { status: head.status, headers: head.headers };
    if sent.asked_usage || (answer.has_own_end() && !is_bodiless(call, &start)) {
        start.headers.remove(CONTENT_LENGTH);
    }
    (answer, start)
}

/// Resolves when a server that has given its response has had its time to close the stream, whatever it has sent
/// meanwhile. `closing`: when that time is over, once it has begun.
async fn closed_late(answer: &Answer, closing: &mut Option<Instant>) {
    if answer.has_response() {
        let until = *closing.get_or_insert_with(|| Instant::now() + CLOSING_WAIT);
        tokio::time::sleep_until(until).await;
    } else {
        std::future::pending::<()>().await;
    }
}

/// The next bytes of the answer, `None` at its end. Trailers are dropped.
async fn next(body: &mut AnswerBody, idle: Duration) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await.map_err(|_| Error::silent(idle))?;
        match frame {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(bytes) = frame.map_err(|error| Error::from_body(&error))?.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

pub(crate) async fn deserted(sidecar: &Sidecar, feed: &Feed, drain: Duration) {
    loop {
        tokio::time::sleep(DESERTED_POLL).await;
        if feed.deserted_for(sidecar.clock.since_boot()).is_some_and(|alone| alone >= drain) {
            return;
        }
    }
}

/// An answer that ends with its head.
pub(crate) fn is_bodiless(call: &Call, start: &AnswerStart) -> bool {
    call.method == http::Method::HEAD
        || matches!(start.status.as_u16(), 204 | 304)
        || headers::text(&start.headers, &CONTENT_LENGTH) == Some("0")
}

/// Where the pieces of an answer go.
struct Taken<'a> {
    feed: &'a Feed,
    start: &'a AnswerStart,
    announced: bool,
    recorded: Option<Vec<Bytes>>,
    len: usize,
    held: Vec<Bytes>,
    /// Bytes that came after the end had begun: the end itself is as long as it is.
    behind: usize,
}

impl<'a> Taken<'a> {
    fn new(feed: &'a Feed, start: &'a AnswerStart) -> Self {
        let (recorded, held) = (Some(Vec::new()), Vec::new());
        Self { feed, start, announced: false, recorded, len: 0, held, behind: 0 }
    }

    fn take(&mut self, pieces: &mut Vec<Piece>, limit: usize) {
        let has_begun_to_end = !self.held.is_empty();
        for piece in pieces.drain(..) {
            match piece {
                Piece::Comment(bytes) => {
                    if has_begun_to_end {
                        self.behind = self.behind.saturating_add(bytes.len());
                    }
                    self.forward(bytes);
                }
                Piece::Event { bytes, id } => {
                    self.record(&bytes, limit);
                    self.announce();
                    self.feed.push_event(bytes, id);
                }
                Piece::Forward(bytes) => {
                    self.record(&bytes, limit);
                    self.forward(bytes);
                }
                Piece::Hold(bytes) => {
                    self.record(&bytes, limit);
                    if has_begun_to_end {
                        self.behind = self.behind.saturating_add(bytes.len());
                    }
                    self.held.push(bytes);
                }
            }
        }
        reach(Point::AnswerHalf);
    }

    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            self.feed.start(self.start.clone());
        }
    }

    /// The head of an answer that is no stream goes out with its first byte that may be seen, so that an
    /// answer which comes in one piece can still be refused cleanly when it cannot be recorded.
    fn forward(&mut self, bytes: Bytes) {
        self.announce();
        self.feed.push(bytes);
    }

    fn record(&mut self, bytes: &Bytes, limit: usize) {
        self.len = self.len.saturating_add(bytes.len());
        if self.len > limit && self.recorded.take().is_some() {
            self.feed.let_go();
        }
        if let Some(parts) = &mut self.recorded {
            parts.push(bytes.clone());
        }
    }
}

fn join(parts: &[Bytes]) -> Bytes {
    match parts {
        [only] => only.clone(),
        parts => parts.concat().into(),
    }
}
