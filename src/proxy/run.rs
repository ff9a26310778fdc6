//! What this process knows of a live workflow beside its journal: the attempt's connections and
//! processes, the steps at work, and which exchanges are still open. All of it may be lost; then the
//! journal alone decides, on the careful side.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::identity::peer;
use crate::journal::state::AttemptHead;
use crate::journal::{Peer, Record};
use crate::model::{AttemptId, Fingerprint, StepIndex, UpstreamName, WorkflowKey};
use crate::replay::cursor::Exchange;
use crate::replay::divergence::{Ahead, Tool};

use super::connection::Connection;
use super::dialogue::Dialogues;
use super::facts::Facts;
use super::feed::Feed;
use super::setbacks::Left;

/// Whether an exchange is open, and how it ended. Shared by the exchange's body and the run.
#[derive(Debug, Default)]
pub(crate) struct ExchangeMark(AtomicU8);

const OPEN: u8 = 0;
const DELIVERED: u8 = 1;
const LOST: u8 = 2;
/// The HTTP library has taken the last bytes to be written. The agent may have them as well, before this process learns that they
/// were written; if the connection ends first, the exchange is lost after all.
const HANDED: u8 = 3;

impl ExchangeMark {
    pub(crate) fn handed(&self) {
        self.0.store(HANDED, Ordering::Release);
    }

    pub(crate) fn delivered(&self) {
        self.0.store(DELIVERED, Ordering::Release);
    }

    /// Nothing of it is still on its way to the agent.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.0.load(Ordering::Acquire), DELIVERED | LOST)
    }

    pub(crate) fn read(&self) -> Exchange {
        match self.0.load(Ordering::Acquire) {
            OPEN => Exchange::Open,
            DELIVERED | HANDED => Exchange::Delivered,
            _ => Exchange::Lost,
        }
    }
}

/// Held by whatever carries a step's answer to the agent. Dropped before the end: the exchange is lost.
#[derive(Debug)]
pub(crate) struct ExchangeGuard(pub(crate) Arc<ExchangeMark>);

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let lost = |now| (now != DELIVERED).then_some(LOST);
        _ = self.0.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, lost);
    }
}

/// An attempt must have been idle this long before what comes next can be another life of the agent.
const REWIND_IDLE: Duration = Duration::from_millis(250);

/// What came when the attempt was left, and was no step. Whether it is the next life of the agent, or the same one
/// that has lost its connections, the first step tells.
#[derive(Debug, Default)]
pub(crate) struct Newcomer {
    connections: Vec<Weak<Connection>>,
    /// MCP sessions it was given. Whoever names another knows it from before.
    sessions: HashSet<String>,
}

impl Newcomer {
    /// Most sessions that are remembered. Who opens more without a single step counts as the same life.
    const SESSIONS_MAX: usize = 64;

    fn has(&self, connection: &Arc<Connection>) -> bool {
        self.connections.iter().any(|known| known.as_ptr() == Arc::as_ptr(connection))
    }
}

/// The attempt this process is serving.
#[derive(Debug)]
pub(crate) struct LiveAttempt {
    pub(crate) id: AttemptId,
    /// Processes known to belong to it.
    pub(crate) members: Vec<Peer>,
    connections: Vec<Weak<Connection>>,
    newcomer: Option<Newcomer>,
    /// A newcomer turned out to be the same life: this agent opens connections and sessions anew.
    comes_back: bool,
    /// What was asked before the first answer was delivered: how a restarted agent begins.
    pub(crate) opening: HashSet<Fingerprint>,
    pub(crate) answered: bool,
    /// The tools whose effects it had used, by upstream and operation, when last none of its connections was open: an
    /// agent may have died then, unseen. Looked up when first needed of an attempt that another process of ours served.
    pub(crate) tools_in_question: Option<HashSet<Tool>>,
    /// Those it has used since.
    tools: HashSet<Tool>,
    /// Time since boot of the last request, or of the last look at an open exchange.
    pub(crate) active_at: Duration,
    /// The recorded steps it has not asked for; looked up when first needed.
    pub(crate) ahead: Option<Ahead>,
    /// What it is told again of what earlier attempts were told; looked up when first needed.
    pub(crate) setbacks: Option<Left>,
    /// Steps whose last try failed, while the agent has not been handed that.
    pub(crate) failed: HashSet<StepIndex>,
    /// A divergence of it has been told.
    pub(crate) has_diverged: bool,
    /// Recorded steps that a replay has waited for in vain.
    pub(crate) not_awaited: HashSet<StepIndex>,
    /// The exchange that last carried each step of this attempt.
    pub(crate) exchanges: HashMap<StepIndex, Arc<ExchangeMark>>,
}

impl LiveAttempt {
    pub(crate) fn new(id: AttemptId, now: Duration) -> Self {
        Self {
            id,
            members: Vec::new(),
            connections: Vec::new(),
            newcomer: None,
            comes_back: false,
            opening: HashSet::new(),
            answered: false,
            tools_in_question: Some(HashSet::new()),
            tools: HashSet::new(),
            ahead: None,
            setbacks: None,
            failed: HashSet::new(),
            has_diverged: false,
            not_awaited: HashSet::new(),
            active_at: now,
            exchanges: HashMap::new(),
        }
    }

    /// One that another process of ours has served. What was before, nobody has seen: neither how it began, nor that
    /// its agent was always there.
    pub(crate) fn found(id: AttemptId, now: Duration) -> Self {
        Self { answered: true, tools_in_question: None, ..Self::new(id, now) }
    }

    /// The one after `before`, whose newcomer it was.
    pub(crate) fn following(before: Option<Self>, id: AttemptId, now: Duration) -> Self {
        let newcomer = before.and_then(|before| before.newcomer).unwrap_or_default();
        let connections = newcomer.connections.into_iter().filter(|one| one.strong_count() > 0).collect();
        Self { connections, ..Self::new(id, now) }
    }

    /// Whether somebody is connected, whichever life it is.
    pub(crate) fn is_connected(&self) -> bool {
        let newcomers = self.newcomer.iter().flat_map(|newcomer| &newcomer.connections);
        self.connections.iter().chain(newcomers).any(|connection| connection.strong_count() > 0)
    }

    /// None of its own connections is open, and it was idle until the newcomer came, or is.
    fn is_left(&self, now: Duration) -> bool {
        let is_idle = self.newcomer.is_some() || now.saturating_sub(self.active_at) >= REWIND_IDLE;
        is_idle && self.connections.iter().all(|connection| connection.strong_count() == 0)
    }

    /// A call comes that is no step, while the attempt is left.
    pub(crate) fn meet_newcomer(&mut self, connection: &Arc<Connection>) {
        if !self.connections.is_empty() {
            self.was_alone();
        }
        let newcomer = self.newcomer.get_or_insert_default();
        newcomer.connections.retain(|known| known.strong_count() > 0);
        if !newcomer.has(connection) {
            newcomer.connections.push(Arc::downgrade(connection));
        }
    }

    fn was_alone(&mut self) {
        if let Some(in_question) = &mut self.tools_in_question {
            in_question.extend(self.tools.drain());
        }
    }

    /// It uses an effect of this tool.
    pub(crate) fn use_tool(&mut self, tool: Tool) {
        self.tools.insert(tool);
    }

    /// A newcomer turned out to be this same life before.
    pub(crate) fn has_come_back(&self) -> bool {
        self.comes_back
    }

    /// Whether the newcomer's calls are answered as the next life's.
    pub(crate) fn expects_next(&self) -> bool {
        self.newcomer.is_some() && !self.comes_back
    }

    /// A session was given over this connection.
    pub(crate) fn give_session(&mut self, connection: &Arc<Connection>, session: &str) {
        if let Some(newcomer) = self.newcomer.as_mut().filter(|newcomer| newcomer.has(connection))
            && newcomer.sessions.len() < Newcomer::SESSIONS_MAX
        {
            newcomer.sessions.insert(session.to_owned());
        }
    }

    /// Whether the newcomer was given this session.
    pub(crate) fn is_newcomers(&self, session: &str) -> bool {
        self.newcomer.as_ref().is_some_and(|newcomer| newcomer.sessions.contains(session))
    }

    /// A call of the attempt comes. Whoever came before it and was in question is then of the attempt as well.
    pub(crate) fn meet(&mut self, connection: &Arc<Connection>, peer: Option<&Peer>) {
        if let Some(newcomer) = self.newcomer.take() {
            self.comes_back = true;
            self.connections.extend(newcomer.connections);
        }
        let is_first = self.connections.is_empty();
        self.connections.retain(|known| known.strong_count() > 0);
        if !is_first && self.connections.is_empty() {
            self.was_alone();
        }
        if !self.connections.iter().any(|known| known.as_ptr() == Arc::as_ptr(connection)) {
            self.connections.push(Arc::downgrade(connection));
        }
        if let Some(peer) = peer.filter(|peer| !self.members.contains(peer)) {
            self.members.push(peer.clone());
        }
    }
}

/// Where an agent's MCP session stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamSession {
    /// The upstream's own session id, once there is one.
    pub(crate) id: Option<String>,
    /// The agent has ended it: what is asked under it still is not opened again.
    pub(crate) ended: bool,
}

/// Steps of earlier lives of the sidecar by normalised fingerprints that are not the recorded ones, since the
/// config was another one then.
#[derive(Debug, Default)]
pub(crate) struct Renewed {
    /// What the calls had beside their bodies for which this was looked at.
    pub(crate) heads: Vec<Fingerprint>,
    pub(crate) steps: HashMap<Fingerprint, Vec<StepIndex>>,
}

#[derive(Debug, Default)]
pub(crate) struct RunState {
    pub(crate) attempt: Option<LiveAttempt>,
    /// Processes of earlier attempts that were still alive when a newer one was opened, and whose they were.
    pub(crate) superseded: Vec<(AttemptId, Peer)>,
    pub(crate) running: HashMap<StepIndex, Arc<Feed>>,
    /// The MCP requests behind them, and the last ones that have ended.
    pub(crate) dialogues: Dialogues,
    /// Steps that were not sent because their intent could not be written; there is nothing after that.
    pub(crate) unwritten: HashSet<StepIndex>,
    /// What is to be recorded with the next commit.
    pub(crate) notes: Vec<Record>,
    /// Recorded model calls by what they are normalised to under this process's config.
    pub(crate) renewed: Renewed,
    /// What provably happened; read when a policy first asks.
    pub(crate) facts: Option<Facts>,
    /// Sessions the upstreams gave, by upstream and by the session id the agent was shown.
    pub(crate) sessions: HashMap<(UpstreamName, String), UpstreamSession>,
}

/// One live workflow. Its lock is held for decisions only, never across an await.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) key: WorkflowKey,
    pub(crate) state: Mutex<RunState>,
    /// Somebody has resolved one of its steps.
    pub(crate) resolved: tokio::sync::Notify,
    /// One session is opened at a time.
    pub(crate) opening_session: tokio::sync::Mutex<()>,
    /// Recorded calls are normalised anew by one call at a time.
    pub(crate) renewing: tokio::sync::Mutex<()>,
    /// Told when one is there.
    pub(crate) session_opened: tokio::sync::Notify,
}

impl RunState {
    /// Most processes of earlier attempts that are remembered; the oldest are forgotten.
    const SUPERSEDED_MAX: usize = 64;

    /// What is about to be recorded, for whoever asks what has happened.
    pub(crate) fn take_note(&mut self, records: &[Record]) {
        if let Some(facts) = &mut self.facts {
            records.iter().for_each(|record| facts.apply(record));
        }
    }

    /// Goes on with a newer attempt. `before`: what the journal says of the one before.
    pub(crate) fn begin(&mut self, attempt: AttemptId, before: Option<&AttemptHead>, now: Duration) {
        let opener = before.and_then(|before| Some((before.attempt, before.peer.clone()?)));
        let live = self.attempt.take();
        let members = live.iter().flat_map(|live| live.members.iter().map(|peer| (live.id, peer.clone())));
        for (whose, process) in opener.into_iter().chain(members) {
            if !self.superseded.iter().any(|(_, known)| *known == process) {
                self.superseded.push((whose, process));
            }
        }
        self.superseded.retain(|(_, process)| peer::is_alive(process));
        let surplus = self.superseded.len().saturating_sub(Self::SUPERSEDED_MAX);
        self.superseded.drain(..surplus);
        self.attempt = Some(LiveAttempt::following(live, attempt, now));
    }

    /// Nobody of the attempt is there, as far as can be seen: what comes now may be the agent's next life.
    pub(crate) fn is_left(&self, now: Duration) -> bool {
        let is_attended = self.running.values().any(|feed| feed.has_readers());
        !is_attended && self.attempt.as_ref().is_none_or(|live| live.is_left(now))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.attempt.as_ref().is_none_or(|attempt| !attempt.is_connected())
    }

    fn active_at(&self) -> Duration {
        self.attempt.as_ref().map_or(Duration::ZERO, |attempt| attempt.active_at)
    }
}

/// The live workflows of this process.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<HashMap<RunKey, Arc<Run>>>);

/// A workflow, or one attempt of it where attempts do not follow but stand beside each other (strict replay).
type RunKey = (WorkflowKey, Option<AttemptId>);

impl Runs {
    /// Idle workflows above this number are forgotten, the longest idle first.
    pub(crate) const LIVE_MAX: usize = 1024;

    pub(crate) fn of(&self, key: &WorkflowKey) -> Arc<Run> {
        self.find((key.clone(), None))
    }

    /// What is known of one attempt apart from all others of its workflow.
    pub(crate) fn of_attempt(&self, key: &WorkflowKey, attempt: AttemptId) -> Arc<Run> {
        self.find((key.clone(), Some(attempt)))
    }

    fn find(&self, key: RunKey) -> Arc<Run> {
        let mut runs = self.0.lock();
        if let Some(run) = runs.get(&key) {
            return Arc::clone(run);
        }
        if runs.len() >= Self::LIVE_MAX {
            forget_idle(&mut runs);
        }
        let run = Arc::new(Run {
            key: key.0.clone(),
            state: Mutex::default(),
            resolved: tokio::sync::Notify::new(),
            opening_session: tokio::sync::Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            session_opened: tokio::sync::Notify::new(),
        });
        runs.insert(key, Arc::clone(&run));
        run
    }

    /// The workflow, if something of it is in memory.
    pub(crate) fn known(&self, key: &WorkflowKey) -> Option<Arc<Run>> {
        self.0.lock().get(&(key.clone(), None)).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// Forgets a quarter of the idle workflows, so that the search is not repeated for every new one.
fn forget_idle(runs: &mut HashMap<RunKey, Arc<Run>>) {
    let mut idle: Vec<(Duration, RunKey)> = runs
        .iter()
        .filter(|(_, run)| Arc::strong_count(run) == 1)
        .filter_map(|(key, run)| {
            let state = run.state.lock();
            state.is_idle().then(|| (state.active_at(), key.clone()))
        })
        .collect();
    idle.sort_by_key(|(active_at, _)| *active_at);
    for (_, key) in idle.iter().take((idle.len() / 4).max(1)) {
        runs.remove(key);
    }
}
