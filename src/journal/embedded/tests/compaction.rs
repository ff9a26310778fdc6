//! Compaction: what is needed reads as before, the rest is gone from the disk, and wherever the process dies or
//! the power is cut in between, nothing that is needed is lost.

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::super::conformance::{
    self as records, completed, intent, key, print, run_steps, step, wait, workflow_closed,
};
use super::super::super::record::{Completed, Intent};
use super::super::super::{Body, CompactionBounds};
use super::super::disk::{Disk, Watch};
use super::faults::Faulty;
use super::layer::{Dice, Layer};
use super::script::{Script, seeded};
use super::*;
use crate::model::{RunNonce, Timestamp};

const ALL: CompactionBounds = CompactionBounds { segments_max: 10_000 };

const AT: Timestamp = Timestamp(1_795_140_000_000);

/// Bytes of an answer that zstd makes nothing of.
const ANSWER_LEN: usize = 3000;

fn small(path: &Path) -> Options {
    Options { segment_bytes: 16 << 10, boot_id: Some("boot".to_owned()), ..options(path) }
}

fn noise(seed: u64) -> Bytes {
    let mut bytes = vec![0; ANSWER_LEN];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

/// What becomes of a workflow that is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    BodiesExpired,
    Closed,
    NewRun,
    Removed,
}

const FATES: [Fate; 4] = [Fate::BodiesExpired, Fate::Closed, Fate::NewRun, Fate::Removed];

fn old(number: u64) -> (WorkflowKey, Fate) {
    (key(&format!("old-{number}")), FATES[(number % 4) as usize])
}

/// A workflow with two answers of its own and one that all share.
fn run_old(journal: &Embedded, number: u64) {
    let (key, _) = old(number);
    run_steps(journal, &key, 1);
    for (at, seed) in [(2, number), (3, number + 1000), (4, 77)] {
        let answer = noise(seed);
        let answered = Completed { step: step(at), ..completed(at, &answer) };
        let records = vec![Record::Intent(intent(at, 1, at)), Record::Completed(answered)];
        records::commit(journal, &key, records, vec![Body::whole(answer)]);
    }
}

fn end_old(journal: &Embedded, number: u64) {
    let (key, fate) = old(number);
    records::commit(journal, &key, vec![workflow_closed()], Vec::new());
    let next = match fate {
        Fate::Closed => return,
        Fate::BodiesExpired => vec![Record::BodiesExpired { at: AT }],
        Fate::Removed => vec![Record::Removed { opened_at: AT, closed_at: AT, at: AT }],
        Fate::NewRun => {
            let opened = Record::WorkflowOpened { nonce: RunNonce([9; 16]), version: String::new(), at: AT };
            let asked = Intent { request: Body::whole(noise(number)).hash, ..intent(1, 1, 2) };
            vec![opened, records::attempt_opened(1), Record::Intent(asked)]
        }
    };
    records::commit(journal, &key, next, vec![Body::whole(noise(number))]);
}

/// Live workflows of a script among closed ones. `over` is called in the middle of it.
fn fill(journal: &Embedded, script: &mut Script, olds: u64, over: impl Fn()) {
    for number in 0..olds {
        run_old(journal, number);
        for seed in 0..4 {
            script.commit(journal, seeded(number * 10 + seed));
        }
        if number % 2 == 1 {
            end_old(journal, number - 1);
            end_old(journal, number);
        }
        if number == olds / 2 {
            over();
        }
    }
}

/// What a journal says of the closed workflows.
fn check_old(journal: &Embedded, olds: u64) {
    for number in 0..olds {
        let (key, fate) = old(number);
        let head = journal.attach(&key).unwrap().unwrap();
        let scanned = journal.scan(&key).unwrap();
        assert_eq!(scanned.len() as u64, head.records(), "{key}");
        let found = journal.find(&key, &print(3)).unwrap().len();
        let answer = |number| journal.step(&key, step(number)).unwrap().and_then(|step| step.completed);
        match fate {
            Fate::Closed => {
                assert_eq!((found, head.steps), (1, 4), "{key}");
                for (at, seed) in [(2, number), (3, number + 1000), (4, 77)] {
                    assert_eq!(journal.body(&answer(at).unwrap().body).unwrap(), noise(seed), "{key}");
                }
            }
            Fate::BodiesExpired => {
                assert_eq!((found, head.bodies_expired), (1, Some(AT)), "{key}");
                assert_eq!(answer(3).unwrap().body, Body::whole(noise(number + 1000)).hash);
            }
            Fate::Removed => assert_eq!((found, head.removed, scanned.len()), (0, Some(AT), 1), "{key}"),
            Fate::NewRun => {
                assert_eq!((found, head.steps, head.nonce), (0, 1, RunNonce([9; 16])), "{key}");
                let asked = journal.step(&key, step(1)).unwrap().unwrap().intent.request;
                assert_eq!(journal.body(&asked).unwrap(), noise(number), "{key}");
            }
        }
    }
}

/// Bytes of the segments' files.
fn log_len(path: &Path) -> u64 {
    let entries = fs::read_dir(path.join("log")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Waits until every segment that is full is sealed: only those are compacted.
fn settle(journal: &Embedded) {
    let current = journal.current.load(Ordering::Acquire);
    while journal.store.settled().last().is_none_or(|last| last + 1 < current) {
        thread::yield_now();
    }
}

#[test]
fn the_disk_gets_back_what_nobody_needs_and_the_rest_reads_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open(small(dir.path())).unwrap().0;
    let mut script = Script::default();
    fill(&journal, &mut script, 24, || ());
    settle(&journal);
    let before = log_len(dir.path());
    let done = journal.compact(&ALL).unwrap();
    let after = log_len(dir.path());
    // Three of four old workflows need none of their 6,000 bytes, or half of them.
    assert!(before - after > 24 * ANSWER_LEN as u64, "{before} bytes became {after}: {done:?}");
    assert_eq!(before - after, done.bytes_before - done.bytes_after, "{done:?}");
    assert_eq!(journal.bytes(), after);
    script.check_live(&journal);
    check_old(&journal, 24);
    let gone = journal.body(&Body::whole(noise(1000)).hash).unwrap_err();
    assert!(matches!(gone, Error::Body { .. }), "{gone}");

    let again = journal.compact(&ALL).unwrap();
    assert!(again.bytes_before - again.bytes_after < before / 20, "{again:?}");
    // Work goes on, over compactions and restarts.
    for round in 0..3u64 {
        for seed in 0..10 {
            script.commit(&journal, seeded(9000 + round * 10 + seed));
        }
        journal.compact(&ALL).unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    let verified = verify(&small(dir.path())).unwrap();
    assert_eq!(verified.findings, Vec::new());
    assert!(verified.bodies_expired > 6, "{verified:?}");
    let stats = stats(&small(dir.path())).unwrap();
    assert_eq!((stats.workflows_removed, stats.bodies), (6, verified.bodies));
    for trusted in [true, false] {
        if !trusted {
            let rebuilt = rebuild_index(small(dir.path())).unwrap();
            assert!(rebuilt.segments > 0 && rebuilt.entries > 0, "{rebuilt:?}");
        }
        let (journal, report) = Embedded::open(small(dir.path())).unwrap();
        assert_eq!((report.damage, report.index), (Vec::new(), IndexReport::Trusted));
        script.check_live(&journal);
        check_old(&journal, 24);
        journal.close().unwrap();
    }
}

#[test]
fn a_part_that_was_let_go_is_stored_again_when_it_is_needed_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open(small(dir.path())).unwrap().0;
    let asked = |end: &str| {
        let bytes = Bytes::from([noise(5000).as_ref(), end.as_bytes()].concat());
        Body { parts: std::iter::once(0..ANSWER_LEN).collect(), ..Body::whole(bytes) }
    };
    let ask = |name: &str, body: &Body| {
        let intent = Intent { request: body.hash, ..intent(1, 1, 1) };
        let records = vec![records::workflow_opened(), records::attempt_opened(1), Record::Intent(intent)];
        records::commit(&journal, &key(name), records, vec![body.clone()]);
    };
    ask("done", &asked("first"));
    records::commit(&journal, &key("done"), vec![workflow_closed()], Vec::new());
    records::commit(&journal, &key("done"), vec![Record::BodiesExpired { at: AT }], Vec::new());
    fill(&journal, &mut Script::default(), 4, || ());
    settle(&journal);
    assert!(journal.compact(&ALL).unwrap().segments > 0);
    assert!(journal.body(&Body::whole(noise(5000)).hash).is_err(), "the part is gone");
    let again = asked("second");
    ask("next", &again);
    assert_eq!(journal.body(&again.hash).unwrap(), again.bytes);
}

#[test]
fn one_run_does_no_more_than_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open(small(dir.path())).unwrap().0;
    fill(&journal, &mut Script::default(), 24, || ());
    settle(&journal);
    let mut runs = 0;
    loop {
        let done = journal.compact(&CompactionBounds { segments_max: 2 }).unwrap();
        assert!(done.segments <= 2, "{done:?}");
        runs += 1;
        if !done.more {
            break;
        }
    }
    assert!(runs > 2, "{runs}");
    check_old(&journal, 24);
}

#[test]
fn those_who_read_and_write_meanwhile_notice_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open(small(dir.path())).unwrap().0;
    let mut script = Script::default();
    fill(&journal, &mut script, 12, || ());
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                check_old(&journal, 12);
            }
        });
        scope.spawn(|| {
            for seed in 0..120 {
                script.commit(&journal, seeded(5000 + seed));
            }
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            journal.compact(&CompactionBounds { segments_max: 3 }).unwrap();
        }
    });
    script.check_live(&journal);
    check_old(&journal, 12);
}

/// What happens before each of compaction's steps on the disk.
type Before = dyn Fn(&Layer) + Send + Sync;

/// A layer that does something before each of compaction's steps, once it is told to.
struct Stepping {
    layer: Layer,
    before: Mutex<Option<Box<Before>>>,
}

impl fmt::Debug for Stepping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stepping")
    }
}

impl Stepping {
    fn step(&self) {
        if let Some(before) = &*self.before.lock() {
            before(&self.layer);
        }
    }
}

impl Watch for Stepping {
    fn write(&self, path: &Path, offset: u64, len: u64) -> io::Result<()> {
        self.step();
        self.layer.write(path, offset, len)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.layer.sync(path)
    }
    fn synced(&self, path: &Path) {
        self.layer.synced(path);
    }
    fn create(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.layer.create(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        self.layer.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.layer.sync_dir(path)
    }
    fn set_len(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.layer.set_len(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.layer.remove(path)
    }
}

/// Compacts a journal, and makes a copy of it before each step on the disk; the copies.
fn copies(
    dir: &Path,
    olds: u64,
    script: &mut Script,
    make: impl Fn(&Layer, &Path, &Path, u64) + Send + Sync + 'static,
) -> Vec<PathBuf> {
    let stepping = Arc::new(Stepping { layer: Layer::default(), before: Mutex::default() });
    let disk = Disk { watch: Some(Arc::clone(&stepping) as Arc<dyn Watch>) };
    let from = dir.join("before");
    let journal = Embedded::open(Options { disk, ..small(&from) }).unwrap().0;
    fill(&journal, script, olds, || ());
    settle(&journal);
    let made = Arc::new(Mutex::new(Vec::new()));
    let (note, into) = (Arc::clone(&made), dir.to_owned());
    *stepping.before.lock() = Some(Box::new(move |layer| {
        let mut made = note.lock();
        let to = into.join(made.len().to_string());
        make(layer, &from, &to, made.len() as u64);
        made.push(to);
    }));
    let done = journal.compact(&ALL).unwrap();
    *stepping.before.lock() = None;
    assert!(done.segments > 3 && done.bytes_after < done.bytes_before, "{done:?}");
    let made = made.lock().clone();
    assert!(made.len() > 20, "{} steps", made.len());
    made
}

fn check_copy(copy: &Path, boot: &str, olds: u64, script: &mut Script) {
    let options = |path: &Path| Options { boot_id: Some(boot.to_owned()), ..small(path) };
    let (reader, seen) = Embedded::open_read_only(options(copy)).unwrap();
    assert_eq!(seen.damage, Vec::new(), "{}", copy.display());
    check_old(&reader, olds);
    let (journal, report) = Embedded::open(options(copy)).unwrap();
    assert_eq!(report.damage, Vec::new(), "{}", copy.display());
    script.check_live(&journal);
    check_old(&journal, olds);
    // And it can be compacted from there.
    journal.compact(&ALL).unwrap();
    check_old(&journal, olds);
    journal.close().unwrap();
    drop(journal);
    let verified = verify(&options(copy)).unwrap();
    assert_eq!(verified.findings, Vec::new(), "{}", copy.display());
    let left = fs::read_dir(copy.join("log")).unwrap().map(|entry| entry.unwrap().path());
    assert!(left.filter(|path| path.extension().is_some_and(|new| new == "new")).count() == 0);
}

#[test]
fn a_process_that_dies_anywhere_in_a_compaction_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script::default();
    let copies = copies(dir.path(), 8, &mut script, |_, from, to, _| copy(from, to));
    for copy in copies {
        check_copy(&copy, "boot", 8, &mut script);
    }
}

#[test]
fn a_power_cut_anywhere_in_a_compaction_loses_nothing() {
    let mut script = Script::default();
    let dir = tempfile::tempdir().unwrap();
    let copies = copies(dir.path(), 8, &mut script, |layer, from, to, number| {
        layer.cut(from, to, &mut Dice(number * 31 + 7), || ());
    });
    for copy in copies {
        check_copy(&copy, "another boot", 8, &mut script);
    }
}

#[test]
fn a_disk_that_fails_in_a_compaction_costs_the_compaction_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Arc::new(Faulty::default());
    let disk = Disk { watch: Some(Arc::clone(&faulty) as Arc<dyn Watch>) };
    let journal = Embedded::open(Options { disk, ..small(dir.path()) }).unwrap().0;
    fill(&journal, &mut Script::default(), 8, || ());
    settle(&journal);
    faulty.is_full.store(true, Ordering::Relaxed);
    let failed = journal.compact(&ALL).unwrap_err();
    assert!(matches!(failed, Error::Compaction { .. }), "{failed}");
    faulty.is_full.store(false, Ordering::Relaxed);
    check_old(&journal, 8);
    run_steps(&journal, &key("afterwards"), 1);
    assert!(journal.compact(&ALL).unwrap().segments > 0);
    check_old(&journal, 8);
}

#[test]
fn a_damaged_journal_is_not_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open(small(dir.path())).unwrap().0;
    fill(&journal, &mut Script::default(), 8, || ());
    settle(&journal);
    let path = segment::path(&dir.path().join("log"), 2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = journal.compact(&ALL).unwrap_err();
    assert!(refused.to_string().contains("0000000002.seg"), "{refused}");
}

#[test]
fn a_compacted_segment_that_lost_its_footer_gets_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Embedded::open(small(dir.path())).unwrap().0;
    let mut script = Script::default();
    fill(&journal, &mut script, 8, || ());
    settle(&journal);
    journal.compact(&ALL).unwrap();
    let number = journal.store.settled()[0];
    journal.close().unwrap();
    drop(journal);
    let path = segment::path(&dir.path().join("log"), number);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 9] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (journal, report) = Embedded::open(small(dir.path())).unwrap();
    assert_eq!(report.damage, Vec::new());
    script.check_live(&journal);
    check_old(&journal, 8);
    drop(wait(journal.commit(&key("more"), journal.epoch(), Batch::default(), Urgency::Now).unwrap()));
}
