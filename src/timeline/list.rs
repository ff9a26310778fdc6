//! The list of workflows: one row each, from what the journal keeps at hand.

use serde::{Deserialize, Serialize};

use crate::journal::{self, Head, Journal};
use crate::model::{Owner, StepIndex, StepState, WorkflowKey};

use super::table::{self, Align, Column};
use super::text::{shown_date, shown_state};
use super::{AtWork, State};

/// One workflow. The field names are those of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub workflow: String,
    pub state: State,
    /// Number of the newest attempt; 0 before the first.
    pub attempts: u32,
    pub steps: u64,
    pub completed: u64,
    /// RFC 3339, UTC.
    pub opened_at: String,
    /// Time of the last record; RFC 3339, UTC.
    pub changed_at: String,
}

/// The workflows of `owner`, most recently opened first.
///
/// # Errors
/// [`journal::Error::Read`].
pub fn rows(journal: &dyn Journal, owner: &Owner, at_work: AtWork<'_>) -> Result<Vec<Row>, journal::Error> {
    let found = journal.workflows()?;
    let own = found.iter().filter(|found| found.key.owner == *owner);
    own.map(|found| of_head(journal, &found.key, &found.head, at_work)).collect()
}

/// One workflow's row; `None` when it was never opened.
///
/// # Errors
/// [`journal::Error::Read`].
pub fn row(
    journal: &dyn Journal,
    key: &WorkflowKey,
    at_work: AtWork<'_>,
) -> Result<Option<Row>, journal::Error> {
    let head = journal.attach(key)?;
    head.map(|head| of_head(journal, key, &head, at_work)).transpose()
}

fn of_head(
    journal: &dyn Journal,
    key: &WorkflowKey,
    head: &Head,
    at_work: AtWork<'_>,
) -> Result<Row, journal::Error> {
    let state = if head.damage.is_some() {
        State::Damaged
    } else if head.removed.is_some() {
        State::Removed
    } else if head.closed.is_some() {
        State::Closed
    } else if is_in_doubt(journal, key, head, at_work)? {
        State::InDoubt
    } else {
        State::Open
    };
    Ok(Row {
        workflow: key.workflow.to_string(),
        state,
        attempts: head.attempt.as_ref().map_or(0, |attempt| attempt.attempt.number()),
        steps: head.steps,
        completed: head.completed,
        opened_at: head.opened_at.to_string(),
        changed_at: head.changed_at.to_string(),
    })
}

/// Whether a step is in doubt. Looks from the newest step back and stops when every step without an answer
/// has been seen: those are few and new.
fn is_in_doubt(
    journal: &dyn Journal,
    key: &WorkflowKey,
    head: &Head,
    at_work: AtWork<'_>,
) -> Result<bool, journal::Error> {
    let mut unanswered = head.steps.saturating_sub(head.completed);
    for step in (1..=head.steps).rev().filter_map(StepIndex::new) {
        if unanswered == 0 {
            break;
        }
        let summary = match journal.step(key, step) {
            Ok(step) => step.map(|step| step.summary),
            // Only this workflow's records are unreadable; the list goes on.
            Err(journal::Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let summary = summary.as_ref();
        if summary.is_some_and(|summary| summary.may_have_happened() && !at_work(key, step)) {
            return Ok(true);
        }
        unanswered -= u64::from(summary.is_none_or(|summary| summary.state != StepState::Completed));
    }
    Ok(false)
}

const COLUMNS: [Column; 6] = [
    Column::elastic("workflow", 36),
    Column::fixed("state", Align::Left),
    Column::fixed("attempts", Align::Right),
    Column::fixed("steps", Align::Right),
    Column::fixed("completed", Align::Right),
    Column::fixed("last change", Align::Left),
];

/// For people: one line per workflow in at most 100 columns.
pub fn rows_text(rows: &[Row]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.workflow.clone(),
                shown_state(row.state).to_owned(),
                row.attempts.to_string(),
                row.steps.to_string(),
                row.completed.to_string(),
                shown_date(&row.changed_at),
            ]
        })
        .collect();
    table::render(&COLUMNS, &rows)
}
