//! Which step a call is: recorded, running, or new (durability.md, section 4). Decides under the
//! workflow's lock; whatever waits, waits outside it.

use std::sync::Arc;
use std::time::Duration;

use crate::failpoint::{Defect, Point, is_broken, reach};
use crate::journal::{Batch, Record, StepSummary, Ticket, Urgency};
use crate::model::{
    AttemptId, AttemptReason, CallKind, EffectClass, Fingerprint, FoundBy, InDoubt, StepIndex, StepState,
};
use crate::proxy::call::Call;
use crate::proxy::feed::Feed;
use crate::proxy::refusal;
use crate::proxy::run::{ExchangeGuard, ExchangeMark, Run, RunState};
use crate::proxy::setbacks::Setback;
use crate::proxy::sidecar::Sidecar;
use crate::replay::cursor::{self, Candidate, Decision, Exchange};
use crate::replay::setback::Subject;
use crate::wire::refusal::Refusal;

use super::divergence::{self, Judged, Patience};
use super::doubt::{self, Held};
use super::enroll::{Enrolled, Standing};
use super::open::Slot;
use super::{idempotency, renew, repetition, setback, strict};

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
    /// It is being answered right now. As for a recorded one.
    InFlight { served: Served, feed: Arc<Feed>, ticket: Option<Ticket> },
    /// It has to be sent.
    Fresh(Slot),
    /// It is refused, and that is recorded.
    Refused { refusal: Refusal, step: Option<StepIndex> },
    /// An earlier attempt was told this, and went on from it.
    SetBack { setback: Setback, step: Option<StepIndex> },
}

/// A call of this kind and class, with its fingerprints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: CallKind,
    pub(crate) class: EffectClass,
    pub(crate) exact: Fingerprint,
    pub(crate) normalised: Option<Fingerprint>,
    pub(crate) identity: Option<Fingerprint>,
}

/// One call's question: which step is it?
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) sidecar: &'a Arc<Sidecar>,
    pub(super) enrolled: &'a Enrolled,
    pub(super) call: &'a Call,
    pub(super) asked: &'a Asked,
}

/// Finds the step.
pub(crate) async fn step(
    sidecar: &Arc<Sidecar>,
    enrolled: &Enrolled,
    call: &Call,
    asked: &Asked,
) -> Result<Recall, Refusal> {
    let question = Question { sidecar, enrolled, call, asked };
    let mut waited = Duration::ZERO;
    let (mut patience, mut held) = (Patience::default(), Held::default());
    renew::recorded(&question).await?;
    loop {
        let rival = match decide(&question)? {
            Decided::Recall(recall) => return Ok(recall),
            Decided::Doubt(step) => match doubt::judge(&question, step, &mut held).await? {
                doubt::Judged::AskAgain => continue,
                doubt::Judged::Refused(refusal) => {
                    return Ok(Recall::Refused { refusal, step: Some(step) });
                }
            },
            Decided::New { slot, .. } if strict::applies(sidecar) => {
                return Err(strict::not_recorded(&question, slot.again()).await);
            }
            Decided::New { slot, rival } => match rival {
                Some(rival) if asked.class == EffectClass::Effect && waited < EQUAL_EFFECT_WAIT => rival,
                Some(_) | None => match divergence::judge(&question, &slot, &mut patience).await? {
                    Judged::GoOn => return Ok(Recall::Fresh(slot)),
                    Judged::AskAgain => continue,
                    Judged::Refused(refusal) => return Ok(Recall::Refused { refusal, step: None }),
                },
            },
        };
        while waited < EQUAL_EFFECT_WAIT && !rival.is_over() {
            tokio::time::sleep(EQUAL_EFFECT_POLL).await;
            waited += EQUAL_EFFECT_POLL;
        }
        if !rival.is_over() {
            waited = EQUAL_EFFECT_WAIT;
        }
    }
}

enum Decided {
    Doubt(StepIndex),
    Recall(Recall),
    New { slot: Slot, rival: Option<Arc<ExchangeMark>> },
}

fn decide(question: &Question<'_>) -> Result<Decided, Refusal> {
    let Question { sidecar, enrolled, call, asked } = *question;
    let run = &enrolled.run;
    let mut state = run.state.lock();
    check_attempt(&state, enrolled)?;
    setback::look_up(question, &mut state)?;
    let found = look_up(question, &state)?;
    is_given(question, &state, found.decision)?;
    match found.decision {
        Decision::Abandoned(step) => {
            let (operation, upstream) = (&call.inspected.operation.name, call.upstream.name.as_str());
            let refusal = refusal::abandoned(step, operation, upstream);
            Ok(Decided::Recall(refuse(question, &mut state, refusal, step)))
        }
        Decision::InDoubt(step) => {
            if state.unwritten.contains(&step) {
                // It was never sent. Whether it is known after a restart, the journal will tell.
                let (key, epoch) = (&run.key, sidecar.journal.epoch());
                let asked = sidecar.journal.commit(key, epoch, Batch::default(), Urgency::Ride);
                drop(asked.map_err(|error| refusal::journal(&error))?);
            }
            Ok(Decided::Doubt(step))
        }
        Decision::TellAgain(step) => {
            let setback = setback::take(question, &mut state, Subject::Step(step))?;
            let setback = setback.ok_or_else(refusal::internal)?;
            Ok(Decided::Recall(Recall::SetBack { setback, step: Some(step) }))
        }
        Decision::Replay(step) => {
            let repeated = found.summaries.len() > 1 || asked.class == EffectClass::Effect;
            let ticket = use_step(
                sidecar,
                enrolled,
                &mut state,
                Using { step, found_by: Some(found.by), durable: repeated },
            )?;
            let served = serve(&mut state, enrolled, step);
            repetition::note(&mut state, call, asked.class);
            Ok(Decided::Recall(Recall::Recorded { served, ticket }))
        }
        Decision::Join(step) => {
            // Its outcome may be durable already, and its end released: then no flush to come brings the use along.
            let durable = found.summaries.len() > 1 || asked.class == EffectClass::Effect;
            let using = Using { step, found_by: Some(found.by), durable };
            let ticket = use_step(sidecar, enrolled, &mut state, using)?;
            let feed = state.running.get(&step).cloned().ok_or_else(refusal::internal)?;
            let served = serve(&mut state, enrolled, step);
            repetition::note(&mut state, call, asked.class);
            Ok(Decided::Recall(Recall::InFlight { served, feed, ticket }))
        }
        Decision::TryAgain(step) => {
            let again = found.summaries.iter().find(|summary| summary.step == step).cloned();
            Ok(Decided::New { slot: Slot::new(enrolled, again, found.summaries.len()), rival: None })
        }
        Decision::New => {
            if let Some(setback) = setback::take(question, &mut state, Subject::Call(asked.exact))? {
                return Ok(Decided::Recall(Recall::SetBack { setback, step: None }));
            }
            if let Some(refusal) = repetition::check(question, &mut state)? {
                return Ok(Decided::Recall(Recall::Refused { refusal, step: None }));
            }
            let slot = Slot::new(enrolled, None, found.summaries.len());
            Ok(Decided::New { slot, rival: open_rival(&state, &found.summaries) })
        }
    }
}

/// Of a closed workflow what is recorded is given, as long as it is kept, and nothing else.
fn is_given(question: &Question<'_>, state: &RunState, decision: Decision) -> Result<(), Refusal> {
    match (question.enrolled.standing, decision) {
        (Standing::Open, _) | (Standing::Replays, Decision::Replay(_) | Decision::TellAgain(_)) => Ok(()),
        (Standing::Replays, Decision::New)
            if setback::is_left(state, Subject::Call(question.asked.exact)) =>
        {
            Ok(())
        }
        (Standing::BodiesExpired, Decision::Replay(step)) => Err(refusal::body_expired(step)),
        (Standing::BodiesExpired | Standing::Replays, _) => Err(refusal::workflow_closed()),
    }
}

/// A request that waited may have been overtaken by the next attempt.
pub(super) fn check_attempt(state: &RunState, enrolled: &Enrolled) -> Result<(), Refusal> {
    match &state.attempt {
        Some(live) if live.id > enrolled.attempt => Err(refusal::fenced(enrolled.attempt, live.id)),
        Some(_) | None => Ok(()),
    }
}

/// What is recorded under a call's fingerprints, and what follows.
pub(super) struct Found {
    pub(super) summaries: Vec<StepSummary>,
    pub(super) decision: Decision,
    /// By which of its names.
    pub(super) by: FoundBy,
}

/// Looks for the step by what the call is exactly, then by what it is without what says nothing, then by what its
/// tool says it is known by.
pub(super) fn look_up(question: &Question<'_>, state: &RunState) -> Result<Found, Refusal> {
    let Question { sidecar, enrolled, asked, .. } = *question;
    let journal = sidecar.journal.as_ref();
    let by = |fingerprint: &Fingerprint, by: FoundBy| -> Result<Found, Refusal> {
        let mut summaries =
            journal.find(&enrolled.run.key, fingerprint).map_err(|error| refusal::journal(&error))?;
        if by == FoundBy::Normalised {
            renew::add(question, state, fingerprint, &mut summaries)?;
        }
        if by == FoundBy::Identity {
            // INVARIANT: an effect is found in other words for what it did or may have done. One that was not carried
            // out did nothing, and only an equal request is its next try: what is sent are the bytes of the first.
            summaries.retain(|summary| !summary.cleared);
        }
        let candidates: Vec<Candidate> =
            summaries.iter().map(|summary| candidate(question, state, summary)).collect::<Result<_, _>>()?;
        Ok(Found { decision: cursor::decide(&candidates), summaries, by })
    };
    let exact = by(&asked.exact, FoundBy::Exact)?;
    if exact.decision != Decision::New && !is_tried_anew(question, &exact) {
        return Ok(exact);
    }
    let normalised = asked.normalised.map(|fingerprint| (fingerprint, FoundBy::Normalised));
    let identity = asked.identity.map(|fingerprint| (fingerprint, FoundBy::Identity));
    for (looser, name) in normalised.into_iter().chain(identity) {
        let found = by(&looser, name)?;
        if found.decision != Decision::New {
            return Ok(found);
        }
    }
    Ok(exact)
}

/// Whether the call would be the next try of an effect that was not carried out, and is known by more than its words:
/// the same may have been carried out in other words since.
fn is_tried_anew(question: &Question<'_>, exact: &Found) -> bool {
    let Decision::TryAgain(step) = exact.decision else { return false };
    question.asked.identity.is_some()
        && exact.summaries.iter().any(|summary| summary.step == step && summary.cleared)
}

fn candidate(question: &Question<'_>, state: &RunState, summary: &StepSummary) -> Result<Candidate, Refusal> {
    let Question { sidecar, enrolled, call, asked } = *question;
    let journal = sidecar.journal.as_ref();
    let mark = state.attempt.as_ref().and_then(|live| live.exchanges.get(&summary.step));
    let used = match mark {
        Some(mark) => Some(mark.read()),
        // An exchange of another life of the sidecar: it ended with it, if not before.
        None => journal
            .usage(&enrolled.run.key, enrolled.attempt, summary.step)
            .map_err(|error| refusal::journal(&error))?
            .map(|used| if used.delivered { Exchange::Delivered } else { Exchange::Lost }),
    };
    let takes_repeats = call.rule.as_ref().is_some_and(|rule| rule.in_doubt == InDoubt::Retry);
    Ok(Candidate {
        step: summary.step,
        state: summary.state,
        // The config may have been corrected since the step was recorded, or spoilt.
        class: summary.class.stricter(asked.class),
        cleared: summary.cleared,
        may_repeat: takes_repeats || is_keyed(question, summary)?,
        running: state.running.contains_key(&summary.step),
        gone_on: setback::is_left(state, Subject::Step(summary.step)),
        used,
    })
}

/// Whether the step, which has no answer, may be sent again under its idempotency key.
fn is_keyed(question: &Question<'_>, summary: &StepSummary) -> Result<bool, Refusal> {
    if !summary.keyed || summary.state == StepState::Completed {
        return Ok(false);
    }
    let (journal, key) = (&question.sidecar.journal, &question.enrolled.run.key);
    let recorded = journal.step(key, summary.step).map_err(|error| refusal::journal(&error))?;
    Ok(recorded.is_some_and(|recorded| idempotency::holds(question.call, &recorded.intent)))
}

/// How an attempt uses a recorded step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Using {
    pub(super) step: StepIndex,
    /// `None`: its client named it by an event id.
    pub(super) found_by: Option<FoundBy>,
    /// What is served waits for the record.
    pub(super) durable: bool,
}

/// Records that this attempt has used the step, unless it already had. The ticket, of a use that must be durable,
/// resolves when it is.
pub(super) fn use_step(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    state: &mut RunState,
    used: Using,
) -> Result<Option<Ticket>, Refusal> {
    let Using { step, found_by, durable } = used;
    let key = &enrolled.run.key;
    let served_here = state.attempt.as_ref().is_some_and(|live| live.exchanges.contains_key(&step));
    let known =
        sidecar.journal.usage(key, enrolled.attempt, step).map_err(|error| refusal::journal(&error))?;
    // What a closed workflow gives is not recorded any more.
    let durable = durable && enrolled.standing == Standing::Open;
    let urgency = if durable { Urgency::Now } else { Urgency::Ride };
    if served_here || known.is_some() || enrolled.standing != Standing::Open {
        // INVARIANT: what a failed flush has lost is not served. An empty commit asks without writing; it is durable
        // when what was queued before it is, such as the record of the use.
        let asked = sidecar.journal.commit(key, sidecar.journal.epoch(), Batch::default(), urgency);
        return asked.map(|ticket| durable.then_some(ticket)).map_err(|error| refusal::journal(&error));
    }
    if is_broken(Defect::UseNotWritten) {
        return Ok(None);
    }
    reach(Point::UseComing);
    let (attempt, at) = (enrolled.attempt, sidecar.clock.now());
    let record = Record::Redelivered { step, attempt, at, found_by };
    let batch = Batch { records: state.with_notes([record]), bodies: Vec::new() };
    sidecar
        .journal
        .commit(key, sidecar.journal.epoch(), batch, urgency)
        .map(|ticket| durable.then_some(ticket))
        .map_err(|error| refusal::journal(&error))
}

pub(super) fn serve(state: &mut RunState, enrolled: &Enrolled, step: StepIndex) -> Served {
    let mark = Arc::new(ExchangeMark::default());
    if let Some(live) = &mut state.attempt {
        live.exchanges.insert(step, Arc::clone(&mark));
        if let Some(ahead) = &mut live.ahead {
            ahead.used(step);
        }
    }
    Served {
        run: Arc::clone(&enrolled.run),
        attempt: enrolled.attempt,
        reason: enrolled.reason,
        step,
        guard: ExchangeGuard(mark),
    }
}

/// An equal call whose answer is still on its way to its agent, recorded or not.
fn open_rival(state: &RunState, summaries: &[StepSummary]) -> Option<Arc<ExchangeMark>> {
    let live = state.attempt.as_ref()?;
    summaries
        .iter()
        .filter_map(|summary| live.exchanges.get(&summary.step))
        .find(|mark| !mark.is_over())
        .cloned()
}

/// Records that the call of a known step is refused.
fn refuse(question: &Question<'_>, state: &mut RunState, refusal: Refusal, step: StepIndex) -> Recall {
    let (sidecar, enrolled) = (question.sidecar, question.enrolled);
    let refused = setback::refused(question, Some(step), &refusal);
    let batch = Batch { records: state.with_notes([refused]), bodies: Vec::new() };
    // The refusal stands whether or not it can be recorded.
    _ = sidecar.journal.commit(&enrolled.run.key, sidecar.journal.epoch(), batch, Urgency::Ride);
    Recall::Refused { refusal, step: Some(step) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::conformance::{key, run_steps};
    use crate::journal::memory::Memory;
    use crate::model::{TestClock, Timestamp};
    use crate::proxy::sidecar::Snapshot;

    /// The attempt that has recorded one completed step.
    fn enrolled() -> (Arc<Sidecar>, Enrolled) {
        let now = Timestamp::default();
        let journal = Memory::new(Arc::new(TestClock(now)));
        run_steps(&journal, &key("w"), 1);
        let sidecar = Sidecar::bare(Snapshot::bare(), journal, now);
        let enrolled = Enrolled {
            run: sidecar.runs.of(&key("w")),
            attempt: AttemptId::FIRST,
            reason: AttemptReason::Explicit,
            is_told_apart: true,
            may_be_next: false,
            standing: Standing::Open,
        };
        (sidecar, enrolled)
    }

    #[test]
    fn a_use_that_is_recorded_and_perhaps_not_durable_yet_is_waited_for_as_well() {
        let (sidecar, enrolled) = enrolled();
        for durable in [true, false] {
            let used = Using { step: StepIndex::FIRST, found_by: Some(FoundBy::Exact), durable };
            let mut state = enrolled.run.state.lock();
            let ticket = use_step(&sidecar, &enrolled, &mut state, used).unwrap();
            assert_eq!(ticket.is_some(), durable);
        }
    }

    #[test]
    fn an_answer_that_is_still_on_its_way_is_waited_for_though_it_is_recorded() {
        let (sidecar, enrolled) = enrolled();
        let summary = sidecar.journal.summary(&enrolled.run.key, StepIndex::FIRST).unwrap();
        let summaries = Vec::from_iter(summary);
        let mut state = enrolled.run.state.lock();
        state.begin(enrolled.attempt, None, Duration::ZERO);
        let served = serve(&mut state, &enrolled, StepIndex::FIRST);
        assert!(open_rival(&state, &summaries).is_some());
        served.guard.0.handed();
        assert!(open_rival(&state, &summaries).is_some(), "its connection may yet end before it is written");
        served.guard.0.delivered();
        assert!(open_rival(&state, &summaries).is_none());
    }
}
