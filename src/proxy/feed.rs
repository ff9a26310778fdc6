//! The answer of a running step, as it grows: one task writes it, any number of agents' exchanges read
//! it from its beginning. The writer never waits for a reader, so an agent that leaves stops nothing.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::refusal;
use crate::model::Clock;
use crate::wire::refusal::Refusal;

/// Status and headers of an answer, hop-by-hop headers removed.
#[derive(Clone, Debug)]
pub(crate) struct AnswerStart {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// How an answer ended.
#[derive(Clone, Debug)]
enum End {
    /// Every byte is there and the outcome is durable.
    Complete,
    /// No answer will come; said before its head was.
    Refused(Refusal),
    /// It broke off after its head: readers get these last bytes (an error event), then a reset.
    Torn(Bytes),
}

#[derive(Debug, Default)]
struct State {
    start: Option<AnswerStart>,
    frames: Vec<Bytes>,
    end: Option<End>,
    readers: usize,
    /// The answer has begun to call a tool.
    calls_tools: bool,
    /// When the last reader left; time since boot.
    deserted_at: Option<Duration>,
    wakers: Vec<Waker>,
}

impl State {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn park(&mut self, context: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            self.wakers.push(context.waker().clone());
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Feed(Mutex<State>);

/// What a reader finds next.
#[derive(Debug)]
pub(crate) enum Next {
    Frame(Bytes),
    End,
    Torn(Bytes),
}

impl Feed {
    /// Says the head; the first one said counts.
    pub(crate) fn start(&self, start: AnswerStart) {
        let mut state = self.0.lock();
        state.start.get_or_insert(start);
        state.wake();
    }

    pub(crate) fn push(&self, frame: Bytes) {
        if !frame.is_empty() {
            let mut state = self.0.lock();
            state.frames.push(frame);
            state.wake();
        }
    }

    pub(crate) fn call_tools(&self) {
        self.0.lock().calls_tools = true;
    }

    pub(crate) fn calls_tools(&self) -> bool {
        self.0.lock().calls_tools
    }

    /// The rest of a recorded answer and its end, at once: no reader sees the last frame without the end.
    pub(crate) fn release(&self, start: AnswerStart, held: Vec<Bytes>) {
        let mut state = self.0.lock();
        state.start.get_or_insert(start);
        state.frames.extend(held.into_iter().filter(|bytes| !bytes.is_empty()));
        state.end.get_or_insert(End::Complete);
        state.wake();
    }

    pub(crate) fn complete(&self) {
        self.finish(End::Complete);
    }

    /// Ends the feed without an answer, or without its end.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.break_off(refusal, Bytes::new());
    }

    /// Ends the feed with `refusal` while its head is not out yet. Afterwards readers get `last_words`,
    /// an error event, and are reset: a clean end would pass for a whole answer.
    pub(crate) fn break_off(&self, refusal: Refusal, last_words: Bytes) {
        let started = self.0.lock().start.is_some();
        self.finish(if started { End::Torn(last_words) } else { End::Refused(refusal) });
    }

    fn finish(&self, end: End) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        state.wake();
    }

    /// Resolves when the feed has ended, in whatever way. Whoever waits here is no reader: an answer that
    /// nobody else wants is not read on for it.
    pub(crate) async fn ended(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            if state.end.is_some() {
                return Poll::Ready(());
            }
            state.park(context);
            Poll::Pending
        })
        .await;
    }

    /// How long nobody has been reading, at time `now` since boot; `None` while somebody is.
    pub(crate) fn deserted_for(&self, now: Duration) -> Option<Duration> {
        let state = self.0.lock();
        (state.readers == 0).then(|| now.saturating_sub(state.deserted_at.unwrap_or(now)))
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.0.lock().readers > 0
    }

    fn poll_start(&self, context: &Context<'_>) -> Poll<Result<AnswerStart, Refusal>> {
        let mut state = self.0.lock();
        match (&state.start, &state.end) {
            (Some(start), _) => Poll::Ready(Ok(start.clone())),
            (None, Some(End::Refused(refusal))) => Poll::Ready(Err(refusal.clone())),
            // An end before any head: nothing was said, and nothing will be.
            (None, Some(End::Complete | End::Torn(_))) => Poll::Ready(Err(refusal::internal())),
            (None, None) => {
                state.park(context);
                Poll::Pending
            }
        }
    }

    fn poll_next(&self, read: &mut usize, context: &Context<'_>) -> Poll<Next> {
        let mut state = self.0.lock();
        if let Some(frame) = state.frames.get(*read) {
            *read += 1;
            return Poll::Ready(Next::Frame(frame.clone()));
        }
        match &state.end {
            Some(End::Complete) => Poll::Ready(Next::End),
            Some(End::Torn(words)) => Poll::Ready(Next::Torn(words.clone())),
            Some(End::Refused(_)) => Poll::Ready(Next::Torn(Bytes::new())),
            None => {
                state.park(context);
                Poll::Pending
            }
        }
    }

    /// Whether a reader that has read `read` frames would find the clean end next.
    fn is_end(&self, read: usize) -> bool {
        let state = self.0.lock();
        read >= state.frames.len() && matches!(state.end, Some(End::Complete))
    }
}

/// One exchange's place in a feed. While it lives, somebody is reading.
#[derive(Debug)]
pub(crate) struct Reader {
    feed: Arc<Feed>,
    read: usize,
    clock: Arc<dyn Clock>,
}

impl Reader {
    pub(crate) fn new(feed: Arc<Feed>, clock: Arc<dyn Clock>) -> Self {
        feed.0.lock().readers += 1;
        Self { feed, read: 0, clock }
    }

    pub(crate) async fn start(&self) -> Result<AnswerStart, Refusal> {
        std::future::poll_fn(|context| self.feed.poll_start(context)).await
    }

    pub(crate) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Next> {
        self.feed.poll_next(&mut self.read, context)
    }

    pub(crate) fn is_end(&self) -> bool {
        self.feed.is_end(self.read)
    }

    /// Resolves when the feed has ended, in whatever way.
    pub(crate) async fn settled(&mut self) {
        std::future::poll_fn(|context| {
            loop {
                match self.poll_next(context) {
                    Poll::Ready(Next::Frame(_)) => {}
                    Poll::Ready(Next::End | Next::Torn(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let now = self.clock.since_boot();
        let mut state = self.feed.0.lock();
        state.readers = state.readers.saturating_sub(1);
        state.deserted_at = Some(now);
    }
}
