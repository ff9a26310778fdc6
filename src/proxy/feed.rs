//! The answer of a running step, as it grows: one task writes it, any number of agents' exchanges read
//! it from its beginning. The writer does not wait for a reader, so an agent that leaves stops nothing;
//! but an answer that is too long to be recorded is let go of as it is read, and then the writer waits for
//! whoever still reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::{headers, refusal};
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

/// How much of an answer that is not kept may wait for its readers, in bytes.
const UNREAD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
struct State {
    start: Option<AnswerStart>,
    frames: VecDeque<Bytes>,
    /// Frames that were let go of: `frames` begins behind them.
    gone: usize,
    /// Bytes in `frames`.
    len: usize,
    /// Frames are let go of once every reader has them.
    lets_go: bool,
    end: Option<End>,
    /// Where each reader is; `None`: that place is free.
    places: Vec<Option<Place>>,
    /// The answer has begun to call a tool.
    calls_tools: bool,
    /// Event ids that were given, and how many frames there were with them; the newest
    /// [`Feed::EVENT_IDS_MAX`].
    event_ids: VecDeque<(Arc<str>, usize)>,
    /// How often the upstream has ended its stream to go on in another one, and how many frames there were at
    /// the last such end.
    pauses: usize,
    paused_at: usize,
    /// When the last reader left; time since boot.
    deserted_at: Option<Duration>,
    wakers: Vec<Waker>,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// How many frames it has had.
    read: usize,
    /// How many pauses there were when it began: it reads up to the next one.
    pauses: usize,
}

impl State {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn add(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.len += frame.len();
            self.frames.push_back(frame);
            self.let_go();
        }
    }

    fn take_place(&mut self, read: usize) -> usize {
        let taken = Some(Place { read, pauses: self.pauses });
        match self.places.iter_mut().enumerate().find(|(_, place)| place.is_none()) {
            Some((at, place)) => {
                *place = taken;
                at
            }
            None => {
                self.places.push(taken);
                self.places.len() - 1
            }
        }
    }

    fn place(&self, place: usize) -> Place {
        let gone = Place { read: usize::MAX, pauses: self.pauses };
        self.places.get(place).copied().flatten().unwrap_or(gone)
    }

    /// Whether a reader has come to a pause.
    fn is_paused(&self, place: Place) -> bool {
        place.pauses < self.pauses && place.read >= self.paused_at
    }

    fn has_readers(&self) -> bool {
        self.places.iter().any(Option::is_some)
    }

    /// Frees what every reader has had, if the answer is one that is let go of.
    fn let_go(&mut self) {
        let had = self.places.iter().flatten().map(|place| place.read).min().unwrap_or(usize::MAX);
        while self.lets_go
            && self.gone < had
            && let Some(frame) = self.frames.pop_front()
        {
            self.gone += 1;
            self.len -= frame.len();
        }
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
    /// The upstream has ended its stream and will go on in another one that has to be asked for: a clean end
    /// that delivers nothing.
    Paused,
    Torn(Bytes),
}

impl Feed {
    /// Most event ids that are kept: a client asks for what comes behind the last one it got.
    const EVENT_IDS_MAX: usize = 64;

    /// Says the head; the first one said counts.
    pub(crate) fn start(&self, start: AnswerStart) {
        let mut state = self.0.lock();
        state.start.get_or_insert(start);
        state.wake();
    }

    pub(crate) fn push(&self, frame: Bytes) {
        let mut state = self.0.lock();
        state.add(frame);
        state.wake();
    }

    /// The same of an event that a client may ask to go on behind.
    pub(crate) fn push_event(&self, frame: Bytes, id: Arc<str>) {
        let mut state = self.0.lock();
        state.add(frame);
        if state.event_ids.len() >= Self::EVENT_IDS_MAX {
            state.event_ids.pop_front();
        }
        let frames = state.gone + state.frames.len();
        state.event_ids.push_back((id, frames));
        state.wake();
    }

    /// The upstream has ended its stream and will go on in another one. Who reads now comes to an end here.
    pub(crate) fn pause(&self) {
        let mut state = self.0.lock();
        state.pauses += 1;
        state.paused_at = state.gone + state.frames.len();
        state.wake();
    }

    /// The event ids that were given, oldest first.
    pub(crate) fn event_ids(&self) -> Vec<Arc<str>> {
        self.0.lock().event_ids.iter().map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Whether a client may ask to go on behind this event.
    pub(crate) fn has_event(&self, id: &str) -> bool {
        self.0.lock().event_ids.iter().any(|(known, _)| &**known == id)
    }

    /// From now on no frame is kept that every reader has: the answer is too long for that. Nobody can join
    /// any more who would need the beginning.
    pub(crate) fn let_go(&self) {
        let mut state = self.0.lock();
        state.lets_go = true;
        state.let_go();
    }

    /// Waits while more waits for the readers of an answer that is let go of than may.
    pub(crate) async fn room(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            if !state.lets_go || state.len <= UNREAD_BYTES_MAX {
                return Poll::Ready(());
            }
            state.park(context);
            Poll::Pending
        })
        .await;
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
        held.into_iter().for_each(|frame| state.add(frame));
        state.end.get_or_insert(End::Complete);
        state.wake();
    }

    /// Ends the feed without an answer, or without its end.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.break_off(refusal, Bytes::new());
    }

    /// Ends the feed with `refusal` while its head is not out yet. Afterwards readers get `last_words`,
    /// an error event, and are reset: a clean end would pass for a whole answer.
    pub(crate) fn break_off(&self, refusal: Refusal, last_words: Bytes) {
        let encoded = {
            let state = self.0.lock();
            state.start.as_ref().map(|start| headers::content_encoding(&start.headers).is_some())
        };
        self.finish(match encoded {
            None => End::Refused(refusal),
            // Plain words among compressed bytes say nothing to anybody.
            Some(true) => End::Torn(Bytes::new()),
            Some(false) => End::Torn(last_words),
        });
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
        (!state.has_readers()).then(|| now.saturating_sub(state.deserted_at.unwrap_or(now)))
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.0.lock().has_readers()
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

    fn poll_next(&self, place: usize, context: &Context<'_>) -> Poll<Next> {
        let mut state = self.0.lock();
        let at = state.place(place);
        if state.is_paused(at) {
            return Poll::Ready(Next::Paused);
        }
        let Place { read, pauses } = at;
        if let Some(frame) = read.checked_sub(state.gone).and_then(|at| state.frames.get(at)).cloned() {
            if let Some(place) = state.places.get_mut(place) {
                *place = Some(Place { read: read + 1, pauses });
            }
            if state.lets_go {
                state.let_go();
                // The writer may be waiting for room.
                state.wake();
            }
            return Poll::Ready(Next::Frame(frame));
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

    /// Whether the reader at `place` would find the clean end next.
    fn is_end(&self, place: usize) -> bool {
        let state = self.0.lock();
        let at = state.place(place);
        !state.is_paused(at)
            && at.read >= state.gone + state.frames.len()
            && matches!(state.end, Some(End::Complete))
    }
}

/// One exchange's place in a feed. While it lives, somebody is reading.
#[derive(Debug)]
pub(crate) struct Reader {
    feed: Arc<Feed>,
    place: usize,
    clock: Arc<dyn Clock>,
}

impl Reader {
    /// A reader from the beginning on. `None` when the beginning is no longer there.
    pub(crate) fn new(feed: Arc<Feed>, clock: Arc<dyn Clock>) -> Option<Self> {
        let place = {
            let mut state = feed.0.lock();
            if state.gone > 0 {
                return None;
            }
            state.take_place(0)
        };
        Some(Self { feed, place, clock })
    }

    /// A reader of what comes behind the event `id`. `None` when no such event is known, or what comes behind it
    /// is no longer there.
    pub(crate) fn behind(feed: &Arc<Feed>, id: &str, clock: Arc<dyn Clock>) -> Option<Self> {
        let place = {
            let mut state = feed.0.lock();
            let (_, read) = state.event_ids.iter().rev().find(|(known, _)| &**known == id)?.clone();
            if read < state.gone {
                return None;
            }
            state.take_place(read)
        };
        Some(Self { feed: Arc::clone(feed), place, clock })
    }

    /// Somebody who waits for the end and wants none of the bytes.
    pub(crate) fn of_the_end(feed: Arc<Feed>, clock: Arc<dyn Clock>) -> Self {
        let place = feed.0.lock().take_place(usize::MAX);
        Self { feed, place, clock }
    }

    pub(crate) async fn start(&self) -> Result<AnswerStart, Refusal> {
        std::future::poll_fn(|context| self.feed.poll_start(context)).await
    }

    pub(crate) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Next> {
        self.feed.poll_next(self.place, context)
    }

    pub(crate) fn is_end(&self) -> bool {
        self.feed.is_end(self.place)
    }

    /// Resolves when the feed has ended, in whatever way.
    pub(crate) async fn settled(&self) {
        self.feed.ended().await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let now = self.clock.since_boot();
        let mut state = self.feed.0.lock();
        if let Some(place) = state.places.get_mut(self.place) {
            *place = None;
        }
        state.deserted_at = Some(now);
        if state.lets_go {
            state.let_go();
            state.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TestClock;

    fn next(reader: &mut Reader) -> Option<Bytes> {
        match reader.poll_next(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Next::Frame(frame)) => Some(frame),
            Poll::Ready(Next::End | Next::Paused | Next::Torn(_)) | Poll::Pending => None,
        }
    }

    fn has_room(feed: &Feed) -> bool {
        let room = std::pin::pin!(feed.room());
        room.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn frame(byte: u8) -> Bytes {
        Bytes::from(vec![byte; UNREAD_BYTES_MAX / 2])
    }

    #[test]
    fn an_answer_that_is_kept_can_be_read_from_its_beginning_at_any_time() {
        let (feed, clock) = (Arc::new(Feed::default()), Arc::new(TestClock::default()));
        for byte in 0..8 {
            feed.push(frame(byte));
            assert!(has_room(&feed));
        }
        let mut reader = Reader::new(feed, clock).unwrap();
        for byte in 0..8 {
            assert_eq!(next(&mut reader), Some(frame(byte)));
        }
        assert_eq!(next(&mut reader), None);
    }

    #[test]
    fn whoever_asks_for_the_rest_reads_on_behind_the_event_and_over_the_pause() {
        let (feed, clock) = (Arc::new(Feed::default()), Arc::new(TestClock::default()));
        let paused = |reader: &mut Reader| {
            let next = reader.poll_next(&Context::from_waker(Waker::noop()));
            matches!(next, Poll::Ready(Next::Paused))
        };
        let mut first = Reader::new(Arc::clone(&feed), clock.clone()).unwrap();
        feed.push_event(frame(0), "e-1".into());
        feed.push(frame(1));
        feed.pause();
        feed.push_event(frame(2), "e-2".into());
        let start = AnswerStart { status: StatusCode::OK, headers: HeaderMap::new() };
        feed.release(start, Vec::new());
        assert_eq!((next(&mut first), next(&mut first)), (Some(frame(0)), Some(frame(1))));
        assert!(paused(&mut first) && !first.is_end(), "the rest is for whoever asks for it");
        let mut second = Reader::behind(&feed, "e-1", clock.clone()).unwrap();
        assert_eq!((next(&mut second), next(&mut second)), (Some(frame(1)), Some(frame(2))));
        assert!(second.is_end() && !paused(&mut second));
        assert!(Reader::behind(&feed, "e-3", clock).is_none());
    }

    #[test]
    fn an_answer_that_is_let_go_of_keeps_what_its_slowest_reader_has_not_had() {
        let (feed, clock) = (Arc::new(Feed::default()), Arc::new(TestClock::default()));
        let mut quick = Reader::new(Arc::clone(&feed), clock.clone()).unwrap();
        let mut slow = Reader::new(Arc::clone(&feed), clock.clone()).unwrap();
        let at_the_end = Reader::of_the_end(Arc::clone(&feed), clock.clone());
        (0..3).for_each(|byte| feed.push(frame(byte)));
        (0..3).for_each(|byte| assert_eq!(next(&mut quick), Some(frame(byte))));
        feed.let_go();
        assert!(!has_room(&feed), "the slow one has had nothing");
        assert_eq!(next(&mut slow), Some(frame(0)));
        assert!(has_room(&feed));
        assert!(Reader::new(Arc::clone(&feed), clock).is_none(), "the beginning is gone");
        feed.push(frame(3));
        assert!(!has_room(&feed));
        drop(slow);
        assert!(has_room(&feed), "nobody is left who has not had it");
        assert_eq!(next(&mut quick), Some(frame(3)));
        drop((quick, at_the_end));
        (4..9).for_each(|byte| feed.push(frame(byte)));
        assert!(has_room(&feed), "nobody reads: nothing is kept");
    }
}
