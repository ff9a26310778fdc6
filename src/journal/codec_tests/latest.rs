//! The records that came last: how they are stored, and any of them at random.

use proptest::prelude::*;

use super::{at, attempt, print, step};
use crate::journal::conformance as records;
use crate::journal::record::{BoundValue, Decided, FactRef, Intent, Listed, MintedFact, Record, Verdict};
use crate::model::Timestamp;

/// What came behind those of `later_records`.
pub(super) fn records() -> Vec<Record> {
    let at = Timestamp(1_795_140_000_000);
    vec![
        Record::InputRequired { step: records::step(3), tried: 1, at },
        Record::Listed(Listed { changed: Some(true), ..records::listed(3, 2, b"list") }),
        Record::Intent(Intent { key_place: Some("header k".to_owned()), ..records::intent(4, 2, 4) }),
        Record::Decided(Decided {
            step: Some(records::step(4)),
            attempt: records::attempt(2),
            action: "payments/charge".to_owned(),
            exact: records::print(4),
            principal: "anonymous".to_owned(),
            verdict: Verdict::Allowed,
            by: vec!["baseline-tools".to_owned()],
            policies: "0".repeat(64),
            reserved: vec![FactRef { step: records::step(3), nth: 0 }],
            teams: vec!["payments-team".to_owned()],
            replayed: false,
            at,
        }),
        Record::Minted {
            step: records::step(3),
            facts: vec![MintedFact {
                name: "fraud_check_passed".to_owned(),
                bound: vec![
                    ("amount".to_owned(), BoundValue::Decimal(1_205_000)),
                    ("count".to_owned(), BoundValue::Long(-7)),
                    ("invoice_id".to_owned(), BoundValue::Text("INV-7".to_owned())),
                    ("urgent".to_owned(), BoundValue::Bool(true)),
                ],
                valid_until: Some(at),
                single_use: true,
                is_taint: false,
                policy: "ev-fraud-check".to_owned(),
                policy_hash: "1".repeat(64),
            }],
            at,
        },
    ]
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,12}", 0..3)
}

fn fact_ref() -> impl Strategy<Value = FactRef> {
    (step(), any::<u32>()).prop_map(|(step, nth)| FactRef { step, nth })
}

/// Any of them at random.
pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![decided(), minted()]
}

fn decided() -> impl Strategy<Value = Record> {
    let verdict = prop::sample::select(vec![Verdict::Allowed, Verdict::Denied, Verdict::Pending]);
    let who = (prop::option::of(step()), attempt(), ".{0,20}", print(), ".{0,20}");
    let what =
        (verdict, names(), ".{0,64}", prop::collection::vec(fact_ref(), 0..3), names(), any::<bool>(), at());
    (who, what).prop_map(
        |(
            (step, attempt, action, exact, principal),
            (verdict, by, policies, reserved, teams, replayed, at),
        )| {
            Record::Decided(Decided {
                step,
                attempt,
                action,
                exact,
                principal,
                verdict,
                by,
                policies,
                reserved,
                teams,
                replayed,
                at,
            })
        },
    )
}

fn minted() -> impl Strategy<Value = Record> {
    let value = prop_oneof![
        any::<bool>().prop_map(BoundValue::Bool),
        any::<i64>().prop_map(BoundValue::Long),
        any::<i64>().prop_map(BoundValue::Decimal),
        ".{0,20}".prop_map(BoundValue::Text),
    ];
    let bound = prop::collection::vec((".{0,12}", value), 0..3);
    let fact = (".{0,20}", bound, prop::option::of(at()), any::<bool>(), any::<bool>(), ".{0,20}", ".{0,64}");
    let fact = fact.prop_map(|(name, bound, valid_until, single_use, is_taint, policy, policy_hash)| {
        MintedFact { name, bound, valid_until, single_use, is_taint, policy, policy_hash }
    });
    (step(), prop::collection::vec(fact, 0..3), at()).prop_map(|(step, facts, at)| Record::Minted {
        step,
        facts,
        at,
    })
}
