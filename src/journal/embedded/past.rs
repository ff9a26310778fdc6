//! What the sealed segments say of a workflow, sheet by sheet. The newest sheet that says something of a
//! step, a use or a list is right.

use crate::model::{AttemptId, StepIndex};

use super::super::state::Use;
use super::row::{Place, Sheet, Short};

/// What the sealed segments say of a workflow.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Each segment's sheet, oldest first.
    pub(super) sheets: Vec<(u64, Sheet)>,
    /// Whose sheets these are; none, when nothing was looked up.
    pub(super) of: Option<Short>,
    /// How many segments were sealed, and how often some were compacted, when that was looked up.
    pub(super) version: (u64, u64),
}

impl Past {
    /// The newest segment with a row of the step.
    pub(super) fn segment_of(&self, step: StepIndex) -> Option<u64> {
        let has = |sheet: &Sheet| sheet.steps.binary_search(&step.number()).is_ok();
        self.sheets.iter().rev().find(|(_, sheet)| has(sheet)).map(|(number, _)| *number)
    }

    /// The steps with a fingerprint that has `mark`.
    pub(super) fn steps_with(&self, mark: u64) -> impl Iterator<Item = u64> {
        self.sheets.iter().flat_map(move |(_, sheet)| {
            let from = sheet.marks.partition_point(|(found, _)| *found < mark);
            let marks = sheet.marks.get(from..).unwrap_or_default();
            marks.iter().take_while(move |(found, _)| *found == mark).map(|(_, step)| *step)
        })
    }

    pub(super) fn usage(&self, attempt: AttemptId, step: StepIndex) -> Option<Use> {
        let wanted = (attempt.number(), step.number());
        self.sheets.iter().rev().find_map(|(_, sheet)| {
            let at = sheet.uses.binary_search_by_key(&wanted, |(attempt, step, _)| (*attempt, *step)).ok()?;
            sheet.uses.get(at).map(|(_, _, delivered)| Use { delivered: *delivered })
        })
    }

    pub(super) fn listed(&self, mark: u64) -> Option<Place> {
        let find =
            |sheet: &Sheet| sheet.lists.iter().find(|(found, _)| *found == mark).map(|(_, place)| *place);
        self.sheets.iter().rev().find_map(|(_, sheet)| find(sheet))
    }
}
