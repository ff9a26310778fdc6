//! What provably happened in one workflow, as policies ask for it: read from the workflow's records when a policy first
//! asks, and kept along from then on. Knows no policy; the ledger's rules are `policy::facts`'.

use std::collections::HashSet;

use crate::journal::{BoundValue, Decided, FactRef, MintedFact, Record, Verdict};
use crate::model::{CallKind, Resolution, StepIndex, Timestamp, Usage, WorkflowId};
use crate::policy::datum::Scalar;
use crate::policy::{Decimal, Fact, FactId, Kind, Ledger, Run};
use crate::wire::status;

/// Facts and counts of one workflow.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) ledger: Ledger,
    pub(crate) run: Run,
    /// The last completed steps: what is read and what is told may overlap.
    counted: HashSet<StepIndex>,
}

impl Facts {
    /// What a workflow's records say.
    pub(crate) fn of(workflow: &WorkflowId, records: &[Record]) -> Self {
        let run = Run { id: workflow.as_str().to_owned(), ..Run::default() };
        let mut facts = Self { run, ..Self::default() };
        records.iter().for_each(|record| facts.apply(record));
        facts
    }

    /// Takes in what is recorded next.
    pub(crate) fn apply(&mut self, record: &Record) {
        match record {
            Record::Intent(intent) => {
                self.run.steps += 1;
                self.run.tool_calls += u64::from(intent.kind != CallKind::Llm);
            }
            Record::Decided(decided) => self.reserve(decided),
            Record::Minted { step, facts, at } => {
                for (nth, fact) in (0..).zip(facts) {
                    self.ledger.mint(FactId { step: *step, nth }, minted(fact, *at));
                }
            }
            Record::Completed(completed) => {
                if self.counted.insert(completed.step) {
                    let tokens = completed.usage.as_ref().and_then(Usage::total).unwrap_or(0);
                    self.run.tokens = self.run.tokens.saturating_add(tokens);
                }
                self.ledger.consume(completed.step);
            }
            Record::Failed { step, not_sent, not_executed, status, .. } => {
                let by_default = status.is_some_and(status::is_not_executed);
                if *not_sent || not_executed.unwrap_or(by_default) {
                    self.ledger.release(*step);
                }
            }
            // Nothing was carried out: the next leg is a decision of its own.
            Record::InputRequired { step, .. } => self.ledger.release(*step),
            Record::Resolved { step, resolution, .. } => match resolution {
                Resolution::NotExecuted => self.ledger.release(*step),
                Resolution::Abandoned | Resolution::Completed | Resolution::Repeat => {}
            },
            Record::Accepted { .. }
            | Record::AttemptOpened { .. }
            | Record::BodiesExpired { .. }
            | Record::Delivered { .. }
            | Record::Dispatched { .. }
            | Record::Diverged(_)
            | Record::InDoubt { .. }
            | Record::Listed(_)
            | Record::Redelivered { .. }
            | Record::RefusalDelivered { .. }
            | Record::Refused { .. }
            | Record::Removed { .. }
            | Record::ToldAgain { .. }
            | Record::WorkflowClosed { .. }
            | Record::WorkflowOpened { .. } => {}
        }
    }

    fn reserve(&mut self, decided: &Decided) {
        let Some(step) = decided.step.filter(|_| decided.verdict == Verdict::Allowed && !decided.replayed)
        else {
            return;
        };
        // What an earlier try of the step had and this one does not need.
        self.ledger.release(step);
        for fact in &decided.reserved {
            self.ledger.reserve(FactId { step: fact.step, nth: fact.nth }, step);
        }
    }
}

/// As a record names it.
pub(crate) fn reference(id: FactId) -> FactRef {
    FactRef { step: id.step, nth: id.nth }
}

/// What a completed step proves, as it is recorded.
pub(crate) fn record(step: StepIndex, facts: &[(FactId, Fact)], at: Timestamp) -> Option<Record> {
    let facts: Vec<_> = facts.iter().map(|(_, fact)| recorded(fact)).collect();
    (!facts.is_empty()).then_some(Record::Minted { step, facts, at })
}

fn recorded(fact: &Fact) -> MintedFact {
    let value = |value: &Scalar| match value {
        Scalar::Bool(value) => BoundValue::Bool(*value),
        Scalar::Long(value) => BoundValue::Long(*value),
        Scalar::Decimal(value) => BoundValue::Decimal(value.units),
        Scalar::Text(value) => BoundValue::Text(value.clone()),
    };
    MintedFact {
        name: fact.name.clone(),
        bound: fact.bound.iter().map(|(name, of)| (name.clone(), value(of))).collect(),
        valid_until: fact.valid_until,
        single_use: fact.single_use,
        is_taint: fact.kind == Kind::Taint,
        policy: fact.policy.clone(),
        policy_hash: fact.policy_hash.clone(),
    }
}

fn minted(fact: &MintedFact, at: Timestamp) -> Fact {
    let value = |value: &BoundValue| match value {
        BoundValue::Bool(value) => Scalar::Bool(*value),
        BoundValue::Long(value) => Scalar::Long(*value),
        BoundValue::Decimal(units) => Scalar::Decimal(Decimal { units: *units }),
        BoundValue::Text(value) => Scalar::Text(value.clone()),
    };
    Fact {
        name: fact.name.clone(),
        bound: fact.bound.iter().map(|(name, of)| (name.clone(), value(of))).collect(),
        minted_at: at,
        valid_until: fact.valid_until,
        single_use: fact.single_use,
        kind: if fact.is_taint { Kind::Taint } else { Kind::Evidence },
        policy: fact.policy.clone(),
        policy_hash: fact.policy_hash.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::conformance as records;
    use crate::model::FailureClass;
    use crate::policy::Found;

    const NOW: Timestamp = Timestamp(1_795_140_000_000);

    fn fact() -> MintedFact {
        MintedFact {
            name: "checked".to_owned(),
            bound: vec![("invoice".to_owned(), BoundValue::Text("INV-7".to_owned()))],
            valid_until: None,
            single_use: true,
            is_taint: false,
            policy: "ev".to_owned(),
            policy_hash: "h".to_owned(),
        }
    }

    fn decided(step: u64) -> Record {
        Record::Decided(Decided {
            step: Some(records::step(step)),
            attempt: records::attempt(1),
            action: "payments/charge".to_owned(),
            exact: records::print(1),
            principal: "anonymous".to_owned(),
            verdict: Verdict::Allowed,
            by: Vec::new(),
            policies: String::new(),
            reserved: vec![FactRef { step: records::step(1), nth: 0 }],
            teams: Vec::new(),
            replayed: false,
            at: NOW,
        })
    }

    fn failed(step: u64, not_sent: bool, status: Option<u16>) -> Record {
        Record::Failed {
            step: records::step(step),
            tried: 1,
            class: FailureClass::Status,
            status,
            not_sent,
            detail: String::new(),
            at: NOW,
            not_executed: None,
            answer: None,
            words: None,
        }
    }

    #[track_caller]
    fn check(then: &[Record], is_there: bool) {
        let minted = Record::Minted { step: records::step(1), facts: vec![fact()], at: NOW };
        let all: Vec<_> = [minted, decided(2)].into_iter().chain(then.iter().cloned()).collect();
        let workflow = WorkflowId::parse("w").unwrap();
        let read = Facts::of(&workflow, &all);
        let mut told = Facts::of(&workflow, &[]);
        // Told one by one, some of it twice.
        all.iter().chain(&all[..1]).for_each(|record| told.apply(record));
        let bound = [("invoice".to_owned(), Scalar::Text("INV-7".to_owned()))].into();
        for facts in [read, told] {
            let found = facts.ledger.find("checked", &bound, (NOW, None), |_| true);
            assert_eq!(matches!(found, Found::Valid(_)), is_there, "{found:?}");
        }
    }

    #[test]
    fn a_reserved_fact_comes_back_only_when_its_call_provably_was_not_carried_out() {
        let in_doubt = Record::InDoubt { step: records::step(2), cause: "lost".to_owned(), at: NOW };
        check(&[], false);
        check(&[failed(2, true, None)], true);
        check(&[failed(2, false, Some(429))], true);
        check(&[failed(2, false, Some(504))], false);
        check(&[failed(2, false, None), in_doubt.clone()], false);
        check(&[in_doubt.clone(), records::resolved(2, Resolution::NotExecuted)], true);
        check(&[in_doubt, records::resolved(2, Resolution::Abandoned)], false);
        check(&[Record::InputRequired { step: records::step(2), tried: 1, at: NOW }], true);
        // Another call's outcome says nothing of it.
        check(&[failed(3, true, None)], false);
        // Tried again it counts on it again.
        check(&[failed(2, true, None), decided(2)], false);
    }

    #[test]
    fn steps_and_tokens_are_counted_once() {
        let mut facts = Facts::of(&WorkflowId::parse("w").unwrap(), &[]);
        facts.apply(&Record::Intent(records::intent(1, 1, 1)));
        let completed = records::completed(1, b"x");
        facts.apply(&Record::Completed(completed.clone()));
        let tokens = facts.run.tokens;
        facts.apply(&Record::Completed(completed));
        assert_eq!((facts.run.steps, facts.run.tokens), (1, tokens));
    }
}
