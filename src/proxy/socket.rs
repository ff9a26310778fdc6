//! One agent's connection as bytes: tells when everything given to it has been written, and gives up on a
//! client that does not say which version of HTTP it speaks. Knows nothing of what the bytes mean.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::handed::Handed;

/// The length of HTTP/2's connection preface (RFC 9113, section 3.4): whoever has sent as much has said which
/// version it speaks.
const PREFACE_BYTES: usize = 24;

/// The bytes of one agent's connection.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: S,
    handed: Arc<Handed>,
    /// `None` once the client has said enough.
    greeting: Option<Greeting>,
}

#[derive(Debug)]
struct Greeting {
    missing: usize,
    time_is_up: Pin<Box<Sleep>>,
}

impl<S> Socket<S> {
    /// `greeting_max`: how long the client may take to say which version of HTTP it speaks.
    pub(crate) fn new(stream: S, handed: Arc<Handed>, greeting_max: Duration) -> Self {
        let time_is_up = Box::pin(tokio::time::sleep(greeting_max));
        Self { stream, handed, greeting: Some(Greeting { missing: PREFACE_BYTES, time_is_up }) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(greeting) = &mut self.greeting {
            let missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
            if missing == 0 {
                self.greeting = None;
            } else {
                greeting.missing = missing;
                if read.is_pending() && greeting.time_is_up.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
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

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_exchange_ends_when_the_connection_is_flushed_and_not_before() {
        let handed = Arc::new(Handed::default());
        let delivered = Arc::new(AtomicBool::new(false));
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut socket = Socket::new(ours, Arc::clone(&handed), Duration::MAX);
        let mark = Arc::clone(&delivered);
        handed.add(Box::new(move || mark.store(true, Ordering::Release)));
        socket.write_all(b"answer").await.unwrap();
        assert!(!delivered.load(Ordering::Acquire));
        socket.flush().await.unwrap();
        assert!(delivered.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn a_client_that_does_not_say_what_it_speaks_is_given_up() {
        for said in ["", "PRI * HTTP/2.0\r\n"] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut socket = Socket::new(ours, Arc::default(), Duration::from_millis(1));
            theirs.write_all(said.as_bytes()).await.unwrap();
            let read = socket.read_to_end(&mut Vec::new()).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut, "after {said:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_has_said_it_may_be_silent_as_long_as_it_likes() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut socket = Socket::new(ours, Arc::default(), Duration::ZERO);
        let said = b"POST /openai/v1/responses HTTP/1.1\r\n";
        theirs.write_all(said).await.unwrap();
        socket.read_exact(&mut vec![0; said.len()]).await.unwrap();
        let more = std::pin::pin!(socket.read_u8());
        assert!(more.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    }
}
