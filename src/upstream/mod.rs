//! The way out: one HTTP client for all upstreams, boxed once behind a [`tower::Service`]. It connects,
//! sends and classifies what went wrong; it never retries an effect and never reads a body. Beside it, [`list`] asks an MCP
//! server for its tools.

mod begun;
mod connect;
mod error;
pub mod list;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client as Pool};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

pub use connect::TlsError;
pub use error::Error;

use begun::{Begun, Mark};

/// A request body on its way out: whole and in memory, or streamed from the agent.
pub type OutBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What a client is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From the start of a connection to its end, TLS handshake included.
    pub connect_timeout: Duration,
    /// Some upstream is reached over TLS. Without one no root certificate is loaded: they take megabytes.
    pub https: bool,
    /// PEM file with further root certificates, for upstreams with a private CA.
    pub ca_file: Option<PathBuf>,
}

/// May the client send a request a second time when a pooled connection turned out to be closed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Yes: the call is a read.
    Allowed,
    /// No: only the caller knows whether that would be a second effect.
    Never,
}

type Port = BoxCloneSyncService<Request<Begun>, Response<Incoming>, legacy::Error>;

/// Sends requests to upstreams. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    reads: Port,
    effects: Port,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("upstream::Client")
    }
}

/// Idle time after which a pooled connection is not used again for reads.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// The same for effects. Common tool servers close idle connections after 5 seconds; a request that
/// meets such a close half-way is an effect in doubt for no good reason.
const POOL_IDLE_EFFECTS: Duration = Duration::from_secs(3);
/// Idle connections kept per upstream.
const POOL_IDLE_MAX: usize = 64;
/// HTTP/2 flow-control windows: answers are read as fast as they come, so small windows only add pauses.
const H2_WINDOW_BYTES: u32 = 1 << 20;

impl Client {
    /// # Errors
    /// [`TlsError`] when `ca_file` cannot be read or holds no certificate.
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        let connector = connect::connector(config)?;
        let port = |resend: Resend| {
            let pool: Pool<_, Begun> = Pool::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(match resend {
                    Resend::Allowed => POOL_IDLE,
                    Resend::Never => POOL_IDLE_EFFECTS,
                })
                .pool_max_idle_per_host(POOL_IDLE_MAX)
                .retry_canceled_requests(resend == Resend::Allowed)
                .http1_max_headers(256)
                .http2_initial_stream_window_size(H2_WINDOW_BYTES)
                .http2_initial_connection_window_size(4 * H2_WINDOW_BYTES)
                .http2_max_header_list_size(256 * 1024)
                .set_host(true)
                .build(connector.clone());
            BoxCloneSyncService::new(pool)
        };
        Ok(Self { reads: port(Resend::Allowed), effects: port(Resend::Never) })
    }

    /// Sends one request and waits for the answer's head.
    ///
    /// # Errors
    /// [`Error`] says how far it came; nothing is sent again but what `resend` allows.
    pub async fn send(&self, request: Request<OutBody>, resend: Resend) -> Result<Response<Incoming>, Error> {
        let mut port = match resend {
            Resend::Allowed => self.reads.clone(),
            Resend::Never => self.effects.clone(),
        };
        let begun = Mark::default();
        let request = request.map(|body| Begun::new(body, begun.clone()));
        let sending = async { port.ready().await?.call(request).await };
        sending.await.map_err(|error| Error::from_client(&error, begun.is_set()))
    }
}
