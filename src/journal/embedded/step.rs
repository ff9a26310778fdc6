//! The row of a step: what is kept in mind of it, and where its records are. Pure.

use minicbor::{Decode, Encode};

use crate::model::{AttemptId, CallKind, EffectClass, Fingerprint, StepIndex, StepState};

use super::super::state::{StepEntry, StepSummary};
use super::super::via;
use super::frame;
use super::row::Place;

/// A step with the places of the records that make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StepRow {
    pub(super) entry: StepEntry,
    pub(super) intent: Place,
    pub(super) completed: Option<Place>,
}

#[derive(Decode, Encode)]
#[cbor(map)]
struct StoredStep {
    #[cbor(n(1), with = "via")]
    step: StepIndex,
    #[cbor(n(2), with = "via")]
    attempt: AttemptId,
    #[cbor(n(3), with = "via")]
    kind: CallKind,
    #[cbor(n(4), with = "via")]
    class: EffectClass,
    #[cbor(n(5), with = "via")]
    exact: Fingerprint,
    #[cbor(n(6), with = "via", has_nil)]
    normalised: Option<Fingerprint>,
    #[n(7)]
    occurrence: u32,
    #[cbor(n(8), with = "via")]
    state: StepState,
    #[n(9)]
    tries: u32,
    #[n(10)]
    cleared: bool,
    #[n(11)]
    clean: bool,
    #[n(12)]
    intent: Place,
    #[n(13)]
    completed: Option<Place>,
    #[cbor(n(14), with = "via", has_nil)]
    identity: Option<Fingerprint>,
    #[n(15)]
    keyed: Option<bool>,
    #[n(16)]
    begun: Option<u64>,
    #[n(17)]
    answered: Option<u64>,
}

impl StepRow {
    pub(super) fn value(&self) -> Vec<u8> {
        let summary = &self.entry.summary;
        frame::cbor(&StoredStep {
            step: summary.step,
            attempt: summary.attempt,
            kind: summary.kind,
            class: summary.class,
            exact: summary.exact,
            normalised: summary.normalised,
            occurrence: summary.occurrence,
            state: summary.state,
            tries: summary.tries,
            cleared: summary.cleared,
            clean: self.entry.clean,
            intent: self.intent,
            completed: self.completed,
            identity: summary.identity,
            keyed: summary.keyed.then_some(true),
            begun: Some(summary.begun),
            answered: Some(summary.answered),
        })
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let stored = frame::uncbor::<StoredStep>(value)?;
        let summary = StepSummary {
            step: stored.step,
            attempt: stored.attempt,
            kind: stored.kind,
            class: stored.class,
            exact: stored.exact,
            normalised: stored.normalised,
            identity: stored.identity,
            keyed: stored.keyed.unwrap_or(false),
            begun: stored.begun.unwrap_or(0),
            answered: stored.answered.unwrap_or(0),
            occurrence: stored.occurrence,
            state: stored.state,
            tries: stored.tries,
            cleared: stored.cleared,
        };
        Some(Self {
            entry: StepEntry { summary, clean: stored.clean },
            intent: stored.intent,
            completed: stored.completed,
        })
    }
}
