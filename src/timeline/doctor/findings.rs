//! What weakens the promise for a workflow, beside divergence: told from its records and from what the config says
//! of its tools.

use std::collections::BTreeMap;

use crate::journal::{Intent, Record};
use crate::model::{AttemptId, AttemptReason, CallKind, Owner, Resolution, StepIndex, WorkflowKey};
use crate::timeline::unproxied;

use super::{Finding, Routes};

fn finding(kind: &str, text: String) -> Finding {
    Finding { kind: kind.to_owned(), text }
}

pub(super) fn find(
    key: &WorkflowKey,
    records: &[Record],
    routes: &Routes,
    later: Option<AttemptId>,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = records.iter().filter_map(|record| refused(record, later)).collect();
    found.extend(undeclared(records, routes));
    found.extend(unproxied::find(records).into_iter().map(|unproxied| {
        let (step, tool) = (unproxied.step, unproxied.tool);
        finding(
            "unproxied_tool",
            format!(
                "step {step} called the tool `{tool}`, which does not pass through Outrigger: a restarted agent runs \
                 it again, and its output may differ"
            ),
        )
    }));
    found.extend(records.iter().filter_map(rewound));
    if key.owner == Owner::local() {
        let text = "callers are not verified: everybody who reaches the listener shares the owner `local` and can \
                    go on with this workflow";
        found.push(finding("shared_owner", text.to_owned()));
    }
    found
}

/// What the later attempt asked for and was not sent has no recorded request to compare.
fn refused(record: &Record, later: Option<AttemptId>) -> Option<Finding> {
    let Record::Diverged(diverged) = record else { return None };
    if !diverged.refused || Some(diverged.attempt) != later {
        return None;
    }
    let place = diverged.pointer.as_ref().zip(diverged.expected);
    let place = place.map_or_else(String::new, |(pointer, step)| {
        format!("; it first differs from step {} at `{pointer}`", step.number())
    });
    let (attempt, operation) = (diverged.attempt.number(), &diverged.operation);
    let text = format!(
        "attempt {attempt} asked for {operation} and was refused, since it had gone another way{place}. A scrub does \
         not help: `outrigger accept` lets it go on, and a tool's `identity` finds effects that are worded differently"
    );
    Some(finding("refused", text))
}

fn rewound(record: &Record) -> Option<Finding> {
    let Record::AttemptOpened { attempt, reason: AttemptReason::Rewind, .. } = record else { return None };
    let text = format!(
        "attempt {} was opened because a call that attempts begin with came again: the agent's process could not be \
         seen. `outrigger run`, or an attempt in the path, tells a restart for sure",
        attempt.number()
    );
    Some(finding("rewind", text))
}

/// Effects in doubt of tools of which the config says nothing, a line per tool.
fn undeclared(records: &[Record], routes: &Routes) -> Vec<Finding> {
    let mut intents: BTreeMap<StepIndex, &Intent> = BTreeMap::new();
    let mut doubts: Vec<StepIndex> = Vec::new();
    for record in records {
        if let Record::Intent(intent) = record {
            intents.insert(intent.step, intent);
        } else if let Record::InDoubt { step, .. } = record {
            doubts.push(*step);
        } else if let Record::Completed(completed) = record {
            doubts.retain(|step| *step != completed.step);
        } else if let Record::Resolved { step, resolution, .. } = record
            && *resolution != Resolution::Repeat
        {
            doubts.retain(|doubt| doubt != step);
        }
    }
    let mut tools: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    for intent in doubts.iter().filter_map(|step| intents.get(step)) {
        let is_declared =
            routes.get(&intent.upstream).is_some_and(|route| route.tools.contains(&intent.operation));
        if !is_declared && intent.kind != CallKind::Llm {
            let tool = tools.entry((intent.upstream.to_string(), &intent.operation)).or_default();
            let step = intent.step.to_string();
            if !tool.contains(&step) {
                tool.push(step);
            }
        }
    }
    let found = tools.into_iter().map(|((upstream, operation), steps)| {
        let plural = if steps.len() == 1 { "" } else { "s" };
        let text = format!(
            "step{plural} {} ({upstream}, {operation}) may have happened, and the config says nothing of this tool. \
             `effect`, `idempotency_key` or `in_doubt` under `upstreams.{upstream}.tools` would say what to do; \
             `outrigger resolve` decides this once",
            steps.join(", ")
        );
        finding("undeclared_tool", text)
    });
    found.collect()
}
