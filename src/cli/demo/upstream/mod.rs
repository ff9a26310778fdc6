//! The demo's upstreams in one process: a scripted model, an MCP server, and what both have counted. Knows
//! nothing of Outrigger, of the kill, or of who is asking.

mod counters;
mod mcp;
mod model;

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(super) use counters::Tally;

use super::error::Error;
use counters::Counters;

/// Longest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8 << 20;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Settings of the upstream process.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The counted call whose answer waits until it is released.
    #[arg(long)]
    hold_at: Option<u32>,
}

/// Everything the two servers share.
#[derive(Debug)]
struct Upstream {
    counters: Counters,
    sessions: mcp::Sessions,
}

/// Serves until the process is killed. The first line on standard output is `ready ADDRESS`.
///
/// # Errors
/// [`Error::Listen`], [`Error::Output`].
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::Listen)?;
    let address = listener.local_addr().map_err(Error::Listen)?;
    writeln!(io::stdout().lock(), "ready {address}").map_err(Error::Output)?;
    let upstream =
        Arc::new(Upstream { counters: Counters::new(args.hold_at), sessions: mcp::Sessions::default() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted.map_err(Error::Listen)?;
                socket.set_nodelay(true).map_err(Error::Listen)?;
                let upstream = Arc::clone(&upstream);
                let service = service_fn(move |request| answer(Arc::clone(&upstream), request));
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(upstream: Arc<Upstream>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else {
        return Ok(plain(StatusCode::BAD_REQUEST, "the request body is cut or too long"));
    };
    let body = body.to_bytes();
    Ok(match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => model::chat(&upstream.counters, &body).await,
        (_, "/mcp") => mcp::answer(&upstream, &head, &body).await,
        (&Method::GET, "/counters") => match serde_json::to_vec(&upstream.counters.tally()) {
            Ok(tally) => json(StatusCode::OK, tally),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the counters cannot be written as JSON"),
        },
        (&Method::POST, "/release") => {
            upstream.counters.release();
            plain(StatusCode::NO_CONTENT, "")
        }
        _ => plain(StatusCode::NOT_FOUND, "no such path"),
    })
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "application/json", Full::new(body.into()).boxed_unsync())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    with_type(status, "text/plain", Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// An id of its own for every live answer, always as long: `prefix` and 20 hexadecimal digits.
fn fresh_id(prefix: &str) -> String {
    let bits = uuid::Uuid::now_v7().as_u128();
    format!("{prefix}{:020x}", bits & ((1 << 80) - 1))
}
