//! One agent's connection, as the attempts of a workflow need it: alive or not, and whose.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::identity::peer::{self, Finder};
use crate::journal::Peer;

use super::handed::Handed;

/// Who is at the other end, as far as the socket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Tcp {
        client: SocketAddr,
        server: SocketAddr,
    },
    /// The pid that the kernel gives for whoever connected.
    Unix {
        pid: i32,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { client, .. } => client.fmt(f),
            Self::Unix { pid } => write!(f, "process {pid}"),
        }
    }
}

/// Lives as long as its connection; whoever keeps a `Weak` to it can tell that it has closed.
#[derive(Debug)]
pub(crate) struct Connection {
    end: End,
    peer: OnceCell<Option<Peer>>,
    handed: Arc<Handed>,
}

impl Connection {
    pub(crate) fn new(end: End) -> Arc<Self> {
        Arc::new(Self { end, peer: OnceCell::new(), handed: Arc::default() })
    }

    /// A stand-in for work that outlives the agent: it keeps nothing alive, so that the connection itself
    /// can be seen to close.
    pub(crate) fn detached(&self) -> Arc<Self> {
        Self::new(self.end)
    }

    /// Exchanges whose last bytes are on their way.
    pub(crate) fn handed(&self) -> &Arc<Handed> {
        &self.handed
    }

    /// The process at the other end, looked for once. `None` when it cannot be seen.
    pub(crate) async fn peer(&self, finder: &Arc<Finder>) -> Option<&Peer> {
        let end = self.end;
        if matches!(end, End::Tcp { client, .. } if !client.ip().to_canonical().is_loopback()) {
            return None;
        }
        let finder = Arc::clone(finder);
        let find = move || match end {
            End::Tcp { client, server } => finder.find(client, server),
            End::Unix { pid } => peer::connected(pid),
        };
        let looking = async move { tokio::task::spawn_blocking(find).await.unwrap_or(None) };
        self.peer.get_or_init(|| looking).await.as_ref()
    }
}
