//! The admin listener: health, metrics and a small JSON API for people, probes and the command line. On a
//! socket of its own, for this machine only. Decides nothing about an agent's call.

mod answer;
mod api;
mod guard;
mod route;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::Listen;
use crate::proxy::sidecar::Sidecar;

use api::Api;

/// Connections open at once; the next one waits to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Longest life of one connection: a client that does not read its answer keeps no place for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// Longest time a request head may take, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time from a request's head to its answer's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The same of a request that brings the answer of a step along.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Wait after a connection could not be accepted (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the API speaks about.
#[derive(Debug)]
pub struct Parts {
    pub sidecar: Arc<Sidecar>,
    /// Where agents connect, with the ports the system gave.
    pub listen: Vec<Listen>,
}

/// Serves until the future is dropped; with it go all open connections.
pub async fn serve(listener: TcpListener, parts: Parts) {
    let api = Arc::new(Api::new(parts));
    let mut open = JoinSet::new();
    loop {
        if open.len() >= CONNECTIONS_MAX {
            open.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.spawn(connection(stream, Arc::clone(&api)));
                }
                Err(error) => {
                    tracing::warn!(%error, "an admin connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, api: Arc<Api>) {
    let Ok(local) = stream.local_addr() else { return };
    let local = local.ip().to_canonical();
    let service = tower::service_fn(move |request| answer(Arc::clone(&api), local, request));
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // A broken connection is its client's business; an old one ends without a word.
    _ = tokio::time::timeout(CONNECTION_AGE_MAX, serving).await;
}

type Answer = http::Response<Full<Bytes>>;

async fn answer(api: Arc<Api>, local: IpAddr, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    if let Err(why) = guard::check(&head, local) {
        return Ok(answer::problem(StatusCode::FORBIDDEN, None, why));
    }
    let answering = async {
        let brings_answer = head.uri.path().ends_with("/resolve");
        let bytes_max = if brings_answer { ANSWER_BYTES_MAX } else { BODY_BYTES_MAX };
        let body = match head.method {
            Method::POST => match Limited::new(body, bytes_max).collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => {
                    let why = format!("the body is larger than {} KiB, or did not arrive", bytes_max >> 10);
                    return answer::problem(StatusCode::PAYLOAD_TOO_LARGE, None, &why);
                }
            },
            _ => Bytes::new(),
        };
        api.answer(&head.method, &head.uri, &body).await
    };
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, answering).await;
    Ok(answered.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
        answer::problem(StatusCode::SERVICE_UNAVAILABLE, None, &why)
    }))
}

#[cfg(test)]
mod tests;
