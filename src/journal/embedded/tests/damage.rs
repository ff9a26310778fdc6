//! Bytes that were written once and are bad now: found, named, and never served or passed over.

use super::super::super::conformance::{
    self, attempt_opened, commit, key, print, run_steps, step, wait, workflow_closed,
};
use super::super::frame::Kind;
use super::super::scan;
use super::super::segment;
use super::*;

/// The batches of a segment, with the workflows each names.
fn batches(path: &Path) -> Vec<(std::ops::Range<u64>, Vec<String>)> {
    let bytes = fs::read(path).unwrap();
    let seed = segment::Head::read(&bytes).unwrap().seed();
    let scan = scan::scan(&seed, &bytes);
    let named =
        |batch: &scan::Batch<'_>| batch.trailer.named.iter().map(|named| named.workflow.clone()).collect();
    scan.batches.iter().map(|batch| (batch.start..batch.end, named(batch))).collect()
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn workflows(damage: &Damage) -> Vec<&str> {
    damage.workflows.iter().map(|key| key.workflow.as_str()).collect()
}

/// Three workflows with a step each, one after the other, in one segment that is not sealed.
fn three(path: &Path) -> PathBuf {
    let journal = open(path);
    for name in ["a", "b", "c"] {
        run_steps(&journal, &key(name), 1);
    }
    drop(journal);
    last_written(path)
}

#[track_caller]
fn check_closed_for_effects(journal: &Embedded, name: &str, what: &str) {
    let head = journal.attach(&key(name)).unwrap().unwrap();
    assert!(head.damage.as_ref().is_some_and(|damage| damage.contains(what)), "{name}: {:?}", head.damage);
    let next = Batch::one(attempt_opened(9));
    let error = journal.commit(&key(name), journal.epoch(), next, Urgency::Now).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_bad_record_closes_the_workflow_its_trailer_names_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let segment = three(dir.path());
    let batches = batches(&segment);
    let (range, _) = batches.iter().rev().nth(5).unwrap();
    assert_eq!(batches.iter().rev().nth(5).unwrap().1, ["b"]);
    flip(&segment, range.start + 40);
    for round in 0..3 {
        let (journal, report) = Embedded::open(options(dir.path())).unwrap();
        assert_eq!(report.torn, Vec::new());
        let damage = &report.damage[0];
        assert_eq!(
            (damage.file.as_str(), workflows(damage)),
            ("log/0000000001.seg", vec!["b"]),
            "round {round}"
        );
        assert_eq!(damage.offset, range.start);
        check_closed_for_effects(&journal, "b", "log/0000000001.seg");
        assert!(matches!(journal.scan(&key("b")), Err(Error::Damaged { .. })));
        for name in ["a", "c"] {
            assert_eq!(journal.attach(&key(name)).unwrap().unwrap().damage, None);
            assert_eq!(journal.scan(&key(name)).unwrap().len(), 6 + round as usize);
            commit(&journal, &key(name), vec![attempt_opened(round + 2)], Vec::new());
        }
        drop(journal);
        let reader = Embedded::open_read_only(options(dir.path())).unwrap().0;
        assert!(reader.attach(&key("b")).unwrap().unwrap().damage.is_some());
    }
}

#[test]
fn a_damaged_workflow_can_be_closed_and_stays_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let segment = three(dir.path());
    let (range, _) = batches(&segment).into_iter().rev().nth(5).unwrap();
    flip(&segment, range.start + 40);
    let journal = open(dir.path());
    commit(&journal, &key("b"), vec![workflow_closed()], Vec::new());
    drop(journal);
    let head = open(dir.path()).attach(&key("b")).unwrap().unwrap();
    assert!(head.closed.is_some() && head.damage.is_some());
}

#[test]
fn a_bad_trailer_closes_whatever_was_open_there() {
    let dir = tempfile::tempdir().unwrap();
    let segment = three(dir.path());
    let all = batches(&segment);
    // The trailer of the last batch of "a": nothing that is left says whose records were in it.
    let (range, _) = all.iter().rfind(|(_, named)| named == &["a"]).unwrap();
    flip(&segment, range.end - 20);
    let (journal, report) = Embedded::open(options(dir.path())).unwrap();
    assert!(!report.damage.is_empty());
    check_closed_for_effects(&journal, "a", "log/0000000001.seg");
    // "b" and "c" were opened after it.
    assert_eq!(journal.attach(&key("c")).unwrap().unwrap().damage, None);
}

#[test]
fn damage_is_remembered_when_its_segment_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let segment = three(dir.path());
    let (range, _) = batches(&segment).into_iter().rev().nth(5).unwrap();
    flip(&segment, range.start + 40);
    let (journal, _) = Embedded::open(options(dir.path())).unwrap();
    for number in 0..150 {
        run_steps(&journal, &key(&format!("more-{number}")), 1);
    }
    journal.close().unwrap();
    drop(journal);
    let (journal, report) = Embedded::open(options(dir.path())).unwrap();
    assert!(report.segments_sealed > 0 && report.damage.is_empty(), "{report:?}");
    check_closed_for_effects(&journal, "b", "log/0000000001.seg");
}

#[test]
fn a_bad_last_batch_is_damage_unless_the_power_may_have_gone() {
    let dir = tempfile::tempdir().unwrap();
    for (boot_id, name) in [("same", "damage"), ("another", "torn")] {
        let path = dir.path().join(name);
        let at = |boot_id: &str| Options { boot_id: Some(boot_id.to_owned()), ..options(&path) };
        let journal = Embedded::open(at("same")).unwrap().0;
        run_steps(&journal, &key("a"), 2);
        drop(journal);
        let segment = last_written(&path);
        let (range, _) = batches(&segment).pop().unwrap();
        flip(&segment, range.start + 40);
        let (journal, report) = Embedded::open(at(boot_id)).unwrap();
        let head = journal.attach(&key("a")).unwrap().unwrap();
        if name == "damage" {
            assert_eq!((report.damage.len(), report.torn.len()), (1, 0));
            assert!(head.damage.is_some());
        } else {
            assert_eq!((report.damage.len(), report.torn.len()), (0, 1));
            assert_eq!((head.damage, head.sequence), (None, 9));
            assert_eq!(fs::read(&report.torn[0].kept).unwrap().len() as u64, range.end - range.start);
        }
    }
}

/// Fills several segments; the path of the first one, which is sealed.
fn sealed(path: &Path) -> PathBuf {
    let journal = Embedded::open(Options { segment_bytes: 16 << 10, ..options(path) }).unwrap().0;
    run_steps(&journal, &key("first"), 2);
    for number in 0..40 {
        run_steps(&journal, &key(&format!("w{number}")), 2);
    }
    journal.close().unwrap();
    segment::path(&path.join("log"), 1)
}

#[test]
fn a_bad_record_in_a_sealed_segment_is_found_when_it_is_read_and_stays_found() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sealed(dir.path());
    let bytes = fs::read(&segment).unwrap();
    let seed = segment::Head::read(&bytes).unwrap().seed();
    let scan = scan::scan(&seed, &bytes);
    let frames = scan.batches.iter().flat_map(|batch| &batch.frames);
    let completed = frames.filter(|frame| frame.kind == Kind::Record).find(|frame| {
        let record = frame::record(frame.payload).unwrap();
        record.key == key("first") && matches!(codec::decode(record.stored), Ok(Record::Completed(_)))
    });
    let at = completed.unwrap().offset;
    flip(&segment, at + 30);
    let journal = open(dir.path());
    assert_eq!(journal.attach(&key("first")).unwrap().unwrap().damage, None, "nobody has looked yet");
    let error = journal.step(&key("first"), step(1)).unwrap_err();
    assert!(error.to_string().contains(&format!("log/0000000001.seg, offset {at}")), "{error}");
    check_closed_for_effects(&journal, "first", "log/0000000001.seg");
    assert!(journal.step(&key("first"), step(2)).unwrap().is_some(), "what is whole is served");
    journal.close().unwrap();
    drop(journal);
    let journal = open(dir.path());
    check_closed_for_effects(&journal, "first", "log/0000000001.seg");
    assert_eq!(journal.attach(&key("w3")).unwrap().unwrap().damage, None);
}

#[test]
fn a_bad_body_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sealed(dir.path());
    // In each segment that has a copy.
    for path in fs::read_dir(segment.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&path).unwrap();
        let copies = (0..bytes.len() - 8).filter(|at| &bytes[*at..*at + 8] == b"answer-2");
        copies.for_each(|at| flip(&path, at as u64));
    }
    let journal = open(dir.path());
    let body = journal.step(&key("first"), step(2)).unwrap().unwrap().completed.unwrap().body;
    let error = journal.body(&body).unwrap_err();
    assert!(matches!(error, Error::Body { .. }), "{error}");
}

#[test]
fn a_lost_footer_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sealed(dir.path());
    let bytes = fs::read(&segment).unwrap();
    let end = scan::scan(&segment::Head::read(&bytes).unwrap().seed(), &bytes).end() as usize;
    for (round, cut) in [bytes.len() - 1, bytes.len() - 40, end + 100, end].into_iter().enumerate() {
        fs::write(&segment, &bytes[..cut]).unwrap();
        let error = Embedded::open_read_only(options(dir.path())).unwrap_err();
        assert!(matches!(error, OpenError::NeedsRepair { .. }), "{error}");
        let (journal, report) = Embedded::open(options(dir.path())).unwrap();
        assert_eq!(report.damage, Vec::new(), "round {round}");
        assert!(matches!(report.index, IndexReport::Rebuilt { .. }));
        for name in ["first", "w0", "w39"] {
            assert_eq!(journal.scan(&key(name)).unwrap().len(), 10);
            assert_eq!(journal.find(&key(name), &print(2)).unwrap().len(), 1);
        }
        journal.close().unwrap();
        drop(journal);
        Embedded::open_read_only(options(dir.path())).unwrap();
    }
}

#[test]
fn a_batch_lost_with_its_footer_closes_whatever_was_open_there() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sealed(dir.path());
    let bytes = fs::read(&segment).unwrap();
    let scan = scan::scan(&segment::Head::read(&bytes).unwrap().seed(), &bytes);
    fs::write(&segment, &bytes[..scan.batches.last().unwrap().start as usize]).unwrap();
    let (journal, report) = Embedded::open(options(dir.path())).unwrap();
    assert!(report.damage[0].what.starts_with("log/0000000001.seg has lost its end"), "{report:?}");
    check_closed_for_effects(&journal, "first", "log/0000000001.seg");
    assert_eq!(journal.attach(&key("w39")).unwrap().unwrap().damage, None, "opened after it");
}

#[test]
fn a_missing_segment_closes_whatever_was_open_before_it() {
    let dir = tempfile::tempdir().unwrap();
    sealed(dir.path());
    fs::remove_file(segment::path(&dir.path().join("log"), 2)).unwrap();
    let (journal, report) = Embedded::open(options(dir.path())).unwrap();
    assert_eq!(report.damage[0].what, "log/0000000002.seg is missing");
    check_closed_for_effects(&journal, "first", "log/0000000002.seg is missing");
    assert_eq!(journal.attach(&key("w39")).unwrap().unwrap().damage, None, "opened after it");
}

#[test]
fn a_record_moved_to_another_workflow_does_not_fit_there() {
    let (ours, theirs) = (key("a"), key("b"));
    let stored = codec::encode(&conformance::workflow_opened());
    let head = |key| codec::chain(&codec::genesis(key), &stored);
    assert_ne!(head(&ours), head(&theirs));
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let batch = Batch::one(conformance::workflow_opened());
    wait(journal.commit(&ours, journal.epoch(), batch, Urgency::Now).unwrap()).unwrap();
    assert_eq!(journal.attach(&ours).unwrap().unwrap().chain, head(&ours));
}
