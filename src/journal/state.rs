//! What a workflow's records add up to. Pure: every engine folds its records through [`WorkflowState`],
//! so all engines agree on what is in order and what a step's state is.

use std::collections::BTreeMap;

use crate::model::{AttemptId, EffectClass, Resolution, StepIndex, StepState};

use super::record::{Completed, Intent, Record};
pub use super::summary::{AttemptHead, Head, StepEntry, StepSummary, Use};

/// Where a state looks up what its own records have not told it yet. Asked only for what a record names,
/// so that an engine never loads all steps of a workflow.
pub trait Backing {
    type Error;

    /// # Errors
    /// Whatever stops the engine from answering.
    fn step(&self, step: StepIndex) -> Result<Option<StepEntry>, Self::Error>;

    /// # Errors
    /// Whatever stops the engine from answering.
    fn usage(&self, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Self::Error>;
}

/// Why a record was not taken in. The state is as before.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault<E> {
    /// The look-up failed.
    Backing(E),
    /// The record may not follow what is recorded; the text says why.
    OutOfOrder(String),
}

/// What some records changed: the entries they touched, as they are afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// `None` only when there was no workflow and no record.
    pub head: Option<Head>,
    pub steps: BTreeMap<StepIndex, StepEntry>,
    pub uses: BTreeMap<(AttemptId, StepIndex), Use>,
}

/// A workflow's head and what the records folded so far changed, over a [`Backing`] that knows the rest.
#[derive(Debug)]
pub struct WorkflowState<'a, B> {
    backing: &'a B,
    change: Change,
    /// Number of the last record, where that is more than the head tells of: records of earlier runs are gone.
    passed: u64,
    /// Some record was folded.
    has_begun: bool,
    /// A run began with the records folded: the backing speaks of an earlier one.
    is_new_run: bool,
}

impl<'a, B: Backing> WorkflowState<'a, B> {
    /// `head` and `backing` describe the same moment.
    pub fn new(head: Option<Head>, backing: &'a B) -> Self {
        Self {
            backing,
            change: Change { head, ..Change::default() },
            passed: 0,
            has_begun: false,
            is_new_run: false,
        }
    }

    /// The records up to this number are of earlier runs, and may be gone. For recovery, before the record that
    /// begins a run.
    pub fn pass(&mut self, sequence: u64) {
        self.passed = sequence;
    }

    pub fn head(&self) -> Option<&Head> {
        self.change.head.as_ref()
    }

    /// What all records taken in so far changed.
    pub fn finish(self) -> Change {
        self.change
    }

    /// Takes in the workflow's next record; `chain` is the chain's head after it.
    ///
    /// # Errors
    /// [`Fault`]; the state is then as before.
    pub fn apply(&mut self, record: &Record, chain: [u8; 32]) -> Result<(), Fault<B::Error>> {
        if let Record::WorkflowOpened { nonce, at, .. } = record {
            return self.begin(record, Head { nonce: *nonce, ..Head::lost(*at) }, chain);
        }
        if let Record::Removed { opened_at, closed_at, at } = record {
            let lost = Head::lost(*opened_at);
            let (closed, gone) = (Some(*closed_at), Some(*at));
            let run = Head { changed_at: *at, closed, bodies_expired: gone, removed: gone, ..lost };
            return self.begin(record, run, chain);
        }
        let Some(mut head) = self.change.head.clone() else {
            return out_of_order(format!("{} before WorkflowOpened", record.name()));
        };
        if head.closed.is_some() && !matches!(record, Record::BodiesExpired { .. }) {
            return out_of_order(format!("{} after WorkflowClosed", record.name()));
        }
        let touched = self.judge(&mut head, record)?;
        if let Some(at) = record.at() {
            head.changed_at = at;
        }
        head.sequence += 1;
        head.chain = chain;
        self.change.head = Some(head);
        self.has_begun = true;
        if let Some(entry) = touched.step {
            self.change.steps.insert(entry.summary.step, entry);
        }
        if let Some((attempt, step, used)) = touched.used {
            self.change.uses.insert((attempt, step), used);
        }
        Ok(())
    }

    /// Takes in a record of a workflow that has lost others: what contradicts the state is counted and
    /// chained, and otherwise passed over. For recovery only; such a workflow is never written again.
    ///
    /// # Errors
    /// Only what the backing reports.
    pub fn apply_damaged(
        &mut self,
        record: &Record,
        chain: [u8; 32],
        sequence: u64,
        damage: &str,
    ) -> Result<(), B::Error> {
        let at = record.at().unwrap_or_default();
        let head = self.change.head.get_or_insert_with(|| Head::lost(at));
        head.damage.get_or_insert_with(|| damage.to_owned());
        head.sequence = sequence.saturating_sub(1);
        if let Record::Intent(intent) = record
            && intent.step.number() > head.steps
        {
            head.steps = intent.step.number() - 1;
        }
        match self.apply(record, chain) {
            Ok(()) => Ok(()),
            Err(Fault::Backing(error)) => Err(error),
            Err(Fault::OutOfOrder(_)) => {
                if let Some(head) = self.change.head.as_mut() {
                    head.sequence = sequence;
                    head.chain = chain;
                }
                Ok(())
            }
        }
    }

    /// Begins a run: the first, the next one of a closed workflow, or what is left of one whose records go.
    fn begin(&mut self, record: &Record, run: Head, chain: [u8; 32]) -> Result<(), Fault<B::Error>> {
        let before = self.change.head.as_ref();
        if before.is_some_and(|head| head.closed.is_none() && head.sequence >= self.passed) {
            return out_of_order(format!("{} of a workflow that is there and not closed", record.name()));
        }
        if self.has_begun {
            return out_of_order(format!("{} behind other records of a commit", record.name()));
        }
        if run.removed.is_some() && before.is_some_and(|head| head.removed.is_some()) {
            return out_of_order("a second Removed".to_owned());
        }
        let sequence = before.map_or(0, |head| head.sequence).max(self.passed) + 1;
        (self.has_begun, self.is_new_run) = (true, before.is_some());
        self.change.head = Some(Head { sequence, first: sequence, chain, ..run });
        Ok(())
    }

    fn judge(&self, head: &mut Head, record: &Record) -> Result<Touched, Fault<B::Error>> {
        match record {
            Record::WorkflowOpened { .. } | Record::Removed { .. } => {
                out_of_order(format!("{} does not begin a run", record.name()))
            }
            Record::BodiesExpired { at } if head.closed.is_some() && head.bodies_expired.is_none() => {
                head.bodies_expired = Some(*at);
                Ok(Touched::default())
            }
            Record::BodiesExpired { .. } => {
                out_of_order("BodiesExpired of a workflow that is not closed, or a second one".to_owned())
            }
            Record::AttemptOpened { attempt, reason, peer, at, .. } => {
                let last = head.attempt.as_ref().map(|last| last.attempt);
                if last.is_some_and(|last| *attempt <= last) {
                    return out_of_order(format!(
                        "attempt {attempt} opened, the last one is {}",
                        shown(last)
                    ));
                }
                head.attempt = Some(AttemptHead {
                    attempt: *attempt,
                    reason: *reason,
                    peer: peer.clone(),
                    at: *at,
                    used_completed: 0,
                });
                Ok(Touched::default())
            }
            Record::Intent(intent) => intended(head, intent),
            Record::Dispatched { step, tried, .. } => self.dispatched(head, *step, *tried),
            Record::Completed(completed) => self.completed(head, completed),
            Record::Failed { step, tried, status, not_sent, not_executed: said, .. } => {
                head.setbacks += 1;
                let executed_by_none = *not_sent || said.unwrap_or(status.is_some_and(not_executed));
                self.failed(head, *step, *tried, executed_by_none)
            }
            Record::InputRequired { step, tried, .. } => self.failed(head, *step, *tried, true),
            Record::Refused { step, attempt, .. } => {
                opened(head, *attempt)?;
                step.map_or(Ok(()), |step| self.entry(step).map(drop))?;
                head.setbacks += 1;
                Ok(Touched::default())
            }
            Record::RefusalDelivered { step, attempt, .. } | Record::ToldAgain { step, attempt, .. } => {
                opened(head, *attempt)?;
                step.map_or(Ok(()), |step| self.entry(step).map(drop))?;
                Ok(Touched::default())
            }
            Record::InDoubt { step, .. } => {
                let mut entry = self.unanswered(*step, "InDoubt")?;
                entry.summary.state = StepState::InDoubt;
                entry.summary.cleared = false;
                Ok(Touched::step(entry))
            }
            Record::Redelivered { step, attempt, .. } => self.used(head, *step, *attempt, false),
            Record::Resolved { step, resolution, .. } => self.resolved(head, *step, *resolution),
            Record::Delivered { step, attempt } => self.used(head, *step, *attempt, true),
            Record::Accepted { .. } => Ok(Touched::default()),
            Record::Decided(decided) => opened(head, decided.attempt).map(|()| Touched::default()),
            Record::Minted { step, .. } => self.entry(*step).map(|_| Touched::default()),
            Record::Diverged(diverged) => opened(head, diverged.attempt).map(|()| Touched::default()),
            Record::Listed(listed) => opened(head, listed.attempt).map(|()| Touched::default()),
            Record::WorkflowClosed { at, .. } => {
                head.closed = Some(*at);
                Ok(Touched::default())
            }
        }
    }

    fn dispatched(&self, head: &Head, step: StepIndex, tried: u32) -> Result<Touched, Fault<B::Error>> {
        let mut entry = self.unanswered(step, "Dispatched")?;
        let summary = &mut entry.summary;
        if tried <= summary.tries {
            return out_of_order(format!("try {tried} of step {step} begun, it has had {}", summary.tries));
        }
        if summary.state == StepState::InDoubt && summary.class == EffectClass::Effect && !summary.keyed {
            return out_of_order(format!("step {step} is an effect in doubt and was sent again"));
        }
        // A try that was begun and has no outcome may have been executed; so may one that is missing.
        entry.clean &=
            tried == summary.tries + 1 && (summary.state == StepState::Failed || summary.tries == 0);
        summary.tries = tried;
        summary.state = StepState::Open;
        summary.cleared = false;
        self.with_new_answer(head, entry)
    }

    fn failed(
        &self,
        head: &Head,
        step: StepIndex,
        tried: u32,
        executed_by_none: bool,
    ) -> Result<Touched, Fault<B::Error>> {
        let mut entry = self.unanswered(step, "Failed")?;
        let summary = &mut entry.summary;
        let in_doubt = summary.state == StepState::InDoubt;
        let open = summary.state == StepState::Open && summary.tries > 0;
        if tried < summary.tries || tried == 0 {
            return out_of_order(format!("try {tried} of step {step} failed, it has had {}", summary.tries));
        }
        // This is the outcome of the one try that had none, or of the next one.
        let known = if open || in_doubt { tried == summary.tries.max(1) } else { tried <= summary.tries + 1 };
        entry.clean &= known && executed_by_none;
        summary.tries = tried;
        summary.cleared = entry.clean;
        // Doubt ends only with the knowledge that nothing was executed.
        if !in_doubt || entry.clean {
            summary.state = StepState::Failed;
        }
        self.with_new_answer(head, entry)
    }

    fn completed(&self, head: &mut Head, completed: &Completed) -> Result<Touched, Fault<B::Error>> {
        let mut entry = self.unanswered(completed.step, "Completed")?;
        if completed.tried == 0 {
            return out_of_order(format!("step {} completed by try 0", completed.step));
        }
        entry.summary.state = StepState::Completed;
        entry.summary.answered = head.sequence + 1;
        entry.summary.tries = entry.summary.tries.max(completed.tried);
        entry.summary.cleared = false;
        let touched = self.with_new_answer(head, entry)?;
        head.completed += 1;
        // A step of an earlier attempt counts for the current one only when that has used it.
        if let Some(current) = head.attempt.as_mut()
            && touched.used.is_some()
        {
            current.used_completed += 1;
        }
        Ok(touched)
    }

    fn resolved(
        &self,
        head: &Head,
        step: StepIndex,
        resolution: Resolution,
    ) -> Result<Touched, Fault<B::Error>> {
        let mut entry = self.unanswered(step, "Resolved")?;
        let summary = &mut entry.summary;
        // A call that was recorded as a read is in doubt where its tool is an effect since.
        let may_be_in_doubt = summary.class == EffectClass::Effect || summary.state == StepState::InDoubt;
        if !may_be_in_doubt || summary.cleared {
            return out_of_order(format!("step {step} is resolved and was not in doubt"));
        }
        match resolution {
            Resolution::Abandoned => summary.state = StepState::Abandoned,
            // Its answer comes next.
            Resolution::Completed => summary.state = StepState::InDoubt,
            Resolution::NotExecuted => {
                summary.state = StepState::Failed;
                summary.cleared = true;
                entry.clean = true;
            }
            Resolution::Repeat => summary.state = StepState::Failed,
        }
        self.with_new_answer(head, entry)
    }

    /// `entry` as changed, and how the current attempt uses it: whatever answer the agent was handed
    /// before, it was not this one.
    fn with_new_answer(&self, head: &Head, entry: StepEntry) -> Result<Touched, Fault<B::Error>> {
        let step = entry.summary.step;
        let mut used = None;
        if let Some(current) = &head.attempt
            && self.usage(current.attempt, step)?.is_some()
        {
            used = Some((current.attempt, step, Use { delivered: false }));
        }
        Ok(Touched { step: Some(entry), used })
    }

    fn used(
        &self,
        head: &mut Head,
        step: StepIndex,
        attempt: AttemptId,
        delivered: bool,
    ) -> Result<Touched, Fault<B::Error>> {
        opened(head, attempt)?;
        let entry = self.entry(step)?;
        let first_use = self.usage(attempt, step)?.is_none();
        if let Some(current) = head.attempt.as_mut()
            && current.attempt == attempt
            && first_use
            && entry.summary.state == StepState::Completed
        {
            current.used_completed += 1;
        }
        Ok(Touched { step: None, used: Some((attempt, step, Use { delivered })) })
    }

    /// The entry of a step that has no recorded answer yet.
    fn unanswered(&self, step: StepIndex, record: &'static str) -> Result<StepEntry, Fault<B::Error>> {
        let entry = self.entry(step)?;
        match entry.summary.state {
            StepState::Abandoned | StepState::Completed => {
                let state = entry.summary.state;
                out_of_order(format!("{record} for step {step}, which is {state}"))
            }
            StepState::Failed | StepState::InDoubt | StepState::Open | StepState::Refused => Ok(entry),
        }
    }

    fn entry(&self, step: StepIndex) -> Result<StepEntry, Fault<B::Error>> {
        if let Some(entry) = self.change.steps.get(&step) {
            return Ok(entry.clone());
        }
        let known = if self.is_new_run { Ok(None) } else { self.backing.step(step) };
        match known.map_err(Fault::Backing)? {
            Some(entry) => Ok(entry),
            None => out_of_order(format!("step {step} has no Intent")),
        }
    }

    fn usage(&self, attempt: AttemptId, step: StepIndex) -> Result<Option<Use>, Fault<B::Error>> {
        match self.change.uses.get(&(attempt, step)) {
            Some(used) => Ok(Some(*used)),
            None if self.is_new_run => Ok(None),
            None => self.backing.usage(attempt, step).map_err(Fault::Backing),
        }
    }
}

/// The entries one record changes.
#[derive(Default)]
struct Touched {
    step: Option<StepEntry>,
    used: Option<(AttemptId, StepIndex, Use)>,
}

impl Touched {
    fn step(entry: StepEntry) -> Self {
        Self { step: Some(entry), used: None }
    }
}

fn intended<E>(head: &mut Head, intent: &Intent) -> Result<Touched, Fault<E>> {
    let current = head.attempt.as_ref().map(|current| current.attempt);
    if current != Some(intent.attempt) {
        return out_of_order(format!(
            "step {} begun by attempt {}, the current one is {}",
            intent.step,
            intent.attempt,
            shown(current)
        ));
    }
    if intent.step.number() != head.steps + 1 {
        return out_of_order(format!("step {} begun after {} steps", intent.step, head.steps));
    }
    head.steps += 1;
    let summary = StepSummary {
        step: intent.step,
        attempt: intent.attempt,
        kind: intent.kind,
        class: intent.class,
        exact: intent.exact,
        normalised: intent.normalised,
        identity: intent.identity,
        keyed: intent.idempotency_key.is_some(),
        occurrence: intent.occurrence,
        state: StepState::Open,
        begun: head.sequence + 1,
        answered: 0,
        tries: 0,
        // A missing Dispatched proves nothing: the first try may have left already.
        cleared: false,
    };
    Ok(Touched {
        step: Some(StepEntry { summary, clean: true }),
        used: Some((intent.attempt, intent.step, Use { delivered: false })),
    })
}

/// `attempt` is the current attempt or one before it.
fn opened<E>(head: &Head, attempt: AttemptId) -> Result<(), Fault<E>> {
    let current = head.attempt.as_ref().map(|current| current.attempt);
    if current.is_some_and(|current| attempt <= current) {
        return Ok(());
    }
    out_of_order(format!("attempt {attempt} was never opened, the current one is {}", shown(current)))
}

/// Statuses by which a server says that it has not executed the call (durability.md, section 6).
fn not_executed(status: u16) -> bool {
    matches!(status, 401 | 403 | 407 | 429)
}

fn shown(attempt: Option<AttemptId>) -> String {
    attempt.map_or_else(|| "none".to_owned(), |attempt| attempt.to_string())
}

fn out_of_order<T, E>(why: String) -> Result<T, Fault<E>> {
    Err(Fault::OutOfOrder(why))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
