//! When an answer counts as delivered: not when its last bytes are handed to the HTTP library, but when
//! that library's buffer has been written to the connection. What is still waiting when the connection
//! ends was not delivered.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::AtEnd;

/// Exchanges of one connection whose last bytes are on their way to it.
#[derive(Default)]
pub(crate) struct Handed(Mutex<Vec<AtEnd>>);

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handed")
    }
}

impl Handed {
    pub(crate) fn add(&self, at_end: AtEnd) {
        self.0.lock().push(at_end);
    }

    fn written(&self) {
        let ended = std::mem::take(&mut *self.0.lock());
        ended.into_iter().for_each(|at_end| at_end());
    }
}

/// A connection that tells when everything given to it has been written.
#[derive(Debug)]
pub(crate) struct Told<S> {
    stream: S,
    handed: Arc<Handed>,
}

impl<S> Told<S> {
    pub(crate) fn new(stream: S, handed: Arc<Handed>) -> Self {
        Self { stream, handed }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Told<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Told<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// hyper flushes the connection only when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.handed.written();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn an_exchange_ends_when_the_connection_is_flushed_and_not_before() {
        let handed = Arc::new(Handed::default());
        let delivered = Arc::new(AtomicBool::new(false));
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut told = Told::new(ours, Arc::clone(&handed));
        let mark = Arc::clone(&delivered);
        handed.add(Box::new(move || mark.store(true, Ordering::Release)));
        told.write_all(b"answer").await.unwrap();
        assert!(!delivered.load(Ordering::Acquire));
        told.flush().await.unwrap();
        assert!(delivered.load(Ordering::Acquire));
    }
}
