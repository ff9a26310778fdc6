//! Records to timeline. What a step's state is, `journal::state` decides, as it does for every engine;
//! this file only adds what people want to know beside.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::journal::state::{Backing, Change, Fault, StepEntry, Use, WorkflowState};
use crate::journal::{self, Completed, Intent, Record};
use crate::model::{AttemptId, Source, StepIndex, StepState, Timestamp, WorkflowKey};

use super::{
    AtWork, Attempt, ChangedList, Decision, Diverged, Found, Refused, State, Step, Timeline, Tokens,
    unproxied,
};

/// Nothing is known beside the records: the fold begins at the first one.
struct Nothing;

impl Backing for Nothing {
    type Error = Infallible;

    fn step(&self, _: StepIndex) -> Result<Option<StepEntry>, Infallible> {
        Ok(None)
    }

    fn usage(&self, _: AttemptId, _: StepIndex) -> Result<Option<Use>, Infallible> {
        Ok(None)
    }
}

/// What the records say of a step beside its state.
struct Story<'a> {
    intent: &'a Intent,
    /// When the last try began.
    tried_at: Timestamp,
    ended_at: Option<Timestamp>,
    status: Option<u16>,
    completed: Option<&'a Completed>,
    redelivered: Vec<u32>,
    found: Vec<Found>,
    detail: Option<&'a str>,
}

pub(super) fn fold(
    key: &WorkflowKey,
    damage: Option<&str>,
    records: &[Record],
    at_work: AtWork<'_>,
) -> Result<Timeline, journal::Error> {
    let mut change = states(key, damage, records)?;
    for StepEntry { summary, .. } in change.steps.values_mut() {
        if summary.may_have_happened() && !at_work(key, summary.step) {
            summary.state = StepState::InDoubt;
        }
    }
    let stories = stories(records);
    let steps = stories.values().filter_map(|story| step(story, &change)).collect();
    Ok(Timeline {
        workflow: key.workflow.to_string(),
        state: state(&change, damage.is_some()),
        attempts: records.iter().filter_map(attempt).collect(),
        steps,
        refusals: records.iter().filter_map(refused).collect(),
        unproxied: unproxied::find(records),
        diverged: records.iter().filter_map(diverged).collect(),
        decisions: records.iter().filter_map(decision).collect(),
        changed_lists: records.iter().filter_map(changed_list).collect(),
    })
}

fn states(key: &WorkflowKey, damage: Option<&str>, records: &[Record]) -> Result<Change, journal::Error> {
    /// The chain was verified when the records were read.
    const CHAIN: [u8; 32] = [0; 32];
    let mut state = WorkflowState::new(None, &Nothing);
    for (record, sequence) in records.iter().zip(1..) {
        let taken = match damage {
            Some(damage) => state.apply_damaged(record, CHAIN, sequence, damage).map_err(Fault::Backing),
            None => state.apply(record, CHAIN),
        };
        match taken {
            Ok(()) => {}
            Err(Fault::Backing(never)) => match never {},
            Err(Fault::OutOfOrder(why)) => {
                let what = format!("record {sequence} is out of order: {why}");
                return Err(journal::Error::Damaged { workflow: key.clone(), what });
            }
        }
    }
    Ok(state.finish())
}

fn stories(records: &[Record]) -> BTreeMap<StepIndex, Story<'_>> {
    let mut stories: BTreeMap<StepIndex, Story<'_>> = BTreeMap::new();
    for record in records {
        if let Record::Intent(intent) = record {
            stories.insert(intent.step, Story::begun(intent));
        } else if let Some(story) = named(record).and_then(|step| stories.get_mut(&step)) {
            story.goes_on(record);
        }
    }
    stories
}

/// The step that a later record is about.
fn named(record: &Record) -> Option<StepIndex> {
    match record {
        Record::Completed(completed) => Some(completed.step),
        Record::Dispatched { step, .. }
        | Record::Failed { step, .. }
        | Record::InDoubt { step, .. }
        | Record::InputRequired { step, .. }
        | Record::Redelivered { step, .. }
        | Record::Resolved { step, .. } => Some(*step),
        Record::Accepted { .. }
        | Record::AttemptOpened { .. }
        | Record::BodiesExpired { .. }
        | Record::Decided(_)
        | Record::Minted { .. }
        | Record::Diverged(_)
        | Record::Delivered { .. }
        | Record::Intent(_)
        | Record::Listed(_)
        | Record::RefusalDelivered { .. }
        | Record::Refused { .. }
        | Record::Removed { .. }
        | Record::ToldAgain { .. }
        | Record::WorkflowClosed { .. }
        | Record::WorkflowOpened { .. } => None,
    }
}

impl<'a> Story<'a> {
    fn begun(intent: &'a Intent) -> Self {
        Self {
            intent,
            tried_at: intent.at,
            ended_at: None,
            status: None,
            completed: None,
            redelivered: Vec::new(),
            found: Vec::new(),
            detail: None,
        }
    }

    fn goes_on(&mut self, record: &'a Record) {
        if let Record::Completed(completed) = record {
            self.status = Some(completed.status);
            self.ended_at = Some(completed.at);
            self.completed = Some(completed);
            self.detail = None;
        } else if let Record::Dispatched { at, .. } = record {
            self.tried_at = *at;
            self.ended_at = None;
            self.status = None;
        } else if let Record::Failed { status, detail, at, .. } = record {
            self.status = *status;
            self.ended_at = Some(*at);
            self.detail = Some(detail);
        } else if let Record::InputRequired { at, .. } = record {
            self.ended_at = Some(*at);
            self.detail = Some("it asked for input");
        } else if let Record::InDoubt { cause, .. } = record {
            self.detail.get_or_insert(cause);
        } else if let Record::Redelivered { attempt, found_by, .. } = record {
            let attempt = attempt.number();
            self.found.extend(found_by.map(|by| Found { attempt, by: by.as_str().to_owned() }));
            // Without a recorded answer the attempt took the step over, to try it again or to join it.
            if self.completed.is_some() {
                self.redelivered.push(attempt);
            }
        }
    }
}

fn step(story: &Story<'_>, change: &Change) -> Option<Step> {
    let intent = story.intent;
    let summary = &change.steps.get(&intent.step)?.summary;
    let usage = story.completed.and_then(|completed| completed.usage);
    Some(Step {
        step: intent.step.number(),
        attempt: intent.attempt.number(),
        kind: intent.kind.as_str().to_owned(),
        upstream: intent.upstream.to_string(),
        operation: intent.operation.clone(),
        state: summary.state.as_str().to_owned(),
        source: Source::Live.as_str().to_owned(),
        status: story.status,
        started_at: intent.at.to_string(),
        duration_ms: story.ended_at.map(|ended| ended.since_ms(story.tried_at)),
        usage: usage.map_or_else(Tokens::default, Tokens::from),
        redelivered: story.redelivered.clone(),
        found: story.found.clone(),
        tries: summary.tries,
        possibly_billed: story.completed.is_some_and(|completed| completed.possibly_billed),
        is_error: story.completed.is_some_and(|completed| completed.is_error),
        detail: story.detail.map(ToOwned::to_owned),
    })
}

fn state(change: &Change, damaged: bool) -> State {
    let closed = change.head.as_ref().is_some_and(|head| head.closed.is_some());
    let removed = change.head.as_ref().is_some_and(|head| head.removed.is_some());
    let in_doubt = || change.steps.values().any(|entry| entry.summary.state == StepState::InDoubt);
    if damaged {
        State::Damaged
    } else if removed {
        State::Removed
    } else if closed {
        State::Closed
    } else if in_doubt() {
        State::InDoubt
    } else {
        State::Open
    }
}

fn attempt(record: &Record) -> Option<Attempt> {
    if let Record::AttemptOpened { attempt, reason, at, .. } = record {
        let reason = reason.as_str().to_owned();
        return Some(Attempt { attempt: attempt.number(), reason, opened_at: at.to_string() });
    }
    None
}

fn refused(record: &Record) -> Option<Refused> {
    if let Record::Refused { step, attempt, operation, code, at, .. } = record {
        return Some(Refused {
            step: step.map(StepIndex::number),
            attempt: attempt.number(),
            operation: operation.clone(),
            code: code.clone(),
            at: at.to_string(),
        });
    }
    None
}

fn diverged(record: &Record) -> Option<Diverged> {
    let Record::Diverged(diverged) = record else { return None };
    Some(Diverged {
        attempt: diverged.attempt.number(),
        operation: diverged.operation.clone(),
        expected: diverged.expected.map(StepIndex::number),
        pointer: diverged.pointer.clone(),
        recorded: diverged.recorded.clone(),
        asked: diverged.asked.clone(),
        left_out: diverged.left_out.clone(),
        refused: diverged.refused,
        at: diverged.at.to_string(),
    })
}

fn changed_list(record: &Record) -> Option<ChangedList> {
    let Record::Listed(listed) = record else { return None };
    (listed.changed == Some(true)).then(|| ChangedList {
        attempt: listed.attempt.number(),
        upstream: listed.upstream.to_string(),
        method: listed.method.clone(),
        at: listed.at.to_string(),
    })
}

fn decision(record: &Record) -> Option<Decision> {
    if let Record::Resolved { step, resolution, by, at } = record {
        let (decision, steps) = (resolution.as_str().to_owned(), vec![step.number()]);
        return Some(Decision { decision, steps, by: by.clone(), at: at.to_string() });
    }
    if let Record::Accepted { steps, by, at } = record {
        let (decision, steps) = ("accepted".to_owned(), steps.clone());
        return Some(Decision { decision, steps, by: by.clone(), at: at.to_string() });
    }
    None
}
