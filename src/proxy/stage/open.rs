//! Begins a step, or its next try: its intent enters the journal before anything is sent (durability.md,
//! section 5). From there on the sidecar owes it an outcome.

use std::sync::Arc;

use bytes::Bytes;

use crate::failpoint::{Defect, Point, is_broken, reach};
use crate::journal::{Batch, Body, Intent, Record, StepSummary, Ticket, Urgency};
use crate::model::{BodyHash, CallKind, EffectClass, Resolution, StepIndex, StepState};
use crate::proxy::call::Call;
use crate::proxy::feed::Feed;
use crate::proxy::refusal;
use crate::proxy::run::{Run, RunState};
use crate::proxy::sidecar::Sidecar;
use crate::replay::cursor::Decision;
use crate::wire::refusal::Refusal;

use super::authorize::{self, Grant, Judged};
use super::enroll::Enrolled;
use super::recall::{self, Asked, Found, Question, Served};
use super::{idempotency, repetition, setback};

/// The right to begin a step, or its next try. Nothing is recorded yet.
#[derive(Debug)]
pub(crate) struct Slot {
    enrolled: Enrolled,
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
    /// What is sent.
    pub(crate) request: Sent,
    /// The idempotency key it is sent under.
    pub(crate) key: Option<String>,
    /// The upstream knows every try of the step by its key: another one is no second call.
    pub(crate) is_keyed: bool,
    /// What sending it again would do: the stricter of what was recorded and what the config says now.
    pub(crate) class: EffectClass,
    /// What the policies have let through, if there are any.
    pub(crate) grant: Option<Grant>,
}

/// What came of opening a step.
#[derive(Debug)]
pub(crate) enum Opened {
    Begun(Box<OpenStep>, Served),
    /// Another call was faster, and the question must be asked again.
    AskAgain,
    /// The policies do not allow it, and that is recorded.
    Denied {
        refusal: Refusal,
        step: Option<StepIndex>,
    },
}

/// The body of a try.
#[derive(Debug)]
pub(crate) enum Sent {
    /// These bytes: the agent's own, with the idempotency key if it is an argument.
    Live(Bytes),
    /// The recorded ones of the first try: whatever may act twice is the same request twice.
    Recorded(BodyHash),
}

impl Slot {
    /// A step that is not recorded yet, as opposed to the next try of one.
    pub(super) fn is_new(&self) -> bool {
        self.again.is_none()
    }

    /// Steps recorded with the call's fingerprint; when it is new, the attempt has used them all.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// The step whose next try it would be.
    pub(super) fn again(&self) -> Option<&StepSummary> {
        self.again.as_ref()
    }

    pub(super) fn new(enrolled: &Enrolled, again: Option<StepSummary>, seen: usize) -> Self {
        Self { enrolled: enrolled.clone(), again, seen }
    }

    /// Begins the step: its intent and its request enter the journal, and the exchange is registered.
    pub(crate) fn open(self, sidecar: &Arc<Sidecar>, call: &Call, asked: &Asked) -> Result<Opened, Refusal> {
        let run = Arc::clone(&self.enrolled.run);
        if self.again.is_none() {
            sidecar.check_space()?;
        }
        // Before the lock: it takes as long as the body is large.
        let request = (self.again.is_none() && !idempotency::is_argument(call)).then(|| Body {
            hash: BodyHash(*blake3::hash(&call.body).as_bytes()),
            bytes: call.body.clone(),
            parts: call.inspected.parts.clone(),
        });
        let mut state = run.state.lock();
        recall::check_attempt(&state, &self.enrolled)?;
        let question = Question { sidecar, enrolled: &self.enrolled, call, asked };
        let found = recall::look_up(&question, &state)?;
        let unchanged = match (&self.again, found.decision) {
            (Some(again), Decision::TryAgain(step)) => again.step == step,
            (None, Decision::New) => found.summaries.len() >= self.seen,
            _ => false,
        };
        if !unchanged {
            return Ok(Opened::AskAgain);
        }
        let class = self.class(asked);
        let Try { step, tried, mut batch, request, key, is_keyed } = match &self.again {
            None => self.first_try(sidecar, call, asked, &found, request)?,
            Some(again) => self.next_try(&question, &found, again)?,
        };
        let grant = match authorize::judge(&question, &mut state, (step, self.is_new()))? {
            Judged::Granted(granted) => granted.map(|(grant, record)| {
                batch.records.push(record);
                grant
            }),
            Judged::Denied { refusal, record } => {
                return Ok(self.deny(&question, &mut state, (refusal, record)));
            }
        };
        state.take_note(&batch.records);
        batch.records = state.with_notes(batch.records);
        let rides = class == EffectClass::Read || is_broken(Defect::IntentAfterDispatch);
        let urgency = if rides { Urgency::Ride } else { Urgency::Now };
        reach(Point::IntentComing);
        let intent =
            sidecar.journal.commit(&run.key, sidecar.journal.epoch(), batch, urgency).map_err(|error| {
                // What was taken note of is not there.
                state.facts = None;
                refusal::journal(&error)
            })?;
        reach(Point::IntentQueued);
        let feed = self.registered(&mut state, (step, class), call, asked.kind);
        let served = recall::serve(&mut state, &self.enrolled, step);
        repetition::note(&mut state, call, class);
        let possibly_billed =
            self.again.as_ref().is_some_and(|again| again.kind == CallKind::Llm && !again.cleared);
        let run = Arc::clone(&run);
        let of = OpenStep {
            run,
            step,
            tried,
            possibly_billed,
            feed,
            intent,
            request,
            key,
            is_keyed,
            class,
            grant,
        };
        Ok(Opened::Begun(Box::new(of), served))
    }

    /// What this process knows of the step from now on; where its answer will come.
    fn registered(
        &self,
        state: &mut RunState,
        (step, class): (StepIndex, EffectClass),
        call: &Call,
        kind: CallKind,
    ) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        state.running.insert(step, Arc::clone(&feed));
        if let Some(live) = &mut state.attempt {
            live.failed.remove(&step);
            if let Some(ahead) = live.ahead.as_mut().filter(|_| self.is_new()) {
                ahead.begun(kind);
            }
        }
        state.dialogues.begin(step, call, class);
        feed
    }

    /// Records that the policies do not allow the call. The refusal stands whether or not it can be recorded.
    fn deny(
        &self,
        question: &Question<'_>,
        state: &mut RunState,
        (refusal, decided): (Refusal, Record),
    ) -> Opened {
        let step = self.again.as_ref().map(|again| again.step);
        let records = [decided, setback::refused(question, step, &refusal)];
        let batch = Batch { records: state.with_notes(records), bodies: Vec::new() };
        let (journal, key) = (&question.sidecar.journal, &self.enrolled.run.key);
        _ = journal.commit(key, journal.epoch(), batch, Urgency::Ride);
        Opened::Denied { refusal, step }
    }

    fn class(&self, asked: &Asked) -> EffectClass {
        self.again.as_ref().map_or(asked.class, |again| again.class.stricter(asked.class))
    }

    fn next_try(&self, question: &Question<'_>, found: &Found, again: &StepSummary) -> Result<Try, Refusal> {
        let (sidecar, call) = (question.sidecar, question.call);
        let (step, tried, at) = (again.step, again.tries.saturating_add(1), sidecar.clock.now());
        let used = sidecar
            .journal
            .usage(&self.enrolled.run.key, self.enrolled.attempt, step)
            .map_err(|error| refusal::journal(&error))?;
        let (attempt, found_by) = (self.enrolled.attempt, Some(found.by));
        let uses = used.is_none().then_some(Record::Redelivered { step, attempt, at, found_by });
        let recorded = sidecar
            .journal
            .step(&self.enrolled.run.key, step)
            .map_err(|error| refusal::journal(&error))?
            .ok_or_else(refusal::internal)?;
        let is_keyed = idempotency::holds(call, &recorded.intent);
        let doubtful = again.state == StepState::InDoubt && !is_keyed;
        // Only the operator's config gets an effect in doubt this far.
        let resolved = doubtful.then(|| Record::Resolved {
            step,
            resolution: Resolution::Repeat,
            by: "config (in_doubt: retry)".to_owned(),
            at,
        });
        let records =
            uses.into_iter().chain(resolved).chain([Record::Dispatched { step, tried, at }]).collect();
        let batch = Batch { records, bodies: Vec::new() };
        if self.class(question.asked) == EffectClass::Read {
            let request = Sent::Live(call.body.clone());
            return Ok(Try { step, tried, batch, request, key: None, is_keyed: false });
        }
        // What a chain's later leg brings is in none of the recorded bytes.
        let leg = call.continues().then(|| call.body.clone());
        let key = recorded.intent.idempotency_key;
        let request = match leg {
            Some(body) => Sent::Live(idempotency::under(body, call, key.as_deref())),
            None => Sent::Recorded(recorded.intent.request),
        };
        Ok(Try { step, tried, batch, request, key, is_keyed })
    }

    fn first_try(
        &self,
        sidecar: &Sidecar,
        call: &Call,
        asked: &Asked,
        found: &Found,
        request: Option<Body>,
    ) -> Result<Try, Refusal> {
        let key = &self.enrolled.run.key;
        let head = sidecar.journal.attach(key).map_err(|error| refusal::journal(&error))?;
        let head = head.ok_or_else(refusal::internal)?;
        let step = StepIndex::new(head.steps + 1).ok_or_else(refusal::internal)?;
        let (body, idempotency_key) = idempotency::keyed(sidecar, &self.enrolled, &head, step, call)?;
        let request = request.unwrap_or_else(|| Body::whole(body.clone()));
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
            idempotency_key: idempotency_key.clone(),
            request: request.hash,
            request_len: body.len() as u64,
            at,
            identity: call.identity,
            key_place: idempotency_key.as_ref().and(idempotency::place(call)),
        };
        let records = vec![Record::Intent(intent), Record::Dispatched { step, tried: 1, at }];
        let batch = Batch { records, bodies: vec![request] };
        let (key, is_keyed) = (idempotency_key.clone(), idempotency_key.is_some());
        Ok(Try { step, tried: 1, batch, request: Sent::Live(body), key, is_keyed })
    }
}

/// A try as it is recorded and as it is sent.
struct Try {
    step: StepIndex,
    tried: u32,
    batch: Batch,
    request: Sent,
    key: Option<String>,
    is_keyed: bool,
}
