//! What every engine must do: one suite, run by the tests of each. Also the records those tests write.

mod kept;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::model::{
    AttemptId, AttemptReason, BodyHash, CallKind, Clock, Dialect, EffectClass, Epoch, FailureClass,
    Fingerprint, Owner, Resolution, RunNonce, StepIndex, StepState, Timestamp, UpstreamName, WorkflowId,
    WorkflowKey,
};

use super::record::{Completed, Intent, Listed, Record};
use super::state::Use;
use super::{Batch, Body, Error, Journal, Urgency};

/// A clock that goes on by a millisecond whenever it is asked.
#[derive(Debug, Default)]
pub(crate) struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp(1_795_140_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.fetch_add(1, Ordering::Relaxed)).unwrap())
    }
}

/// An engine with whatever must live as long as it.
pub(crate) trait Fixture {
    fn journal(&self) -> &dyn Journal;
}

/// Waits for a ticket, as the pipeline does, on a runtime of its own.
pub(crate) fn wait(ticket: super::Ticket) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ticket)
}

pub(crate) fn key(workflow: &str) -> WorkflowKey {
    WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse(workflow).unwrap() }
}

pub(crate) fn step(number: u64) -> StepIndex {
    StepIndex::new(number).unwrap()
}

pub(crate) fn attempt(number: u32) -> AttemptId {
    AttemptId::new(number).unwrap()
}

pub(crate) fn print(of: u64) -> Fingerprint {
    Fingerprint(*blake3::hash(&of.to_be_bytes()).as_bytes())
}

fn hash(bytes: &[u8]) -> BodyHash {
    BodyHash(*blake3::hash(bytes).as_bytes())
}

const AT: Timestamp = Timestamp(1_795_140_000_000);

pub(crate) fn workflow_opened() -> Record {
    Record::WorkflowOpened { nonce: RunNonce([7; 16]), version: "0.1.0".to_owned(), at: AT }
}

pub(crate) fn attempt_opened(number: u32) -> Record {
    let attempt = attempt(number);
    Record::AttemptOpened { attempt, epoch: Epoch(1), reason: AttemptReason::First, peer: None, at: AT }
}

/// The intent of an effect; its exact fingerprint is `print(of)`.
pub(crate) fn intent(number: u64, attempt_number: u32, of: u64) -> Intent {
    Intent {
        step: step(number),
        attempt: attempt(attempt_number),
        epoch: Epoch(1),
        kind: CallKind::Mcp,
        dialect: Dialect::Mcp,
        upstream: UpstreamName::parse("payments").unwrap(),
        operation: "charge".to_owned(),
        class: EffectClass::Effect,
        exact: print(of),
        normalised: None,
        occurrence: 1,
        idempotency_key: None,
        request: hash(b"request"),
        request_len: 7,
        at: AT,
        identity: None,
        key_place: None,
    }
}

pub(crate) fn completed(number: u64, body: &[u8]) -> Completed {
    Completed {
        step: step(number),
        status: 200,
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body: hash(body),
        body_len: body.len() as u64,
        body_dropped: false,
        usage: None,
        finish_reason: Some("stop".to_owned()),
        announced: vec!["charge".to_owned()],
        is_error: false,
        possibly_billed: false,
        tried: 1,
        at: AT,
    }
}

pub(crate) fn dispatched(number: u64, tried: u32) -> Record {
    Record::Dispatched { step: step(number), tried, at: AT }
}

pub(crate) fn failed(number: u64, tried: u32, status: Option<u16>) -> Record {
    Record::Failed {
        step: step(number),
        tried,
        class: if status.is_some() { FailureClass::Status } else { FailureClass::Connect },
        status,
        not_sent: status.is_none(),
        detail: "refused".to_owned(),
        at: AT,
        not_executed: None,
        answer: None,
        words: None,
    }
}

pub(crate) fn resolved(number: u64, resolution: Resolution) -> Record {
    Record::Resolved { step: step(number), resolution, by: "outrigger resolve".to_owned(), at: AT }
}

pub(crate) fn in_doubt(number: u64) -> Record {
    Record::InDoubt { step: step(number), cause: "the sidecar stopped".to_owned(), at: AT }
}

pub(crate) fn redelivered(number: u64, attempt_number: u32) -> Record {
    Record::Redelivered { step: step(number), attempt: attempt(attempt_number), at: AT, found_by: None }
}

pub(crate) fn delivered(number: u64, attempt_number: u32) -> Record {
    Record::Delivered { step: step(number), attempt: attempt(attempt_number) }
}

pub(crate) fn listed(of: u64, attempt_number: u32, body: &[u8]) -> Listed {
    Listed {
        list: print(of),
        attempt: attempt(attempt_number),
        upstream: UpstreamName::parse("payments").unwrap(),
        method: "tools/list".to_owned(),
        request: hash(b"request"),
        status: 200,
        headers: Vec::new(),
        body: hash(body),
        at: AT,
        changed: None,
    }
}

pub(crate) fn workflow_closed() -> Record {
    Record::WorkflowClosed { reason: "exit 0".to_owned(), at: AT }
}

/// Commits and waits until it is durable.
#[track_caller]
pub(crate) fn commit(journal: &dyn Journal, key: &WorkflowKey, records: Vec<Record>, bodies: Vec<Body>) {
    let batch = Batch { records, bodies };
    wait(journal.commit(key, journal.epoch(), batch, Urgency::Now).unwrap()).unwrap();
}

/// Opens a workflow with one attempt and `steps` completed steps, the k-th answered with `answer-k`.
#[track_caller]
pub(crate) fn run_steps(journal: &dyn Journal, key: &WorkflowKey, steps: u64) {
    commit(journal, key, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    for number in 1..=steps {
        let request = Body::whole(Bytes::from_static(b"request"));
        commit(journal, key, vec![Record::Intent(intent(number, 1, number))], vec![request]);
        let answer = format!("answer-{number}").into_bytes();
        let done = Record::Completed(completed(number, &answer));
        commit(journal, key, vec![dispatched(number, 1), done], vec![Body::whole(Bytes::from(answer))]);
        commit(journal, key, vec![delivered(number, 1)], Vec::new());
    }
}

/// Runs the suite, each part on an engine of its own.
pub(crate) fn run<F: Fixture>(fresh: impl Fn() -> F) {
    what_was_never_opened_is_nowhere(fresh().journal());
    a_commit_is_read_back_at_once(fresh().journal());
    steps_are_found_by_fingerprint_lowest_first(fresh().journal());
    uses_belong_to_an_attempt(fresh().journal());
    owners_do_not_see_each_other(fresh().journal());
    the_last_answer_of_a_list_counts(fresh().journal());
    what_is_out_of_order_leaves_no_trace(fresh().journal());
    bodies_come_back_byte_for_byte(fresh().journal());
    an_older_epoch_is_refused(fresh().journal());
    workflows_are_listed_newest_first(fresh().journal());
    kept::a_closed_workflow_begins_a_new_run_that_knows_nothing_of_the_old_one(fresh().journal());
    kept::what_is_kept_of_a_closed_workflow_shrinks_in_order(fresh().journal());
    kept::compaction_takes_what_nobody_is_given_and_nothing_else(fresh().journal());
    nothing_is_written_after_the_end(fresh().journal());
}

fn what_was_never_opened_is_nowhere(journal: &dyn Journal) {
    let key = key("w");
    assert_eq!(journal.attach(&key).unwrap(), None);
    assert_eq!(journal.find(&key, &print(1)).unwrap(), Vec::new());
    assert_eq!(journal.usage(&key, attempt(1), step(1)).unwrap(), None);
    assert_eq!(journal.listed(&key, &print(1)).unwrap(), None);
    assert!(journal.step(&key, step(1)).unwrap().is_none());
    assert_eq!(journal.scan(&key).unwrap(), Vec::new());
    assert_eq!(journal.workflows().unwrap(), Vec::new());
    let missing = journal.body(&hash(b"nowhere")).unwrap_err();
    assert!(matches!(missing, Error::Body { .. }), "{missing}");
}

fn a_commit_is_read_back_at_once(journal: &dyn Journal) {
    let key = key("w");
    let records = vec![workflow_opened(), attempt_opened(1), Record::Intent(intent(1, 1, 9))];
    let request = Body::whole(Bytes::from_static(b"request"));
    let batch = Batch { records: records.clone(), bodies: vec![request] };
    let ticket = journal.commit(&key, journal.epoch(), batch, Urgency::Ride).unwrap();

    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!((head.sequence, head.steps, head.completed), (3, 1, 0));
    assert_eq!(head.attempt.as_ref().unwrap().attempt, attempt(1));
    assert_ne!(head.chain, [0; 32]);
    assert_eq!(journal.find(&key, &print(9)).unwrap()[0].state, StepState::Open);
    let recorded = journal.step(&key, step(1)).unwrap().unwrap();
    assert_eq!(recorded.intent, intent(1, 1, 9));
    assert_eq!(recorded.completed, None);
    assert_eq!(journal.body(&hash(b"request")).unwrap(), "request");
    assert_eq!(journal.scan(&key).unwrap(), records);
    wait(ticket).unwrap();

    let answer = Body::whole(Bytes::from_static(b"answer"));
    commit(journal, &key, vec![Record::Completed(completed(1, b"answer"))], vec![answer]);
    let recorded = journal.step(&key, step(1)).unwrap().unwrap();
    assert_eq!(recorded.completed, Some(completed(1, b"answer")));
    assert_eq!(recorded.summary.state, StepState::Completed);
    assert_eq!(journal.body(&hash(b"answer")).unwrap(), "answer");
    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!((head.sequence, head.completed, head.ahead()), (4, 1, 0));
}

fn steps_are_found_by_fingerprint_lowest_first(journal: &dyn Journal) {
    let key = key("w");
    commit(journal, &key, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    for (number, of) in [(1, 5), (2, 6), (3, 5), (4, 7)] {
        let intent = Intent { normalised: (number == 4).then(|| print(5)), ..intent(number, 1, of) };
        commit(journal, &key, vec![Record::Intent(intent)], Vec::new());
    }
    let found = |of| {
        let found = journal.find(&key, &print(of)).unwrap();
        found.iter().map(|summary| summary.step.number()).collect::<Vec<_>>()
    };
    assert_eq!(found(5), [1, 3, 4]);
    assert_eq!(found(6), [2]);
    assert_eq!(found(7), [4]);
    assert_eq!(found(8), [0u64; 0]);
}

fn uses_belong_to_an_attempt(journal: &dyn Journal) {
    let key = key("w");
    run_steps(journal, &key, 2);
    commit(journal, &key, vec![attempt_opened(2)], Vec::new());
    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!(head.ahead(), 2);
    let usage = |attempt_number, number| journal.usage(&key, attempt(attempt_number), step(number)).unwrap();
    assert_eq!(usage(1, 1), Some(Use { delivered: true }));
    assert_eq!(usage(2, 1), None);
    commit(journal, &key, vec![redelivered(1, 2)], Vec::new());
    assert_eq!(usage(2, 1), Some(Use { delivered: false }));
    assert_eq!(journal.attach(&key).unwrap().unwrap().ahead(), 1);
    commit(journal, &key, vec![delivered(1, 2)], Vec::new());
    assert_eq!(usage(2, 1), Some(Use { delivered: true }));
    assert_eq!(journal.attach(&key).unwrap().unwrap().ahead(), 1);
}

fn owners_do_not_see_each_other(journal: &dyn Journal) {
    let ours = key("w");
    let theirs = WorkflowKey { owner: Owner::recorded("spiffe://example.org/b"), ..ours.clone() };
    run_steps(journal, &ours, 1);
    assert_eq!(journal.attach(&theirs).unwrap(), None);
    assert_eq!(journal.find(&theirs, &print(1)).unwrap(), Vec::new());
    run_steps(journal, &theirs, 2);
    assert_eq!(journal.attach(&ours).unwrap().unwrap().steps, 1);
    assert_ne!(
        journal.attach(&ours).unwrap().unwrap().chain,
        journal.attach(&theirs).unwrap().unwrap().chain
    );
}

fn the_last_answer_of_a_list_counts(journal: &dyn Journal) {
    let key = key("w");
    commit(journal, &key, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    for body in [b"first", b"other"] {
        commit(journal, &key, vec![Record::Listed(listed(1, 1, body))], vec![]);
    }
    assert_eq!(journal.listed(&key, &print(1)).unwrap(), Some(listed(1, 1, b"other")));
    assert_eq!(journal.listed(&key, &print(2)).unwrap(), None);
}

fn what_is_out_of_order_leaves_no_trace(journal: &dyn Journal) {
    let key = key("w");
    let refused = |records: Vec<Record>| {
        let before = journal.attach(&key).unwrap();
        let batch = Batch { records, bodies: Vec::new() };
        let error = journal.commit(&key, journal.epoch(), batch, Urgency::Now).unwrap_err();
        assert!(matches!(error, Error::OutOfOrder(_)), "{error}");
        assert_eq!(journal.attach(&key).unwrap(), before);
    };
    refused(vec![attempt_opened(1)]);
    commit(journal, &key, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    refused(vec![workflow_opened()]);
    // The first of the two would be in order: a commit is taken in whole or not at all.
    refused(vec![Record::Intent(intent(1, 1, 1)), Record::Intent(intent(3, 1, 1))]);
    refused(vec![Record::Completed(completed(1, b""))]);
    commit(
        journal,
        &key,
        vec![Record::Intent(intent(1, 1, 1)), Record::Completed(completed(1, b""))],
        vec![],
    );
    refused(vec![Record::Completed(completed(1, b""))]);
    commit(journal, &key, vec![workflow_closed()], Vec::new());
    refused(vec![attempt_opened(2)]);
    let torn = Body { parts: vec![3..6, 5..8], ..Body::whole(Bytes::from_static(b"0123456789")) };
    let batch = Batch { records: Vec::new(), bodies: vec![torn] };
    let error = journal.commit(&key, journal.epoch(), batch, Urgency::Now).unwrap_err();
    assert!(matches!(error, Error::OutOfOrder(_)), "{error}");
}

fn bodies_come_back_byte_for_byte(journal: &dyn Journal) {
    let key = key("w");
    let noise = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>();
    let text = "the same words again and again; ".repeat(2000).into_bytes();
    let mut talk = Vec::new();
    let mut parts = Vec::new();
    for message in [&noise[..5000], &text[..3000], &noise[..5000], &text[..10], b""] {
        talk.extend_from_slice(b",{");
        parts.push(talk.len()..talk.len() + message.len());
        talk.extend_from_slice(message);
    }
    let whole_body = [Vec::new(), b"x".to_vec(), noise, text].map(|bytes| Body::whole(Bytes::from(bytes)));
    let recipe = Body { parts, ..Body::whole(Bytes::from(talk)) };
    let bodies = whole_body.into_iter().chain([recipe]).collect::<Vec<_>>();
    let all = 0..0;
    let edges = Body { parts: vec![all, 0..1, 1..4096], ..Body::whole(bodies[2].bytes.slice(..4096)) };
    let bodies = bodies.into_iter().chain([edges]).collect::<Vec<_>>();
    commit(journal, &key, vec![workflow_opened(), attempt_opened(1)], bodies.clone());
    // Once more, beside a record: what is stored already is stored.
    commit(journal, &key, vec![Record::Intent(intent(1, 1, 1))], bodies.clone());
    for body in &bodies {
        assert_eq!(journal.body(&body.hash).unwrap(), body.bytes);
    }
}

fn an_older_epoch_is_refused(journal: &dyn Journal) {
    let key = key("w");
    let older = Epoch(journal.epoch().0 - 1);
    let error = journal.commit(&key, older, Batch::one(workflow_opened()), Urgency::Now).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(journal.attach(&key).unwrap(), None);
}

fn workflows_are_listed_newest_first(journal: &dyn Journal) {
    for (name, at) in [("b", 2), ("c", 3), ("a", 1)] {
        let opened =
            Record::WorkflowOpened { nonce: RunNonce([0; 16]), version: String::new(), at: Timestamp(at) };
        commit(journal, &key(name), vec![opened], Vec::new());
    }
    let rows = journal.workflows().unwrap();
    assert_eq!(rows.iter().map(|row| row.key.workflow.as_str()).collect::<Vec<_>>(), ["c", "b", "a"]);
    assert_eq!(rows[0].head, journal.attach(&rows[0].key).unwrap().unwrap());
}

fn nothing_is_written_after_the_end(journal: &dyn Journal) {
    let key = key("w");
    let ticket = journal.commit(&key, journal.epoch(), Batch::one(workflow_opened()), Urgency::Ride).unwrap();
    journal.close().unwrap();
    wait(ticket).unwrap();
    let error =
        journal.commit(&key, journal.epoch(), Batch::one(attempt_opened(1)), Urgency::Now).unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert_eq!(journal.attach(&key).unwrap().unwrap().sequence, 1);
}
