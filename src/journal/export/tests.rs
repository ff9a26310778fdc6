//! What is exported comes back bit for bit, and whatever was changed on the way is refused.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;

use super::super::conformance::{
    Ticks, attempt_opened, commit, completed, delivered, dispatched, intent, key, listed, run_steps,
    workflow_closed, workflow_opened,
};
use super::super::memory::Memory;
use super::super::{Body, Journal, Record, codec};
use super::*;
use crate::model::{Clock, Owner, WorkflowId};

fn clock() -> Arc<dyn Clock> {
    Arc::new(Ticks::default())
}

/// A journal with two workflows that share a body, and one of another owner.
fn journal() -> (Memory, Vec<WorkflowKey>) {
    let journal = Memory::new(clock());
    let other = WorkflowKey {
        owner: Owner::recorded("spiffe://example.org/a"),
        workflow: WorkflowId::parse("a").unwrap(),
    };
    let keys = vec![key("a"), key("b"), other];
    run_steps(&journal, &keys[0], 3);
    run_steps(&journal, &keys[1], 2);
    let list = Body::whole(Bytes::from_static(b"request"));
    let tools = Body::whole(Bytes::from_static(b"tools"));
    let closing = vec![Record::Listed(listed(1, 1, b"tools")), workflow_closed()];
    commit(&journal, &keys[1], closing, vec![list, tools]);
    commit(&journal, &keys[2], vec![workflow_opened(), attempt_opened(1)], Vec::new());
    (journal, keys)
}

fn export(journal: &dyn Journal, keys: &[WorkflowKey]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for key in keys {
        assert!(writer.workflow(journal, key).unwrap());
    }
    writer.finish().unwrap().0
}

fn bring(journal: &dyn Journal, file: &[u8]) -> Result<Imported, Error> {
    let plan = plan(file, &clock())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(import(journal, &mut Cursor::new(file), &plan))
}

#[test]
fn what_is_exported_comes_back_bit_for_bit() {
    let (journal, keys) = journal();
    let file = export(&journal, &keys);
    let other = Memory::new(clock());
    let imported = bring(&other, &file).unwrap();
    assert_eq!((imported.workflows, imported.identical), (3, 0));
    assert_eq!(imported.bodies, 5, "a body that two workflows name is there once");
    for key in &keys {
        assert_eq!(other.scan(key).unwrap(), journal.scan(key).unwrap());
        assert_eq!(other.attach(key).unwrap(), journal.attach(key).unwrap());
    }
    assert_eq!(other.body(&Body::whole(Bytes::from_static(b"answer-3")).hash).unwrap(), "answer-3");
    assert_eq!(export(&other, &keys), file);
    let again = bring(&other, &file).unwrap();
    assert_eq!((again.workflows, again.identical), (0, 3));
}

#[test]
fn a_workflow_to_be_replayed_has_everything_but_its_closing() {
    let (journal, keys) = journal();
    let file = export(&journal, &keys);
    let plan = plan(file.as_slice(), &clock()).unwrap();
    let other = Memory::new(clock());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(import_unclosed(&other, &mut Cursor::new(&file), &plan)).unwrap();
    assert!(journal.attach(&keys[1]).unwrap().unwrap().closed.is_some());
    for key in &keys {
        let mut expected = journal.scan(key).unwrap();
        expected.retain(|record| !matches!(record, Record::WorkflowClosed { .. }));
        assert_eq!(other.scan(key).unwrap(), expected);
        assert_eq!(other.attach(key).unwrap().unwrap().closed, None);
    }
    commit(&other, &keys[1], vec![attempt_opened(2)], Vec::new());
    assert_eq!(other.body(&Body::whole(Bytes::from_static(b"answer-1")).hash).unwrap(), "answer-1");
}

#[test]
fn whichever_byte_is_changed_the_file_is_refused_with_its_line() {
    let (journal, keys) = journal();
    let file = export(&journal, &keys[..2]);
    for at in (0..file.len()).step_by(3) {
        let mut changed = file.clone();
        changed[at] ^= 0x04;
        let line = file[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        match plan(changed.as_slice(), &clock()) {
            Err(Error::Bad { line: found, .. } | Error::Newer { line: found, .. }) => {
                assert!(found >= line, "byte {at} of line {line}, found in line {found}");
            }
            other => panic!("byte {at} of line {line}: {other:?}"),
        }
    }
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let (journal, keys) = journal();
    let file = export(&journal, &keys);
    let last = file.len() - 1;
    for len in (0..last).step_by(7) {
        let refused = plan(&file[..len], &clock());
        assert!(matches!(refused, Err(Error::Bad { .. })), "cut to {len}: {refused:?}");
    }
    assert!(plan(&file[..last], &clock()).is_ok(), "the last line break carries nothing");
}

#[track_caller]
fn check_refused(lines: &[String], line: u64, what: &str) {
    let mut sum = Sum::new();
    let mut file = Vec::new();
    let totals =
        |name: &str| lines.iter().filter(|line| line.contains(&format!("\"{name}\":"))).count() as u64;
    let totals =
        Totals { workflows: totals("workflow"), records: totals("record"), bodies: totals("base64") };
    for text in lines {
        let text = format!("{text}\n");
        sum.add(text.as_bytes());
        file.extend_from_slice(text.as_bytes());
    }
    file.extend_from_slice(line::end(totals, &sum.value()).as_bytes());
    match plan(file.as_slice(), &clock()) {
        Err(Error::Bad { line: found, what: told }) => {
            assert_eq!(found, line, "{told}");
            assert!(told.contains(what), "{told}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_file_that_nobody_exported_is_refused_also_with_a_right_sum() {
    let key = key("a");
    let records = [workflow_opened(), attempt_opened(1), Record::Intent(intent(1, 1, 1))];
    let mut chain = codec::genesis(&key);
    let mut lines = Vec::new();
    for (sequence, record) in (1..).zip(&records) {
        let stored = codec::encode(record);
        chain = codec::chain(&chain, &stored);
        lines.push(line::record(sequence, &chain, &stored, record));
    }
    let head = line::workflow(&key, 3, &chain);
    let body = line::body(&Body::whole(Bytes::from_static(b"request")).hash, b"request");
    let [opened, attempt, intent] = lines.try_into().unwrap();
    let header = line::header();
    let file = |lines: &[&String]| lines.iter().map(|line| (*line).clone()).collect::<Vec<_>>();
    check_refused(&file(&[&header, &head, &opened, &attempt, &intent]), 5, "is named and is in no line");
    check_refused(&file(&[&header, &head, &opened, &body, &intent]), 5, "record 3 follows record 1");
    check_refused(&file(&[&header, &head, &opened, &attempt]), 5, "has 2 of 3 records");
    check_refused(&file(&[&header, &opened]), 2, "of no workflow");
    check_refused(&file(&[&head, &opened]), 1, "the first line");
    check_refused(&file(&[&header, &header]), 2, "the first line");
    let short = line::workflow(&key, 1, &chain);
    check_refused(&file(&[&header, &short, &opened]), 4, "do not end in the chain");
    check_refused(&file(&[&header, &short, &opened, &attempt]), 4, "record 2 follows record 1 of 1");
    // What no sidecar would have written is not taken in, however well it is chained.
    let mut chain = codec::genesis(&key);
    let mut wrong = vec![header, String::new()];
    for (sequence, record) in (1..).zip([workflow_opened(), dispatched(1, 1)]) {
        let stored = codec::encode(&record);
        chain = codec::chain(&chain, &stored);
        wrong.push(line::record(sequence, &chain, &stored, &record));
    }
    wrong[1] = line::workflow(&key, 2, &chain);
    check_refused(&wrong, 4, "step 1 has no Intent");
}

#[test]
fn a_workflow_that_went_on_differently_stands_in_the_way() {
    let (journal, keys) = journal();
    let file = export(&journal, &keys[..1]);
    let other = Memory::new(clock());
    bring(&other, &file).unwrap();
    let planned = &plan(file.as_slice(), &clock()).unwrap().workflows[0];
    assert_eq!(standing(&other, planned).unwrap(), Standing::Identical);
    commit(&other, &keys[0], vec![attempt_opened(2)], Vec::new());
    assert_eq!(standing(&other, planned).unwrap(), Standing::Different);
    assert_eq!(standing(&Memory::new(clock()), planned).unwrap(), Standing::New);
}

#[test]
fn what_is_not_whole_leaves_no_line_behind() {
    let journal = Memory::new(clock());
    let key = key("a");
    let answer = Record::Completed(completed(1, b"nowhere"));
    let request = Body::whole(Bytes::from_static(b"request"));
    commit(&journal, &key, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    commit(&journal, &key, vec![Record::Intent(intent(1, 1, 1)), dispatched(1, 1)], vec![request]);
    commit(&journal, &key, vec![answer, delivered(1, 1)], Vec::new());
    let mut writer = Writer::new(Vec::new()).unwrap();
    assert!(matches!(writer.workflow(&journal, &key), Err(Error::Journal(_))));
    let (file, totals) = writer.finish().unwrap();
    assert_eq!(totals, Totals::default());
    assert_eq!(plan(file.as_slice(), &clock()).unwrap().workflows.len(), 0);
}

#[test]
fn a_newer_format_is_told_from_a_broken_one() {
    let newer = line::header().replace("\"version\":1", "\"version\":2");
    assert!(matches!(plan(newer.as_bytes(), &clock()), Err(Error::Newer { line: 1, .. })));
}
