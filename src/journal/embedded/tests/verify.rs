//! Every byte of a journal counts: whichever is changed, `verify` finds it and says where. And a new index is
//! as good as the one before.

use super::super::super::conformance::{key, run_steps};
use super::super::index::INDEX;
use super::*;

/// A journal with sealed segments and an open one, stopped.
fn stopped(path: &Path) -> Options {
    let options = Options { segment_bytes: 4096, ..options(path) };
    let journal = Embedded::open(options.clone()).unwrap().0;
    for name in ["a", "b"] {
        run_steps(&journal, &key(name), 6);
    }
    journal.close().unwrap();
    options
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut segments =
        fs::read_dir(path.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    segments.sort();
    segments
}

#[test]
fn a_journal_as_it_was_written_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = stopped(dir.path());
    let before = files(dir.path());
    let verified = verify(&options).unwrap();
    assert_eq!((&verified.findings, &verified.torn), (&Vec::new(), &Vec::new()));
    assert_eq!(verified.workflows, 2);
    assert!(verified.segments > 3 && verified.bodies > 1 && verified.records > 24, "{verified:?}");
    let stats = stats(&options).unwrap();
    assert_eq!((stats.workflows, stats.workflows_open, stats.steps), (2, 2, 12));
    assert_eq!((stats.records, stats.bodies), (verified.records, verified.bodies));
    assert!(stats.segments_sealed > 1 && stats.bodies_raw_bytes > 0 && stats.index_bytes > 0, "{stats:?}");
    assert_eq!(files(dir.path()), before, "nothing is touched");
}

#[test]
fn whichever_byte_is_changed_it_is_found_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let options = stopped(dir.path());
    let last = last_written(dir.path());
    for path in segments(dir.path()).into_iter().filter(|path| *path <= last) {
        let name = format!("log/{}", path.file_name().unwrap().to_str().unwrap());
        let whole = fs::read(&path).unwrap();
        let written = whole.len() - whole.iter().rev().take_while(|byte| **byte == 0).count();
        for at in (0..written).step_by(17) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let verified = verify(&options).unwrap();
            let found = verified.findings.iter().any(|found| found.file == name)
                || verified.torn.iter().any(|torn| torn.file == name && path == last);
            assert!(found, "{name}, byte {at}: {verified:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_segment_that_is_gone_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let options = stopped(dir.path());
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let verified = verify(&options).unwrap();
    let missing = verified.findings.iter().find(|finding| finding.file == "log/0000000002.seg").unwrap();
    assert_eq!(missing.what, "is missing");
    let touched = verified.findings.iter().flat_map(|finding| &finding.workflows);
    assert!(touched.clone().any(|workflow| *workflow == key("a")), "{verified:?}");
}

#[test]
fn an_unfinished_end_is_told_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let options = stopped(dir.path());
    let last = last_written(dir.path());
    let mut bytes = fs::read(&last).unwrap();
    let written = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    // The trailer of the last batch is gone, and what it ends with is not.
    bytes[written - 20..].fill(0);
    fs::write(&last, bytes).unwrap();
    let verified = verify(&options).unwrap();
    assert_eq!(verified.findings, Vec::new());
    assert_eq!(verified.torn.len(), 1);
}

#[test]
fn a_new_index_is_as_good_as_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let options = stopped(dir.path());
    let index = dir.path().join(INDEX);
    for round in 0..3 {
        match round {
            0 => fs::remove_dir_all(&index).unwrap(),
            1 => fs::write(index.join("db"), b"garbage").unwrap(),
            _ => {}
        }
        let rebuilt = rebuild_index(options.clone()).unwrap();
        assert_eq!(rebuilt.set_aside.is_some(), round > 0);
        assert!(rebuilt.segments > 1 && rebuilt.entries >= rebuilt.segments, "{rebuilt:?}");
        assert_eq!((&rebuilt.report.damage, &rebuilt.report.torn), (&Vec::new(), &Vec::new()));
        let (journal, report) = Embedded::open(options.clone()).unwrap();
        assert_eq!(report.index, IndexReport::Trusted, "round {round}");
        assert_eq!(journal.attach(&key("a")).unwrap().unwrap().completed, 6);
        journal.close().unwrap();
    }
    assert!(matches!(
        rebuild_index(Options::new(dir.path().join("nowhere"), Arc::new(Ticks::default()))),
        Err(OpenError::Missing { .. })
    ));
}
