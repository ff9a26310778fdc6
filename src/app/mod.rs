//! Wiring: settings to parts to a running sidecar, and back down again. No decision about a call is
//! taken here.

mod build;
mod clock;
mod error;
mod policies;
mod socket_file;
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin;
use crate::config::{Listen, Settings, UnixSocket};
use crate::journal::Journal;
use crate::journal::embedded::Embedded;
#[cfg(feature = "failpoints")]
use crate::journal::embedded::Options;
use crate::proxy::listener::{Bound, Listener};
use crate::proxy::recording::Recording;
use crate::proxy::retention::Retention;
use crate::proxy::sidecar::Sidecar;

pub use clock::SystemClock;
pub use error::{StartError, StopError};
pub use policies::{load_policies, policies_of, policy_schema};
pub use socket_file::SocketError;
pub use tools::{ListToolsError, list_tools};

use socket_file::SocketFile;

/// What open connections have at least for the last words of their answers.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(2);

/// A sidecar that accepts calls.
#[derive(Debug)]
pub struct Running {
    sidecar: Arc<Sidecar>,
    listen: Vec<Listen>,
    files: Vec<SocketFile>,
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
    start_on(settings, None, |settings, clock, admin| {
        build::journal(settings, clock, admin, |options| options).map(|journal| journal as Arc<dyn Journal>)
    })
    .await
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
    start_on(settings, Some(recording), |_, _, _| Ok(journal)).await
}

/// [`start`] as an owner of a journal that is open already, such as one in memory.
///
/// # Errors
/// As [`start`].
pub async fn start_with_journal(
    settings: Settings,
    journal: Arc<dyn Journal>,
) -> Result<Running, StartError> {
    start_on(settings, None, |_, _, _| Ok(journal)).await
}

/// [`start`] on a journal that is opened otherwise than the settings say.
///
/// # Errors
/// As [`start`].
#[cfg(feature = "failpoints")]
pub async fn start_changed(
    settings: Settings,
    change: impl FnOnce(Options) -> Options,
) -> Result<Running, StartError> {
    start_on(settings, None, |settings, clock, admin| {
        build::journal(settings, clock, admin, change).map(|journal| journal as Arc<dyn Journal>)
    })
    .await
}

async fn start_on(
    settings: Settings,
    recording: Option<Arc<Recording>>,
    open: impl FnOnce(&Settings, Arc<SystemClock>, SocketAddr) -> Result<Arc<dyn Journal>, StartError>,
) -> Result<Running, StartError> {
    let mut files = Vec::new();
    let started = assemble(settings, recording, open, &mut files).await;
    match started {
        Ok(running) => Ok(Running { files, ..running }),
        Err(error) => {
            files.iter().for_each(SocketFile::remove);
            Err(error)
        }
    }
}

/// `files`: what has to be removed again at the end, also when there is an error.
async fn assemble(
    settings: Settings,
    recording: Option<Arc<Recording>>,
    open: impl FnOnce(&Settings, Arc<SystemClock>, SocketAddr) -> Result<Arc<dyn Journal>, StartError>,
    files: &mut Vec<SocketFile>,
) -> Result<Running, StartError> {
    // Addresses first: two sidecars on one port are the commoner mistake, and the journal stays untouched.
    let mut sockets = Vec::new();
    for wanted in &settings.listen {
        sockets.push(match wanted {
            Listen::Tcp(address) => bind_tcp(*address).await.map(|(socket, at)| Bound::Tcp(socket, at))?,
            Listen::Unix(wanted) => bind_unix(wanted, files)?,
        });
    }
    let (admin_socket, admin) = bind_tcp(settings.admin).await?;
    let clock: Arc<SystemClock> = Arc::new(SystemClock);
    let journal = open(&settings, Arc::clone(&clock), admin)?;
    let sidecar = build::sidecar(&settings, journal, clock, recording)?;
    let connections = Arc::new(GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(settings.limits.connections_max));
    let mut listen = Vec::new();
    let mut accepting = Vec::new();
    for (socket, wanted) in sockets.into_iter().zip(&settings.listen) {
        listen.push(match &socket {
            Bound::Tcp(_, address) => Listen::Tcp(*address),
            Bound::Unix(..) => wanted.clone(),
        });
        let limits = build::listener_limits(&settings);
        let listener = Listener::new(socket, Arc::clone(&sidecar), limits, Arc::clone(&places));
        accepting.push(background(listener.accept(Arc::clone(&connections))));
    }
    accepting.push(background(Arc::clone(&sidecar).keep_notes()));
    accepting.push(background(Arc::clone(&sidecar).keep_swept(settings.retention.sweep)));
    let parts = admin::Parts { sidecar: Arc::clone(&sidecar), listen: listen.clone() };
    accepting.push(background(admin::serve(admin_socket, parts)));
    let shutdown = settings.shutdown;
    Ok(Running { sidecar, listen, files: Vec::new(), admin, accepting, connections, shutdown })
}

impl Running {
    /// Where agents connect, with the ports the system gave.
    pub fn listen(&self) -> &[Listen] {
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
        self.files.iter().for_each(SocketFile::remove);
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

/// A socket at this address, and the address with the port that the system gave.
async fn bind_tcp(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { address, source };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

fn bind_unix(wanted: &UnixSocket, files: &mut Vec<SocketFile>) -> Result<Bound, StartError> {
    let (socket, file) = SocketFile::bind(wanted).map_err(StartError::Socket)?;
    files.push(file);
    let failed = |source| StartError::Socket(SocketError::Io { path: wanted.path.clone(), source });
    UnixListener::from_std(socket).map_err(failed).map(|socket| Bound::Unix(socket, wanted.path.clone()))
}

/// How long what is kept, by these settings.
pub fn retention(settings: &Settings) -> Retention {
    build::retention(settings)
}

/// Opens the embedded journal of these settings, as [`start`] does, without serving anything.
///
/// # Errors
/// As [`start`].
pub fn open_journal(settings: &Settings, admin: SocketAddr) -> Result<Arc<Embedded>, StartError> {
    build::journal(settings, Arc::new(SystemClock), admin, |options| options)
}
