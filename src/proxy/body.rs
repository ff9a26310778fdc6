//! The bodies that go to agents. Many small frames that are there already leave as one: a burst of 200
//! stream events costs a handful of writes, a paced stream is not delayed.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Instant;

use super::feed::{Next, Reader};
use super::leaving::Portion;

/// Every answer of the sidecar has a body of this type.
pub(crate) type AgentBody = UnsyncBoxBody<Portion, Torn>;

/// Ends an agent's exchange without a clean end: HTTP/1 closes the connection, HTTP/2 resets the stream.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(crate) struct Torn;

/// Frames are joined up to this size.
pub(super) const JOINED_BYTES_MAX: usize = 16 * 1024;
/// An answer that is all there is given out in pieces of this size.
const WHOLE_PIECE_BYTES: usize = 64 * 1024;
/// How many scheduler turns a body waits for another frame before it gives what it has.
const TURNS_MAX: u8 = 4;
/// How long it waits in all, however frequently frames come.
const JOINING_MAX: Duration = Duration::from_millis(1);

/// What an exchange does when the end of its answer has been handed over; dropped unused otherwise.
pub(crate) type AtEnd = Box<dyn FnOnce() + Send>;

/// Collects frames that are ready at once.
#[derive(Default)]
pub(super) struct Joiner {
    parts: Vec<Bytes>,
    len: usize,
    /// Since the last frame.
    turns: u8,
    /// When the first wait began.
    since: Option<Instant>,
}

impl Joiner {
    pub(super) fn add(&mut self, part: Bytes) {
        self.len += part.len();
        self.turns = 0;
        self.parts.push(part);
    }

    pub(super) fn is_full(&self) -> bool {
        self.len >= JOINED_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether to wait for another frame before giving out what is here.
    pub(super) fn waits(&mut self, context: &Context<'_>) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) < JOINING_MAX && self.turn(context)
    }

    /// Gives the scheduler another turn, a few times.
    pub(super) fn turn(&mut self, context: &Context<'_>) -> bool {
        let has_turns = self.turns < TURNS_MAX;
        if has_turns {
            self.turns += 1;
            context.waker().wake_by_ref();
        }
        has_turns
    }

    pub(super) fn take(&mut self) -> Bytes {
        (self.len, self.turns, self.since) = (0, 0, None);
        if self.parts.len() == 1 {
            return self.parts.pop().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(self.parts.iter().map(Bytes::len).sum());
        self.parts.drain(..).for_each(|part| joined.extend_from_slice(&part));
        joined.freeze()
    }
}

/// The body of an exchange that reads a running step.
pub(crate) struct FeedBody {
    reader: Reader,
    joiner: Joiner,
    torn: bool,
    /// What is joined now is the last that comes.
    is_last: bool,
    at_end: Option<AtEnd>,
}

impl fmt::Debug for FeedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedBody").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl FeedBody {
    pub(crate) fn new(reader: Reader, at_end: AtEnd) -> Self {
        Self { reader, joiner: Joiner::default(), torn: false, is_last: false, at_end: Some(at_end) }
    }

    fn ended(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }

    /// Gives out what is joined. With the last of it goes the end: hyper does not ask again once it has the bytes
    /// that a content-length promised.
    fn joined(&mut self) -> Poll<Option<Result<Frame<Portion>, Torn>>> {
        let at_end = if self.is_last { self.at_end.take() } else { None };
        Poll::Ready(Some(Ok(Frame::data(Portion::last(self.joiner.take(), at_end)))))
    }
}

impl Body for FeedBody {
    type Data = Portion;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, Torn>>> {
        let this = &mut *self;
        loop {
            if this.torn && this.joiner.is_empty() {
                // What was handed over reaches the socket first: an error throws away what is only buffered.
                if this.joiner.turn(context) {
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Err(Torn)));
            }
            if this.joiner.is_full() || this.torn {
                this.is_last |= !this.torn && this.reader.is_end();
                return this.joined();
            }
            match this.reader.poll_next(context) {
                Poll::Ready(Next::Frame(frame)) => this.joiner.add(frame),
                Poll::Ready(Next::End) if this.joiner.is_empty() => {
                    // The end is never released without bytes, unless there are none at all.
                    this.ended();
                    return Poll::Ready(None);
                }
                Poll::Ready(Next::End) => {
                    this.is_last = true;
                    return this.joined();
                }
                Poll::Ready(Next::Paused) if this.joiner.is_empty() => return Poll::Ready(None),
                Poll::Ready(Next::Paused) => return this.joined(),
                Poll::Ready(Next::Torn(last_words)) => {
                    this.torn = true;
                    if !last_words.is_empty() {
                        this.joiner.add(last_words);
                        // The agent is told that this was no answer: what it does next, it does knowing that.
                        this.is_last = true;
                    }
                }
                Poll::Pending if this.joiner.is_empty() => return Poll::Pending,
                Poll::Pending if this.joiner.waits(context) => return Poll::Pending,
                Poll::Pending => return this.joined(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.at_end.is_none() && self.joiner.is_empty() && self.reader.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The body of an answer that is all there: a replay, or a refusal. Given out in pieces, so that the end is
/// handed over only when what is in front of it has been taken.
pub(crate) struct WholeBody {
    bytes: Bytes,
    at_end: Option<AtEnd>,
}

impl fmt::Debug for WholeBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeBody").field("left", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl WholeBody {
    pub(crate) fn new(bytes: Bytes, at_end: Option<AtEnd>) -> Self {
        let mut body = Self { bytes, at_end };
        if body.bytes.is_empty()
            && let Some(at_end) = body.at_end.take()
        {
            // Nobody polls a body without bytes.
            at_end();
        }
        body
    }
}

impl Body for WholeBody {
    type Data = Portion;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, Torn>>> {
        let len = self.bytes.len().min(WHOLE_PIECE_BYTES);
        let piece = self.bytes.split_to(len);
        let at_end = if self.bytes.is_empty() { self.at_end.take() } else { None };
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(Portion::last(piece, at_end)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
