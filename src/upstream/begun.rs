//! A request body that tells whether a connection has begun to take it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::OutBody;

/// Whether a connection has begun to take a body. Clones tell of the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark(Arc<AtomicBool>);

impl Mark {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The body with its mark.
#[derive(Debug)]
pub(super) struct Begun {
    body: OutBody,
    mark: Mark,
}

impl Begun {
    pub(super) fn new(body: OutBody, mark: Mark) -> Self {
        Self { body, mark }
    }
}

impl Body for Begun {
    type Data = Bytes;
    type Error = <OutBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.mark.0.store(true, Ordering::Release);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
