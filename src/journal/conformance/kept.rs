//! What is kept of closed workflows, and what an id that is used again finds.

use super::super::CompactionBounds;
use super::*;

/// What is there of [`run_steps`] with one more list and a second attempt's use.
#[track_caller]
fn run_and_close(journal: &dyn Journal, key: &WorkflowKey, steps: u64) {
    run_steps(journal, key, steps);
    let list = Record::Listed(listed(90, 1, b"the list"));
    commit(journal, key, vec![list], vec![Body::whole(Bytes::from_static(b"the list"))]);
    commit(journal, key, vec![attempt_opened(2), redelivered(1, 2)], Vec::new());
    commit(journal, key, vec![workflow_closed()], Vec::new());
}

pub(super) fn a_closed_workflow_begins_a_new_run_that_knows_nothing_of_the_old_one(journal: &dyn Journal) {
    let key = key("w");
    run_and_close(journal, &key, 2);
    let old = journal.attach(&key).unwrap().unwrap();
    let opened = Record::WorkflowOpened { nonce: RunNonce([8; 16]), version: "0.2.0".to_owned(), at: AT };
    let begun = vec![opened, attempt_opened(1), Record::Intent(intent(1, 1, 2))];
    let request = Body::whole(Bytes::from_static(b"request"));
    commit(journal, &key, begun.clone(), vec![request]);

    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!((head.sequence, head.first, head.records()), (old.sequence + 3, old.sequence + 1, 3));
    assert_eq!((head.steps, head.completed, head.closed), (1, 0, None));
    assert_eq!(head.nonce, RunNonce([8; 16]));
    assert_eq!(journal.scan(&key).unwrap(), begun);
    assert_eq!(journal.find(&key, &print(1)).unwrap(), Vec::new(), "an effect of the old run");
    assert_eq!(journal.find(&key, &print(2)).unwrap()[0].state, StepState::Open);
    assert_eq!(journal.usage(&key, attempt(2), step(1)).unwrap(), None, "used in the old run");
    assert_eq!(journal.listed(&key, &print(90)).unwrap(), None);
    assert!(journal.step(&key, step(2)).unwrap().is_none());
    assert_eq!(journal.step(&key, step(1)).unwrap().unwrap().completed, None);
    // The same step, recorded once more, is the new run's own.
    commit(journal, &key, vec![dispatched(1, 1), Record::Completed(completed(1, b""))], Vec::new());
    assert_eq!(journal.attach(&key).unwrap().unwrap().completed, 1);
}

fn removed() -> Record {
    Record::Removed { opened_at: AT, closed_at: AT, at: AT }
}

pub(super) fn what_is_kept_of_a_closed_workflow_shrinks_in_order(journal: &dyn Journal) {
    let key = key("w");
    let expired = Record::BodiesExpired { at: AT };
    let refused = |records: Vec<Record>| {
        let batch = Batch { records, bodies: Vec::new() };
        let error = journal.commit(&key, journal.epoch(), batch, Urgency::Now).unwrap_err();
        assert!(matches!(error, Error::OutOfOrder(_)), "{error}");
    };
    run_steps(journal, &key, 1);
    refused(vec![expired.clone()]);
    refused(vec![removed()]);
    refused(vec![workflow_closed(), workflow_opened()]);
    commit(journal, &key, vec![workflow_closed()], Vec::new());
    commit(journal, &key, vec![expired.clone()], Vec::new());
    refused(vec![expired.clone()]);
    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!((head.bodies_expired, head.removed, head.steps), (Some(AT), None, 1));
    assert_eq!(journal.step(&key, step(1)).unwrap().unwrap().completed, Some(completed(1, b"answer-1")));
    commit(journal, &key, vec![removed()], Vec::new());
    refused(vec![removed()]);
    refused(vec![expired]);
    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!((head.closed, head.removed, head.steps), (Some(AT), Some(AT), 0));
    assert_eq!(journal.scan(&key).unwrap(), vec![removed()]);
    assert!(journal.step(&key, step(1)).unwrap().is_none());
    assert_eq!(journal.workflows().unwrap().len(), 1, "its tombstone stays");
    commit(journal, &key, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    let head = journal.attach(&key).unwrap().unwrap();
    assert_eq!((head.removed, head.closed, head.records()), (None, None, 2));
}

pub(super) fn compaction_takes_what_nobody_is_given_and_nothing_else(journal: &dyn Journal) {
    let keys = ["live", "closed", "expired", "gone"].map(key);
    for key in &keys {
        run_and_close_unless_live(journal, key);
    }
    let [live, closed, expired, gone] = &keys;
    commit(journal, expired, vec![Record::BodiesExpired { at: AT }], Vec::new());
    commit(journal, gone, vec![removed()], Vec::new());
    let before = keys.each_ref().map(|key| (journal.attach(key).unwrap(), journal.scan(key).unwrap()));
    journal.compact(&CompactionBounds { segments_max: 1000 }).unwrap();
    let after = keys.each_ref().map(|key| (journal.attach(key).unwrap(), journal.scan(key).unwrap()));
    assert_eq!(before, after);
    let has = |key: &WorkflowKey| journal.body(&hash(own_answer(key).as_bytes()));
    for key in [live, closed] {
        assert_eq!(has(key).unwrap(), own_answer(key));
        assert_eq!(journal.find(key, &print(2)).unwrap().len(), 1);
    }
    // What an engine frees is its own business; what it serves is whole.
    for key in [expired, gone] {
        assert!(has(key).is_ok_and(|body| body == own_answer(key)) || has(key).is_err());
    }
    assert_eq!(journal.body(&hash(b"request")).unwrap(), "request", "two of them need it");
    // What may be gone is stored again when it is committed again.
    commit(journal, live, Vec::new(), vec![Body::whole(Bytes::from(own_answer(gone)))]);
    let named = Record::Intent(Intent { request: hash(own_answer(gone).as_bytes()), ..intent(3, 1, 3) });
    commit(journal, live, vec![named], vec![Body::whole(Bytes::from(own_answer(gone)))]);
    assert_eq!(has(gone).unwrap(), own_answer(gone));
}

fn own_answer(key: &WorkflowKey) -> String {
    format!("what only {} was answered", key.workflow)
}

fn run_and_close_unless_live(journal: &dyn Journal, key: &WorkflowKey) {
    run_steps(journal, key, 1);
    let answer = own_answer(key).into_bytes();
    let done = vec![Record::Intent(intent(2, 1, 2)), Record::Completed(completed(2, &answer))];
    commit(journal, key, done, vec![Body::whole(Bytes::from(answer))]);
    if key.workflow.as_str() != "live" {
        commit(journal, key, vec![workflow_closed()], Vec::new());
    }
}
