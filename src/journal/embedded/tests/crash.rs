//! The process dies while it writes: the log is cut after every byte of its last batches, and whatever was
//! whole is there, and nothing else.

use std::fs;

use proptest::prelude::*;

use super::super::super::conformance::wait;
use super::script::{Op, Script, keys, op, seeded};
use super::*;

/// A journal with some commits, and for each of its ends the commits that are whole there.
struct Written {
    dir: tempfile::TempDir,
    /// The last segment, and where its batches end, with the number of commits whole there.
    segment: PathBuf,
    ends: Vec<(u64, usize)>,
    ops: Vec<Op>,
}

/// Makes the commits one by one, each a batch of its own. Only the last ones' ends are kept: those in the
/// segment that is written last.
fn written(ops: Vec<Op>) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0");
    let journal = open(&path);
    let mut script = Script::default();
    let mut ends = Vec::new();
    for (count, op) in (1..).zip(&ops) {
        script.commit(&journal, *op);
        ends.push((last_written(&path), end(&last_written(&path)), count));
    }
    let copied = dir.path().join("1");
    copy(&path, &copied);
    drop(journal);
    let segment = ends.last().unwrap().0.clone();
    let ends =
        ends.into_iter().filter(|(path, ..)| *path == segment).map(|(_, end, count)| (end, count)).collect();
    let segment = copied.join("log").join(segment.file_name().unwrap());
    Written { dir, segment, ends, ops }
}

/// Where the zeros begin.
fn end(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    (bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()) as u64
}

/// Opens the journal as it is when the log ends at `cut`: to look at it, and unless that is all, to go on.
fn check_cut(written: &Written, cut: u64, only_look: bool) {
    let mut bytes = fs::read(&written.segment).unwrap();
    bytes[cut as usize..].fill(0);
    let path = written.dir.path().join("cut");
    let _ = fs::remove_dir_all(&path);
    copy(&written.dir.path().join("1"), &path);
    fs::write(path.join("log").join(written.segment.file_name().unwrap()), &bytes).unwrap();

    let count = written.ends.iter().filter(|(end, _)| *end <= cut).map(|(_, count)| *count).max();
    let count = count.unwrap_or_else(|| written.ends.first().unwrap().1 - 1);
    let mut script = Script::default();
    for op in &written.ops[..count] {
        script.next(*op);
    }
    let (reader, seen) = Embedded::open_read_only(options(&path)).unwrap();
    script.check(&reader);
    if only_look {
        assert_eq!(seen.damage, Vec::new(), "cut at {cut}");
        return;
    }
    let before = fs::read_dir(path.join("log")).unwrap().count();
    let (journal, report) = Embedded::open(options(&path)).unwrap();
    assert_eq!((seen.torn.len(), &seen.damage), (report.torn.len(), &report.damage));
    script.check(&journal);
    assert_eq!(report.damage, Vec::new(), "cut at {cut}");
    // Whatever is not zeros behind the last whole batch is kept aside.
    for torn in &report.torn {
        let kept = fs::read(&torn.kept).unwrap();
        assert_eq!(kept, bytes[torn.offset as usize..torn.offset as usize + kept.len()], "cut at {cut}");
        assert!(fs::read_dir(path.join("log")).unwrap().count() > before);
    }
    // And the journal goes on from there, over another restart.
    for seed in 0..3 {
        script.commit(&journal, seeded(seed));
    }
    journal.close().unwrap();
    drop(journal);
    let (journal, report) = Embedded::open(options(&path)).unwrap();
    assert_eq!((report.clean, report.torn, report.damage), (true, Vec::new(), Vec::new()));
    script.check(&journal);
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_batch_keeps_every_batch_before_it() {
    let written = written((0..14).map(seeded).collect());
    let [.., (from, _), (to, _)] = written.ends.as_slice() else { panic!("two batches in a segment") };
    for cut in *from..=*to {
        check_cut(&written, cut, cut % 64 != 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_cut_anywhere_in_its_last_segment_keeps_every_batch_before_it(
        ops in prop::collection::vec(op(), 3..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let written = written(ops);
        let (end, _) = *written.ends.last().unwrap();
        let from = 64;
        check_cut(&written, from + cut.index((end - from) as usize + 1) as u64, false);
    }
}

#[test]
fn commits_that_ride_are_written_with_the_next_that_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { ride_ms_max: 60_000, ..options(dir.path()) };
    let journal = Embedded::open(options).unwrap().0;
    let mut script = Script::default();
    let mut riding = Vec::new();
    for seed in 0..20 {
        let (key, batch) = script.next(seeded(seed));
        riding.push(journal.commit(&key, journal.epoch(), batch, Urgency::Ride).unwrap());
    }
    let copied = dir.path().join("copied");
    copy(&dir.path().join("log"), &copied.join("log"));
    let (reader, _) = Embedded::open_read_only(self::options(&copied)).unwrap();
    assert_eq!(reader.workflows().unwrap(), Vec::new(), "nothing was written yet");
    script.commit(&journal, seeded(20));
    for ticket in riding {
        wait(ticket).unwrap();
    }
    assert!(keys().iter().all(|key| journal.attach(key).unwrap().is_some()));
    script.check(&journal);
}

#[test]
fn commits_that_ride_alone_are_written_when_their_time_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut script = Script::default();
    let (key, batch) = script.next(seeded(0));
    wait(journal.commit(&key, journal.epoch(), batch, Urgency::Ride).unwrap()).unwrap();
    let copied = dir.path().join("copied");
    copy(&dir.path().join("log"), &copied.join("log"));
    script.check(&Embedded::open_read_only(options(&copied)).unwrap().0);
}
