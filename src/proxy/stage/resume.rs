//! Event streams of MCP servers that end before the response (durability.md, section 9). The server may mean it:
//! it gives event ids, and whoever asks for what comes behind the last one gets the rest. The sidecar asks, so that
//! the answer becomes the step's whatever the agent does; an agent that asks as well is answered by the sidecar.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use crate::journal::Ticket;
use crate::model::{Channel, EffectClass, FailureClass, Source, StepState};
use crate::proxy::answer_body::AnswerBody;
use crate::proxy::body::WholeBody;
use crate::proxy::call::Call;
use crate::proxy::dialogue::Dialogue;
use crate::proxy::feed::{Feed, Reader};
use crate::proxy::headers;
use crate::proxy::refusal;
use crate::proxy::run::RunState;
use crate::proxy::sidecar::Sidecar;
use crate::upstream::{Error, OutBody, Resend};
use crate::wire::answer::{Answer, Piece, Rest};
use crate::wire::refusal::Refusal;

use super::enroll::Enrolled;
use super::fetch;
use super::recall;
use super::respond::{self, Departure};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Headers of a request with a message that say nothing of one without.
const OF_THE_MESSAGE: [HeaderName; 3] =
    [CONTENT_TYPE, HeaderName::from_static("mcp-method"), HeaderName::from_static("mcp-name")];
/// From this protocol version on there is no resumption: an answer that breaks off is lost.
const NOT_SINCE: &str = "2026-07-28";

/// How often the rest is asked for in a row without a byte of it.
const TRIES_MAX: u32 = 5;
/// How long a server may go on ending its streams early.
const GOING_ON_MAX: Duration = Duration::from_secs(24 * 3600);
/// What a client waits when the server says nothing, and the bounds of what it may say.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How often the rest was asked for, and since when.
#[derive(Debug, Default)]
pub(super) struct Tries {
    in_a_row: u32,
    since: Option<Instant>,
}

impl Tries {
    pub(super) fn brought_something(&mut self) {
        self.in_a_row = 0;
    }

    fn is_over(&mut self) -> bool {
        self.in_a_row += 1;
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.in_a_row > TRIES_MAX || now.duration_since(since) > GOING_ON_MAX
    }
}

/// How to ask for the rest of an answer that has come to no end; `None` when that must not or cannot be done.
/// `early`: how its stream ended.
pub(super) fn rest_of(
    call: &Call,
    early: &Result<Option<Bytes>, Error>,
    answer: &mut Answer,
    pieces: &mut Vec<Piece>,
) -> Option<Rest> {
    let mcp = call.inspected.mcp.as_ref()?;
    let is_step = matches!(call.inspected.operation.channel, Channel::Step(_));
    let is_legacy = mcp.protocol_version.as_deref().is_none_or(|version| version < NOT_SINCE);
    // A server that says nothing more for so long will not say more to another request.
    let may_go_on = early.as_ref().err().is_none_or(|error| error.class != FailureClass::Timeout);
    if is_step && is_legacy && may_go_on { answer.rest(pieces) } else { None }
}

/// The rest of the answer, asked for as the agent would. `None`: it is not to be had.
pub(super) async fn again(
    call: &Call,
    sent: &HeaderMap,
    rest: Option<&Rest>,
    tries: &mut Tries,
) -> Option<AnswerBody> {
    let rest = rest?;
    let wait = rest.retry_ms.map_or(WAIT, Duration::from_millis).clamp(WAIT_MIN, WAIT_MAX);
    while !tries.is_over() {
        tokio::time::sleep(wait).await;
        let asking = call.upstream.client.send(request(call, sent, rest)?, Resend::Allowed);
        let Ok(Ok(response)) = tokio::time::timeout(call.upstream.idle, asking).await else { continue };
        let status = response.status();
        if status == StatusCode::OK
            && headers::is_event_stream(response.headers())
            && headers::content_encoding(response.headers()).is_none()
        {
            return Some(response.into_body().into());
        }
        if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
    }
    None
}

fn request(call: &Call, sent: &HeaderMap, rest: &Rest) -> Option<Request<OutBody>> {
    let mut headers = sent.clone();
    OF_THE_MESSAGE.iter().for_each(|name| _ = headers.remove(name));
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers.insert(LAST_EVENT_ID, HeaderValue::from_bytes(rest.behind.as_bytes()).ok()?);
    let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = Method::GET;
    *request.uri_mut() = fetch::uri(&call.upstream, &call.rest, call.query.as_deref());
    *request.headers_mut() = headers;
    Some(request)
}

/// Answers an agent that asks for the rest of a step's answer; `None` when it asks for something else.
pub(crate) async fn rest(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
) -> Result<Option<Departure>, Refusal> {
    let Some(behind) = headers::text(&call.headers, &LAST_EVENT_ID).filter(|_| call.method == Method::GET)
    else {
        return Ok(None);
    };
    let (dialogue, found) = {
        let mut state = enrolled.run.state.lock();
        recall::check_attempt(&state, enrolled)?;
        let Some((dialogue, feed)) = asked_for(&state, call, behind) else { return Ok(None) };
        (dialogue.clone(), find(sidecar, enrolled, &mut state, behind, &dialogue, feed)?)
    };
    // What is served is the answer to the request that the agent made then.
    let asked = Call { inspected: Arc::clone(&dialogue.inspected), ..call.clone() };
    match found {
        Found::Running(served, reader, ticket) => {
            respond::used(ticket).await?;
            respond::running(sidecar, served, reader, Source::Join, &asked).await.map(Some)
        }
        Found::Recorded(served, ticket) => respond::replayed(sidecar, served, ticket, &asked).await.map(Some),
        Found::Lost(refusal) => Ok(Some(told(&refusal, &asked))),
    }
}

fn asked_for(state: &RunState, call: &Call, behind: &str) -> Option<(Dialogue, Option<Arc<Feed>>)> {
    let runs_with = |step| state.running.get(&step).is_some_and(|feed| feed.has_event(behind));
    let dialogue = state.dialogues.of_event(call, behind, runs_with)?;
    Some((dialogue.clone(), state.running.get(&dialogue.step).cloned()))
}

enum Found {
    Running(recall::Served, Reader, Option<Ticket>),
    Recorded(recall::Served, Option<Ticket>),
    Lost(Refusal),
}

fn find(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    state: &mut RunState,
    behind: &str,
    dialogue: &Dialogue,
    feed: Option<Arc<Feed>>,
) -> Result<Found, Refusal> {
    let step = dialogue.step;
    if let Some(feed) = feed {
        let using = recall::Using { step, found_by: None, durable: true };
        let ticket = recall::use_step(sidecar, enrolled, state, using)?;
        let reader = Reader::behind(&feed, behind, Arc::clone(&sidecar.clock));
        let reader = reader.ok_or_else(|| refusal::not_recorded(step))?;
        return Ok(Found::Running(recall::serve(state, enrolled, step), reader, ticket));
    }
    let recorded = sidecar.journal.step(&enrolled.run.key, step).map_err(|error| refusal::journal(&error))?;
    let recorded = recorded.ok_or_else(refusal::internal)?;
    let (intent, summary) = (&recorded.intent, &recorded.summary);
    if summary.state == StepState::Completed {
        let using = recall::Using { step, found_by: None, durable: true };
        let ticket = recall::use_step(sidecar, enrolled, state, using)?;
        return Ok(Found::Recorded(recall::serve(state, enrolled, step), ticket));
    }
    let acts = summary.class == EffectClass::Effect || summary.state == StepState::InDoubt;
    let may_have_happened = acts && !summary.cleared;
    Ok(Found::Lost(if may_have_happened {
        refusal::in_doubt(step, &intent.operation, intent.upstream.as_str())
    } else {
        refusal::cut(&intent.upstream, "its stream ended before the response, and the rest is not to be had")
    }))
}

/// The stream that was asked for, with the refusal as the response that was waited for.
fn told(refusal: &Refusal, asked: &Call) -> Departure {
    let words = refusal::last_words(refusal, &asked.inspected, asked.upstream.dialect);
    let mut departure = Response::new(WholeBody::new(words, None).boxed_unsync());
    departure.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    departure
}
