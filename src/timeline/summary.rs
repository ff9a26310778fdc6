//! What a run came to and what replaying saved, in three lines.

use std::fmt;

use crate::model::CallKind;

use super::Timeline;
use super::text::count;

/// Figures of a workflow, and of its replays from one attempt on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub steps: usize,
    pub completed: usize,
    /// Attempts counted for `replayed` and below.
    pub attempts: usize,
    /// Answers given from the journal instead of being asked for again.
    pub replayed: usize,
    /// Of these, answers of models.
    pub model_calls_saved: usize,
    /// Of these, calls of MCP and HTTP tools.
    pub tool_calls_saved: usize,
    /// As the provider reported them when the answers were live.
    pub tokens_in_saved: u64,
    pub tokens_out_saved: u64,
}

/// Sums the timeline up; replays count in `since` and later attempts.
pub fn summary(timeline: &Timeline, since: u32) -> Summary {
    let mut sum = Summary {
        steps: timeline.steps.len(),
        completed: timeline.steps.iter().filter(|step| step.state == "completed").count(),
        attempts: timeline.attempts.iter().filter(|attempt| attempt.attempt >= since).count(),
        ..Summary::default()
    };
    for step in &timeline.steps {
        let times = step.redelivered.iter().filter(|attempt| **attempt >= since).count();
        sum.replayed += times;
        if step.kind == CallKind::Llm.as_str() {
            sum.model_calls_saved += times;
        } else {
            sum.tool_calls_saved += times;
        }
        let tokens = |count: Option<u64>| count.unwrap_or(0).saturating_mul(times as u64);
        sum.tokens_in_saved = sum.tokens_in_saved.saturating_add(tokens(step.usage.input));
        sum.tokens_out_saved = sum.tokens_out_saved.saturating_add(tokens(step.usage.output));
    }
    sum
}

impl fmt::Display for Summary {
    /// Three lines: steps, replayed, saved.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "steps:    {}, {} completed", self.steps, self.completed)?;
        writeln!(f, "replayed: {} in {}", count(self.replayed, "answer"), count(self.attempts, "attempt"))?;
        write!(
            f,
            "saved:    {} ({} tokens in, {} out), {}",
            count(self.model_calls_saved, "model call"),
            self.tokens_in_saved,
            self.tokens_out_saved,
            count(self.tool_calls_saved, "tool call"),
        )
    }
}
