//! Which step a call is: recorded, running, or new (durability.md, section 4). Decides under the
//! workflow's lock; whatever waits, waits outside it.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::{Batch, Body, Intent, Journal, Record, StepSummary, Ticket, Urgency};
use crate::model::{
    AttemptId, AttemptReason, BodyHash, CallKind, EffectClass, Fingerprint, StepIndex, StepState,
};
use crate::proxy::call::Call;
use crate::proxy::feed::Feed;
use crate::proxy::refusal;
use crate::proxy::run::{ExchangeGuard, ExchangeMark, Run, RunState};
use crate::proxy::sidecar::Sidecar;
use crate::replay::cursor::{self, Candidate, Decision, Exchange};
use crate::wire::refusal::Refusal;

use super::enroll::Enrolled;
use super::repetition;

/// How long a new effect waits for an equal one's exchange to close before it counts as meant twice.
const EQUAL_EFFECT_WAIT: Duration = Duration::from_millis(50);
const EQUAL_EFFECT_POLL: Duration = Duration::from_millis(5);

/// One exchange that carries a step's answer to the agent.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) run: Arc<Run>,
    pub(crate) attempt: AttemptId,
    pub(crate) reason: AttemptReason,
    pub(crate) step: StepIndex,
    pub(crate) guard: ExchangeGuard,
}

/// What the journal and the running steps say about a call.
#[derive(Debug)]
pub(crate) enum Recall {
    /// Its answer is recorded. The ticket must resolve before the end of the answer leaves.
    Recorded { served: Served, ticket: Option<Ticket> },
    /// It is being answered right now.
    InFlight { served: Served, feed: Arc<Feed> },
    /// It has to be sent.
    Fresh(Slot),
}

/// The right to begin a step, or its next try. Nothing is recorded yet.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) enrolled: Enrolled,
    again: Option<StepSummary>,
    /// Steps recorded with this fingerprint when the slot was given.
    seen: usize,
}

/// A step whose intent is in the journal: from here on the sidecar owes it an outcome.
#[derive(Debug)]
pub(crate) struct OpenStep {
    pub(crate) run: Arc<Run>,
    pub(crate) step: StepIndex,
    pub(crate) tried: u32,
    pub(crate) possibly_billed: bool,
    pub(crate) feed: Arc<Feed>,
    /// The intent; an effect waits for it before its first byte leaves.
    pub(crate) intent: Ticket,
}

/// A call of this kind and class, with its fingerprints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: CallKind,
    pub(crate) class: EffectClass,
    pub(crate) exact: Fingerprint,
    pub(crate) normalised: Option<Fingerprint>,
}

/// Finds the step. In doubt and unreadable steps end in a refusal.
pub(crate) async fn step(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    call: &Call,
    asked: &Asked,
) -> Result<Recall, Refusal> {
    let mut waited = Duration::ZERO;
    loop {
        let rival = match decide(sidecar, enrolled, call, asked)? {
            Decided::Recall(recall) => return Ok(recall),
            Decided::New { slot, rival } => match rival {
                Some(rival) if asked.class == EffectClass::Effect && waited < EQUAL_EFFECT_WAIT => rival,
                Some(_) | None => return Ok(Recall::Fresh(slot)),
            },
        };
        while waited < EQUAL_EFFECT_WAIT && rival.read() == Exchange::Open {
            tokio::time::sleep(EQUAL_EFFECT_POLL).await;
            waited += EQUAL_EFFECT_POLL;
        }
        if rival.read() == Exchange::Open {
            waited = EQUAL_EFFECT_WAIT;
        }
    }
}

enum Decided {
    Recall(Recall),
    New { slot: Slot, rival: Option<Arc<ExchangeMark>> },
}

fn decide(sidecar: &Sidecar, enrolled: &Enrolled, call: &Call, asked: &Asked) -> Result<Decided, Refusal> {
    let run = &enrolled.run;
    let mut state = run.state.lock();
    check_attempt(&state, enrolled)?;
    let found = look_up(sidecar, &state, enrolled, asked)?;
    match found.decision {
        Decision::Replay(step) => {
            let repeated = found.summaries.len() > 1 || asked.class == EffectClass::Effect;
            let ticket = use_step(sidecar, &mut state, enrolled, step, repeated)?;
            let served = serve(&mut state, enrolled, step);
            repetition::note(&mut state, call, asked.class);
            Ok(Decided::Recall(Recall::Recorded { served, ticket: ticket.filter(|_| repeated) }))
        }
        Decision::Join(step) => {
            // The ticket may ride: whoever joins gets the end of the answer after a flush of its own.
            drop(use_step(sidecar, &mut state, enrolled, step, false)?);
            let feed = state.running.get(&step).cloned().ok_or_else(refusal::internal)?;
            let served = serve(&mut state, enrolled, step);
            repetition::note(&mut state, call, asked.class);
            Ok(Decided::Recall(Recall::InFlight { served, feed }))
        }
        Decision::InDoubt(step) => Err(doubt(sidecar, run, &found, step, enrolled.attempt, asked, call)),
        Decision::TryAgain(step) => {
            let again = found.summaries.iter().find(|summary| summary.step == step).cloned();
            let slot = Slot { enrolled: enrolled.clone(), again, seen: found.summaries.len() };
            Ok(Decided::New { slot, rival: None })
        }
        Decision::New => {
            repetition::check(sidecar, &mut state, enrolled, call, asked)?;
            let slot = Slot { enrolled: enrolled.clone(), again: None, seen: found.summaries.len() };
            Ok(Decided::New { slot, rival: open_rival(&state, &found.summaries) })
        }
    }
}

/// A request that waited may have been overtaken by the next attempt.
fn check_attempt(state: &RunState, enrolled: &Enrolled) -> Result<(), Refusal> {
    match &state.attempt {
        Some(live) if live.id > enrolled.attempt => Err(refusal::fenced(enrolled.attempt, live.id)),
        Some(_) | None => Ok(()),
    }
}

struct Found {
    summaries: Vec<StepSummary>,
    decision: Decision,
}

fn look_up(
    sidecar: &Sidecar,
    state: &RunState,
    enrolled: &Enrolled,
    asked: &Asked,
) -> Result<Found, Refusal> {
    let by = |fingerprint: &Fingerprint| -> Result<Found, Refusal> {
        let journal = sidecar.journal.as_ref();
        let key = &enrolled.run.key;
        let summaries = journal.find(key, fingerprint).map_err(|error| refusal::journal(&error))?;
        let candidates: Vec<Candidate> = summaries
            .iter()
            .map(|summary| candidate(journal, state, enrolled, summary))
            .collect::<Result<_, _>>()?;
        Ok(Found { decision: cursor::decide(&candidates), summaries })
    };
    let exact = by(&asked.exact)?;
    match (exact.decision, &asked.normalised) {
        (Decision::New, Some(normalised)) => {
            let loose = by(normalised)?;
            Ok(if loose.decision == Decision::New { exact } else { loose })
        }
        _ => Ok(exact),
    }
}

fn candidate(
    journal: &dyn Journal,
    state: &RunState,
    enrolled: &Enrolled,
    summary: &StepSummary,
) -> Result<Candidate, Refusal> {
    let mark = state.attempt.as_ref().and_then(|live| live.exchanges.get(&summary.step));
    let used = match mark {
        Some(mark) => Some(mark.read()),
        // An exchange of another life of the sidecar: it ended with it, if not before.
        None => journal
            .usage(&enrolled.run.key, enrolled.attempt, summary.step)
            .map_err(|error| refusal::journal(&error))?
            .map(|used| if used.delivered { Exchange::Delivered } else { Exchange::Lost }),
    };
    Ok(Candidate {
        step: summary.step,
        state: summary.state,
        class: summary.class,
        cleared: summary.cleared,
        running: state.running.contains_key(&summary.step),
        used,
    })
}

/// Records that this attempt has used the step, unless it already had.
fn use_step(
    sidecar: &Sidecar,
    state: &mut RunState,
    enrolled: &Enrolled,
    step: StepIndex,
    durable: bool,
) -> Result<Option<Ticket>, Refusal> {
    let key = &enrolled.run.key;
    let served_here = state.attempt.as_ref().is_some_and(|live| live.exchanges.contains_key(&step));
    let known =
        sidecar.journal.usage(key, enrolled.attempt, step).map_err(|error| refusal::journal(&error))?;
    if served_here || known.is_some() {
        // INVARIANT: what a failed flush has lost is not served. An empty commit asks without writing.
        let asked = sidecar.journal.commit(key, sidecar.journal.epoch(), Batch::default(), Urgency::Ride);
        return asked.map(|_| None).map_err(|error| refusal::journal(&error));
    }
    let record = Record::Redelivered { step, attempt: enrolled.attempt, at: sidecar.clock.now() };
    let batch = Batch { records: state.with_notes([record]), bodies: Vec::new() };
    let urgency = if durable { Urgency::Now } else { Urgency::Ride };
    sidecar
        .journal
        .commit(key, sidecar.journal.epoch(), batch, urgency)
        .map(Some)
        .map_err(|error| refusal::journal(&error))
}

fn serve(state: &mut RunState, enrolled: &Enrolled, step: StepIndex) -> Served {
    let mark = Arc::new(ExchangeMark::default());
    if let Some(live) = &mut state.attempt {
        live.exchanges.insert(step, Arc::clone(&mark));
    }
    Served {
        run: Arc::clone(&enrolled.run),
        attempt: enrolled.attempt,
        reason: enrolled.reason,
        step,
        guard: ExchangeGuard(mark),
    }
}

/// An equal effect that is under way with its agent still connected.
fn open_rival(state: &RunState, summaries: &[StepSummary]) -> Option<Arc<ExchangeMark>> {
    let live = state.attempt.as_ref()?;
    summaries
        .iter()
        .filter(|summary| state.running.contains_key(&summary.step))
        .find_map(|summary| live.exchanges.get(&summary.step))
        .filter(|mark| mark.read() == Exchange::Open)
        .cloned()
}

fn doubt(
    sidecar: &Sidecar,
    run: &Run,
    found: &Found,
    step: StepIndex,
    attempt: AttemptId,
    asked: &Asked,
    call: &Call,
) -> Refusal {
    let refusal = refusal::in_doubt(step, &call.inspected.operation.name, call.upstream.name.as_str());
    let at = sidecar.clock.now();
    let known =
        found.summaries.iter().any(|summary| summary.step == step && summary.state == StepState::InDoubt);
    let cause = "its request may have been sent, and no answer is recorded".to_owned();
    let doubt = (!known).then_some(Record::InDoubt { step, cause, at });
    let refused = Record::Refused {
        step: Some(step),
        attempt,
        exact: asked.exact,
        operation: call.inspected.operation.name.to_string(),
        code: refusal.code.to_string(),
        at,
    };
    let batch = Batch { records: doubt.into_iter().chain([refused]).collect(), bodies: Vec::new() };
    // The refusal stands whether or not it can be recorded.
    _ = sidecar.journal.commit(&run.key, sidecar.journal.epoch(), batch, Urgency::Ride);
    refusal
}

impl Slot {
    /// Begins the step: its intent and its request enter the journal, and the exchange is registered.
    /// `Ok(None)`: another call was faster and the question must be asked again.
    pub(crate) fn open(
        self,
        sidecar: &Sidecar,
        call: &Call,
        asked: &Asked,
    ) -> Result<Option<(OpenStep, Served)>, Refusal> {
        let run = Arc::clone(&self.enrolled.run);
        // Before the lock: it takes as long as the body is large.
        let request = self.again.is_none().then(|| Body {
            hash: BodyHash(*blake3::hash(&call.body).as_bytes()),
            bytes: call.body.clone(),
            parts: call.inspected.parts.clone(),
        });
        let mut state = run.state.lock();
        check_attempt(&state, &self.enrolled)?;
        let found = look_up(sidecar, &state, &self.enrolled, asked)?;
        let unchanged = match (&self.again, found.decision) {
            (Some(again), Decision::TryAgain(step)) => again.step == step,
            (None, Decision::New) => found.summaries.len() >= self.seen,
            _ => false,
        };
        if !unchanged {
            return Ok(None);
        }
        let (step, tried, mut batch) = match (&self.again, request) {
            (None, Some(request)) => self.first_try(sidecar, call, asked, &found, request)?,
            (Some(again), _) => self.next_try(sidecar, again)?,
            (None, None) => return Err(refusal::internal()),
        };
        batch.records = state.with_notes(batch.records);
        let urgency = if asked.class == EffectClass::Effect { Urgency::Now } else { Urgency::Ride };
        let intent = sidecar
            .journal
            .commit(&run.key, sidecar.journal.epoch(), batch, urgency)
            .map_err(|error| refusal::journal(&error))?;
        let feed = Arc::new(Feed::default());
        state.running.insert(step, Arc::clone(&feed));
        let served = serve(&mut state, &self.enrolled, step);
        repetition::note(&mut state, call, asked.class);
        let billed = self.again.as_ref().is_some_and(|again| again.kind == CallKind::Llm && !again.cleared);
        let open = OpenStep { run: Arc::clone(&run), step, tried, possibly_billed: billed, feed, intent };
        Ok(Some((open, served)))
    }

    fn next_try(&self, sidecar: &Sidecar, again: &StepSummary) -> Result<(StepIndex, u32, Batch), Refusal> {
        let (step, tried, at) = (again.step, again.tries.saturating_add(1), sidecar.clock.now());
        let used = sidecar
            .journal
            .usage(&self.enrolled.run.key, self.enrolled.attempt, step)
            .map_err(|error| refusal::journal(&error))?;
        let uses = used.is_none().then_some(Record::Redelivered { step, attempt: self.enrolled.attempt, at });
        let records = uses.into_iter().chain([Record::Dispatched { step, tried, at }]).collect();
        Ok((step, tried, Batch { records, bodies: Vec::new() }))
    }

    fn first_try(
        &self,
        sidecar: &Sidecar,
        call: &Call,
        asked: &Asked,
        found: &Found,
        request: Body,
    ) -> Result<(StepIndex, u32, Batch), Refusal> {
        let key = &self.enrolled.run.key;
        let head = sidecar.journal.attach(key).map_err(|error| refusal::journal(&error))?;
        let step = StepIndex::new(head.map_or(0, |head| head.steps) + 1).ok_or_else(refusal::internal)?;
        let at = sidecar.clock.now();
        let own = found.summaries.iter().filter(|summary| summary.attempt == self.enrolled.attempt).count();
        let intent = Intent {
            step,
            attempt: self.enrolled.attempt,
            epoch: sidecar.journal.epoch(),
            kind: asked.kind,
            dialect: call.upstream.dialect,
            upstream: call.upstream.name.clone(),
            operation: call.inspected.operation.name.to_string(),
            class: asked.class,
            exact: asked.exact,
            normalised: asked.normalised,
            occurrence: u32::try_from(own).unwrap_or(u32::MAX).saturating_add(1),
            idempotency_key: None,
            request: request.hash,
            request_len: call.body.len() as u64,
            at,
        };
        let records = vec![Record::Intent(intent), Record::Dispatched { step, tried: 1, at }];
        Ok((step, 1, Batch { records, bodies: vec![request] }))
    }
}
