//! An MCP server asked for its tools by the sidecar itself, for people who review them. Sends what the listing says
//! next and hands it what comes back; knows neither version of the protocol.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use super::{Client, Error, OutBody, Resend};
use crate::model::FailureClass;
use crate::wire::mcp::listing::{LIST_BYTES_MAX, ListError, Listing, Next, Post, Posted};
use crate::wire::mcp::{Served, response_in};
use crate::wire::sse::{Fields, Splitter};

/// Longest time for giving a session back.
const END_MAX: Duration = Duration::from_secs(5);
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// Which server is asked, and how.
#[derive(Clone, Debug)]
pub struct Asked {
    pub uri: Uri,
    /// What a client has to prove, such as `Authorization`.
    pub headers: HeaderMap,
    /// Longest time for one exchange.
    pub exchange: Duration,
}

/// Tools that could not be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolsError {
    #[error(transparent)]
    List(#[from] ListError),
    /// There is no answer, or not all of it.
    #[error(transparent)]
    Unreachable(#[from] Error),
}

/// The definitions of all tools of a server, as JSON.
///
/// # Errors
/// [`ToolsError`].
pub async fn tools(client: &Client, asked: &Asked) -> Result<Vec<String>, ToolsError> {
    let (mut listing, mut post) = Listing::begin();
    let tools = loop {
        let posted = exchange(client, asked, &post).await?;
        match listing.posted(&posted) {
            Ok(Next::Post(next)) => post = next,
            Ok(Next::Listed(tools)) => break Ok(tools),
            Err(error) => break Err(error.into()),
        }
    };
    if let Some(headers) = listing.session() {
        // A server that keeps its sessions gets this one back. One that does not take it forgets it by itself.
        let end = request(asked, Method::DELETE, &headers, Bytes::new());
        _ = tokio::time::timeout(asked.exchange.min(END_MAX), client.send(end, Resend::Never)).await;
    }
    tools
}

async fn exchange(client: &Client, asked: &Asked, post: &Post) -> Result<Posted, Error> {
    let request = request(asked, Method::POST, &post.headers, post.body.clone());
    let exchange = async {
        let response = client.send(request, Resend::Allowed).await?;
        let status = response.status().as_u16();
        let session = response.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let message = message(response, post.id.as_deref()).await?;
        Ok(Posted { status, session, message })
    };
    let late = || Err(Error::silent(asked.exchange));
    tokio::time::timeout(asked.exchange, exchange).await.unwrap_or_else(|_| late())
}

fn request(
    asked: &Asked,
    method: Method,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Request<OutBody> {
    let body: OutBody = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = asked.uri.clone();
    let all = request.headers_mut();
    all.clone_from(&asked.headers);
    all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    all.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            all.insert(*name, value);
        }
    }
    request
}

/// The response to request `id` in an answer, or the whole body where it is no event stream.
async fn message(response: Response<Incoming>, id: Option<&str>) -> Result<Bytes, Error> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let served = Served::of(kind);
    let body = Limited::new(response.into_body(), LIST_BYTES_MAX);
    match (served, id) {
        (Served::Sse, Some(id)) => event(body, id).await,
        // Nothing answers a notification; a server may leave such a stream open.
        (Served::Sse, None) => Ok(Bytes::new()),
        (Served::Json, _) => {
            let whole = body.collect().await.map_err(|error| broken(error.as_ref()))?;
            Ok(whole.to_bytes())
        }
    }
}

fn broken(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if error.is::<LengthLimitError>() {
        let detail = format!("the answer is longer than {} MiB", LIST_BYTES_MAX >> 20);
        return Error::early(FailureClass::Cut, detail);
    }
    Error::from_body(error)
}

/// Reads a stream up to the response to request `id`. What else comes on it is nothing that is asked for here.
async fn event<B>(mut body: B, id: &str) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Unpin,
{
    let mut splitter = Splitter::new();
    let answer = |block: &Bytes| response_in(&Fields::of(block).data_in(block), Served::Json, id);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(error.as_ref()))?;
        let Ok(data) = frame.into_data() else { continue };
        let split =
            splitter.feed(data).map_err(|error| Error::early(FailureClass::Reset, error.to_string()))?;
        if let Some(found) = split.spans().find_map(|span| answer(&split.bytes.slice(span))) {
            return Ok(found);
        }
    }
    let found = splitter.finish().and_then(|block| answer(&block));
    found.ok_or_else(|| Error::early(FailureClass::Reset, "the event stream ended without the answer"))
}
