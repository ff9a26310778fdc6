//! One workflow with everything that can happen to a step, told as text and as JSON.

use std::sync::Arc;

use super::*;
use crate::journal::memory::Memory;
use crate::journal::{Batch, Completed, Intent, Record, Urgency};
use crate::model::{
    AttemptId, AttemptReason, BodyHash, CallKind, Dialect, EffectClass, Epoch, FailureClass, Fingerprint,
    FoundBy, Owner, RunNonce, StepIndex, TestClock, Timestamp, UpstreamName,
};

/// 2026-11-20T14:00:00Z.
const START: i64 = 1_795_183_200_000;

fn at(ms: i64) -> Timestamp {
    Timestamp(START + ms)
}

fn key(id: &str) -> WorkflowKey {
    WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse(id).unwrap() }
}

fn number(step: u64) -> StepIndex {
    StepIndex::new(step).unwrap()
}

fn attempt(number: u32) -> AttemptId {
    AttemptId::new(number).unwrap()
}

fn opened() -> Record {
    Record::WorkflowOpened { nonce: RunNonce([1; 16]), version: "1".to_owned(), at: at(0) }
}

fn begun(number: u32, reason: AttemptReason, ms: i64) -> Record {
    Record::AttemptOpened { attempt: attempt(number), epoch: Epoch(1), reason, peer: None, at: at(ms) }
}

fn intent(step: u64, by: u32, kind: CallKind, upstream: &str, operation: &str, ms: i64) -> Record {
    let is_read = kind == CallKind::Llm || operation.starts_with("GET ");
    Record::Intent(Intent {
        step: number(step),
        attempt: attempt(by),
        epoch: Epoch(1),
        kind,
        dialect: if kind == CallKind::Llm { Dialect::Openai } else { Dialect::Mcp },
        upstream: UpstreamName::parse(upstream).unwrap(),
        operation: operation.to_owned(),
        class: if is_read { EffectClass::Read } else { EffectClass::Effect },
        exact: Fingerprint([u8::try_from(step).unwrap(); 32]),
        normalised: None,
        occurrence: 1,
        idempotency_key: None,
        request: BodyHash([0; 32]),
        request_len: 0,
        at: at(ms),
        identity: None,
        key_place: None,
    })
}

fn dispatched(step: u64, tried: u32, ms: i64) -> Record {
    Record::Dispatched { step: number(step), tried, at: at(ms) }
}

fn completed(step: u64, ms: i64, tokens: Option<(u64, u64)>, announced: &[&str]) -> Record {
    Record::Completed(Completed {
        step: number(step),
        status: 200,
        headers: Vec::new(),
        body: BodyHash([0; 32]),
        body_len: 0,
        body_dropped: false,
        usage: tokens.map(|(input, output)| Usage {
            input: Some(input),
            output: Some(output),
            ..Usage::default()
        }),
        finish_reason: None,
        announced: announced.iter().map(|tool| (*tool).to_owned()).collect(),
        is_error: false,
        possibly_billed: false,
        tried: 1,
        at: at(ms),
    })
}

fn again(step: u64, by: u32, ms: i64) -> Record {
    let found_by = Some(if step == 1 { FoundBy::Normalised } else { FoundBy::Exact });
    Record::Redelivered { step: number(step), attempt: attempt(by), at: at(ms), found_by }
}

fn failed(step: u64, tried: u32, status: u16, ms: i64) -> Record {
    Record::Failed {
        step: number(step),
        tried,
        class: FailureClass::Status,
        status: Some(status),
        not_sent: false,
        detail: format!("the upstream answered {status}"),
        at: at(ms),
        not_executed: None,
        answer: None,
        words: None,
    }
}

fn journal(id: &str, records: Vec<Record>) -> Memory {
    let journal = Memory::new(Arc::new(TestClock::default()));
    append(&journal, id, records);
    journal
}

fn append(journal: &Memory, id: &str, records: Vec<Record>) {
    let batch = Batch { records, bodies: Vec::new() };
    drop(journal.commit(&key(id), journal.epoch(), batch, Urgency::Now).unwrap());
}

/// Two attempts; the second replays, goes on, and meets every trouble there is.
fn eventful() -> Memory {
    let model = "a-model-whose-name-is-longer-than-any-column-of-a-timeline";
    journal(
        "order-7",
        vec![
            opened(),
            begun(1, AttemptReason::Explicit, 0),
            intent(1, 1, CallKind::Llm, "openai", "gpt-5", 10),
            dispatched(1, 1, 11),
            completed(1, 811, Some((1200, 34)), &["payments__charge", "bash"]),
            intent(2, 1, CallKind::Mcp, "payments", "charge", 900),
            dispatched(2, 1, 900),
            completed(2, 2_150, None, &[]),
            intent(3, 1, CallKind::Llm, "a-very-long-upstream-name", model, 2_200),
            dispatched(3, 1, 2_200),
            begun(2, AttemptReason::Explicit, 60_000),
            again(1, 2, 60_010),
            again(2, 2, 60_020),
            // Not a replay: the second attempt sends what the first got no answer to.
            again(3, 2, 60_030),
            dispatched(3, 2, 60_030),
            failed(3, 2, 503, 61_530),
            dispatched(3, 3, 61_600),
            completed(3, 130_000, Some((1_250_000, 7)), &[]),
            intent(4, 2, CallKind::Mcp, "payments", "send_email", 130_100),
            dispatched(4, 1, 130_100),
            Record::InDoubt {
                step: number(4),
                cause: "the connection broke off".to_owned(),
                at: at(130_500),
            },
            Record::Refused {
                step: Some(number(4)),
                attempt: attempt(2),
                exact: Fingerprint([4; 32]),
                operation: "send_email".to_owned(),
                code: "OG3001".to_owned(),
                at: at(130_600),
                words: None,
            },
            intent(5, 2, CallKind::Http, "crm", "GET /customers/7", 130_700),
            dispatched(5, 1, 130_700),
        ],
    )
}

fn eventful_timeline() -> Timeline {
    of(&eventful(), &key("order-7"), NOBODY).unwrap()
}

#[test]
fn the_text_has_a_line_per_step_in_a_hundred_columns() {
    let text = eventful_timeline().text();
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_json_has_the_documented_form() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&eventful_timeline()).unwrap());
}

#[test]
fn json_of_a_newer_version_and_of_an_older_one_can_be_read() {
    let text = r#"{"workflow":"w","state":"open","attempts":[],"new":1,"steps":[{"step":1,"attempt":1,"kind":"a2a",
        "upstream":"u","operation":"o","state":"completed","source":"live","status":200,"started_at":"x",
        "duration_ms":1,"usage":{}}]}"#;
    let timeline: Timeline = serde_json::from_str(text).unwrap();
    assert!(timeline.text().contains("a2a"), "{}", timeline.text());
    let text = serde_json::to_string(&eventful_timeline()).unwrap();
    assert_eq!(serde_json::from_str::<Timeline>(&text).unwrap(), eventful_timeline());
}

#[test]
fn the_summary_counts_replays_of_its_own_attempts_only() {
    let journal = eventful();
    append(&journal, "order-7", vec![begun(3, AttemptReason::Explicit, 200_000), again(1, 3, 200_001)]);
    let timeline = of(&journal, &key("order-7"), NOBODY).unwrap();
    insta::assert_snapshot!(summary(&timeline, 2), @r"
    steps:    5, 3 completed
    replayed: 3 answers in 2 attempts
    saved:    2 model calls (2400 tokens in, 68 out), 1 tool call
    ");
    assert_eq!(summary(&timeline, 3).replayed, 1);
    assert_eq!(summary(&timeline, 4).replayed, 0);
}

#[test]
fn tools_that_passed_by_the_sidecar_are_named_and_others_are_not() {
    let unproxied = |records: Vec<Record>| {
        let start = vec![
            opened(),
            begun(1, AttemptReason::First, 0),
            intent(1, 1, CallKind::Llm, "openai", "gpt-5", 1),
            completed(1, 2, None, &["pay__charge", "bash"]),
        ];
        let timeline =
            of(&journal("w", start.into_iter().chain(records).collect()), &key("w"), NOBODY).unwrap();
        timeline.unproxied.into_iter().map(|unproxied| unproxied.tool).collect::<Vec<_>>()
    };
    let charge = |step| intent(step, 1, CallKind::Mcp, "payments", "charge", 3);
    let llm = |step| intent(step, 1, CallKind::Llm, "openai", "gpt-5", 4);
    assert_eq!(unproxied(vec![]), [""; 0], "the agent has not gone on yet");
    assert_eq!(unproxied(vec![charge(2), llm(3)]), ["bash"]);
    assert_eq!(unproxied(vec![llm(2), charge(3)]), ["bash"], "another model's request came in between");
    assert_eq!(unproxied(vec![charge(2), begun(2, AttemptReason::Process, 5)]), [""; 0], "the agent died");
    let http = intent(2, 1, CallKind::Http, "crm", "POST /charges", 3);
    assert_eq!(unproxied(vec![http, charge(3), llm(4)]), [""; 0], "an HTTP tool may be any of them");
}

#[test]
fn rows_tell_the_most_urgent_state() {
    let journal = eventful();
    let start = |id| append(&journal, id, vec![opened(), begun(1, AttemptReason::First, 0)]);
    start("fresh");
    start("shut");
    append(&journal, "shut", vec![Record::WorkflowClosed { reason: "test".to_owned(), at: at(9) }]);
    let mut rows = rows(&journal, &Owner::local(), NOBODY).unwrap();
    rows.sort_by(|a, b| a.workflow.cmp(&b.workflow));
    insta::assert_snapshot!(rows_text(&rows), @r"
    workflow  state     attempts  steps  completed  last change
    fresh     open             1      0          0  2026-11-20 14:00:00 UTC
    order-7   in doubt         2      5          3  2026-11-20 14:02:10 UTC
    shut      closed           1      0          0  2026-11-20 14:00:00 UTC
    ");
    assert_eq!(row(&journal, &key("order-7"), NOBODY).unwrap().as_ref(), rows.get(1));
    assert_eq!(row(&journal, &key("nobody"), NOBODY).unwrap(), None);
    let stranger = Owner::recorded("somebody else");
    assert_eq!(super::rows(&journal, &stranger, NOBODY).unwrap(), []);
}

#[test]
fn an_unknown_workflow_and_a_foreign_one_have_no_timeline() {
    let journal = eventful();
    let foreign = WorkflowKey { owner: Owner::recorded("somebody else"), ..key("order-7") };
    for key in [key("nobody"), foreign] {
        assert!(matches!(of(&journal, &key, NOBODY), Err(Error::Unknown(_))));
    }
}
