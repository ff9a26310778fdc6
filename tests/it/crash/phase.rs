//! How far a call had come when the sidecar was killed, judged by what is left of it.

use super::world::Call;

/// The phases of a call's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// No trace of it.
    BeforeIntent,
    /// In the journal, and never sent.
    IntentDurable,
    /// Sent, and no byte of an answer.
    Sent,
    /// Some of the answer came from the upstream.
    HalfAnswered,
    /// In the journal with its outcome, which the agent did not get.
    CommittedUndelivered,
    /// No call was under way.
    BetweenSteps,
}

impl Phase {
    /// Those to which a kill can be steered.
    pub(super) const STEERED: [Self; 5] =
        [Self::BeforeIntent, Self::IntentDurable, Self::Sent, Self::HalfAnswered, Self::CommittedUndelivered];

    /// Only between an effect's intent and its commit may a run be stopped.
    pub(super) fn may_be_in_doubt(self) -> bool {
        matches!(self, Self::IntentDurable | Self::Sent | Self::HalfAnswered)
    }
}

/// What is left of a call.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Its state in the journal; `None` when it is not there.
    pub(super) state: Option<String>,
    /// How often it came upstream.
    pub(super) sent: usize,
    /// The upstream had begun to answer.
    pub(super) half: bool,
}

impl Seen {
    pub(super) fn phase(&self) -> Phase {
        match (self.state.as_deref(), self.sent, self.half) {
            (Some("completed"), _, _) => Phase::CommittedUndelivered,
            (_, 1.., true) => Phase::HalfAnswered,
            (_, 1.., false) => Phase::Sent,
            (Some(_), 0, _) => Phase::IntentDurable,
            (None, 0, _) => Phase::BeforeIntent,
        }
    }

    /// What must hold whatever phase it was.
    #[track_caller]
    pub(super) fn check(&self, call: &Call, is_done: bool) {
        if is_done {
            return;
        }
        assert!(self.sent <= 1, "{call:?}: sent {} times before any retry", self.sent);
        let recorded = self.state.is_some();
        // INVARIANT under test: an effect's intent is durable before its first byte leaves.
        assert!(
            recorded || self.sent == 0 || !call.kind.is_effect(),
            "{call:?}: sent and not in the journal"
        );
    }
}
