//! The engine as a whole: what it keeps, what it says when it cannot, and what is there after it died.

mod compaction;
mod crash;
mod damage;
mod faults;
mod layer;
mod matrix;
mod opening;
mod powercut;
mod random;
mod script;
#[path = "../../../../tests/it/support/table.rs"]
mod table;
mod verify;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::conformance::{self, Fixture, Ticks};
use super::*;

struct Fresh {
    journal: Embedded,
    _dir: tempfile::TempDir,
}

impl Fixture for Fresh {
    fn journal(&self) -> &dyn Journal {
        &self.journal
    }
}

fn options(path: &Path) -> Options {
    Options { segment_bytes: 64 << 10, ride_ms_max: 2, ..Options::new(path, Arc::new(Ticks::default())) }
}

fn open(path: &Path) -> Embedded {
    Embedded::open(options(path)).unwrap().0
}

/// Every file under `path`, with its bytes and its time of last change.
fn files(path: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let (Ok(bytes), Ok(meta)) = (fs::read(&path), fs::metadata(&path)) {
            // Where the engine is at work, a file may be gone again.
            found.insert(path, (bytes, meta.modified().unwrap()));
        }
    }
    found
}

/// A copy of a journal's directory, as a process that died leaves it: at one moment, so it is made again
/// while the engine's threads still change something.
fn copy(from: &Path, to: &Path) {
    let mut all = files(from);
    loop {
        let again = files(from);
        if again == all {
            break;
        }
        all = again;
    }
    for (path, (bytes, _)) in all {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

/// The last segment with anything in it.
fn last_written(path: &Path) -> PathBuf {
    let mut segments =
        fs::read_dir(path.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    let written = |path: &PathBuf| fs::read(path).unwrap()[64..].iter().any(|byte| *byte != 0);
    segments.into_iter().rfind(written).unwrap()
}

#[test]
fn the_embedded_engine_conforms() {
    conformance::run(|| {
        let dir = tempfile::tempdir().unwrap();
        Fresh { journal: open(&dir.path().join("journal")), _dir: dir }
    });
}

#[test]
fn the_embedded_engine_conforms_when_every_commit_fills_a_segment() {
    conformance::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 4096, ..options(&dir.path().join("journal")) };
        Fresh { journal: Embedded::open(options).unwrap().0, _dir: dir }
    });
}

#[test]
fn workflows_in_memory_are_bounded_and_the_others_are_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { workflows_live_max: 8, ..options(dir.path()) };
    let journal = Embedded::open(options).unwrap().0;
    let keys = (0..40).map(|number| conformance::key(&format!("w{number}"))).collect::<Vec<_>>();
    for key in &keys {
        conformance::run_steps(&journal, key, 2);
    }
    assert!(journal.live.len() <= 16, "{} workflows in memory", journal.live.len());
    for key in &keys {
        assert_eq!(journal.attach(key).unwrap().unwrap().completed, 2);
        assert_eq!(journal.find(key, &conformance::print(2)).unwrap().len(), 1);
    }
    assert_eq!(journal.workflows().unwrap().len(), 40);
}
