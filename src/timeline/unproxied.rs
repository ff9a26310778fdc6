//! Tools that an agent ran by itself: a model's answer called them, and no call through the sidecar
//! followed before the agent asked a model again. Names only; it cannot know more, and says nothing
//! where it is not sure.

use std::collections::HashSet;

use crate::journal::{Intent, Record};
use crate::model::{CallKind, StepIndex};
use crate::wire::calls::bare;

use super::Unproxied;

/// One call that a model asked for.
struct Announced<'a> {
    step: StepIndex,
    tool: &'a str,
}

#[derive(Default)]
struct Search<'a> {
    /// Announced since the last request to a model, not called yet.
    pending: Vec<Announced<'a>>,
    /// The agent went on without them, so far as one can tell yet.
    passed: Vec<Announced<'a>>,
    /// The same, of attempts that are over: no call of theirs can follow any more.
    sure: Vec<Announced<'a>>,
    models: HashSet<StepIndex>,
}

pub(super) fn find(records: &[Record]) -> Vec<Unproxied> {
    let mut search = Search::default();
    for record in records {
        search.look(record);
    }
    let mut found: Vec<Unproxied> = Vec::new();
    search.sure.append(&mut search.passed);
    for Announced { step, tool } in search.sure {
        let unproxied = Unproxied { step: step.number(), tool: tool.to_owned() };
        if !found.contains(&unproxied) {
            found.push(unproxied);
        }
    }
    found
}

impl<'a> Search<'a> {
    fn look(&mut self, record: &'a Record) {
        if let Record::Completed(completed) = record {
            if self.models.contains(&completed.step) {
                let announced = completed.announced.iter();
                self.pending.extend(announced.map(|tool| Announced { step: completed.step, tool }));
            }
        } else if let Record::Intent(intent) = record {
            self.begins(intent);
        } else if let Record::AttemptOpened { .. } = record {
            self.sure.append(&mut self.passed);
            self.pending.clear();
        } else if let Record::Redelivered { .. } = record {
            // A new life of the agent hears the recorded answers again and may make their calls late.
            self.pending.clear();
        }
    }

    fn begins(&mut self, intent: &'a Intent) {
        match intent.kind {
            CallKind::Llm => {
                self.models.insert(intent.step);
                self.passed.append(&mut self.pending);
            }
            CallKind::Http => {
                // An HTTP tool has no name that a model would know it by: it may be any of them.
                if self.pending.pop().is_none() {
                    self.passed.pop();
                }
            }
            CallKind::Mcp => {
                // Two models may be at work at once, so the call may belong to what looked passed over.
                if !take(&mut self.pending, &intent.operation) {
                    take(&mut self.passed, &intent.operation);
                }
            }
        }
    }
}

/// Removes one announcement of the tool; whether there was one.
fn take(announced: &mut Vec<Announced<'_>>, operation: &str) -> bool {
    let found = announced.iter().position(|announced| bare(announced.tool) == bare(operation));
    found.map(|at| announced.remove(at)).is_some()
}
