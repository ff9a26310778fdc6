//! Fail-points in a build that has them: one watcher for the whole process is told of every point that is
//! reached, and may end the process, or the thread, or nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::process::{Signal, getpid, kill_process};

use super::{Defect, Point};

impl Point {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 33] = [
        Self::AnswerBegun,
        Self::AnswerDelivered,
        Self::AnswerHalf,
        Self::AttemptOpened,
        Self::BatchFlushed,
        Self::BatchStarted,
        Self::BatchTold,
        Self::BatchWritten,
        Self::CallLeaving,
        Self::DoubtRecorded,
        Self::EndReleased,
        Self::EpochOpened,
        Self::FailureComing,
        Self::FailureRecorded,
        Self::FooterEnded,
        Self::FooterStarted,
        Self::FooterWritten,
        Self::IndexMarked,
        Self::IndexWritten,
        Self::IntentComing,
        Self::IntentDurable,
        Self::IntentQueued,
        Self::NotesQueued,
        Self::OutcomeComing,
        Self::OutcomeDurable,
        Self::SegmentFilled,
        Self::SegmentNamed,
        Self::SegmentRotated,
        Self::SegmentSealed,
        Self::StopComing,
        Self::TailKept,
        Self::UseComing,
        Self::UseDurable,
    ];

    /// Its name in a [`Trigger`] and in reports: `AnswerBegun` is `answer_begun`.
    pub fn name(self) -> String {
        snake(&format!("{self:?}"))
    }
}

impl Defect {
    pub const ALL: [Self; 5] = [
        Self::EndReleasedFirst,
        Self::FlushLeftOut,
        Self::IntentAfterDispatch,
        Self::MissBelieved,
        Self::UseNotWritten,
    ];

    pub fn name(self) -> String {
        snake(&format!("{self:?}"))
    }
}

fn snake(words: &str) -> String {
    let mut name = String::with_capacity(words.len() + 3);
    for letter in words.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// A point, and the how-many-th time that it is reached: `batch_flushed@3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub point: Point,
    /// From 1.
    pub hit: u64,
}

/// The text names no fail-point, or no hit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fail-point and hit, such as `batch_flushed@3`")]
pub struct BadTrigger(pub String);

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.point.name(), self.hit)
    }
}

impl FromStr for Trigger {
    type Err = BadTrigger;

    fn from_str(text: &str) -> Result<Self, BadTrigger> {
        let parsed = text.split_once('@').and_then(|(name, hit)| {
            let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
            Some(Self { point, hit: hit.parse().ok().filter(|hit| *hit > 0)? })
        });
        parsed.ok_or_else(|| BadTrigger(text.to_owned()))
    }
}

impl FromStr for Defect {
    type Err = BadTrigger;

    fn from_str(text: &str) -> Result<Self, BadTrigger> {
        let found = Self::ALL.into_iter().find(|defect| defect.name() == text);
        found.ok_or_else(|| BadTrigger(text.to_owned()))
    }
}

/// Told of every fail-point that is reached, on the thread that reached it.
pub trait Watcher: Send + Sync {
    /// Returns, unwinds, or ends the process.
    fn reached(&self, point: Point);
}

/// Kills the process at its trigger, as `kill -9` does: no destructor runs, nothing is flushed.
#[derive(Debug)]
pub struct Kill {
    trigger: Trigger,
    hits: AtomicU64,
}

impl Kill {
    pub fn new(trigger: Trigger) -> Self {
        Self { trigger, hits: AtomicU64::new(0) }
    }
}

impl Watcher for Kill {
    fn reached(&self, point: Point) {
        if point == self.trigger.point && self.hits.fetch_add(1, Ordering::Relaxed) + 1 == self.trigger.hit {
            _ = kill_process(getpid(), Signal::KILL);
            // Its other threads may live a moment longer than this one must.
            loop {
                std::thread::park();
            }
        }
    }
}

static WATCHER: RwLock<Option<Arc<dyn Watcher>>> = RwLock::new(None);
static BROKEN: [AtomicBool; Defect::ALL.len()] = [const { AtomicBool::new(false) }; Defect::ALL.len()];

/// From now on `watcher` is told of every point.
pub fn arm(watcher: Arc<dyn Watcher>) {
    *WATCHER.write() = Some(watcher);
}

/// From now on nobody is told of any point.
pub fn disarm() {
    *WATCHER.write() = None;
}

/// From now on the process has this defect, and no other.
pub fn break_with(defect: Option<Defect>) {
    for (known, broken) in Defect::ALL.iter().zip(&BROKEN) {
        broken.store(Some(*known) == defect, Ordering::Relaxed);
    }
}

pub(crate) fn reach(point: Point) {
    // Not told under the lock: the watcher may unwind, or take long.
    let watcher = WATCHER.read().clone();
    if let Some(watcher) = watcher {
        watcher.reached(point);
    }
}

pub(crate) fn is_broken(defect: Defect) -> bool {
    Defect::ALL.iter().zip(&BROKEN).any(|(known, broken)| *known == defect && broken.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_named_as_it_is_read() {
        for point in Point::ALL {
            let trigger = Trigger { point, hit: 3 };
            assert_eq!(trigger.to_string().parse(), Ok(trigger));
        }
        assert_eq!(Trigger { point: Point::AnswerBegun, hit: 1 }.to_string(), "answer_begun@1");
        for bad in ["", "answer_begun", "answer_begun@", "answer_begun@0", "nowhere@1", "AnswerBegun@1"] {
            assert_eq!(bad.parse::<Trigger>(), Err(BadTrigger(bad.to_owned())));
        }
        assert_eq!("miss_believed".parse(), Ok(Defect::MissBelieved));
    }
}
