//! How a replay went, told to people and as an exit code.

use crate::diag::Code;
use crate::proxy::recording::{Replayed, Report};

use super::super::failure::{Exit, Failure};
use super::super::out;

/// Most steps that are named one by one.
const STEPS_MAX: usize = 10;

/// Says of every attempt what was asked for, and of every refused call why.
pub(super) fn tell(report: &Report) {
    for replayed in &report.replays {
        out::note(&line(replayed));
    }
    for refusal in &report.refusals {
        out::note(&format!("refused: {refusal}"));
    }
    let more = report.refused.saturating_sub(report.refusals.len() as u64);
    if more > 0 {
        out::note(&format!("refused: {more} more"));
    }
}

/// # Errors
/// When something was refused, or with `complete`, when something recorded was not asked for.
pub(super) fn judge(report: &Report, complete: bool) -> Result<(), Failure> {
    if report.refused > 0 {
        let calls =
            if report.refused == 1 { "1 call was" } else { &format!("{} calls were", report.refused) };
        let message = format!("{calls} refused: the replay was not as it is recorded");
        return Err(Failure::new(message).code(Code::NotInRun).exit_with(Exit::Workflow));
    }
    let unused: usize = report.replays.iter().map(|replayed| replayed.unused.len()).sum();
    if complete && unused > 0 {
        let answers =
            if unused == 1 { "1 recorded answer was" } else { &format!("{unused} recorded answers were") };
        let message = format!("{answers} not asked for");
        return Err(Failure::new(message).code(Code::ReplayIncomplete).exit_with(Exit::Workflow));
    }
    Ok(())
}

fn line(replayed: &Replayed) -> String {
    let Replayed { workflow, attempt, recorded, unused } = replayed;
    let Some(attempt) = attempt else {
        return format!("{workflow}: nothing was asked for of {recorded} steps");
    };
    let mut line =
        format!("{workflow}, attempt {attempt}: {} of {recorded} recorded answers", recorded - unused.len());
    if !unused.is_empty() {
        let named = unused.iter().take(STEPS_MAX).map(|(step, what)| format!("{step} ({what})"));
        line.push_str(&format!("; not asked for: {}", named.collect::<Vec<_>>().join(", ")));
        if unused.len() > STEPS_MAX {
            line.push_str(&format!(" and {} more", unused.len() - STEPS_MAX));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{StepIndex, WorkflowId};

    fn replayed(attempt: Option<u32>, unused: &[u64]) -> Replayed {
        let unused =
            unused.iter().map(|step| (StepIndex::new(*step).unwrap(), "`gpt-5` at openai".to_owned()));
        let workflow = WorkflowId::parse("order-7").unwrap();
        Replayed { workflow, attempt, recorded: 12, unused: unused.collect() }
    }

    #[test]
    fn an_attempt_is_told_with_the_steps_it_left_out() {
        assert_eq!(line(&replayed(Some(1), &[])), "order-7, attempt 1: 12 of 12 recorded answers");
        assert_eq!(
            line(&replayed(Some(2), &[12])),
            "order-7, attempt 2: 11 of 12 recorded answers; not asked for: 12 (`gpt-5` at openai)"
        );
        let all: Vec<u64> = (1..=12).collect();
        assert!(line(&replayed(Some(1), &all)).ends_with(" and 2 more"));
        assert_eq!(line(&replayed(None, &all)), "order-7: nothing was asked for of 12 steps");
    }

    #[test]
    fn what_was_refused_fails_always_and_what_was_left_out_only_when_asked() {
        let left_out = Report { replays: vec![replayed(Some(1), &[12])], ..Report::default() };
        assert!(judge(&left_out, false).is_ok());
        assert_eq!(judge(&left_out, true).unwrap_err().exit(), Exit::Workflow);
        let refused = Report { refused: 1, ..Report::default() };
        assert_eq!(judge(&refused, false).unwrap_err().exit(), Exit::Workflow);
        assert!(judge(&Report::default(), true).is_ok());
    }
}
