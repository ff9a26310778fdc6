//! Commits that wait for the disk, in the order in which they were made.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::super::{Error, Urgency, closed};
use super::live::Live;
use super::parcel::{Delta, Parcel};

/// One commit.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) parcel: Arc<Parcel>,
    /// What it changes, and of which workflow.
    pub(super) change: Option<(Arc<Live>, Arc<Delta>)>,
    /// Told when it is durable or never will be.
    pub(super) done: Option<oneshot::Sender<Result<(), Error>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    bytes: u64,
    /// Somebody asked for a flush.
    now: bool,
    /// The writer has given up looking by itself: whatever comes wakes it.
    asleep: bool,
    ended: bool,
}

/// The queue between commits and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    bytes_max: u64,
    waiting: Mutex<Waiting>,
    work: Condvar,
    room: Condvar,
}

impl Queue {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, waiting: Mutex::default(), work: Condvar::new(), room: Condvar::new() }
    }

    /// Waits while more waits for the disk than should. Called before any lock is taken: the writer must
    /// never depend on somebody who waits here.
    pub(super) fn wait_for_room(&self) {
        let mut waiting = self.waiting.lock();
        while waiting.bytes > self.bytes_max && !waiting.ended {
            self.room.wait(&mut waiting);
        }
    }

    /// Appends; `and_then` happens before anybody else can append or the writer can see the entry.
    ///
    /// # Errors
    /// When the journal is closed.
    pub(super) fn push(&self, entry: Entry, urgency: Urgency, and_then: impl FnOnce()) -> Result<(), Error> {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            return Err(closed());
        }
        let asked_before = waiting.now;
        waiting.bytes += entry.parcel.len();
        waiting.now |= urgency == Urgency::Now;
        waiting.entries.push(entry);
        and_then();
        // A thread that is woken costs more than most commits: the writer finds what rides by itself.
        if waiting.asleep || (waiting.now && !asked_before) {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Waits for something to do; everything that waits, in order. Nothing waits longer than `ride`. `None`
    /// when the queue has ended and is empty.
    pub(super) fn take(&self, ride: Duration) -> Option<Vec<Entry>> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.now || (waiting.ended && !waiting.entries.is_empty()) {
                break;
            }
            if waiting.ended {
                return None;
            }
            if waiting.asleep {
                self.work.wait(&mut waiting);
                // Something has come: from now on the writer looks again.
                waiting.asleep = false;
            } else if self.work.wait_for(&mut waiting, ride).timed_out() {
                if !waiting.entries.is_empty() {
                    break;
                }
                waiting.asleep = true;
            }
        }
        waiting.now = false;
        waiting.bytes = 0;
        self.room.notify_all();
        Some(std::mem::take(&mut waiting.entries))
    }

    /// Refuses whatever comes from now on.
    pub(super) fn end(&self) {
        self.waiting.lock().ended = true;
        self.work.notify_all();
        self.room.notify_all();
    }
}
