//! In which order replayed answers leave (durability.md, section 4). Some agents build their next request in the
//! order in which the answers of parallel calls arrive; it then matches only if they arrive as they were recorded.

use std::time::Duration;

use crate::journal::{Journal, StepSummary};
use crate::model::{StepIndex, StepState, WorkflowKey};
use crate::proxy::refusal;
use crate::proxy::run::LiveAttempt;
use crate::proxy::sidecar::Sidecar;
use crate::wire::refusal::Refusal;

use super::recall::Served;

/// How many steps before and behind one are looked at for calls that ran beside it. Only a fan-out that is as wide
/// costs so many look-ups for each of its answers.
const NEIGHBOURS_MAX: u64 = 128;
/// So many in a row that had ended before it began, and the search goes no further back.
const ENDED_MAX: usize = 8;
/// How long an answer waits for one that should come before it and that nobody has asked for.
const UNASKED_MAX: Duration = Duration::from_millis(50);
/// How long it waits for those that are on their way.
const ASKED_MAX: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(2);

/// Waits until the answers that were recorded before this one, of calls that ran beside it, have left.
pub(super) async fn turn(sidecar: &Sidecar, served: &Served) -> Result<(), Refusal> {
    let before = before(sidecar.journal.as_ref(), &served.run.key, served.step)?;
    if before.is_empty() {
        return Ok(());
    }
    let (mut unasked, mut asked) = (Duration::ZERO, Duration::ZERO);
    loop {
        let waits = {
            let mut state = served.run.state.lock();
            let Some(live) = state.attempt.as_mut().filter(|live| live.id == served.attempt) else { break };
            match waits_for(live, &before) {
                Some(Waits::Asked) if asked < ASKED_MAX => Waits::Asked,
                Some(Waits::Unasked) if unasked < UNASKED_MAX => Waits::Unasked,
                Some(Waits::Asked | Waits::Unasked) => {
                    // Once is enough: an agent that does not ask for them has no order to keep.
                    live.not_awaited.extend(&before);
                    break;
                }
                None => break,
            }
        };
        tokio::time::sleep(POLL).await;
        match waits {
            Waits::Asked => asked += POLL,
            Waits::Unasked => unasked += POLL,
        }
    }
    Ok(())
}

enum Waits {
    Asked,
    Unasked,
}

fn waits_for(live: &LiveAttempt, before: &[StepIndex]) -> Option<Waits> {
    let mut waits = None;
    for step in before.iter().filter(|step| !live.not_awaited.contains(step)) {
        match live.exchanges.get(step) {
            Some(mark) if mark.is_over() => {}
            Some(_) => return Some(Waits::Asked),
            None => waits = Some(Waits::Unasked),
        }
    }
    waits
}

/// The steps beside this one whose answers were recorded before its own.
fn before(journal: &dyn Journal, key: &WorkflowKey, step: StepIndex) -> Result<Vec<StepIndex>, Refusal> {
    let look = |number: u64| match StepIndex::new(number) {
        Some(step) => journal.summary(key, step).map_err(|error| refusal::journal(&error)),
        None => Ok(None),
    };
    let Some(own) = look(step.number())? else { return Ok(Vec::new()) };
    let mut before = Vec::new();
    for distance in 1..=NEIGHBOURS_MAX {
        let Some(other) = look(step.number() + distance)?.filter(|other| other.begun < own.answered) else {
            break;
        };
        before.extend(is_before(&other, &own));
    }
    let mut ended = 0;
    for number in (step.number().saturating_sub(NEIGHBOURS_MAX)..step.number()).rev() {
        let Some(other) = look(number)?.filter(|_| ended < ENDED_MAX) else { break };
        match is_before(&other, &own) {
            Some(step) => {
                before.push(step);
                ended = 0;
            }
            None => ended += usize::from(other.answered < own.begun),
        }
    }
    Ok(before)
}

fn is_before(other: &StepSummary, own: &StepSummary) -> Option<StepIndex> {
    let is_answered = other.state == StepState::Completed && other.answered < own.answered;
    (is_answered && other.answered > own.begun && other.begun < own.answered).then_some(other.step)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::conformance::{
        Ticks, attempt_opened, completed, intent, key, step, wait, workflow_opened,
    };
    use crate::journal::memory::Memory;
    use crate::journal::{Batch, Record, Urgency};

    /// A workflow whose steps all began before the first was answered, in this order.
    fn fan_out(steps: u64, answered: impl Iterator<Item = u64>) -> Memory {
        let journal = Memory::new(Arc::new(Ticks::default()));
        let begun = (1..=steps).map(|number| Record::Intent(intent(number, 1, number)));
        let answered = answered.map(|number| Record::Completed(completed(number, b"")));
        let records =
            [workflow_opened(), attempt_opened(1)].into_iter().chain(begun).chain(answered).collect();
        let batch = Batch { records, bodies: Vec::new() };
        wait(journal.commit(&key("w"), journal.epoch(), batch, Urgency::Now).unwrap()).unwrap();
        journal
    }

    #[test]
    fn a_step_waits_for_whatever_ran_beside_it_and_was_answered_before_however_wide_the_fan_out() {
        let widest = NEIGHBOURS_MAX + 1;
        let journal = fan_out(widest, [widest, 1].into_iter().chain(2..widest));
        let of = |number: u64| before(&journal, &key("w"), step(number)).unwrap();
        assert_eq!(of(1), [step(widest)]);
        assert_eq!(of(widest), []);
        assert_eq!(of(2), [step(widest), step(1)]);
        // One further away is not looked at.
        let wider = fan_out(widest + 1, [widest + 1, 1].into_iter());
        assert_eq!(before(&wider, &key("w"), step(1)).unwrap(), []);
    }
}
