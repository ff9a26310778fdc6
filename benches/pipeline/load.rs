//! The load: connections that ask, wait for the whole answer, and ask again. Lives in the bench's own process
//! and costs every proxy the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::mock::monotonic_ns;
use crate::support::Chat;

/// How the mock is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Burst,
    Json,
    Paced,
    Slow,
}

impl Answer {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Burst => "burst",
            Self::Json => "json",
            Self::Paced => "paced",
            Self::Slow => "slow",
        })
    }

    fn streams(self) -> bool {
        matches!(self, Self::Burst | Self::Paced)
    }
}

/// Where a call goes, and what stands in front of its path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    address: SocketAddr,
    through: Through,
}

#[derive(Clone, Copy, Debug)]
enum Through {
    Nothing,
    Upstream,
    Workflow,
}

impl Way {
    /// Straight on, as without a proxy.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, through: Through::Nothing }
    }

    /// Through Outrigger without a workflow.
    pub(crate) fn passing(address: SocketAddr) -> Self {
        Self { address, through: Through::Upstream }
    }

    /// Through Outrigger, in workflows.
    pub(crate) fn journaling(address: SocketAddr) -> Self {
        Self { address, through: Through::Workflow }
    }

    /// The path of a call to `upstream`, of workflow `workflow` where there are workflows.
    pub(crate) fn path(&self, workflow: &str, upstream: &str, rest: &str) -> String {
        match self.through {
            Through::Nothing => rest.to_owned(),
            Through::Upstream => format!("/{upstream}{rest}"),
            Through::Workflow => format!("/w/{workflow}/{upstream}{rest}"),
        }
    }

    /// The path of a chat completion.
    pub(crate) fn chat(&self, workflow: &str) -> String {
        self.path(workflow, "model", "/v1/chat/completions")
    }
}

/// A workflow nobody has used, and a turn nobody has asked: unique in this run.
pub(crate) fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One answer, as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From the first byte of the request to the first of the answer's body.
    pub(crate) first: Duration,
    /// To its last.
    pub(crate) whole: Duration,
    /// Of a paced stream, from the mock's writing to the client's reading, per delta, in nanoseconds.
    pub(crate) lags_ns: Vec<u64>,
    /// The header `x-outrigger-source`.
    pub(crate) source: Option<String>,
}

/// One kept-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(crate) async fn open(way: &Way) -> Self {
        let socket = TcpStream::connect(way.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Posts `body` and reads the whole answer, which must be a success.
    pub(crate) async fn ask(&mut self, path: &str, answer: Answer, body: Vec<u8>) -> Seen {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap();
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("bench"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-bench", answer.header());
        self.sender.ready().await.unwrap();
        let begun = Instant::now();
        let response = self.sender.send_request(request).await.unwrap();
        let (head, mut body) = response.into_parts();
        let (mut first, mut lags_ns, mut bytes) = (None, Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.unwrap().into_data() else { continue };
            first.get_or_insert_with(|| begun.elapsed());
            bytes += data.len();
            if answer == Answer::Paced {
                let now = monotonic_ns();
                lags_ns.extend(times_in(&data).map(|sent| now.saturating_sub(sent)));
            }
            assert!(head.status.is_success(), "{path}: {} {}", head.status, String::from_utf8_lossy(&data));
        }
        assert!(head.status.is_success() && bytes > 0, "{path}: {} with {bytes} bytes", head.status);
        let source = head.headers.get("x-outrigger-source").map(|value| value.to_str().unwrap().to_owned());
        Seen { first: first.unwrap_or_default(), whole: begun.elapsed(), lags_ns, source }
    }
}

/// The times that the deltas of a paced stream carry.
fn times_in(data: &[u8]) -> impl Iterator<Item = u64> {
    let text = String::from_utf8_lossy(data).into_owned();
    let times: Vec<u64> = text
        .split("\"content\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next()?.parse().ok())
        .collect();
    times.into_iter()
}

/// What a crowd got done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) calls: u64,
    pub(crate) seen: Vec<Seen>,
}

/// Connections that have each had an answer already: what a first call costs is measured elsewhere.
#[derive(Debug)]
pub(crate) struct Crowd {
    chat: Arc<Chat>,
    /// Each with the path of its own workflow.
    members: Vec<(Connection, String)>,
}

impl Crowd {
    pub(crate) async fn gather(way: Way, kilobytes: usize, connections: usize) -> Self {
        let chat = Arc::new(Chat::new(kilobytes, false));
        let mut opening = JoinSet::new();
        for _ in 0..connections {
            let chat = Arc::clone(&chat);
            opening.spawn(async move {
                let path = way.chat(&format!("bench-{}", fresh()));
                let mut connection = Connection::open(&way).await;
                connection.ask(&path, Answer::Json, chat.turn(fresh())).await;
                (connection, path)
            });
        }
        Self { chat, members: opening.join_all().await }
    }

    /// All ask for `window` as fast as they are answered; at least once each.
    pub(crate) async fn ask(&mut self, answer: Answer, window: Duration) -> Done {
        let mut loops = JoinSet::new();
        let begun = Instant::now();
        let chat = if answer.streams() { Arc::new(self.chat.streaming()) } else { Arc::clone(&self.chat) };
        for (mut connection, path) in self.members.drain(..) {
            let chat = Arc::clone(&chat);
            loops.spawn(async move {
                let mut seen = Vec::new();
                loop {
                    seen.push(connection.ask(&path, answer, chat.turn(fresh())).await);
                    if begun.elapsed() >= window {
                        return (connection, path, seen);
                    }
                }
            });
        }
        let mut done = Done::default();
        for (connection, path, seen) in loops.join_all().await {
            self.members.push((connection, path));
            done.calls += u64::try_from(seen.len()).unwrap();
            done.seen.extend(seen);
        }
        done
    }
}
