//! The way in: accepts agents' connections over TCP and Unix sockets, HTTP/1.1 and HTTP/2 without TLS,
//! within limits.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;
use tower::util::BoxCloneService;

use super::body::AgentBody;
use super::connection::{Connection, End};
use super::leaving::Leaving;
use super::pipeline;
use super::sidecar::Sidecar;
use super::socket::Socket;

/// Limits on connections and their heads.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections_max: usize,
    pub header_bytes_max: usize,
    /// Longest time without a request.
    pub idle_timeout: Duration,
    /// Longest time a request's head may take. HTTP/1 counts it together with the idle time before it,
    /// because hyper has one clock for both; an HTTP/2 head is bounded by its connection's sign of life.
    pub header_timeout: Duration,
}

/// Requests of one HTTP/2 connection at once.
const H2_STREAMS_MAX: u32 = 128;
/// Streams a client may reset before the server has seen to them.
const H2_PENDING_RESETS_MAX: usize = 32;
const H2_WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2 connections are asked for a sign of life this often.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// TCP asks a silent peer for a sign of life after this time, then this often and so many times.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEP_ALIVE_PROBES: u32 = 4;
/// A listener that cannot accept (no file descriptors) tries again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket, and where it is.
#[derive(Debug)]
pub enum Bound {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => address.fmt(f),
            Self::Unix(_, path) => path.display().fmt(f),
        }
    }
}

/// Serves agents on one socket until [`GracefulShutdown`] or the process ends.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    sidecar: Arc<Sidecar>,
    limits: Limits,
    places: Arc<Semaphore>,
}

type Edge = BoxCloneService<Request<Incoming>, Response<Leaving>, Infallible>;

/// A connection that was accepted.
enum Accepted {
    Tcp(TcpStream, End),
    Unix(UnixStream, End),
}

impl Listener {
    /// Takes over a bound socket. `places` is shared by all listeners of the sidecar.
    pub fn new(socket: Bound, sidecar: Arc<Sidecar>, limits: Limits, places: Arc<Semaphore>) -> Self {
        Self { socket, sidecar, limits, places }
    }

    /// Accepts until dropped. Connections outlive it, watched by `shutdown`.
    pub async fn accept(self, shutdown: Arc<GracefulShutdown>) {
        loop {
            // Bounded: waiting connections stay in the kernel's queue.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match self.next().await {
                Ok(Accepted::Tcp(stream, end)) => {
                    if prepare(&stream).is_ok() {
                        spawn(self.serve(stream, end, shutdown.watcher()), place);
                    }
                }
                Ok(Accepted::Unix(stream, end)) => spawn(self.serve(stream, end, shutdown.watcher()), place),
                Err(error) => {
                    tracing::warn!(%error, listen = %self.socket, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn next(&self) -> std::io::Result<Accepted> {
        match &self.socket {
            Bound::Tcp(socket, address) => {
                let (stream, client) = socket.accept().await?;
                let server = stream.local_addr().unwrap_or(*address);
                Ok(Accepted::Tcp(stream, End::Tcp { client, server }))
            }
            Bound::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).unwrap_or(0);
                Ok(Accepted::Unix(stream, End::Unix { pid }))
            }
        }
    }

    fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        end: End,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let connection = Connection::new(end);
        let greeting_max = self.limits.idle_timeout + self.limits.header_timeout;
        let stream = Socket::new(stream, Arc::clone(connection.handed()), greeting_max);
        let edge = edge(Arc::clone(&self.sidecar), Arc::clone(&connection), self.limits.header_bytes_max);
        let service = hyper::service::service_fn(move |request| edge.clone().call(request));
        let builder = builder(&self.limits);
        let sidecar = Arc::clone(&self.sidecar);
        async move {
            sidecar.metrics().connection_opened();
            if matches!(end, End::Unix { .. }) {
                // Now, while the pid is surely still the one that connected.
                connection.peer(&sidecar.peers).await;
            }
            // The service has one too; whoever asks whether the connection is open asks for these.
            drop(connection);
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(serving.into_owned()).await {
                tracing::debug!(error, %end, "a connection ended early");
            }
            sidecar.metrics().connection_closed();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a connection is not the sidecar's work: it ends with its client"
)]
fn spawn(serving: impl Future<Output = ()> + Send + 'static, place: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        let _place = place;
        serving.await;
    });
}

/// Answers leave at once, and a peer whose machine has gone without a word is noticed.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// The service of one connection.
fn edge(sidecar: Arc<Sidecar>, connection: Arc<Connection>, header_bytes_max: usize) -> Edge {
    let answer = tower::service_fn(move |request: Request<Incoming>| {
        let (sidecar, connection) = (Arc::clone(&sidecar), Arc::clone(&connection));
        async move {
            let version = request.version();
            let departure = guarded(sidecar, connection, request, header_bytes_max).await;
            Ok::<_, Infallible>(departure.map(|body| Leaving::new(body, version)))
        }
    });
    BoxCloneService::new(answer)
}

/// A defect of ours answers 500 for its own request and leaves the connection's others alone.
async fn guarded(
    sidecar: Arc<Sidecar>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    header_bytes_max: usize,
) -> Response<AgentBody> {
    use futures_util::FutureExt;
    if head_bytes(&request) > header_bytes_max {
        return pipeline::bare(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let answering = pipeline::answer(sidecar, connection, request);
    match std::panic::AssertUnwindSafe(answering).catch_unwind().await {
        Ok(departure) => departure,
        Err(_) => {
            tracing::error!("a request met a defect of the sidecar");
            pipeline::bare(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// The size of a request's head, without line ends.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + headers.sum::<usize>()
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .header_read_timeout(limits.idle_timeout + limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size((limits.header_bytes_max + HEAD_FRAMING_BYTES_MAX).max(HTTP1_BUFFER_BYTES));
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .initial_stream_window_size(H2_WINDOW_BYTES)
        .initial_connection_window_size(4 * H2_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_KEEP_ALIVE)
        .keep_alive_timeout(H2_KEEP_ALIVE);
    builder
}

/// Header lines of one request.
const HEADERS_MAX: usize = 256;
/// What a head has beside the bytes that are limited: method and version, and `: ` and a line end per header.
const HEAD_FRAMING_BYTES_MAX: usize = 4 * HEADERS_MAX + 64;
/// hyper's read buffer for HTTP/1, which bounds a request's head and the pieces in which a body is read. A
/// connection that has read a large body keeps it; heads are measured again.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
