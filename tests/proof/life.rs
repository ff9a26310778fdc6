//! One life of the sidecar, and its end: at the k-th time that a fail-point is reached, the disk is written, or a
//! message arrives. From that moment on nothing the sidecar does counts: the disk refuses it, the upstream does not
//! hear it, and no agent has got what it sends.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger::failpoint::{Point, Watcher};
use parking_lot::{Condvar, Mutex};

use crate::Watch;
use crate::layer::Layer;
use crate::support::random::Random;

/// What ends a life, and the how-many-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// An agent has got a whole answer.
    Answered(u64),
    /// The journal writes, flushes, creates or renames a file.
    Disk(u64),
    /// Half of an answer has left the upstream.
    HalfAnswered(u64),
    Point(Point, u64),
    /// A request has reached the upstream.
    Received(u64),
}

impl Trigger {
    pub(crate) fn random(random: &mut Random) -> Self {
        let few = |random: &mut Random, max: usize| 1 + random.below(max) as u64;
        match random.below(10) {
            0 => Self::Answered(few(random, 20)),
            1 => Self::Disk(few(random, 80)),
            2 => Self::HalfAnswered(few(random, 12)),
            3 => Self::Received(few(random, 12)),
            _ => {
                let point = *random.pick(&Point::ALL);
                Self::Point(point, few(random, if is_rare(point) { 2 } else { 12 }))
            }
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Answered(_) => "an agent got the end of an answer".to_owned(),
            Self::Disk(_) => "any write, flush, new file or rename of the journal".to_owned(),
            Self::HalfAnswered(_) => "half of an answer had left the upstream".to_owned(),
            Self::Point(point, _) => format!("`{}`", point.name()),
            Self::Received(_) => "a request had reached the upstream".to_owned(),
        }
    }
}

/// Points that a life reaches once or twice.
fn is_rare(point: Point) -> bool {
    use Point::{
        DoubtRecorded, EpochOpened, FailureComing, FailureRecorded, FooterEnded, FooterStarted,
        FooterWritten, IndexMarked, IndexWritten, SegmentFilled, SegmentNamed, SegmentRotated, SegmentSealed,
        StopComing, TailKept,
    };
    [
        DoubtRecorded,
        EpochOpened,
        FailureComing,
        FailureRecorded,
        FooterEnded,
        FooterStarted,
        FooterWritten,
        IndexMarked,
        IndexWritten,
        SegmentFilled,
        SegmentNamed,
        SegmentRotated,
        SegmentSealed,
        StopComing,
        TailKept,
    ]
    .contains(&point)
}

/// A thread of a dead sidecar that found out.
struct Ended;

/// Whether a panic is the end of a life and no defect.
pub(crate) fn is_end(panic: &(dyn Any + Send)) -> bool {
    panic.is::<Ended>()
}

#[derive(Default)]
struct State {
    dead: bool,
    /// The sidecar was told to stop: it may turn anybody away.
    stopping: bool,
    /// What ended it was its trigger.
    triggered: bool,
    hits: u64,
    answered: u64,
}

pub(crate) struct Life {
    pub(crate) number: usize,
    trigger: Trigger,
    /// A life whose trigger never comes ends after so many answers.
    answers_max: u64,
    journal: PathBuf,
    pub(crate) layer: Layer,
    state: Mutex<State>,
    changed: Condvar,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Life({}, {:?})", self.number, self.trigger)
    }
}

impl Life {
    pub(crate) fn new(number: usize, trigger: Trigger, answers_max: u64, journal: &Path) -> Arc<Self> {
        Arc::new(Self {
            number,
            trigger,
            answers_max,
            journal: journal.to_owned(),
            layer: Layer::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    pub(crate) fn trigger_name(&self) -> String {
        self.trigger.name()
    }

    pub(crate) fn was_triggered(&self) -> bool {
        self.state.lock().triggered
    }

    /// The sidecar is told to stop.
    pub(crate) fn stop(&self) {
        self.state.lock().stopping = true;
    }

    /// Whether calls are still answered.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.lock();
        !state.dead && !state.stopping
    }

    /// Ends the life, unless it has ended.
    pub(crate) fn die(&self) {
        self.end(&mut self.state.lock());
    }

    fn end(&self, state: &mut State) {
        if !state.dead {
            state.dead = true;
            // sled goes on until it is dropped: what it has written by now is what is left of it.
            copy_index(&self.journal);
            self.changed.notify_all();
        }
    }

    /// Does `what` at a moment of this life; `None` when there are none left.
    pub(crate) fn during<T>(&self, what: impl FnOnce() -> T) -> Option<T> {
        let state = self.state.lock();
        (!state.dead).then(what)
    }

    /// Waits for the end, so long at most.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.dead, at_most);
        state.dead
    }

    /// Something has happened that may be the trigger; whether the life is over.
    fn happened(&self, is_trigger: bool) -> bool {
        let mut state = self.state.lock();
        if is_trigger && !state.dead {
            state.hits += 1;
            let wanted = match self.trigger {
                Trigger::Answered(hit)
                | Trigger::Disk(hit)
                | Trigger::HalfAnswered(hit)
                | Trigger::Point(_, hit)
                | Trigger::Received(hit) => hit,
            };
            if state.hits == wanted {
                state.triggered = true;
                self.end(&mut state);
            }
        }
        state.dead
    }

    /// A request is at the upstream; `count` happens if the sidecar that sent it is alive.
    pub(crate) fn received<T>(&self, count: impl FnOnce() -> T) -> Option<T> {
        let counted = self.during(count);
        let over = self.happened(matches!(self.trigger, Trigger::Received(_)));
        counted.filter(|_| !over)
    }

    /// Whether this half of an answer is watched.
    pub(crate) fn watches_halves(&self) -> bool {
        matches!(self.trigger, Trigger::HalfAnswered(_))
    }

    pub(crate) fn half_answered(&self) {
        self.happened(true);
    }

    /// An agent has a whole answer and takes note of it in `take`. What the sidecar wrote before it died arrives
    /// afterwards as well, but `is_result` tells it from what only a dying sidecar says; `None` for that.
    pub(crate) fn answered<T>(&self, is_result: bool, take: impl FnOnce() -> T) -> Option<T> {
        let mut take = Some(take);
        let Some(taken) = self.during(|| take.take().map(|take| take())).flatten() else {
            return take.filter(|_| is_result).map(|take| take());
        };
        self.happened(matches!(self.trigger, Trigger::Answered(_)));
        let mut state = self.state.lock();
        state.answered += 1;
        if state.answered >= self.answers_max && !self.wants_stop() {
            self.end(&mut state);
        }
        Some(taken)
    }

    /// How many answers have been taken.
    pub(crate) fn answers(&self) -> u64 {
        self.state.lock().answered
    }

    /// Its trigger is in an orderly stop.
    pub(crate) fn wants_stop(&self) -> bool {
        matches!(self.trigger, Trigger::Point(Point::StopComing, _))
    }

    /// Something is done to a file.
    fn disk(&self) -> io::Result<()> {
        let over = self.happened(matches!(self.trigger, Trigger::Disk(_)));
        if over { Err(io::Error::other("this life is over")) } else { Ok(()) }
    }
}

impl Watcher for Life {
    fn reached(&self, point: Point) {
        let is_trigger = matches!(self.trigger, Trigger::Point(wanted, _) if wanted == point);
        if self.happened(is_trigger) && !std::thread::panicking() {
            // Without a word on standard error: this is no panic.
            std::panic::resume_unwind(Box::new(Ended));
        }
    }
}

impl Watch for Life {
    fn write(&self, path: &Path, offset: u64, len: u64) -> io::Result<()> {
        self.disk()?;
        self.layer.write(path, offset, len)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.disk()?;
        self.layer.sync(path)
    }

    fn synced(&self, path: &Path) {
        self.layer.synced(path);
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        self.disk()?;
        self.layer.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk()?;
        self.layer.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk()?;
        self.layer.sync_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk()?;
        self.layer.remove(path)
    }

    fn set_len(&self, path: &Path) -> io::Result<()> {
        self.disk()?;
        self.layer.set_len(path)
    }
}

/// The index as it was when its journal's life ended.
pub(crate) fn index_at_the_end(journal: &Path) -> PathBuf {
    journal.with_extension("index")
}

fn copy_index(journal: &Path) {
    let (from, to) = (journal.join("index"), index_at_the_end(journal));
    _ = std::fs::remove_dir_all(&to);
    copy_dir(&from, &to);
}

/// Copies what is there; what vanishes meanwhile is not.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).unwrap();
    for entry in entries.flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_dir(&path, &to);
        } else {
            _ = std::fs::copy(&path, &to);
        }
    }
}
