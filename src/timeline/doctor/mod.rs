//! Why a restarted agent did not ask the same again: two attempts of a workflow compared, with the scrubs that
//! would have made their calls the same, and what else weakens the workflow's durability. Reads the journal and
//! what it is told of the config; asks no sidecar and changes nothing.

mod compare;
mod findings;
mod pairs;
mod text;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::journal::{Journal, Record};
use crate::model::{AttemptId, UpstreamName, WorkflowKey};
use crate::replay::normalise::Matching;

use super::Error;

/// What the config says of the upstreams, as far as it matters here.
pub type Routes = BTreeMap<UpstreamName, Route>;

/// What the config says of one upstream.
#[derive(Clone, Debug, Default)]
pub struct Route {
    pub matching: Matching,
    /// The tools of which it says something, by name.
    pub tools: BTreeSet<String>,
}

/// What is to be compared, and how it is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    /// `None`: the last attempt with the one before it.
    pub attempts: Option<(AttemptId, AttemptId)>,
    /// With the values that differ, which may hold secrets.
    pub with_values: bool,
}

/// What was found. The field names are those of the JSON, which only ever gains fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub workflow: String,
    /// The two attempts, the earlier one first; null when there is only one.
    pub attempts: Option<(u32, u32)>,
    /// Calls of the later attempt that found what is recorded.
    pub found: usize,
    /// How many of them were not equal to the recorded one: found as normalised or by their identity.
    pub loosely: usize,
    /// Calls of the two that correspond and differ, in the order of the later attempt.
    pub pairs: Vec<Pair>,
    /// Steps of the earlier attempt that the later one did not ask for, beside those in `pairs`.
    pub left_out: Vec<u64>,
    /// Steps that the later attempt began and that nothing corresponds to.
    pub new: Vec<u64>,
    /// Not everything was compared: the requests are too large or too many.
    pub cut: bool,
    /// What would align them, by upstream.
    pub proposals: Vec<Proposal>,
    /// What else is worth knowing.
    pub findings: Vec<Finding>,
}

/// Two calls that correspond and are not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The step of the earlier attempt.
    pub recorded: u64,
    /// The step of the later one.
    pub asked: u64,
    /// `llm`, `mcp` or `http`.
    pub kind: String,
    pub upstream: String,
    pub operation: String,
    /// `aligned` (the proposals make them the same), `covered` (the present config does), `differs`,
    /// `elsewhere` (path, query or headers differ), or `unreadable`.
    pub verdict: String,
    pub differences: Vec<Difference>,
    /// There are more.
    pub more: bool,
}

/// One place at which they differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// JSON pointer; empty when the whole differs.
    pub pointer: String,
    /// What is there: `answer`, `arguments`, `output`, `prompt`, `setting` or `tools`.
    pub part: String,
    /// What can be done: `covered`, `cache_control`, `member`, `scrub` or `none`.
    pub remedy: String,
    /// The kinds of text that differ, where they were recognised.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Both values, described without their text.
    pub recorded: String,
    pub asked: String,
    /// Both values as JSON, shortened; only when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_value: Option<String>,
}

/// The `match` of an upstream that would align the two attempts: its present one and what is missing in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub upstream: String,
    #[serde(rename = "match")]
    pub matching: Match,
}

/// As the config has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    pub headers: Vec<String>,
    /// What is not as it is by default.
    pub normalise: BTreeMap<String, bool>,
    pub scrubs: Vec<Scrub>,
}

/// As the config has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    pub pointer: String,
    pub regex: String,
}

/// Something that weakens what the journal can promise for this workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `rewind`, `shared_owner`, `undeclared_tool`, `unproxied_tool` or `refused`.
    pub kind: String,
    pub text: String,
}

/// Examines a workflow.
///
/// # Errors
/// [`Error`].
pub fn doctor(
    journal: &dyn Journal,
    key: &WorkflowKey,
    routes: &Routes,
    question: Question,
) -> Result<Report, Error> {
    if journal.attach(key)?.is_none() {
        return Err(Error::Unknown(key.workflow.clone()));
    }
    let records = journal.scan(key)?;
    let attempts = attempts(&records, question)?;
    let mut report = Report {
        workflow: key.workflow.to_string(),
        attempts: attempts.map(|(earlier, later)| (earlier.number(), later.number())),
        found: 0,
        loosely: 0,
        pairs: Vec::new(),
        left_out: Vec::new(),
        new: Vec::new(),
        cut: false,
        proposals: Vec::new(),
        findings: findings::find(key, &records, routes, attempts.map(|(_, later)| later)),
    };
    if let Some((earlier, later)) = attempts {
        compare::fill(&mut report, journal, routes, &pairs::sides(&records, earlier, later), question);
    }
    Ok(report)
}

/// The attempts to compare, the earlier one first.
fn attempts(records: &[Record], question: Question) -> Result<Option<(AttemptId, AttemptId)>, Error> {
    let opened: Vec<AttemptId> = records.iter().filter_map(opened).collect();
    let Some((one, other)) = question.attempts else {
        return Ok(match opened.as_slice() {
            [.., earlier, later] => Some((*earlier, *later)),
            _ => None,
        });
    };
    let missing = [one, other].into_iter().find(|attempt| !opened.contains(attempt));
    match missing {
        Some(attempt) => Err(Error::NoAttempt(attempt)),
        None if one == other => Err(Error::SameAttempt(one)),
        None => Ok(Some((one.min(other), one.max(other)))),
    }
}

fn opened(record: &Record) -> Option<AttemptId> {
    if let Record::AttemptOpened { attempt, .. } = record { Some(*attempt) } else { None }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        text::render(self)
    }

    /// The proposals as a piece of the config file; empty when there are none.
    pub fn yaml(&self) -> String {
        yaml::render(&self.proposals)
    }
}

#[cfg(test)]
mod tests;
