//! Who may open a journal, what opening changes, and what it trusts.

use super::super::super::conformance::{
    attempt, attempt_opened, commit, completed, intent, key, print, redelivered, run_steps, step, wait,
    workflow_opened,
};
use super::super::super::lease::Lock;
use super::script::{Script, seeded};
use super::*;

fn at_boot(path: &Path, boot_id: &str) -> (Embedded, OpenReport) {
    Embedded::open(Options { segment_bytes: 4096, boot_id: Some(boot_id.to_owned()), ..options(path) })
        .unwrap()
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let journal =
        Embedded::open(Options { admin: Some("http://127.0.0.1:1".to_owned()), ..options(dir.path()) });
    let journal = journal.unwrap().0;
    journal.tell_admin("http://127.0.0.1:4748").unwrap();
    for refused in [Embedded::open(options(dir.path())), Embedded::open_read_only(options(dir.path()))] {
        let error = refused.unwrap_err();
        let OpenError::Locked { pid, admin, .. } = &error else { panic!("{error}") };
        assert_eq!((*pid, admin.as_deref()), (std::process::id(), Some("http://127.0.0.1:4748")));
        assert!(error.to_string().contains("in use by process"), "{error}");
    }
    let holder = Lock::read(dir.path()).unwrap().unwrap();
    assert_eq!((holder.pid, holder.epoch), (std::process::id(), journal.epoch().0));
    drop(journal);
    assert_eq!(Lock::read(dir.path()).unwrap(), None);
    open(dir.path());
}

#[test]
fn every_owner_has_an_epoch_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    for expected in 1..=4 {
        let (journal, report) = Embedded::open(options(dir.path())).unwrap();
        assert_eq!((journal.epoch(), report.epoch), (Epoch(expected), Epoch(expected)));
        if expected % 2 == 0 {
            journal.close().unwrap();
        }
    }
    // Also when the end of the log is lost: the lock's file knows it too.
    let segment = last_written(dir.path());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[64..].fill(0);
    fs::write(&segment, bytes).unwrap();
    assert_eq!(open(dir.path()).epoch(), Epoch(5));
}

#[test]
fn looking_changes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0");
    let (journal, _) = at_boot(&path, "boot");
    let mut script = Script::default();
    for seed in 0..60 {
        script.commit(&journal, seeded(seed));
    }
    let copied = dir.path().join("1");
    copy(&path, &copied);
    drop(journal);
    // With a torn end, which only an owner may cut.
    let segment = last_written(&copied);
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    bytes.resize((end + 64).max(bytes.len()), 0);
    bytes[end.next_multiple_of(8)..][..20].fill(7);
    fs::write(&segment, bytes).unwrap();

    let before = files(&copied);
    let (reader, report) = Embedded::open_read_only(options(&copied)).unwrap();
    assert_eq!((report.torn.len(), report.damage), (1, Vec::new()));
    script.check(&reader);
    let refused =
        reader.commit(&key("a"), reader.epoch(), Batch::one(workflow_opened()), Urgency::Now).unwrap_err();
    assert!(refused.to_string().contains("opened for reading only"), "{refused}");
    reader.close().unwrap();
    drop(reader);
    assert_eq!(files(&copied), before);
}

#[test]
fn the_index_is_trusted_after_a_clean_stop_or_under_the_same_boot() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script::default();
    let mut go = |boot_id: &str, cleanly: bool| {
        let (journal, report) = at_boot(dir.path(), boot_id);
        script.check(&journal);
        for seed in 0..20 {
            script.commit(&journal, seeded(seed * 7));
        }
        if cleanly {
            journal.close().unwrap();
        }
        report.index
    };
    assert_eq!(go("one", false), IndexReport::Empty);
    assert_eq!(go("one", false), IndexReport::Trusted);
    let IndexReport::Rebuilt { why } = go("two", true) else { panic!("after a power cut") };
    assert!(why.contains("not trusted"), "{why}");
    assert_eq!(go("three", false), IndexReport::Trusted);
    assert_eq!(go("three", true), IndexReport::Trusted);
}

#[test]
fn a_miss_of_the_index_does_not_count_while_a_footer_has_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script::default();
    let (journal, _) = at_boot(dir.path(), "boot");
    for seed in 0..150 {
        script.commit(&journal, seeded(seed));
    }
    journal.close().unwrap();
    drop(journal);
    for lost in [3, 2, 1] {
        let index = sled::Config::new().path(dir.path().join("index")).flush_every_ms(None).open().unwrap();
        let keys = index.iter().keys().map(Result::unwrap).filter(|key| key[0] != 0).collect::<Vec<_>>();
        assert!(keys.len() > 20, "{} rows", keys.len());
        for key in keys.iter().skip(lost % 3).step_by(lost) {
            index.remove(key).unwrap();
        }
        index.flush().unwrap();
        drop(index);
        let (journal, report) = at_boot(dir.path(), "boot");
        assert_eq!(report.index, IndexReport::Trusted);
        script.check(&journal);
        script.commit(&journal, seeded(1000 + lost as u64));
        journal.close().unwrap();
    }
}

#[test]
fn an_index_that_does_not_open_costs_nothing_but_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script::default();
    for round in 0..4u64 {
        let (journal, report) = at_boot(dir.path(), "boot");
        assert_eq!(report.damage, Vec::new());
        script.check(&journal);
        for seed in 0..40 {
            script.commit(&journal, seeded(round * 1000 + seed));
        }
        script.check(&journal);
        journal.close().unwrap();
        drop(journal);
        let index = dir.path().join("index");
        match round {
            0 => fs::write(index.join("db"), b"garbage").unwrap(),
            1 => fs::write(index.join("snap.0000.generating"), b"half a snapshot").unwrap(),
            _ => fs::remove_dir_all(index).unwrap(),
        }
    }
}

#[test]
fn opening_reads_the_open_segment_and_not_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = at_boot(dir.path(), "boot");
    for number in 0..60 {
        run_steps(&journal, &key(&format!("w{number}")), 3);
    }
    journal.close().unwrap();
    drop(journal);
    let (journal, report) = at_boot(dir.path(), "boot");
    assert!(report.segments_sealed > 20, "{} segments", report.segments_sealed);
    assert!(report.batches_scanned < 30, "{} batches", report.batches_scanned);
    assert_eq!(journal.workflows().unwrap().len(), 60);
}

#[test]
fn a_workflow_whose_sheets_are_too_long_for_the_index_is_found_in_the_footers() {
    let dir = tempfile::tempdir().unwrap();
    let at = || Options { segment_bytes: 256 << 10, ..options(dir.path()) };
    let journal = Embedded::open(at()).unwrap().0;
    let (long, short) = (key("long"), key("short"));
    run_steps(&journal, &short, 2);
    commit(&journal, &long, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    let mut segments = 0;
    for number in 1..=2000 {
        let step =
            [Record::Intent(intent(number, 1, number % 900)), Record::Completed(completed(number, b""))];
        let batch = Batch { records: step.to_vec(), bodies: Vec::new() };
        let ticket = journal.commit(&long, journal.epoch(), batch, Urgency::Ride).unwrap();
        if number % 100 == 0 {
            wait(ticket).unwrap();
        }
        segments = journal.current.load(Ordering::Relaxed);
    }
    assert!(segments > 2, "{segments} segments");
    commit(&journal, &long, vec![attempt_opened(2), redelivered(7, 2)], Vec::new());
    journal.close().unwrap();
    drop(journal);
    let journal = Embedded::open(at()).unwrap().0;
    assert_eq!(journal.attach(&long).unwrap().unwrap().ahead(), 1999);
    for of in [0, 7, 899] {
        let steps = journal.find(&long, &print(of)).unwrap();
        let expected = (1..=2000).filter(|number| number % 900 == of).collect::<Vec<_>>();
        assert_eq!(steps.iter().map(|summary| summary.step.number()).collect::<Vec<_>>(), expected);
    }
    assert!(journal.usage(&long, attempt(1), step(7)).unwrap().is_some());
    assert!(journal.usage(&long, attempt(2), step(7)).unwrap().is_some());
    assert!(journal.usage(&long, attempt(2), step(8)).unwrap().is_none());
    assert_eq!(journal.step(&long, step(1500)).unwrap().unwrap().completed, Some(completed(1500, b"")));
    assert_eq!(journal.scan(&long).unwrap().len(), 4004);
    assert_eq!(journal.find(&short, &print(2)).unwrap().len(), 1);
}

/// Bytes that this thread has read so far, from files and otherwise (proc_pid_io(5)).
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// A journal with one workflow of so many steps, closed cleanly; the size of its log.
fn of_steps(path: &Path, steps: u64) -> u64 {
    let journal = Embedded::open(Options { segment_bytes: 1 << 20, ..options(path) }).unwrap().0;
    let long = key("w");
    commit(&journal, &long, vec![workflow_opened(), attempt_opened(1)], Vec::new());
    for number in 1..=steps {
        let step = [Record::Intent(intent(number, 1, number)), Record::Completed(completed(number, b""))];
        let batch = Batch { records: step.to_vec(), bodies: Vec::new() };
        let ticket = journal.commit(&long, journal.epoch(), batch, Urgency::Ride).unwrap();
        if number % 100 == 0 {
            wait(ticket).unwrap();
        }
    }
    journal.close().unwrap();
    fs::read_dir(path.join("log")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn below_the_cases_a_workflow_of_10_000_steps_opens_as_a_short_one_does() {
    let dir = tempfile::tempdir().unwrap();
    // What a restarted agent costs up to its first replayed step.
    let first_replay = |name: &str, steps: u64| {
        let path = dir.path().join(name);
        let log = of_steps(&path, steps);
        let before = bytes_read();
        let (journal, report) = Embedded::open(Options { segment_bytes: 1 << 20, ..options(&path) }).unwrap();
        let opened = bytes_read();
        commit(&journal, &key("w"), vec![attempt_opened(2)], Vec::new());
        assert_eq!(journal.attach(&key("w")).unwrap().unwrap().ahead(), steps);
        let found = journal.find(&key("w"), &print(1)).unwrap();
        assert_eq!(found.iter().map(|summary| summary.step).collect::<Vec<_>>(), [step(1)]);
        assert!(journal.usage(&key("w"), attempt(2), step(1)).unwrap().is_none());
        assert!(journal.step(&key("w"), step(1)).unwrap().unwrap().completed.is_some());
        let looked = bytes_read();
        assert_eq!(journal.scan(&key("w")).unwrap().len() as u64, 2 * steps + 3);
        let told = [opened - before, looked - opened, bytes_read() - looked];
        (log, report, told)
    };
    let (_, _, [opening_short, ..]) = first_replay("short", 10);
    let (log, report, [opening_long, looking_long, all_long]) = first_replay("long", 10_000);
    assert!(report.segments_sealed >= 3, "{report:?}");
    // Both read the segments that are open; what is sealed costs the long one its sheets: a few bytes a step.
    assert!(opening_long < opening_short + log / 16, "{opening_short} and {opening_long} bytes of {log}");
    assert!(looking_long < log / 16, "{looking_long} bytes of {log}");
    assert!(all_long > log / 4, "what reads every record is seen to: {all_long} bytes of {log}");
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), b"chapter 1").unwrap();
    let error = Embedded::open(options(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::NotAJournal { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = Embedded::open_read_only(options(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    let error = Embedded::open(options(&dir.path().join("thesis.tex"))).unwrap_err();
    assert!(matches!(error, OpenError::Unwritable { .. } | OpenError::Io { .. }), "{error}");
}

#[test]
fn what_a_newer_version_wrote_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().unwrap();
    let segment = last_written(dir.path());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    fs::write(&segment, &bytes).unwrap();
    for refused in [Embedded::open(options(dir.path())), Embedded::open_read_only(options(dir.path()))] {
        let error = refused.unwrap_err();
        assert!(matches!(error, OpenError::Newer { .. }), "{error}");
        assert!(error.to_string().contains("log format 9"), "{error}");
    }
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}
