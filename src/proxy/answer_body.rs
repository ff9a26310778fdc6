//! The body of an upstream's answer: still coming, or with its beginning read already to see what it says.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What comes from an upstream.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    /// What was read of it and put back.
    front: Option<Bytes>,
    /// `None` once it has ended.
    rest: Option<Incoming>,
}

impl From<Incoming> for AnswerBody {
    fn from(body: Incoming) -> Self {
        Self { front: None, rest: Some(body) }
    }
}

impl AnswerBody {
    /// Puts back all that was read of it.
    pub(crate) fn put_back(&mut self, front: Bytes) {
        self.front = Some(front).filter(|front| !front.is_empty());
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(front) = self.front.take() {
            return Poll::Ready(Some(Ok(Frame::data(front))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(rest).poll_frame(context));
        if frame.is_none() {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.front.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let front = self.front.as_ref().map_or(0, |front| front.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + front);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + front);
        }
        hint
    }
}
