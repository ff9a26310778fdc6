//! Wiring: settings to parts to a running sidecar, and back down again. No decision about a call is
//! taken here.

mod build;
mod clock;
mod error;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin;
use crate::config::Settings;
use crate::journal::Journal;
use crate::journal::embedded::Embedded;
use crate::proxy::listener::Listener;
use crate::proxy::recording::Recording;
use crate::proxy::sidecar::Sidecar;

pub use clock::SystemClock;
pub use error::{StartError, StopError};

/// What open connections have at least for the last words of their answers.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(2);

/// A sidecar that accepts calls.
#[derive(Debug)]
pub struct Running {
    sidecar: Arc<Sidecar>,
    listen: Vec<SocketAddr>,
    admin: SocketAddr,
    accepting: Vec<JoinHandle<()>>,
    connections: Arc<GracefulShutdown>,
    shutdown: Duration,
}

/// Opens the journal, binds every listener and begins to accept.
///
/// # Errors
/// [`StartError`] says which part could not be had, and what to do.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    start_with(settings, None).await
}

/// Serves recorded runs from this journal, and sends nothing: see [`Recording`].
///
/// # Errors
/// As [`start`].
pub async fn start_replay(
    settings: Settings,
    journal: Arc<dyn Journal>,
    recording: Arc<Recording>,
) -> Result<Running, StartError> {
    start_with(settings, Some((journal, recording))).await
}

async fn start_with(
    settings: Settings,
    replayed: Option<(Arc<dyn Journal>, Arc<Recording>)>,
) -> Result<Running, StartError> {
    // Addresses first: two sidecars on one port are the commoner mistake, and the journal stays untouched.
    let sockets = bind(&settings.listen).await?;
    let admin_socket = bind_one(settings.admin).await?;
    let admin = local(&admin_socket, settings.admin)?;
    let clock: Arc<SystemClock> = Arc::new(SystemClock);
    let (journal, recording): (Arc<dyn Journal>, _) = match replayed {
        Some((journal, recording)) => (journal, Some(recording)),
        None => (build::journal(&settings, Arc::clone(&clock), admin)?, None),
    };
    let sidecar = build::sidecar(&settings, journal, clock, recording)?;
    let connections = Arc::new(GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(settings.limits.connections_max));
    let mut listen = Vec::new();
    let mut accepting = Vec::new();
    for (socket, wanted) in sockets {
        listen.push(local(&socket, wanted)?);
        let listener = Listener::new(
            socket,
            Arc::clone(&sidecar),
            build::listener_limits(&settings),
            Arc::clone(&places),
        )
        .map_err(|source| StartError::Bind { address: wanted, source })?;
        accepting.push(background(listener.accept(Arc::clone(&connections))));
    }
    accepting.push(background(Arc::clone(&sidecar).keep_notes()));
    let parts = admin::Parts { sidecar: Arc::clone(&sidecar), listen: listen.clone() };
    accepting.push(background(admin::serve(admin_socket, parts)));
    Ok(Running { sidecar, listen, admin, accepting, connections, shutdown: settings.shutdown })
}

impl Running {
    /// Where agents connect, with the ports the system gave.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn sidecar(&self) -> &Arc<Sidecar> {
        &self.sidecar
    }

    /// Stops as durability.md section 7 says: no new steps, running ones get their time, what is left is
    /// recorded as broken off, the journal is flushed and marked clean.
    ///
    /// # Errors
    /// [`StopError`] when the journal could not be flushed.
    pub async fn stop(self) -> Result<(), StopError> {
        let deadline = Instant::now() + self.shutdown;
        self.sidecar.drain();
        let tasks = self.sidecar.tasks();
        if tokio::time::timeout_at(deadline, tasks.idle()).await.is_err() {
            tracing::warn!(running = tasks.running(), "time is up: running steps are broken off");
            tasks.end();
            tasks.idle().await;
        }
        for accepting in &self.accepting {
            accepting.abort();
        }
        // Whoever still accepts holds the other end of this; they are gone once aborted.
        for accepting in self.accepting {
            _ = accepting.await;
        }
        if let Some(connections) = Arc::into_inner(self.connections) {
            // Replays and calls without a workflow are nobody's work but their connections'.
            let deadline = deadline.max(Instant::now() + CONNECTIONS_GRACE);
            if tokio::time::timeout_at(deadline, connections.shutdown()).await.is_err() {
                tracing::warn!("time is up: answers that are still on their way are broken off");
            }
        }
        self.sidecar.commit_notes();
        let journal = Arc::clone(self.sidecar.journal());
        let closed = tokio::task::spawn_blocking(move || journal.close()).await;
        closed.map_err(|error| StopError::Panicked(error.to_string()))?.map_err(StopError::Journal)
    }
}

#[expect(clippy::disallowed_methods, reason = "listeners live as long as the process and are ended by stop")]
fn background(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}

async fn bind(addresses: &[SocketAddr]) -> Result<Vec<(TcpListener, SocketAddr)>, StartError> {
    let mut sockets = Vec::new();
    for address in addresses {
        sockets.push((bind_one(*address).await?, *address));
    }
    Ok(sockets)
}

async fn bind_one(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })
}

fn local(socket: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    socket.local_addr().map_err(|source| StartError::Bind { address, source })
}

/// Opens the embedded journal of these settings, as [`start`] does, without serving anything.
///
/// # Errors
/// As [`start`].
pub fn open_journal(settings: &Settings, admin: SocketAddr) -> Result<Arc<Embedded>, StartError> {
    build::journal(settings, Arc::new(SystemClock), admin)
}
