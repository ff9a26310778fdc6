//! What somebody has found out of a step in doubt (durability.md, section 6): it happened, with this answer; it
//! did not; or it is given up. Durable when it is answered. Asks no upstream.

use bytes::Bytes;

use crate::journal::{Batch, Body, Completed, Journal, Record, StepRecord, Urgency};
use crate::json::{Kind, Tape};
use crate::model::{Dialect, EffectClass, Resolution, StepIndex, StepState, Timestamp, WorkflowKey};

use super::operations::{self, OperationError};
use super::sidecar::Sidecar;

/// What has become of the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows, and it is not sent again.
    Abandoned,
    /// It was carried out; whoever asks for it gets this.
    Completed(Answer),
    /// It was not carried out; whoever asks for it has it sent.
    NotExecuted,
}

/// An answer as a person has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; of a result, so below 400 or a deterministic 4xx.
    pub status: u16,
    /// `None`: JSON where the body is JSON, else plain text.
    pub content_type: Option<String>,
    /// For MCP the `result` object.
    pub body: Bytes,
}

impl Sidecar {
    /// Resolves a step in doubt.
    ///
    /// # Errors
    /// [`OperationError`]: `BadAnswer`, `Closed`, `Damaged`, `Journal`, `NotInDoubt`, `Running`, `Unknown`.
    pub async fn resolve_step(
        &self,
        key: &WorkflowKey,
        step: StepIndex,
        outcome: Outcome,
        by: &str,
    ) -> Result<(), OperationError> {
        if self.journal.attach(key)?.is_none() {
            return Err(OperationError::Unknown);
        }
        let run = self.runs.of(key);
        let ticket = {
            let mut state = run.state.lock();
            if state.running.contains_key(&step) {
                return Err(OperationError::Running { step, count: 1 });
            }
            let mut batch = resolve(self.journal.as_ref(), key, step, outcome, by, self.clock.now())?;
            batch.records = state.with_notes(batch.records);
            let ticket = self.journal.commit(key, self.journal.epoch(), batch, Urgency::Now)?;
            // Whatever the agent was told of it before, this it has not been told.
            if let Some(live) = &mut state.attempt {
                live.exchanges.remove(&step);
            }
            // What has become of it counts for policies: read anew.
            state.facts = None;
            ticket
        };
        ticket.await?;
        run.resolved.notify_waiters();
        Ok(())
    }
}

/// What to commit to resolve a step of which nothing is running.
///
/// # Errors
/// As [`Sidecar::resolve_step`], but for `Running`.
pub fn resolve(
    journal: &dyn Journal,
    key: &WorkflowKey,
    step: StepIndex,
    outcome: Outcome,
    by: &str,
    at: Timestamp,
) -> Result<Batch, OperationError> {
    let head = journal.attach(key)?.ok_or(OperationError::Unknown)?;
    operations::writable(&head)?;
    let found = journal.step(key, step)?;
    let found = found.ok_or_else(|| not_in_doubt(step, "it does not exist"))?;
    may_be_resolved(&found)?;
    let resolved = |resolution| Record::Resolved { step, resolution, by: by.to_owned(), at };
    Ok(match outcome {
        Outcome::Abandoned => Batch::one(resolved(Resolution::Abandoned)),
        Outcome::NotExecuted => Batch::one(resolved(Resolution::NotExecuted)),
        Outcome::Completed(answer) => {
            let (completed, body) = completed(journal, &found, answer, at)?;
            let records = vec![resolved(Resolution::Completed), Record::Completed(completed)];
            Batch { records, bodies: vec![body] }
        }
    })
}

fn not_in_doubt(step: StepIndex, why: &'static str) -> OperationError {
    OperationError::NotInDoubt { step, why }
}

fn may_be_resolved(found: &StepRecord) -> Result<(), OperationError> {
    let summary = &found.summary;
    let no = |why| Err(not_in_doubt(summary.step, why));
    match summary.state {
        StepState::Abandoned => no("it has been given up already"),
        StepState::Completed => no("it has its answer"),
        StepState::Refused => no("it was refused"),
        // Also where it was recorded as a read: its tool is an effect since.
        StepState::InDoubt => Ok(()),
        StepState::Failed | StepState::Open => match summary.class {
            EffectClass::Idempotent | EffectClass::Read => no("it may be sent again without harm"),
            EffectClass::Effect if summary.cleared => no("it is known that it was not carried out"),
            EffectClass::Effect => Ok(()),
        },
    }
}

fn completed(
    journal: &dyn Journal,
    found: &StepRecord,
    answer: Answer,
    at: Timestamp,
) -> Result<(Completed, Body), OperationError> {
    let bad = |why: &str| OperationError::BadAnswer(why.to_owned());
    if !(200..600).contains(&answer.status) || !crate::wire::status::is_result(answer.status) {
        return Err(bad("the status is not one of a result, such as 200 or 404"));
    }
    let json = Tape::parse(&answer.body).ok();
    let root = json.as_ref().map(|tape| tape.root(&answer.body));
    let is_error = root.and_then(|root| root.get("isError")?.bool()).unwrap_or(false);
    let is_mcp = found.intent.dialect == Dialect::Mcp;
    let body = if is_mcp {
        if root.is_none_or(|root| root.kind() != Kind::Object) {
            return Err(bad("the answer of an MCP call is its `result`, a JSON object"));
        }
        response(journal, found, &answer.body)
    } else {
        answer.body
    };
    let by_itself = if json.is_some() { "application/json" } else { "text/plain; charset=utf-8" };
    let content_type = answer.content_type.filter(|_| !is_mcp).unwrap_or_else(|| by_itself.to_owned());
    if http::HeaderValue::try_from(content_type.as_str()).is_err() {
        return Err(bad("the content type is not valid"));
    }
    let body = Body::whole(body);
    let completed = Completed {
        step: found.summary.step,
        status: answer.status,
        headers: vec![("content-type".to_owned(), content_type.into_bytes())],
        body: body.hash,
        body_len: body.bytes.len() as u64,
        body_dropped: false,
        usage: None,
        finish_reason: None,
        announced: Vec::new(),
        is_error: is_error && is_mcp,
        possibly_billed: false,
        tried: found.summary.tries.max(1),
        at,
    };
    Ok((completed, body))
}

/// The JSON-RPC response around a `result`. Its id is the recorded request's; a replay puts its own in its place.
fn response(journal: &dyn Journal, found: &StepRecord, result: &Bytes) -> Bytes {
    let request = journal.body(&found.intent.request).unwrap_or_default();
    let tape = Tape::parse(&request).ok();
    let id = tape.as_ref().and_then(|tape| tape.root(&request).get("id")).map_or("0", |id| id.raw_str());
    let parts = [br#"{"jsonrpc":"2.0","id":"#.as_slice(), id.as_bytes(), br#","result":"#, result, b"}"];
    parts.concat().into()
}
