//! Calls that a recorded answer of a model has asked for (durability.md, section 4): a restarted agent that makes
//! one goes no other way than the recorded run, whatever that run got to.

use std::sync::Arc;

use crate::journal::{Journal, StepRecord};
use crate::json::Tape;
use crate::model::{StepIndex, WorkflowKey};
use crate::proxy::call::Call;
use crate::proxy::headers;
use crate::wire::{calls, tool_key};

use super::recall::Question;

/// So many answers back an announcement counts: an agent makes the calls of its last turn, or, where several of
/// its branches run at once, of the last turn of each.
pub(super) const ANSWERS_MAX: usize = 64;

/// Whether the recorded answers `heard` ask for the call more often than the `made` times that the attempt has
/// made it. What cannot be read announces nothing.
pub(super) async fn is_announced(question: &Question<'_>, heard: Vec<StepIndex>, made: usize) -> bool {
    let Some(arguments) = arguments(question.call) else { return false };
    let tool = Arc::clone(&question.call.inspected.operation.name);
    let (journal, key) = (Arc::clone(&question.sidecar.journal), question.enrolled.run.key.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let asked_for = heard.into_iter().flat_map(|step| calls_of(journal.as_ref(), &key, step, &tool));
        asked_for.filter(|call| call.is(&tool, &arguments)).nth(made).is_some()
    });
    reading.await.unwrap_or_default()
}

/// The call's arguments in their canonical spelling.
fn arguments(call: &Call) -> Option<Vec<u8>> {
    let tape = Tape::parse(&call.body).ok()?;
    match tool_key::arguments(call.inspected.operation.surface, tape.root(&call.body)) {
        Some(arguments) => Some(calls::canonical(arguments)),
        // MCP leaves them away where there are none.
        None => Some(b"{}".to_vec()),
    }
}

fn calls_of(journal: &dyn Journal, key: &WorkflowKey, step: StepIndex, tool: &str) -> Vec<calls::ModelCall> {
    let found = journal.step(key, step).ok().flatten();
    let Some(StepRecord { completed: Some(completed), .. }) = found else { return Vec::new() };
    let names_it = |name: &String| calls::bare(name) == calls::bare(tool);
    if !completed.announced.iter().any(names_it) {
        return Vec::new();
    }
    let headers = headers::restored(&completed.headers);
    let content_type = headers::content_type(&headers).unwrap_or_default();
    journal.body(&completed.body).map(|body| calls::asked_for(content_type, &body)).unwrap_or_default()
}
