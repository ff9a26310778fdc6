//! Which attempt of its workflow a call belongs to (durability.md, section 3). Opens the workflow and
//! its attempts; refuses what belongs to an attempt that is over.

use std::sync::Arc;
use std::time::Duration;

use crate::failpoint::{Point, reach};
use crate::identity::peer;
use crate::journal::{Batch, Head, Peer, Record, Urgency, state::AttemptHead};
use crate::model::{
    AttemptId, AttemptReason, BadId, CallKind, Channel, Fingerprint, Owner, StepIndex, WorkflowId,
    WorkflowKey,
};
use crate::proxy::call::Call;
use crate::proxy::headers;
use crate::proxy::recording::Recording;
use crate::proxy::refusal;
use crate::proxy::run::{LiveAttempt, Run, RunState};
use crate::proxy::sidecar::{Reuse, Sidecar};
use crate::wire::mcp::{McpCall, McpMessage};
use crate::wire::refusal::Refusal;

use super::resume::LAST_EVENT_ID;

/// The caller's place: its workflow and the attempt it may act for.
#[derive(Clone, Debug)]
pub(crate) struct Enrolled {
    pub(crate) run: Arc<Run>,
    pub(crate) attempt: AttemptId,
    pub(crate) reason: AttemptReason,
    /// The attempt was named, or its process seen: another life of the agent would have been noticed.
    pub(crate) is_told_apart: bool,
    /// It may be the agent's next life, which has not asked for a step yet.
    pub(crate) may_be_next: bool,
    pub(crate) standing: Standing,
}

/// What the workflow still takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is closed; what was recorded is named and cannot be given any more.
    BodiesExpired,
    Open,
    /// It is closed; what is recorded is given, and nothing is sent.
    Replays,
}

/// Finds or opens the attempt. `asked` is the fingerprint of a step, `None` for calls that are no steps.
pub(crate) async fn attempt(
    sidecar: &Sidecar,
    call: &Call,
    workflow: &WorkflowId,
    asked: Option<&Fingerprint>,
) -> Result<Enrolled, Refusal> {
    if let Some(recording) = &sidecar.snapshot().recording {
        return replay(sidecar, recording, call, workflow);
    }
    let key = WorkflowKey { owner: Owner::local(), workflow: workflow.clone() };
    // A later leg looks like the call it goes on with, and is no sign of an agent that began again.
    let begins = asked.filter(|_| !call.continues());
    // Looking for the peer reads files; it happens before the lock, once per connection.
    let peer = match call.attempt {
        Some(_) => None,
        None => call.connection.peer(&sidecar.peers).await,
    };
    let is_told_apart = call.attempt.is_some() || peer.is_some();
    let (run, now) = (sidecar.runs.of(&key), sidecar.clock.since_boot());
    let mut state = run.state.lock();
    let head = sidecar.journal.attach(&key).map_err(|error| refusal::journal(&error))?;
    let chosen = choose(sidecar, &state, &key, head.as_ref(), call, peer, begins)?;
    let may_be_next = asked.is_none() && !is_told_apart && !chosen.opens(&state);
    let is_newcomer = may_be_next && is_newcomer(&state, call, now);
    let (attempt, reason, standing) = match chosen {
        Chosen::Current(current) => {
            adopt(&mut state, current.attempt, now);
            (current.attempt, current.reason, Standing::Open)
        }
        Chosen::Next(attempt, reason) => {
            let is_new = head.as_ref().is_none_or(|head| head.closed.is_some());
            if is_new {
                state.forget().map_err(|_| refusal::workflow_closed())?;
            }
            open(sidecar, &key, is_new, attempt, reason, peer)?;
            let before = head.as_ref().filter(|_| !is_new).and_then(|head| head.attempt.as_ref());
            state.begin(attempt, before, now);
            (attempt, reason, Standing::Open)
        }
        Chosen::Replayed { attempt, reason, standing } => {
            if state.attempt.as_ref().is_none_or(|live| live.id != attempt) {
                let before = state.attempt.take();
                state.attempt = Some(LiveAttempt::following(before, attempt, now));
            }
            (attempt, reason, standing)
        }
    };
    let may_be_next = match &mut state.attempt {
        Some(live) if is_newcomer => {
            live.meet_newcomer(&call.connection);
            live.expects_next()
        }
        Some(live) => {
            note(live, call, peer, begins, now);
            false
        }
        None => false,
    };
    drop(state);
    Ok(Enrolled { run, attempt, reason, is_told_apart, may_be_next, standing })
}

/// A session was given to whoever has called.
pub(crate) fn give_session(enrolled: &Enrolled, call: &Call, session: &str) {
    if let Some(live) = &mut enrolled.run.state.lock().attempt {
        live.give_session(&call.connection, session);
    }
}

/// Whether a call that is no step comes when the attempt is left, and names nothing that only who was there before
/// can know: a session, an event, a task, a request.
fn is_newcomer(state: &RunState, call: &Call, now: Duration) -> bool {
    let knows_session = headers::text(&call.headers, &headers::MCP_SESSION)
        .is_some_and(|session| state.attempt.as_ref().is_none_or(|live| !live.is_newcomers(session)));
    let knows_event = call.headers.contains_key(LAST_EVENT_ID);
    let knows_task = call.rpc_method() == Some("tasks/get");
    let goes_on = |mcp: &McpCall| mcp.cancels.is_some() || mcp.message == McpMessage::Response;
    let knows_request = call.inspected.mcp.as_ref().is_some_and(goes_on);
    state.is_left(now) && !(knows_session || knows_event || knows_task || knows_request)
}

/// In a strict replay attempts stand beside each other: each begins the recorded run anew, whatever the others do.
/// Calls that name none are of the first.
fn replay(
    sidecar: &Sidecar,
    recording: &Recording,
    call: &Call,
    workflow: &WorkflowId,
) -> Result<Enrolled, Refusal> {
    let recorded = recording.run(workflow).ok_or_else(|| refusal::no_such_run(recording))?;
    let attempt = recorded.attempt(call.attempt.unwrap_or(AttemptId::FIRST));
    let attempt = attempt.ok_or_else(|| refusal::bad_attempt(BadId::NotANumber))?;
    {
        // The journal counts attempts upwards: two calls do not open theirs at once.
        let whole = sidecar.runs.of(&recorded.key);
        let _one_at_a_time = whole.state.lock();
        let head = sidecar.journal.attach(&recorded.key).map_err(|error| refusal::journal(&error))?;
        let newest = head.and_then(|head| head.attempt).map(|newest| newest.attempt);
        if newest.is_none_or(|newest| newest < attempt) {
            open(sidecar, &recorded.key, false, attempt, AttemptReason::Explicit, None)?;
        }
    }
    let run = sidecar.runs.of_attempt(&recorded.key, attempt);
    adopt(&mut run.state.lock(), attempt, sidecar.clock.since_boot());
    let (reason, standing) = (AttemptReason::Explicit, Standing::Open);
    Ok(Enrolled { run, attempt, reason, is_told_apart: true, may_be_next: false, standing })
}

enum Chosen {
    Current(AttemptHead),
    Next(AttemptId, AttemptReason),
    /// Of a closed workflow: an attempt that this process alone knows of.
    Replayed {
        attempt: AttemptId,
        reason: AttemptReason,
        standing: Standing,
    },
}

impl Chosen {
    /// Whether the attempt begins with this call.
    fn opens(&self, state: &RunState) -> bool {
        match self {
            Self::Current(_) => false,
            Self::Next(..) => true,
            Self::Replayed { attempt, .. } => state.attempt.as_ref().is_none_or(|live| live.id != *attempt),
        }
    }
}

fn choose(
    sidecar: &Sidecar,
    state: &RunState,
    key: &WorkflowKey,
    head: Option<&Head>,
    call: &Call,
    peer: Option<&Peer>,
    asked: Option<&Fingerprint>,
) -> Result<Chosen, Refusal> {
    let snapshot = sidecar.snapshot();
    let Some(head) = head else {
        if snapshot.is_issued_only {
            return Err(refusal::unknown_workflow());
        }
        let reason = if call.attempt.is_some() { AttemptReason::Explicit } else { AttemptReason::First };
        return Ok(Chosen::Next(call.attempt.unwrap_or(AttemptId::FIRST), reason));
    };
    if head.closed.is_some() {
        let first = call.attempt.unwrap_or(AttemptId::FIRST);
        return match snapshot.reuse {
            Reuse::NewRun if !snapshot.is_issued_only => Ok(Chosen::Next(first, AttemptReason::First)),
            Reuse::NewRun | Reuse::Refuse | Reuse::Replay if head.removed.is_some() => {
                Err(refusal::workflow_removed())
            }
            Reuse::NewRun | Reuse::Refuse => Err(refusal::workflow_closed()),
            Reuse::Replay => replayed(sidecar, state, key, head, call, peer, asked),
        };
    }
    let Some(current) = &head.attempt else {
        return Ok(Chosen::Next(call.attempt.unwrap_or(AttemptId::FIRST), AttemptReason::First));
    };
    match call.attempt {
        Some(named) if named < current.attempt => Err(refusal::fenced(named, current.attempt)),
        Some(named) if named > current.attempt => Ok(Chosen::Next(named, AttemptReason::Explicit)),
        Some(_) => Ok(Chosen::Current(current.clone())),
        None => match peer {
            Some(peer) => by_process(state, current, peer, snapshot.is_shared),
            None => Ok(by_rewind(sidecar, state, key, current, (call, asked))),
        },
    }
}

/// The attempt that replays a closed workflow: one after the last that is recorded, told apart as others are.
fn replayed(
    sidecar: &Sidecar,
    state: &RunState,
    key: &WorkflowKey,
    head: &Head,
    call: &Call,
    peer: Option<&Peer>,
    asked: Option<&Fingerprint>,
) -> Result<Chosen, Refusal> {
    let standing = if head.bodies_expired.is_some() { Standing::BodiesExpired } else { Standing::Replays };
    let Some(last) = &head.attempt else { return Err(refusal::workflow_closed()) };
    let live = state.attempt.as_ref().map(|live| live.id).filter(|live| *live > last.attempt);
    let next = |attempt| match (call.attempt, peer) {
        (Some(named), _) => (named, AttemptReason::Explicit),
        (None, Some(_)) => (attempt, AttemptReason::Process),
        (None, None) => (attempt, AttemptReason::Rewind),
    };
    let (attempt, reason) = match (live, call.attempt) {
        (_, Some(named)) if named <= last.attempt => return Err(refusal::workflow_closed()),
        (Some(live), Some(named)) if named < live => return Err(refusal::fenced(named, live)),
        (None, _) | (_, Some(_)) => next(last.attempt.next()),
        (Some(live), None) => {
            let current = AttemptHead { attempt: live, peer: None, used_completed: 0, ..last.clone() };
            let chosen = match peer {
                Some(peer) => by_process(state, &current, peer, sidecar.snapshot().is_shared)?,
                None => by_rewind(sidecar, state, key, &current, (call, asked)),
            };
            match chosen {
                Chosen::Next(attempt, reason) | Chosen::Replayed { attempt, reason, .. } => (attempt, reason),
                Chosen::Current(_) => next(live),
            }
        }
    };
    Ok(Chosen::Replayed { attempt, reason, standing })
}

/// Rule (b): the attempt is its process, that process's relatives and, while it lives, its group.
fn by_process(
    state: &RunState,
    current: &AttemptHead,
    caller: &Peer,
    is_shared: bool,
) -> Result<Chosen, Refusal> {
    let live = state.attempt.as_ref().filter(|live| live.id == current.attempt);
    let members = live.map_or(&[][..], |live| &live.members);
    let known: Vec<&Peer> = members.iter().chain(&current.peer).collect();
    if known.contains(&caller) {
        return Ok(Chosen::Current(current.clone()));
    }
    if let Some((theirs, _)) = state.superseded.iter().find(|(_, process)| process == caller) {
        return Err(refusal::fenced(*theirs, current.attempt));
    }
    if known.is_empty() {
        return Ok(Chosen::Current(current.clone()));
    }
    let alive: Vec<&Peer> = known.into_iter().filter(|member| peer::is_alive(member)).collect();
    if alive.is_empty() {
        return Ok(Chosen::Next(current.attempt.next(), AttemptReason::Process));
    }
    let is_kin =
        |member: &&Peer| member.process_group == caller.process_group || peer::are_kin(member, caller);
    if is_shared || alive.iter().any(is_kin) {
        Ok(Chosen::Current(current.clone()))
    } else {
        Err(refusal::unrelated_process(caller.pid))
    }
}

/// Rule (c): the peer cannot be seen, and the call is one that the attempt began with.
fn by_rewind(
    sidecar: &Sidecar,
    state: &RunState,
    key: &WorkflowKey,
    current: &AttemptHead,
    (call, asked): (&Call, Option<&Fingerprint>),
) -> Chosen {
    let begins = || asked.is_some_and(|asked| began_with(sidecar, state, key, asked));
    // An agent that opens its sessions anew while it lives is alone again and again. A model it asks the same twice
    // only when it begins anew; a tool it may.
    let comes_back = state.attempt.as_ref().is_some_and(LiveAttempt::has_come_back);
    let tells = !comes_back || matches!(call.inspected.operation.channel, Channel::Step(CallKind::Llm));
    if state.is_left(sidecar.clock.since_boot()) && tells && begins() {
        Chosen::Next(current.attempt.next(), AttemptReason::Rewind)
    } else {
        Chosen::Current(current.clone())
    }
}

/// Whether the attempt asked this before its first answer. What this process did not see itself, the
/// journal's first step stands for: every attempt of a workflow begins like the first.
fn began_with(sidecar: &Sidecar, state: &RunState, key: &WorkflowKey, asked: &Fingerprint) -> bool {
    let seen = state.attempt.as_ref().is_some_and(|live| live.opening.contains(asked));
    seen || sidecar
        .journal
        .step(key, StepIndex::FIRST)
        .is_ok_and(|step| step.is_some_and(|step| step.summary.exact == *asked))
}

/// This process has not served the attempt yet: it goes on where another process of ours stopped.
fn adopt(state: &mut RunState, attempt: AttemptId, now: Duration) {
    if state.attempt.as_ref().is_none_or(|live| live.id != attempt) {
        state.attempt = Some(LiveAttempt::found(attempt, now));
    }
}

/// Opens the attempt, and the workflow with it when it is new. Rides the next flush: an attempt that is
/// lost with a crash had no effect, since the first effect's own flush would have kept it.
fn open(
    sidecar: &Sidecar,
    key: &WorkflowKey,
    is_new: bool,
    attempt: AttemptId,
    reason: AttemptReason,
    peer: Option<&Peer>,
) -> Result<(), Refusal> {
    let at = sidecar.clock.now();
    let epoch = sidecar.journal.epoch();
    let opened = is_new.then(|| Record::WorkflowOpened {
        nonce: sidecar.fresh_nonce(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at,
    });
    let begun = Record::AttemptOpened { attempt, epoch, reason, peer: peer.cloned(), at };
    let batch = Batch { records: opened.into_iter().chain([begun]).collect(), bodies: Vec::new() };
    // Nobody waits for this ticket: see above.
    sidecar
        .journal
        .commit(key, epoch, batch, Urgency::Ride)
        .map(drop)
        .map_err(|error| refusal::journal(&error))?;
    reach(Point::AttemptOpened);
    Ok(())
}

fn note(
    live: &mut LiveAttempt,
    call: &Call,
    peer: Option<&Peer>,
    begins: Option<&Fingerprint>,
    now: Duration,
) {
    live.meet(&call.connection, peer);
    live.active_at = now;
    if let Some(asked) = begins.filter(|_| !live.answered) {
        live.opening.insert(*asked);
    }
}
