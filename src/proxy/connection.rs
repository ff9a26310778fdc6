//! One agent's connection, as the attempts of a workflow need it: alive or not, and whose.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::identity::peer::Finder;
use crate::journal::Peer;

use super::handed::Handed;

/// Lives as long as its connection; whoever keeps a `Weak` to it can tell that it has closed.
#[derive(Debug)]
pub(crate) struct Connection {
    client: SocketAddr,
    server: SocketAddr,
    peer: OnceCell<Option<Peer>>,
    handed: Arc<Handed>,
}

impl Connection {
    pub(crate) fn new(client: SocketAddr, server: SocketAddr) -> Arc<Self> {
        Arc::new(Self { client, server, peer: OnceCell::new(), handed: Arc::default() })
    }

    /// A stand-in for work that outlives the agent: it keeps nothing alive, so that the connection itself
    /// can be seen to close.
    pub(crate) fn detached(&self) -> Arc<Self> {
        Self::new(self.client, self.server)
    }

    /// Exchanges whose last bytes are on their way.
    pub(crate) fn handed(&self) -> &Arc<Handed> {
        &self.handed
    }

    /// The process at the other end, looked for once. `None` when it cannot be seen.
    pub(crate) async fn peer(&self, finder: &Arc<Finder>) -> Option<&Peer> {
        if !self.client.ip().to_canonical().is_loopback() {
            return None;
        }
        let (client, server, finder) = (self.client, self.server, Arc::clone(finder));
        let found = self
            .peer
            .get_or_init(|| async move {
                tokio::task::spawn_blocking(move || finder.find(client, server)).await.unwrap_or(None)
            })
            .await;
        found.as_ref()
    }
}
