//! What every stage may reach: the journal, the clock, the live workflows, and one immutable snapshot of
//! everything the config decides.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::identity::peer::Finder;
use crate::journal::Journal;
#[cfg(test)]
use crate::journal::memory::Memory;
use crate::model::{Clock, Dialect, RunNonce, StepIndex, UpstreamName, WorkflowId, WorkflowKey};
#[cfg(test)]
use crate::model::{TestClock, Timestamp};
use crate::policy::Engine;
use crate::replay::normalise::Matching;
use crate::route::Tools;
use crate::telemetry::metrics::Metrics;
use crate::upstream;

use super::notes::Notes;
use super::recording::Recording;
use super::retention::Retention;
use super::run::Runs;
use super::sweep::Sweeper;
use super::tasks::Tasks;

/// One upstream, ready to be called.
pub struct Upstream {
    pub name: UpstreamName,
    pub dialect: Dialect,
    /// `http` or `https`.
    pub scheme: http::uri::Scheme,
    pub authority: http::uri::Authority,
    /// Path in front of every call's own, without a trailing `/`.
    pub base_path: String,
    pub client: upstream::Client,
    /// Longest silence of the upstream, before its head and between its bytes.
    pub idle: Duration,
    /// How long an answer is read on after the agent left.
    pub drain: Duration,
    /// How its calls are matched with recorded ones.
    pub matching: Matching,
    /// What the operator has said of its tools.
    pub tools: Tools,
    /// Do not ask OpenAI streams for their usage: configured so, or this upstream refused the option.
    pub observe_only: AtomicBool,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} at {}://{}{})", self.name, self.scheme, self.authority, self.base_path)
    }
}

impl Upstream {
    pub(crate) fn asks_usage(&self) -> bool {
        self.dialect == Dialect::Openai && !self.observe_only.load(Ordering::Relaxed)
    }

    pub(crate) fn observe(&self) {
        self.observe_only.store(true, Ordering::Relaxed);
    }
}

/// Limits on what agents may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body, as sent and as decoded.
    pub body_bytes_max: usize,
    /// Longest silence while a request body arrives.
    pub body_idle: Duration,
    /// Largest answer that is recorded; a longer one passes and cannot be replayed.
    pub recorded_bytes_max: usize,
}

/// What to do with LLM calls and reads when the journal cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalUnavailable {
    Fail,
    Passthrough,
}

/// What becomes of a call that names a closed workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It begins a new run, which knows nothing of the old one.
    NewRun,
    Refuse,
    /// It is given what is recorded, and nothing else.
    Replay,
}

/// One version of everything that the config decides of a call. Never changed.
#[derive(Debug)]
pub struct Snapshot {
    pub upstreams: HashMap<UpstreamName, Arc<Upstream>>,
    pub limits: Limits,
    /// The workflow of calls that name none.
    pub default_workflow: Option<WorkflowId>,
    pub journal_unavailable: JournalUnavailable,
    /// Only workflows that exist already take calls.
    pub is_issued_only: bool,
    /// Unrelated processes may be at work on one workflow.
    pub is_shared: bool,
    /// New effects of an agent that went another way than the recorded run are refused.
    pub refuses_divergence: bool,
    /// Calls are answered from these recorded runs alone, and nothing is sent.
    pub recording: Option<Arc<Recording>>,
    pub reuse: Reuse,
    pub retention: Retention,
    /// New steps are refused when the journal takes this much on disk; `None`: when the disk is full.
    pub journal_bytes_max: Option<u64>,
}

#[cfg(test)]
impl Snapshot {
    /// Without upstreams and with every default, for tests of what needs none.
    pub(crate) fn bare() -> Self {
        Self {
            upstreams: HashMap::new(),
            limits: Limits { body_bytes_max: 0, body_idle: Duration::ZERO, recorded_bytes_max: 0 },
            default_workflow: None,
            journal_unavailable: JournalUnavailable::Fail,
            is_issued_only: false,
            is_shared: false,
            refuses_divergence: true,
            recording: None,
            reuse: Reuse::Refuse,
            retention: Retention::default(),
            journal_bytes_max: None,
        }
    }
}

/// The sidecar: everything that outlives one call.
#[derive(Debug)]
pub struct Sidecar {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runs: Runs,
    pub(crate) tasks: Tasks,
    pub(crate) notes: Notes,
    pub(crate) sweeper: Sweeper,
    pub(crate) peers: Arc<Finder>,
    /// `None`: everything is allowed.
    pub(crate) policies: Option<Arc<Engine>>,
    pub(crate) metrics: Arc<Metrics>,
    draining: watch::Sender<bool>,
    random: fn(&mut [u8]),
}

impl Sidecar {
    /// `random` fills a buffer with bytes fit for keys.
    pub fn new(
        snapshot: Snapshot,
        policies: Option<Arc<Engine>>,
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        random: fn(&mut [u8]),
    ) -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            journal,
            clock,
            runs: Runs::default(),
            tasks: Tasks::default(),
            notes: Notes::default(),
            sweeper: Sweeper::default(),
            peers: Arc::default(),
            policies,
            metrics,
            draining: watch::channel(false).0,
            random,
        })
    }

    /// On a journal in memory, at a time that stands still; every key it makes is sevens.
    #[cfg(test)]
    pub(crate) fn bare(snapshot: Snapshot, journal: Memory, at: Timestamp) -> Arc<Self> {
        let metrics = Arc::new(Metrics::new("0", "none").unwrap());
        Self::new(snapshot, None, Arc::new(journal), Arc::new(TestClock(at)), metrics, |bytes| bytes.fill(7))
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// From now on new steps are refused; replays, joins and running steps go on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when [`Sidecar::drain`] was called.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut draining = self.draining.subscribe();
        async move {
            // The sender lives as long as the sidecar; it going away means the same.
            _ = draining.wait_for(|draining| *draining).await;
        }
    }

    /// Steps and streams at work.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Workflows this process holds in memory.
    pub fn live_workflows(&self) -> usize {
        self.runs.len()
    }

    /// Whether the step is being answered right now, or has had its outcome since it was looked at.
    pub fn is_at_work(&self, key: &WorkflowKey, step: StepIndex) -> bool {
        let runs = self.runs.known(key);
        runs.is_some_and(|run| run.state.lock().running.contains_key(&step))
            || self.journal.summary(key, step).is_ok_and(|now| now.is_none_or(|now| !now.may_have_happened()))
    }

    pub(crate) fn fresh_nonce(&self) -> RunNonce {
        let mut nonce = [0; 16];
        (self.random)(&mut nonce);
        RunNonce(nonce)
    }
}
