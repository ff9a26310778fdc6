//! The sweep: does what is due for workflows that nobody works on, and gives the space back. Bounded per run; what
//! is left over is the next one's. Never touches a workflow while a step of it runs or is in doubt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::journal::{self, Batch, CompactionBounds, Head, Journal, Record, Ticket, Urgency};
use crate::model::{Timestamp, WorkflowKey};
use crate::wire::refusal::Refusal;

use super::operations::{self, OperationError};
use super::refusal;
use super::retention::{self, Due, Retention};
use super::sidecar::Sidecar;

/// Workflows that one sweep changes.
pub const CHANGES_MAX: usize = 1000;

/// Files of the log that one sweep writes anew.
pub const SEGMENTS_MAX: usize = 64;

/// From the start of a sidecar to its first sweep.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// Between two sweeps, whoever asks.
const PAUSE_MIN: Duration = Duration::from_secs(30);

/// From here on a journal with a limit is said to be nearly full.
const WARN_PERCENT: u64 = 80;

/// What the journal says about who closed an idle workflow.
const REASON: &str = "idle";

/// What a sweep is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub retention: Retention,
    pub now: Timestamp,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What a sweep did, or would do. The field names are those of the JSON, which only ever gains fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    #[serde(default)]
    pub dry_run: bool,
    /// Workflows that had been idle for long.
    pub closed: Vec<String>,
    /// Closed workflows whose bodies are not needed any more.
    pub bodies_expired: Vec<String>,
    /// Closed workflows of which nothing but a tombstone is needed.
    pub removed: Vec<String>,
    /// Workflows for which something is due and nothing is done.
    pub kept: Vec<Kept>,
    /// What the journal took on disk before, and what it takes now.
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Something is left for the next sweep.
    pub more: bool,
    /// When the oldest workflow that is not closed was opened; milliseconds since 1970.
    #[serde(default)]
    pub oldest_open_ms: Option<i64>,
}

/// A workflow that is kept though something is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub workflow: String,
    pub why: String,
}

impl Swept {
    /// Whether anything was done.
    pub fn has_done(&self) -> bool {
        let changed = [&self.closed, &self.bodies_expired, &self.removed];
        changed.iter().any(|changed| !changed.is_empty()) || self.bytes_after < self.bytes_before
    }

    /// Takes in what the next sweep did.
    pub fn and_then(&mut self, next: Self) {
        self.closed.extend(next.closed);
        self.bodies_expired.extend(next.bodies_expired);
        self.removed.extend(next.removed);
        self.kept = next.kept;
        self.bytes_after = next.bytes_after;
        self.more = next.more;
        self.oldest_open_ms = next.oldest_open_ms;
    }
}

/// Closes one workflow; `None`: it was closed already.
type Close<'a> = &'a (dyn Fn(&WorkflowKey) -> Result<Option<Ticket>, OperationError> + Sync);

/// Sweeps a journal that this process alone is at work on.
///
/// # Errors
/// Whatever the journal says.
pub async fn sweep(journal: &dyn Journal, plan: &Plan) -> Result<Swept, journal::Error> {
    let close = |key: &WorkflowKey| operations::close(journal, key, REASON, plan.now);
    let (mut swept, tickets) = begin(journal, plan, &close)?;
    for ticket in tickets {
        ticket.await?;
    }
    compact(journal, plan, &mut swept)?;
    Ok(swept)
}

/// Commits what is due. It is done when the tickets have resolved.
fn begin(
    journal: &dyn Journal,
    plan: &Plan,
    close: Close<'_>,
) -> Result<(Swept, Vec<Ticket>), journal::Error> {
    let bytes = journal.bytes();
    let mut swept =
        Swept { dry_run: plan.dry_run, bytes_before: bytes, bytes_after: bytes, ..Swept::default() };
    let mut tickets = Vec::new();
    for row in journal.workflows()? {
        if row.head.closed.is_none() {
            let opened = row.head.opened_at.0;
            swept.oldest_open_ms = Some(swept.oldest_open_ms.map_or(opened, |oldest| oldest.min(opened)));
        }
        let Some(due) = retention::due(&row.head, plan.now, &plan.retention) else { continue };
        if swept.closed.len() + swept.bodies_expired.len() + swept.removed.len() >= CHANGES_MAX {
            swept.more = true;
            continue;
        }
        let workflow = row.key.workflow.to_string();
        let done = match (plan.dry_run, due) {
            (true, _) => free(journal, &row.key, &row.head).map(|()| None),
            (false, Due::Close) => close(&row.key),
            (false, Due::ExpireBodies | Due::Remove) => shrink(journal, &row.key, &row.head, due, plan.now),
        };
        match done {
            Ok(ticket) => {
                tickets.extend(ticket);
                let changed = match due {
                    Due::Close => &mut swept.closed,
                    Due::ExpireBodies => &mut swept.bodies_expired,
                    Due::Remove => &mut swept.removed,
                };
                changed.push(workflow);
            }
            Err(OperationError::Journal(error @ journal::Error::Poisoned { .. })) => return Err(error),
            Err(error) => swept.kept.push(Kept { workflow, why: error.to_string() }),
        }
    }
    Ok((swept, tickets))
}

/// Nothing of it is in doubt.
fn free(journal: &dyn Journal, key: &WorkflowKey, head: &Head) -> Result<(), OperationError> {
    match operations::in_doubt(journal, key, head)? {
        Some(step) => Err(OperationError::InDoubt(step)),
        None => Ok(()),
    }
}

/// Says in the journal that less of a closed workflow is needed.
fn shrink(
    journal: &dyn Journal,
    key: &WorkflowKey,
    head: &Head,
    due: Due,
    at: Timestamp,
) -> Result<Option<Ticket>, OperationError> {
    free(journal, key, head)?;
    let record = match due {
        Due::Remove => {
            Record::Removed { opened_at: head.opened_at, closed_at: head.closed.unwrap_or(at), at }
        }
        Due::Close | Due::ExpireBodies => Record::BodiesExpired { at },
    };
    Ok(Some(journal.commit(key, journal.epoch(), Batch::one(record), Urgency::Ride)?))
}

fn compact(journal: &dyn Journal, plan: &Plan, swept: &mut Swept) -> Result<(), journal::Error> {
    if plan.dry_run {
        return Ok(());
    }
    let compacted = journal.compact(&CompactionBounds { segments_max: SEGMENTS_MAX })?;
    swept.more |= compacted.more;
    // Whatever was recorded meanwhile is not what the sweep cost or freed.
    swept.bytes_after =
        swept.bytes_before - (compacted.bytes_before - compacted.bytes_after).min(swept.bytes_before);
    Ok(())
}

/// The sidecar's own sweeps.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    /// One at a time.
    at_work: tokio::sync::Mutex<()>,
    /// Somebody needs space.
    wanted: Notify,
    /// That the journal is nearly full has been said.
    warned: AtomicBool,
    /// Milliseconds since 1970; 0: there is none.
    oldest_open_ms: AtomicI64,
}

impl Sidecar {
    /// Sweeps now.
    ///
    /// # Errors
    /// [`OperationError`]: `Journal`, `Draining`.
    pub async fn sweep(self: &Arc<Self>, dry_run: bool) -> Result<Swept, OperationError> {
        let _alone = self.sweeper.at_work.lock().await;
        if self.is_draining() {
            return Err(OperationError::Draining);
        }
        let snapshot = self.snapshot();
        if snapshot.recording.is_some() {
            // Recorded runs that tests are answered from are old, and kept as they are.
            return Ok(Swept { dry_run, ..Swept::default() });
        }
        let plan = Plan { retention: snapshot.retention, now: self.clock.now(), dry_run };
        let sidecar = Arc::clone(self);
        let begun = blocking(move || {
            let close = |key: &WorkflowKey| sidecar.close_idle(key, plan.now);
            begin(sidecar.journal.as_ref(), &plan, &close)
        });
        let (mut swept, tickets) = begun.await?;
        for ticket in tickets {
            ticket.await?;
        }
        let journal = Arc::clone(&self.journal);
        let swept = blocking(move || compact(journal.as_ref(), &plan, &mut swept).map(|()| swept)).await?;
        self.sweeper.oldest_open_ms.store(swept.oldest_open_ms.unwrap_or(0), Ordering::Release);
        Ok(swept)
    }

    /// Closes a workflow that nobody is at work on, whatever its journal says.
    fn close_idle(&self, key: &WorkflowKey, at: Timestamp) -> Result<Option<Ticket>, OperationError> {
        let run = self.runs.known(key);
        let state = run.as_ref().map(|run| run.state.lock());
        if let Some(state) = &state {
            state.rests()?;
            if !state.is_idle() {
                return Err(OperationError::Attended);
            }
        }
        operations::close(self.journal.as_ref(), key, REASON, at)
    }

    /// Sweeps every so often, and when space is needed, until the sidecar shuts down.
    pub async fn keep_swept(self: Arc<Self>, every: Duration) {
        let mut wait = FIRST_WAIT.min(every);
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.sweeper.wanted.notified() => {}
                () = self.drained() => return,
            }
            wait = match self.sweep(false).await {
                Ok(swept) if swept.more && swept.has_done() => PAUSE_MIN.min(every),
                Ok(_) => every,
                Err(error) => {
                    tracing::warn!(%error, "the journal could not be swept");
                    every
                }
            };
            tokio::time::sleep(PAUSE_MIN.min(every)).await;
        }
    }

    /// Whether the journal has room for a new step. Says so in time when it soon has none.
    pub(crate) fn check_space(&self) -> Result<(), Refusal> {
        let Some(bytes_max) = self.snapshot().journal_bytes_max else { return Ok(()) };
        let bytes = self.journal.bytes();
        let is_nearly_full = bytes >= bytes_max / 100 * WARN_PERCENT;
        if is_nearly_full != self.sweeper.warned.swap(is_nearly_full, Ordering::AcqRel) && is_nearly_full {
            tracing::warn!(
                bytes,
                bytes_max,
                "the journal is nearly as large as it may be; when it is, new steps are refused"
            );
            self.sweeper.wanted.notify_one();
        }
        if bytes < bytes_max {
            return Ok(());
        }
        self.sweeper.wanted.notify_one();
        Err(refusal::journal_full(bytes_max))
    }

    /// What the journal takes on disk, and what it may take, in bytes; 0: as much as the disk has.
    pub fn journal_bytes(&self) -> (u64, u64) {
        (self.journal.bytes(), self.snapshot().journal_bytes_max.unwrap_or(0))
    }

    /// How long ago the oldest workflow was opened that is not closed, as of the last sweep.
    pub fn oldest_open(&self) -> Duration {
        let opened = self.sweeper.oldest_open_ms.load(Ordering::Acquire);
        let now = self.clock.now().0;
        let age = if opened == 0 { 0 } else { now.saturating_sub(opened) };
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, journal::Error> + Send + 'static,
) -> Result<T, OperationError> {
    let done = tokio::task::spawn_blocking(work).await;
    let defect = |error: tokio::task::JoinError| OperationError::Defect(error.to_string());
    Ok(done.map_err(defect)??)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::journal::conformance::{
        attempt_opened, commit, in_doubt, intent, key, run_steps, step, wait, workflow_closed,
        workflow_opened,
    };
    use crate::journal::memory::Memory;
    use crate::model::{StepState, TestClock};
    use crate::proxy::feed::Feed;
    use crate::proxy::recording::Recording;
    use crate::proxy::sidecar::Snapshot;

    /// Long after whatever the records of these tests say.
    const LATER: Timestamp = Timestamp(1_895_140_000_000);

    fn memory() -> Memory {
        Memory::new(Arc::new(TestClock(LATER)))
    }

    fn plan(dry_run: bool) -> Plan {
        Plan { retention: Retention::default(), now: LATER, dry_run }
    }

    fn swept(journal: &dyn Journal, dry_run: bool) -> Swept {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(sweep(journal, &plan(dry_run))).unwrap()
    }

    /// A workflow whose only step is an effect in doubt.
    fn doubtful(journal: &dyn Journal, name: &str) {
        let records =
            vec![workflow_opened(), attempt_opened(1), Record::Intent(intent(1, 1, 1)), in_doubt(1)];
        commit(journal, &key(name), records, Vec::new());
    }

    #[test]
    fn idle_is_closed_then_its_records_go_and_its_tombstone_stays() {
        let journal = memory();
        run_steps(&journal, &key("w"), 2);
        let dry = swept(&journal, true);
        assert_eq!((dry.closed, dry.dry_run), (vec!["w".to_owned()], true));
        assert_eq!(journal.attach(&key("w")).unwrap().unwrap().closed, None, "nothing was changed");
        assert_eq!(swept(&journal, false).closed, ["w"]);
        let again = swept(&journal, false);
        assert!(!again.has_done(), "closed just now: {again:?}");

        let journal = memory();
        run_steps(&journal, &key("w"), 2);
        commit(&journal, &key("w"), vec![workflow_closed()], Vec::new());
        let done = swept(&journal, false);
        assert_eq!((&done.removed, done.bytes_after), (&vec!["w".to_owned()], 0));
        let head = journal.attach(&key("w")).unwrap().unwrap();
        assert_eq!((head.removed, head.records()), (Some(LATER), 1));
    }

    #[test]
    fn case_30_nothing_is_taken_from_a_workflow_with_a_step_in_doubt() {
        let journal = memory();
        doubtful(&journal, "open");
        doubtful(&journal, "closed");
        // The sidecar closes no workflow in doubt; whatever did, it is kept.
        commit(&journal, &key("closed"), vec![workflow_closed()], Vec::new());
        for dry_run in [true, false] {
            let swept = swept(&journal, dry_run);
            assert!(!swept.has_done(), "{swept:?}");
            let kept = swept.kept.iter().map(|kept| kept.workflow.as_str()).collect::<Vec<_>>();
            assert_eq!(kept.len(), 2, "{kept:?}");
            assert!(swept.kept.iter().all(|kept| kept.why.contains("step 1 is in doubt")), "{swept:?}");
        }
        for name in ["open", "closed"] {
            let summary = journal.summary(&key(name), step(1)).unwrap().unwrap();
            assert_eq!(summary.state, StepState::InDoubt);
        }
    }

    fn sidecar(journal: Memory, recording: Option<Arc<Recording>>) -> Arc<Sidecar> {
        Sidecar::bare(Snapshot { recording, ..Snapshot::bare() }, journal, LATER)
    }

    #[tokio::test]
    async fn a_running_workflow_is_not_closed_however_long_nothing_was_recorded() {
        let journal = memory();
        let open = vec![workflow_opened(), attempt_opened(1)];
        drop(wait_for(&journal, open));
        let sidecar = sidecar(journal.clone(), None);
        let run = sidecar.runs.of(&key("w"));
        run.state.lock().running.insert(step(1), Arc::new(Feed::default()));
        let kept = sidecar.sweep(false).await.unwrap();
        assert_eq!((kept.closed.len(), kept.kept[0].why.as_str()), (0, "step 1 is still running"));
        assert!(sidecar.oldest_open() > Duration::from_secs(7 * 24 * 3600));
        run.state.lock().running.clear();
        assert_eq!(sidecar.sweep(false).await.unwrap().closed, ["w"]);
        assert_eq!(sidecar.sweep(false).await.unwrap().oldest_open_ms, None);
        assert_eq!(sidecar.oldest_open(), Duration::ZERO);
    }

    #[tokio::test]
    async fn recorded_runs_that_tests_are_answered_from_are_kept_however_old_they_are() {
        let journal = memory();
        drop(wait_for(&journal, vec![workflow_opened(), attempt_opened(1), workflow_closed()]));
        let sidecar = sidecar(journal.clone(), Some(Arc::default()));
        assert!(!sidecar.sweep(false).await.unwrap().has_done());
        assert_eq!(journal.attach(&key("w")).unwrap().unwrap().removed, None);
    }

    fn wait_for(journal: &Memory, records: Vec<Record>) -> Ticket {
        let batch = Batch { records, bodies: Vec::new() };
        journal.commit(&key("w"), journal.epoch(), batch, Urgency::Now).unwrap()
    }

    #[test]
    fn one_sweep_changes_so_many_workflows_and_the_next_one_goes_on() {
        let journal = memory();
        for number in 0..=CHANGES_MAX {
            let batch = Batch { records: vec![workflow_opened(), workflow_closed()], bodies: Vec::new() };
            let key = key(&format!("w-{number}"));
            wait(journal.commit(&key, journal.epoch(), batch, Urgency::Now).unwrap()).unwrap();
        }
        let first = swept(&journal, false);
        assert_eq!((first.removed.len(), first.more), (CHANGES_MAX, true));
        let second = swept(&journal, false);
        assert_eq!((second.removed.len(), second.more), (1, false));
    }
}
