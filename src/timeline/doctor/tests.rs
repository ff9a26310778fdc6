//! Two attempts of one workflow, as far as their requests go, and what is said of them.

use std::sync::Arc;

use super::*;
use crate::journal::memory::Memory;
use crate::journal::{Batch, Body, Intent, Urgency};
use crate::model::{
    AttemptReason, CallKind, Dialect, EffectClass, Epoch, Fingerprint, FoundBy, Owner, RunNonce, StepIndex,
    TestClock, Timestamp, WorkflowId,
};
use crate::replay::scrub;

const AT: Timestamp = Timestamp(1_795_183_200_000);

fn key() -> WorkflowKey {
    WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse("w").unwrap() }
}

fn attempt(number: u32) -> AttemptId {
    AttemptId::new(number).unwrap()
}

fn number(step: u64) -> StepIndex {
    StepIndex::new(step).unwrap()
}

fn upstream(name: &str) -> UpstreamName {
    UpstreamName::parse(name).unwrap()
}

struct Story {
    journal: Memory,
    steps: u64,
    attempt: u32,
}

impl Story {
    fn new() -> Self {
        let journal = Memory::new(Arc::new(TestClock::default()));
        let mut story = Self { journal, steps: 0, attempt: 0 };
        story.says(Record::WorkflowOpened { nonce: RunNonce([1; 16]), version: "1".to_owned(), at: AT });
        story.restart(AttemptReason::First);
        story
    }

    fn commit(&self, batch: Batch) {
        drop(self.journal.commit(&key(), self.journal.epoch(), batch, Urgency::Now).unwrap());
    }

    fn says(&mut self, record: Record) {
        self.commit(Batch::one(record));
    }

    fn restart(&mut self, reason: AttemptReason) {
        self.attempt += 1;
        let attempt = attempt(self.attempt);
        self.says(Record::AttemptOpened { attempt, epoch: Epoch(1), reason, peer: None, at: AT });
    }

    fn finds(&mut self, step: u64, by: FoundBy) {
        let attempt = attempt(self.attempt);
        self.says(Record::Redelivered { step: number(step), attempt, at: AT, found_by: Some(by) });
    }

    fn asks(&mut self, kind: CallKind, name: &str, operation: &str, request: &str) {
        self.steps += 1;
        let body = Body::whole(request.as_bytes().to_vec().into());
        let intent = Record::Intent(Intent {
            step: number(self.steps),
            attempt: attempt(self.attempt),
            epoch: Epoch(1),
            kind,
            dialect: if kind == CallKind::Llm { Dialect::Openai } else { Dialect::Mcp },
            upstream: upstream(name),
            operation: operation.to_owned(),
            class: if kind == CallKind::Llm { EffectClass::Read } else { EffectClass::Effect },
            exact: Fingerprint(*blake3::hash(format!("{}{request}", self.steps).as_bytes()).as_bytes()),
            normalised: None,
            occurrence: 1,
            idempotency_key: None,
            request: body.hash,
            request_len: request.len() as u64,
            at: AT,
            identity: None,
            key_place: None,
        });
        self.commit(Batch { records: vec![intent], bodies: vec![body] });
    }

    fn model(&mut self, messages: &str) {
        self.asks(
            CallKind::Llm,
            "openai",
            "gpt-5",
            &format!(r#"{{"model":"gpt-5","messages":[{messages}]}}"#),
        );
    }

    fn doctor(&self, routes: &Routes, question: Question) -> Result<Report, Error> {
        doctor(&self.journal, &key(), routes, question)
    }

    fn report(&self) -> Report {
        self.doctor(&Routes::default(), Question::default()).unwrap()
    }
}

fn system(time: &str) -> String {
    format!(r#"{{"role":"system","content":"It is {time}."}},{{"role":"user","content":"pay secret-4711"}}"#)
}

/// A model and a tool; the second life has another time in its prompt, and a model that answered otherwise.
fn diverged() -> Story {
    let mut story = Story::new();
    for (time, answer) in [("9:00", "I pay."), ("9:05", "Paying now.")] {
        if story.steps > 0 {
            story.restart(AttemptReason::Rewind);
        }
        story.model(&system(time));
        if story.attempt == 1 {
            story.asks(
                CallKind::Mcp,
                "pay",
                "charge",
                r#"{"id":1,"params":{"name":"charge","arguments":{"cents":1}}}"#,
            );
        } else {
            story.finds(2, FoundBy::Exact);
        }
        let rest =
            format!(r#",{{"role":"assistant","content":"{answer}"}},{{"role":"tool","content":"paid"}}"#);
        story.model(&(system(time) + &rest));
    }
    story
}

#[test]
fn the_text_names_the_differences_the_scrubs_and_what_else_weakens_the_workflow() {
    let mut story = diverged();
    let cause = "the connection broke off".to_owned();
    story.asks(CallKind::Mcp, "pay", "refund", "{}");
    story.says(Record::InDoubt { step: number(6), cause, at: AT });
    let report = story.report();
    insta::assert_snapshot!(report.text());
    let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report);
    assert!(!report.text().contains("4711") && !report.text().contains("9:0"), "values are not shown");
}

#[test]
fn values_are_shown_only_when_they_are_asked_for() {
    let shown = diverged().doctor(&Routes::default(), Question { with_values: true, ..Question::default() });
    let first = shown.unwrap().pairs.remove(0).differences.remove(0);
    assert_eq!(first.recorded_value.as_deref(), Some(r#""It is 9:00.""#));
    assert_eq!(first.asked_value.as_deref(), Some(r#""It is 9:05.""#));
}

#[test]
fn what_the_present_config_leaves_out_is_covered_and_not_proposed_again() {
    let story = diverged();
    let proposed = story.report().proposals.remove(0).matching.scrubs.remove(0);
    let mut route = Route::default();
    route.matching.normalise.scrubs = vec![scrub::Scrub::new(&proposed.pointer, &proposed.regex).unwrap()];
    let report = story.doctor(&Routes::from([(upstream("openai"), route)]), Question::default()).unwrap();
    let verdicts: Vec<&str> = report.pairs.iter().map(|pair| pair.verdict.as_str()).collect();
    assert_eq!((verdicts, report.proposals.len()), (vec!["covered", "differs"], 0));
}

#[test]
fn a_declared_tool_in_doubt_is_no_finding_and_neither_is_a_resolved_one() {
    let mut story = Story::new();
    story.asks(CallKind::Mcp, "pay", "charge", "{}");
    story.says(Record::InDoubt { step: number(1), cause: "reset".to_owned(), at: AT });
    let kinds = |report: Report| report.findings.into_iter().map(|finding| finding.kind).collect::<Vec<_>>();
    assert_eq!(kinds(story.report()), ["undeclared_tool", "shared_owner"]);
    let route = Route { tools: ["charge".to_owned()].into(), ..Route::default() };
    let routes = Routes::from([(upstream("pay"), route)]);
    assert_eq!(kinds(story.doctor(&routes, Question::default()).unwrap()), ["shared_owner"]);
}

#[test]
fn attempts_that_are_not_there_are_not_compared() {
    let story = diverged();
    let ask = |one, other| {
        let attempts = Some((attempt(one), attempt(other)));
        story.doctor(&Routes::default(), Question { attempts, with_values: false })
    };
    assert!(matches!(ask(1, 3), Err(Error::NoAttempt(missing)) if missing == attempt(3)));
    assert!(matches!(ask(2, 2), Err(Error::SameAttempt(_))));
    assert_eq!(ask(2, 1).unwrap(), story.report(), "the earlier one is the recorded one");
    assert_eq!(Story::new().report().attempts, None);
    let nobody = WorkflowKey { workflow: WorkflowId::parse("x").unwrap(), ..key() };
    let unknown = doctor(&story.journal, &nobody, &Routes::default(), Question::default());
    assert!(matches!(unknown, Err(Error::Unknown(_))));
}

#[test]
fn calls_side_by_side_are_paired_with_what_they_are_most_like() {
    let mut story = Story::new();
    let form = |time: &str, name: &str| {
        format!(r#"{{"role":"user","content":"{time}"}},{{"role":"user","name":"{name}"}}"#)
    };
    for name in ["a", "b", "c"] {
        story.model(&form("9:00", name));
    }
    story.restart(AttemptReason::Process);
    for name in ["c", "a", "b"] {
        story.model(&form("9:05", name));
    }
    let pairs: Vec<(u64, u64)> =
        story.report().pairs.iter().map(|pair| (pair.recorded, pair.asked)).collect();
    assert_eq!(pairs, [(3, 4), (1, 5), (2, 6)]);
    assert!(story.report().pairs.iter().all(|pair| pair.verdict == "aligned"));
}

#[test]
fn what_has_no_counterpart_is_named_and_another_model_is_a_difference() {
    let mut story = Story::new();
    story.model(&system("9:00"));
    story.asks(CallKind::Mcp, "pay", "charge", "{}");
    story.restart(AttemptReason::Process);
    story.asks(CallKind::Llm, "openai", "gpt-6", r#"{"model":"gpt-6","messages":[]}"#);
    story.asks(CallKind::Http, "crm", "POST /notes", "no JSON");
    let report = story.report();
    assert_eq!((&report.left_out, &report.new), (&vec![2], &vec![4]));
    assert_eq!(report.pairs[0].differences[0].pointer, "/model");
    assert_eq!(report.pairs[0].verdict, "differs");
}

#[test]
fn the_yaml_is_what_the_config_reads() {
    let scrub = |pointer: &str, regex: &str| Scrub { pointer: pointer.to_owned(), regex: regex.to_owned() };
    let matching = Match {
        headers: vec!["x-tenant".to_owned()],
        normalise: [("store".to_owned(), true), ("user".to_owned(), false)].into(),
        scrubs: vec![scrub("/it's/*", r"\d{4}"), scrub("/a", "${x}\u{1}")],
    };
    let proposal = Proposal { upstream: "openai".to_owned(), matching };
    insta::assert_snapshot!(yaml::render(&[proposal]), @r#"
    upstreams:
      openai:
        match:
          headers: [x-tenant]
          normalise: { store: true, user: false }
          scrubs:
            - { pointer: '/it''s/*', regex: '\d{4}' }
            - { pointer: '/a', regex: "$${x}\u0001" }
    "#);
    assert_eq!(yaml::render(&[]), "");
}
