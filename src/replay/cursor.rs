//! The matcher: fed what is recorded under an incoming request's fingerprint, it says which step the
//! request is (durability.md, section 4). Pure; knows nothing of journals, clocks or connections.

use crate::model::{EffectClass, StepIndex, StepState};

/// The exchange (HTTP/1 request, HTTP/2 stream) that last carried a step to the agent in this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// It ended after the agent's side had been handed the end of the answer.
    Delivered,
    /// It ended before that, or with the sidecar that served it.
    Lost,
    /// The agent is still connected to it.
    Open,
}

/// A step recorded under the request's fingerprint, as the matcher needs it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub step: StepIndex,
    pub state: StepState,
    pub class: EffectClass,
    /// Whatever was tried so far is known not to have been executed.
    pub cleared: bool,
    /// It may be sent again although it may have happened: under its idempotency key, or because the
    /// operator says so.
    pub may_repeat: bool,
    /// A task of this process is at work on it.
    pub running: bool,
    /// An earlier attempt was told that it failed, or was refused, and went on from that.
    pub gone_on: bool,
    /// How this attempt used it; `None` when it has not.
    pub used: Option<Exchange>,
}

/// Which step the request is, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An effect that was given up while it was in doubt: refuse.
    Abandoned(StepIndex),
    /// An effect that may have happened: refuse.
    InDoubt(StepIndex),
    /// Attach to the running work.
    Join(StepIndex),
    /// No recorded step: a new one.
    New,
    /// Serve the recorded answer.
    Replay(StepIndex),
    /// Tell once more that it failed or was refused.
    TellAgain(StepIndex),
    /// Send again: the next try of this step.
    TryAgain(StepIndex),
}

/// Decides over `candidates`, which are in ascending order of their steps.
pub fn decide(candidates: &[Candidate]) -> Decision {
    let retried = candidates.iter().find(|candidate| is_retry(candidate));
    let unused = || candidates.iter().find(|candidate| candidate.used.is_none());
    let decision = retried.or_else(unused).map_or(Decision::New, proceed);
    // An equal call that was completed is answered with its own result; nothing is sent either way.
    let completed = || {
        candidates.iter().find(|candidate| {
            candidate.used.is_none() && !candidate.running && candidate.state == StepState::Completed
        })
    };
    match decision {
        Decision::Abandoned(_) | Decision::InDoubt(_) => {
            completed().map_or(decision, |candidate| Decision::Replay(candidate.step))
        }
        Decision::Join(_)
        | Decision::New
        | Decision::Replay(_)
        | Decision::TellAgain(_)
        | Decision::TryAgain(_) => decision,
    }
}

/// The same call asked again: its last exchange is over and left the agent without a result.
fn is_retry(candidate: &Candidate) -> bool {
    match candidate.used {
        None => false,
        // Its work is over and left a doubt: whoever asks now does not get a second effect, connected or not.
        Some(Exchange::Open) => candidate.state == StepState::InDoubt && !candidate.running,
        Some(Exchange::Lost) => true,
        // A delivered answer is done with, unless it was no result: then asking again is the next try. The task
        // that carried it may be running a moment longer than its answer took.
        Some(Exchange::Delivered) => candidate.state != StepState::Completed,
    }
}

fn proceed(candidate: &Candidate) -> Decision {
    let step = candidate.step;
    if candidate.running {
        return Decision::Join(step);
    }
    if candidate.gone_on {
        return Decision::TellAgain(step);
    }
    match candidate.state {
        StepState::Completed => Decision::Replay(step),
        StepState::Abandoned => Decision::Abandoned(step),
        StepState::InDoubt if candidate.may_repeat => Decision::TryAgain(step),
        StepState::InDoubt => Decision::InDoubt(step),
        StepState::Failed | StepState::Open | StepState::Refused => match candidate.class {
            EffectClass::Idempotent | EffectClass::Read => Decision::TryAgain(step),
            EffectClass::Effect if candidate.cleared || candidate.may_repeat => Decision::TryAgain(step),
            EffectClass::Effect => Decision::InDoubt(step),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64) -> StepIndex {
        StepIndex::new(number).unwrap()
    }

    fn completed(number: u64) -> Candidate {
        Candidate {
            step: step(number),
            state: StepState::Completed,
            class: EffectClass::Effect,
            cleared: false,
            may_repeat: false,
            running: false,
            gone_on: false,
            used: None,
        }
    }

    #[track_caller]
    fn check(candidates: &[Candidate], expected: Decision) {
        assert_eq!(decide(candidates), expected, "candidates: {candidates:#?}");
    }

    #[test]
    fn a_delivered_answer_is_done_with_also_while_its_task_ends() {
        let used = Some(Exchange::Delivered);
        check(&[Candidate { running: true, used, ..completed(1) }], Decision::New);
        let failed = Candidate { state: StepState::Failed, cleared: true, used, ..completed(1) };
        check(&[Candidate { running: true, ..failed }], Decision::Join(step(1)));
        check(&[failed], Decision::TryAgain(step(1)));
    }

    #[test]
    fn nothing_recorded_is_a_new_step() {
        check(&[], Decision::New);
    }

    #[test]
    fn the_lowest_unused_step_is_replayed_and_each_only_once() {
        let used = Candidate { used: Some(Exchange::Delivered), ..completed(3) };
        check(&[completed(3), completed(8)], Decision::Replay(step(3)));
        check(&[used, completed(8)], Decision::Replay(step(8)));
        check(&[used], Decision::New);
    }

    #[test]
    fn an_answer_that_never_arrived_is_served_again_before_anything_else() {
        let lost = Candidate { used: Some(Exchange::Lost), ..completed(3) };
        check(&[lost, completed(8)], Decision::Replay(step(3)));
        check(&[Candidate { running: true, ..lost }], Decision::Join(step(3)));
    }

    #[test]
    fn equal_calls_on_open_connections_are_calls_of_their_own() {
        let open =
            Candidate { used: Some(Exchange::Open), running: true, state: StepState::Open, ..completed(3) };
        check(&[open], Decision::New);
        check(&[open, completed(4)], Decision::Replay(step(4)));
    }

    #[test]
    fn work_that_outlived_its_agent_is_joined() {
        check(
            &[Candidate { running: true, state: StepState::Open, ..completed(3) }],
            Decision::Join(step(3)),
        );
    }

    #[test]
    fn an_effect_without_outcome_is_in_doubt_unless_nothing_was_sent() {
        for state in [StepState::Open, StepState::Failed] {
            let left = Candidate { state, ..completed(3) };
            check(&[left], Decision::InDoubt(step(3)));
            check(&[Candidate { cleared: true, ..left }], Decision::TryAgain(step(3)));
            for class in [EffectClass::Read, EffectClass::Idempotent] {
                check(&[Candidate { class, ..left }], Decision::TryAgain(step(3)));
            }
        }
        check(
            &[Candidate { state: StepState::InDoubt, cleared: true, ..completed(3) }],
            Decision::InDoubt(step(3)),
        );
    }

    #[test]
    fn a_step_in_doubt_does_not_hide_an_equal_one_that_was_completed() {
        let doubt = Candidate { state: StepState::InDoubt, ..completed(3) };
        check(&[doubt, completed(4)], Decision::Replay(step(4)));
        let used = Candidate { used: Some(Exchange::Delivered), ..completed(4) };
        check(&[doubt, used], Decision::InDoubt(step(3)));
    }

    #[test]
    fn asking_again_after_a_delivered_failure_is_the_next_try() {
        let failed = Candidate {
            state: StepState::Failed,
            class: EffectClass::Read,
            used: Some(Exchange::Delivered),
            ..completed(3)
        };
        check(&[failed], Decision::TryAgain(step(3)));
        let open = Candidate { used: Some(Exchange::Open), ..failed };
        check(&[open], Decision::New);
        check(&[Candidate { state: StepState::InDoubt, ..open }], Decision::InDoubt(step(3)));
    }

    #[test]
    fn what_an_earlier_life_went_on_from_is_told_again_in_its_place_whatever_became_of_it() {
        let gone_on = Candidate { gone_on: true, ..completed(3) };
        for state in [StepState::Completed, StepState::Failed, StepState::InDoubt, StepState::Abandoned] {
            assert_eq!(decide(&[Candidate { state, ..gone_on }]), Decision::TellAgain(step(3)), "{state}");
        }
        check(&[completed(2), gone_on], Decision::Replay(step(2)));
        check(&[Candidate { running: true, ..gone_on }], Decision::Join(step(3)));
    }

    #[test]
    fn what_may_be_repeated_is_tried_again_and_what_was_given_up_is_not() {
        let doubtful = Candidate { state: StepState::InDoubt, ..completed(3) };
        for state in [StepState::InDoubt, StepState::Open, StepState::Failed] {
            let may_repeat = Candidate { state, may_repeat: true, ..doubtful };
            assert_eq!(decide(&[may_repeat]), Decision::TryAgain(step(3)), "{state}");
            let alone = Candidate { may_repeat: false, ..may_repeat };
            assert_eq!(decide(&[alone]), Decision::InDoubt(step(3)), "{state}");
        }
        let given_up = Candidate { state: StepState::Abandoned, may_repeat: true, ..doubtful };
        for used in [None, Some(Exchange::Lost), Some(Exchange::Delivered)] {
            assert_eq!(decide(&[Candidate { used, ..given_up }]), Decision::Abandoned(step(3)), "{used:?}");
        }
    }
}
