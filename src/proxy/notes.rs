//! What the journal should know soon and nobody waits for: that an answer was delivered. A note goes with the
//! next commit of its workflow; where none comes, a task of the sidecar's own commits what is left. A lost note
//! costs one answer served twice after a crash of the sidecar, never a second effect.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::failpoint::{Point, reach};
use crate::journal::{Batch, Record, Urgency};

use super::run::{Run, RunState};
use super::sidecar::Sidecar;

/// How long a note waits for a commit to go with.
const WAIT_MAX: Duration = Duration::from_millis(5);

/// The workflows that have notes.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    runs: Mutex<Vec<Arc<Run>>>,
    some: Notify,
}

impl RunState {
    /// Takes the notes along with `records`, in front of them: they say what was before.
    pub(crate) fn with_notes(&mut self, records: impl IntoIterator<Item = Record>) -> Vec<Record> {
        let mut all = std::mem::take(&mut self.notes);
        all.extend(records);
        all
    }
}

impl Sidecar {
    /// Notes what `record` says of the workflow's state, if it says anything. Nothing happens between the look and
    /// the note.
    pub(crate) fn note(&self, run: &Arc<Run>, record: impl FnOnce(&mut RunState) -> Option<Record>) {
        let is_first = {
            let mut state = run.state.lock();
            let Some(record) = record(&mut state) else { return };
            state.notes.push(record);
            state.notes.len() == 1
        };
        if is_first {
            self.notes.runs.lock().push(Arc::clone(run));
            self.notes.some.notify_one();
        }
    }

    /// Commits the notes that found nothing to go with. Never returns.
    pub async fn keep_notes(self: Arc<Self>) {
        loop {
            self.notes.some.notified().await;
            tokio::time::sleep(WAIT_MAX).await;
            self.commit_notes();
        }
    }

    /// Commits all notes now.
    pub fn commit_notes(&self) {
        let runs = std::mem::take(&mut *self.notes.runs.lock());
        for run in runs {
            // Under the lock, so that no later record of the workflow comes before them.
            let mut state = run.state.lock();
            let records = state.with_notes([]);
            if !records.is_empty() {
                let batch = Batch { records, bodies: Vec::new() };
                _ = self.journal.commit(&run.key, self.journal.epoch(), batch, Urgency::Ride);
                reach(Point::NotesQueued);
            }
        }
    }
}
