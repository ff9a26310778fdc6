//! The upstream behind every proxy: reads the request to its end, then answers as the header `x-bench` says.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::support;

/// Deltas of a burst.
const BURST: usize = 200;
/// Deltas of a paced stream, and what lies between two of them.
pub(crate) const PACED: usize = 40;
const PACE: Duration = Duration::from_millis(5);
/// How long a slow answer takes to begin.
const SLOW: Duration = Duration::from_millis(500);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until it is killed.
pub(crate) async fn serve() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let answers = Answers {
        burst: support::chat_events(BURST).into_iter().map(Bytes::from).collect(),
        end: support::chat_end().map(Bytes::from).to_vec(),
        json: support::chat_answer().into(),
    };
    let answers: &'static Answers = Box::leak(Box::new(answers));
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let service = service_fn(move |request| answer(answers, request));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
        );
    }
}

struct Answers {
    burst: Vec<Bytes>,
    end: Vec<Bytes>,
    json: Bytes,
}

async fn answer(
    answers: &'static Answers,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let kind = request.headers().get("x-bench").cloned();
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(match kind.as_ref().map(HeaderValue::as_bytes) {
        Some(b"burst") => events(StreamBody::new(stream::iter(&answers.burst).then(|event| async {
            // A model's server writes delta by delta; without this hyper would join them here already.
            tokio::task::yield_now().await;
            Ok(Frame::data(event.clone()))
        }))),
        Some(b"paced") => {
            let deltas = stream::iter(0..PACED).then(|at| async move {
                if at > 0 {
                    tokio::time::sleep(PACE).await;
                }
                Bytes::from(support::chat_event(&format!("{:020}", monotonic_ns())))
            });
            let all = deltas.chain(stream::iter(answers.end.clone()));
            events(StreamBody::new(all.map(|event| Ok(Frame::data(event)))))
        }
        Some(b"slow") => {
            tokio::time::sleep(SLOW).await;
            json(answers)
        }
        _ => json(answers),
    })
}

fn json(answers: &Answers) -> Response<Body> {
    with_type("application/json", Full::new(answers.json.clone()).boxed_unsync())
}

fn events(body: impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static) -> Response<Body> {
    with_type("text/event-stream", body.boxed_unsync())
}

fn with_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Nanoseconds on a clock that all processes of the machine share.
pub(crate) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}
