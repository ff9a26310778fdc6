//! Power cuts, played through by a layer between the log and the disk (`layer`), which makes a copy of the
//! journal in which anything that was not flushed may be lost. The test is what `Durability::PowerLoss` rests on.

use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::super::super::conformance::wait;
use super::super::disk::{Disk, Watch};
use super::layer::{Dice, Layer};
use super::script::{Script, keys, seeded};
use super::*;

/// Runs commits against a journal behind a layer, cuts the power while they run, and checks what is left.
/// Returns how many records were acknowledged at the cut, and how many torn ends were found after it.
fn round(from: &Path, to: &Path, seed: u64) -> (usize, usize) {
    let mut dice = Dice(seed);
    let layer = Arc::new(Layer::default());
    let disk = Disk { watch: Some(Arc::clone(&layer) as Arc<dyn Watch>) };
    let segment_bytes = [4096, 16 << 10, 128 << 10][dice.roll(3) as usize];
    let options = |path: &Path, boot: u32| Options {
        segment_bytes,
        boot_id: Some(format!("boot-{boot}")),
        ..options(path)
    };
    let (journal, _) = Embedded::open(Options { disk, ..options(from, 0) }).unwrap();
    let scripts = [0u64, 1, 2].map(|_| Mutex::new((Script::default(), 0usize)));
    let acknowledged = Mutex::new([0usize; 3]);
    let ended = AtomicBool::new(false);
    layer.halt_after(1 + dice.roll(60));
    thread::scope(|scope| {
        for (writer, script) in scripts.iter().enumerate() {
            let (journal, ended) = (&journal, &ended);
            scope.spawn(move || {
                for number in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    // Each writer has its own workflow of the script's three.
                    let op = seeded(seed * 100_000 + number * 10 + writer as u64).of_workflow(writer as u8);
                    let (key, batch) = script.lock().0.next(op);
                    let urgency = if number % 4 == 3 { Urgency::Ride } else { Urgency::Now };
                    wait(journal.commit(&key, journal.epoch(), batch, urgency).unwrap()).unwrap();
                    let mut script = script.lock();
                    script.1 = script.0.records(writer).len();
                }
            });
        }
        layer.wait_until_held();
        layer.cut(from, to, &mut dice, || {
            for (script, acknowledged) in scripts.iter().zip(acknowledged.lock().iter_mut()) {
                *acknowledged = script.lock().1;
            }
        });
        ended.store(true, Ordering::Relaxed);
        layer.let_go();
    });
    drop(journal);

    let (journal, report) = Embedded::open(options(to, 1)).unwrap();
    assert_eq!(report.damage, Vec::new(), "seed {seed}");
    let acknowledged = *acknowledged.lock();
    for (writer, key) in keys().iter().enumerate() {
        let there = journal.scan(key).unwrap();
        let script = scripts[writer].lock();
        let all = script.0.records(writer);
        assert!(there.len() >= acknowledged[writer], "seed {seed}: {key} lost acknowledged records");
        assert_eq!(there, all[..there.len()], "seed {seed}: {key}");
        assert_eq!(journal.attach(key).unwrap().map_or(0, |head| head.sequence), there.len() as u64);
        for hash in there.iter().filter_map(body_of) {
            let expected = script.0.bodies.iter().find(|body| body.hash == hash).unwrap();
            assert_eq!(journal.body(&hash).unwrap(), expected.bytes, "seed {seed}");
        }
    }
    (acknowledged.iter().sum(), report.torn.len())
}

fn body_of(record: &Record) -> Option<BodyHash> {
    if let Record::Intent(intent) = record {
        return Some(intent.request);
    }
    if let Record::Completed(completed) = record {
        return Some(completed.body);
    }
    if let Record::Listed(listed) = record { Some(listed.body) } else { None }
}

#[test]
fn whatever_was_acknowledged_survives_a_power_cut() {
    let (mut acknowledged, mut torn) = (0, 0);
    for seed in 0..48 {
        let dir = tempfile::tempdir().unwrap();
        let (more, ends) = round(&dir.path().join("before"), &dir.path().join("after"), seed);
        acknowledged += more;
        torn += ends;
    }
    // Cuts that never hit a batch under way would prove little.
    assert!(acknowledged > 500 && torn > 0, "{acknowledged} records acknowledged, {torn} torn ends");
}

#[test]
fn without_flushes_the_same_test_fails() {
    /// Tells the layer of no flush, as if the log made none.
    #[derive(Debug)]
    struct Deaf(Layer);

    impl Watch for Deaf {
        fn write(&self, path: &Path, offset: u64, len: u64) -> io::Result<()> {
            self.0.write(path, offset, len)
        }
        fn sync(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn synced(&self, _: &Path) {}
        fn create(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)?;
            self.0.forget_names();
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

    let dir = tempfile::tempdir().unwrap();
    let deaf = Arc::new(Deaf(Layer::default()));
    let disk = Disk { watch: Some(Arc::clone(&deaf) as Arc<dyn Watch>) };
    let (journal, _) = Embedded::open(Options { disk, ..options(&dir.path().join("before")) }).unwrap();
    let mut script = Script::default();
    for seed in 0..20 {
        script.commit(&journal, seeded(seed));
    }
    let lost = (0..8).filter(|seed| {
        let after = dir.path().join(format!("after-{seed}"));
        deaf.0.cut(&dir.path().join("before"), &after, &mut Dice(*seed), || ());
        let Ok((journal, _)) = Embedded::open(options(&after)) else { return true };
        journal.workflows().unwrap() != script.model.workflows().unwrap()
    });
    assert!(lost.count() > 0, "a log that never flushes must lose something");
}
