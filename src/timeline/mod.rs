//! What happened in a workflow, told from its journal: one document for people and programs, as JSON and
//! as text. Reads the journal and never writes it; asks no sidecar, no clock and no network.

pub mod doctor;
mod fold;
mod list;
mod summary;
mod table;
mod text;
mod unproxied;

use serde::{Deserialize, Serialize};

use crate::journal::{self, Journal};
use crate::model::{AttemptId, StepIndex, Usage, WorkflowId, WorkflowKey};

pub use list::{Row, row, rows, rows_text};
pub use summary::{Summary, summary};

/// Why there is no timeline.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal cannot be read, or this workflow's part of it is damaged.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The workflow has no such attempt.
    #[error("the workflow has no attempt {0}")]
    NoAttempt(AttemptId),
    /// An attempt was to be compared with itself.
    #[error("attempt {0} is named twice; there is nothing to compare")]
    SameAttempt(AttemptId),
    /// Nothing is recorded under this id.
    #[error("there is no workflow `{0}` in this journal")]
    Unknown(WorkflowId),
}

/// Where a workflow stands, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Closed,
    /// Records are lost or unreadable; nothing new is sent for it.
    Damaged,
    /// An effect may have happened and nobody knows.
    InDoubt,
    Open,
    /// Closed so long ago that nothing but its tombstone is kept.
    Removed,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Damaged => "damaged",
            Self::InDoubt => "in_doubt",
            Self::Open => "open",
            Self::Removed => "removed",
        }
    }
}

/// A workflow's history. The field names are those of the JSON, which only ever gains fields; texts
/// instead of closed lists of words, so that an older command line can show a newer sidecar's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    pub workflow: String,
    pub state: State,
    pub attempts: Vec<Attempt>,
    /// In the order in which they began.
    pub steps: Vec<Step>,
    /// Calls that the sidecar refused, oldest first.
    #[serde(default)]
    pub refusals: Vec<Refused>,
    /// Tools that a model's answer called and that no call through the sidecar followed.
    #[serde(default)]
    pub unproxied: Vec<Unproxied>,
    /// Where restarted agents went another way than the recorded run.
    #[serde(default)]
    pub diverged: Vec<Diverged>,
    /// What people, or the config, decided.
    #[serde(default)]
    pub decisions: Vec<Decision>,
    /// What MCP servers offered otherwise than before.
    #[serde(default)]
    pub changed_lists: Vec<ChangedList>,
}

/// One life of the agent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    /// `explicit`, `first`, `process` or `rewind`.
    pub reason: String,
    /// RFC 3339, UTC.
    pub opened_at: String,
}

/// One call. Its `source` is where its answer came from when it was first given: always `live`. That the
/// recorded answer was served again, `redelivered` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub step: u64,
    /// The attempt that began it.
    pub attempt: u32,
    /// `llm`, `mcp` or `http`.
    pub kind: String,
    pub upstream: String,
    /// The model, the tool, or method and path.
    pub operation: String,
    /// `abandoned`, `completed`, `failed`, `in_doubt` or `open`.
    pub state: String,
    pub source: String,
    /// HTTP status of the recorded answer, or of the last failed try.
    pub status: Option<u16>,
    /// When its intent was recorded; RFC 3339, UTC.
    pub started_at: String,
    /// From the beginning of the last try to its outcome; null while it has none.
    pub duration_ms: Option<u64>,
    /// What the provider reported; empty when it reported nothing and for tools.
    #[serde(default)]
    pub usage: Tokens,
    /// The attempts that were served the recorded answer.
    #[serde(default)]
    pub redelivered: Vec<u32>,
    /// By which of its names they found it, where that is recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
    /// How often it was sent; 0 when that is not known.
    #[serde(default)]
    pub tries: u32,
    /// A try before the recorded one may have been billed as well.
    #[serde(default)]
    pub possibly_billed: bool,
    /// MCP: the tool said that it failed.
    #[serde(default)]
    pub is_error: bool,
    /// Why it failed or is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a later attempt's call was recognised as a recorded step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub attempt: u32,
    /// `exact`, `normalised` (it differs only in what the config leaves out) or `identity` (of an effect).
    #[serde(rename = "match")]
    pub by: String,
}

/// Tokens of one step; what was not reported is left away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        let Usage { input, output, cache_read, cache_write, reasoning } = usage;
        Self { input, output, cache_read, cache_write, reasoning }
    }
}

/// A call that the sidecar answered itself with a no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The step it was, when that was known.
    pub step: Option<u64>,
    pub attempt: u32,
    pub operation: String,
    /// `OGnnnn`; `outrigger explain` has the page.
    pub code: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// A call of a restarted agent that the recorded run does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    pub attempt: u32,
    pub operation: String,
    /// The recorded step that was most likely expected.
    pub expected: Option<u64>,
    /// JSON pointer to the first difference from its request; null where it cannot be told.
    pub pointer: Option<String>,
    /// What is recorded there and what was asked, described without their text.
    pub recorded: Option<String>,
    pub asked: Option<String>,
    /// Recorded steps that the agent had not asked for.
    pub left_out: Vec<u64>,
    /// It was refused, and nothing was sent.
    pub refused: bool,
    /// RFC 3339, UTC.
    pub at: String,
}

/// A list of an MCP server that said something else than the one recorded before. From then on it is the
/// recorded one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedList {
    pub attempt: u32,
    pub upstream: String,
    /// `tools/list`, `initialize` and the like.
    pub method: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// What somebody decided of this workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `abandoned`, `completed`, `not_executed` or `repeat` of a step in doubt; `accepted` of steps left out.
    pub decision: String,
    pub steps: Vec<u64>,
    pub by: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// A tool that was called where the sidecar does not see it: it runs again when the agent is restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproxied {
    /// The model's answer that called it.
    pub step: u64,
    pub tool: String,
}

/// Whether somebody is at work on a step right now. An effect without an answer that nobody is at work on was left
/// behind, and is in doubt.
pub type AtWork<'a> = &'a dyn Fn(&WorkflowKey, StepIndex) -> bool;

/// Of a journal without a sidecar.
pub const NOBODY: AtWork<'static> = &|_, _| false;

/// The timeline of a workflow.
///
/// # Errors
/// [`Error`].
pub fn of(journal: &dyn Journal, key: &WorkflowKey, at_work: AtWork<'_>) -> Result<Timeline, Error> {
    let head = journal.attach(key)?.ok_or_else(|| Error::Unknown(key.workflow.clone()))?;
    let records = journal.scan(key)?;
    Ok(fold::fold(key, head.damage.as_deref(), &records, at_work)?)
}

impl Timeline {
    /// For people: a header, one line per step in at most 100 columns, then what deserves attention.
    pub fn text(&self) -> String {
        text::render(self)
    }
}

#[cfg(test)]
mod tests;
