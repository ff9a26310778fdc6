//! An answer on its way through the HTTP library, and when that library has taken its end. HTTP/1 takes bytes only
//! when it goes on to write them. HTTP/2 takes them long before: they wait there for flow control, and for the
//! streams beside theirs, and a client that resets its stream never gets them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::body::{AgentBody, AtEnd, Torn};

/// Bytes of an answer. The last ones know what to do when they have been taken; dropped before, they do nothing.
pub(crate) struct Portion {
    bytes: Bytes,
    at_end: Option<AtEnd>,
}

impl fmt::Debug for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portion").field("left", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl From<Bytes> for Portion {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, at_end: None }
    }
}

impl Portion {
    /// The last bytes of an answer.
    pub(super) fn last(bytes: Bytes, at_end: Option<AtEnd>) -> Self {
        Self { bytes, at_end }
    }

    fn end(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }

    /// Takes off what is in front of the last byte.
    fn split_front(&mut self) -> Option<Bytes> {
        let len = self.bytes.len().saturating_sub(1);
        (len > 0).then(|| self.bytes.split_to(len))
    }
}

impl Buf for Portion {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            self.end();
        }
    }
}

/// An answer's body as the HTTP library gets it.
#[derive(Debug)]
pub(super) struct Leaving {
    body: AgentBody,
    /// Other streams share its connection.
    is_multiplexed: bool,
    /// The last byte, once what is in front of it has been given out.
    last: Option<Portion>,
}

impl Leaving {
    pub(super) fn new(body: AgentBody, version: Version) -> Self {
        Self { body, is_multiplexed: version == Version::HTTP_2, last: None }
    }

    /// The portion that goes out now.
    fn next(&mut self, mut portion: Portion) -> Portion {
        if portion.at_end.is_none() {
            return portion;
        }
        if !self.is_multiplexed || portion.bytes.is_empty() {
            portion.end();
            return portion;
        }
        // By itself it is too short to be written from where it lies: it is copied into the library's write buffer,
        // and so taken before the agent can have it. What is in that buffer is written, or the connection ends.
        match portion.split_front() {
            Some(front) => {
                self.last = Some(portion);
                front.into()
            }
            None => portion,
        }
    }
}

impl Body for Leaving {
    type Data = Portion;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, Torn>>> {
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|portion| self.next(portion)))))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Only asked for before the first byte.
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;

    use super::*;
    use crate::proxy::body::WholeBody;

    /// An answer, and whether its end was taken.
    fn answer(text: &'static str, version: Version) -> (Leaving, Arc<AtomicBool>) {
        let taken = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&taken);
        let at_end: AtEnd = Box::new(move || mark.store(true, Ordering::Release));
        let body = WholeBody::new(Bytes::from_static(text.as_bytes()), Some(at_end)).boxed_unsync();
        (Leaving::new(body, version), taken)
    }

    async fn next(body: &mut Leaving) -> Portion {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn over_http_1_the_end_is_taken_when_it_is_asked_for() {
        let (mut body, taken) = answer("whole", Version::HTTP_11);
        assert_eq!(next(&mut body).await.chunk(), b"whole");
        assert!(taken.load(Ordering::Acquire) && body.is_end_stream());
    }

    #[tokio::test]
    async fn over_http_2_the_end_is_taken_when_its_last_byte_is() {
        for (text, front) in [("whole", "whol"), ("w", "")] {
            let (mut body, taken) = answer(text, Version::HTTP_2);
            if !front.is_empty() {
                let mut portion = next(&mut body).await;
                assert_eq!(portion.copy_to_bytes(portion.remaining()), front);
                assert!(!body.is_end_stream(), "{text}");
            }
            let mut last = next(&mut body).await;
            assert!(body.is_end_stream() && !taken.load(Ordering::Acquire), "{text}");
            assert_eq!(last.copy_to_bytes(1), text[front.len()..]);
            assert!(taken.load(Ordering::Acquire), "{text}");
        }
    }

    #[tokio::test]
    async fn over_http_2_an_end_that_is_dropped_was_not_taken() {
        let (mut body, taken) = answer("whole", Version::HTTP_2);
        drop((next(&mut body).await, next(&mut body).await, body));
        assert!(!taken.load(Ordering::Acquire));
        assert_eq!(Arc::strong_count(&taken), 1, "nothing waits for it any more");
    }
}
