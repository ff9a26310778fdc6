//! Disks that say no, and what everybody is told then.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::super::super::conformance::{key, wait, workflow_opened};
use super::super::disk::{Disk, Watch};
use super::script::{Script, seeded};
use super::*;

/// A disk that counts its flushes and fails on demand.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    flushes: AtomicUsize,
    writes: AtomicUsize,
    flush_fails: AtomicBool,
    write_fails: AtomicBool,
    pub(super) is_full: AtomicBool,
}

impl Watch for Faulty {
    fn write(&self, path: &Path, _: u64, _: u64) -> io::Result<()> {
        // A segment that is being prepared is not the log yet.
        if path.extension().is_some_and(|extension| extension == "seg") {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        if self.write_fails.load(Ordering::Relaxed) { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        if path.extension().is_some_and(|extension| extension == "seg") {
            self.flushes.fetch_add(1, Ordering::Relaxed);
        }
        if self.flush_fails.load(Ordering::Relaxed) { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }

    fn synced(&self, _: &Path) {}

    fn create(&self, _: &Path) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

fn open_on(disk: &Arc<Faulty>, path: &Path) -> Embedded {
    let disk = Disk { watch: Some(Arc::clone(disk) as Arc<dyn Watch>) };
    Embedded::open(Options { disk, ..options(path) }).unwrap().0
}

fn commit(journal: &Embedded, workflow: &str) -> Result<(), Error> {
    let batch = Batch::one(workflow_opened());
    wait(journal.commit(&key(workflow), journal.epoch(), batch, Urgency::Now)?)
}

#[test]
fn a_commit_costs_one_write_and_one_flush() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(&disk, dir.path());
    let before = (disk.writes.load(Ordering::Relaxed), disk.flushes.load(Ordering::Relaxed));
    let mut script = Script::default();
    for seed in 0..10 {
        // With bodies, which are in the same log.
        script.commit(&journal, seeded(seed));
    }
    let after = (disk.writes.load(Ordering::Relaxed), disk.flushes.load(Ordering::Relaxed));
    assert_eq!((after.0 - before.0, after.1 - before.1), (10, 10));
}

#[test]
fn commits_made_at_once_share_their_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(&disk, dir.path());
    let before = disk.flushes.load(Ordering::Relaxed);
    let tickets = (0..200).map(|number| {
        let batch = Batch::one(workflow_opened());
        journal.commit(&key(&format!("w{number}")), journal.epoch(), batch, Urgency::Now).unwrap()
    });
    for ticket in tickets.collect::<Vec<_>>() {
        wait(ticket).unwrap();
    }
    let flushes = disk.flushes.load(Ordering::Relaxed) - before;
    assert!(flushes < 150, "{flushes} flushes for 200 commits");
}

#[test]
fn a_failed_flush_is_not_tried_again_and_ends_all_writing() {
    let dir = tempfile::tempdir().unwrap();
    for write in [false, true] {
        let path = dir.path().join(if write { "write" } else { "flush" });
        let disk = Arc::new(Faulty::default());
        let journal = open_on(&disk, &path);
        commit(&journal, "before").unwrap();
        let fails = if write { &disk.write_fails } else { &disk.flush_fails };
        fails.store(true, Ordering::Relaxed);
        let error = commit(&journal, "during").unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let flushes = disk.flushes.load(Ordering::Relaxed);
        fails.store(false, Ordering::Relaxed);
        // The disk is well again, but what it forgot nobody knows.
        let error = commit(&journal, "after").unwrap_err();
        assert!(
            error.to_string().starts_with("the journal cannot be written any more (writing to log/"),
            "{error}"
        );
        assert_eq!(disk.flushes.load(Ordering::Relaxed), flushes, "nothing is flushed again");
        assert!(journal.close().is_err(), "no clean stop");
        assert_eq!(journal.attach(&key("before")).unwrap().unwrap().sequence, 1, "reading goes on");
        drop(journal);
        let (journal, report) = Embedded::open(options(&path)).unwrap();
        assert!(!report.clean);
        assert_eq!(journal.attach(&key("before")).unwrap().unwrap().sequence, 1);
        commit(&journal, "again").unwrap();
    }
}

#[test]
fn a_full_disk_is_said_before_anything_is_acknowledged_that_has_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(&disk, dir.path());
    disk.is_full.store(true, Ordering::Relaxed);
    let mut script = Script::default();
    let mut acknowledged = 0;
    // The open segment and the one prepared ahead take what they have room for.
    let error = loop {
        let (key, batch) = script.next(seeded(acknowledged).of_workflow(0));
        match journal.commit(&key, journal.epoch(), batch, Urgency::Now).and_then(wait) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert!(error.to_string().contains("the disk is full; free some space and start again"), "{error}");
    assert!(acknowledged > 20, "{acknowledged} commits");
    drop(journal);
    let journal = open(dir.path());
    let mut model = Script::default();
    for seed in 0..acknowledged {
        model.next(seeded(seed).of_workflow(0));
    }
    model.check(&journal);
}

#[test]
fn a_disk_without_room_for_a_segment_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    disk.is_full.store(true, Ordering::Relaxed);
    let disk = Disk { watch: Some(disk as Arc<dyn Watch>) };
    let error = Embedded::open(Options { disk, ..options(dir.path()) }).unwrap_err();
    let OpenError::Space { needed, .. } = &error else { panic!("{error}") };
    assert_eq!(*needed, (128 << 10) + (1 << 20));
    assert!(error.to_string().contains("free some space"), "{error}");
    // And when there is room, nothing is in the way.
    commit(&open(dir.path()), "w").unwrap();
}
