//! What a durable step costs: many writers, each with a workflow of its own, against one bare append and
//! fdatasync of the same bytes on the same disk in the same run; and how long a journal takes to open when a
//! workflow is long. Prints ratios: the machine's own figures say little elsewhere.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench looks at its own clock, prints what it found, and fails where something is not so"
)]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bytes::Bytes;
use outrigger::app::SystemClock;
use outrigger::journal::embedded::{Embedded, Options};
use outrigger::journal::{Batch, Body, Completed, Intent, Journal, Record, Ticket, Urgency};
use outrigger::model::{
    AttemptId, AttemptReason, CallKind, Dialect, EffectClass, Fingerprint, Owner, RunNonce, StepIndex,
    Timestamp, UpstreamName, WorkflowId, WorkflowKey,
};

/// Bytes of each body, and of each bare append.
const BODY_BYTES: usize = 16 << 10;
const WRITERS: [usize; 3] = [1, 16, 128];
const AT: Timestamp = Timestamp(1_795_140_000_000);

fn main() {
    // Without `--bench` this is a test run of all targets: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, window) = if quick { (3, 300) } else { (9, 1000) };
    appends(rounds, Duration::from_millis(window));
    opening(rounds);
}

/// What one kind of writer did in one round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Median time of one durable write, in microseconds.
    p50_us: f64,
    /// Durable writes per second, all writers together.
    per_second: f64,
}

fn appends(rounds: usize, window: Duration) {
    let folder = folder();
    let (journal, _) = open(&folder.path().join("journal"));
    let bare = Bare::new(folder.path());
    let (mut bare_rounds, mut in_place) = (Vec::new(), Vec::new());
    let mut by_writers = WRITERS.map(|_| Vec::new());
    let mut next_workflow = 0;
    for _ in 0..rounds {
        bare_rounds.push(bare.appends(window));
        in_place.push(bare.in_place(window));
        for (writers, rounds) in WRITERS.iter().zip(&mut by_writers) {
            rounds.push(journal_round(&journal, *writers, &mut next_workflow, window));
        }
    }
    println!("durable writes of {} KiB, {rounds} rounds, medians", BODY_BYTES >> 10);
    println!("{:<24}{:>12}{:>16}{:>12}{:>16}", "", "p50, us", "x bare p50", "writes/s", "x bare writes/s");
    let line = |name: String, own: &[Round]| {
        let ratio = |of: fn(&Round) -> f64| {
            median(own.iter().zip(&bare_rounds).map(|(own, bare)| of(own) / of(bare)).collect())
        };
        println!(
            "{name:<24}{:>12.0}{:>16.2}{:>12.0}{:>16.2}",
            median(own.iter().map(|round| round.p50_us).collect()),
            ratio(|round| round.p50_us),
            median(own.iter().map(|round| round.per_second).collect()),
            ratio(|round| round.per_second),
        );
    };
    line("append and fdatasync".to_owned(), &bare_rounds);
    line("the same, preallocated".to_owned(), &in_place);
    for (writers, rounds) in WRITERS.iter().zip(&by_writers) {
        line(format!("journal, {writers} writers"), rounds);
    }
    journal.close().unwrap();
}

/// Files nobody else writes.
struct Bare {
    growing: File,
    /// Written once already: a flush has no new length to make durable. What the journal does as well.
    preallocated: File,
    bytes: Vec<u8>,
}

impl Bare {
    const PREALLOCATED: u64 = 8 << 20;

    fn new(folder: &Path) -> Self {
        let mut bytes = vec![0; BODY_BYTES];
        fill(&mut bytes, 1);
        let mut preallocated = File::create(folder.join("preallocated")).unwrap();
        for _ in 0..Self::PREALLOCATED / BODY_BYTES as u64 {
            preallocated.write_all(&bytes).unwrap();
        }
        preallocated.sync_all().unwrap();
        Self { growing: File::create(folder.join("growing")).unwrap(), preallocated, bytes }
    }

    fn appends(&self, window: Duration) -> Round {
        timed(window, |_| {
            (&self.growing).write_all(&self.bytes).unwrap();
            self.growing.sync_data().unwrap();
        })
    }

    fn in_place(&self, window: Duration) -> Round {
        timed(window, |number| {
            let offset = number * BODY_BYTES as u64 % Self::PREALLOCATED;
            self.preallocated.write_all_at(&self.bytes, offset).unwrap();
            self.preallocated.sync_data().unwrap();
        })
    }
}

/// Writes one after the other.
fn timed(window: Duration, mut write: impl FnMut(u64)) -> Round {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < window {
        let one = Instant::now();
        write(times.len() as u64);
        times.push(one.elapsed());
    }
    round(times, begun.elapsed())
}

fn journal_round(
    journal: &Arc<Embedded>,
    writers: usize,
    next_workflow: &mut u64,
    window: Duration,
) -> Round {
    let ready = Arc::new(Barrier::new(writers + 1));
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            *next_workflow += 1;
            let (journal, ready, number) = (Arc::clone(journal), Arc::clone(&ready), *next_workflow);
            std::thread::spawn(move || {
                let mut writer = Writer::new(journal, number);
                ready.wait();
                let begun = Instant::now();
                let mut times = Vec::new();
                while begun.elapsed() < window {
                    writer.step(&mut times);
                }
                times
            })
        })
        .collect();
    ready.wait();
    let begun = Instant::now();
    let times = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    round(times, begun.elapsed())
}

/// One workflow whose steps are written one after the other.
struct Writer {
    journal: Arc<Embedded>,
    key: WorkflowKey,
    next: StepIndex,
    runtime: tokio::runtime::Runtime,
    body: Vec<u8>,
}

impl Writer {
    fn new(journal: Arc<Embedded>, number: u64) -> Self {
        let key = WorkflowKey {
            owner: Owner::local(),
            workflow: WorkflowId::parse(&format!("bench-{number}")).unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut body = vec![0; BODY_BYTES];
        fill(&mut body, number + 2);
        let writer = Self { journal, key, next: StepIndex::FIRST, runtime, body };
        let opened = Record::WorkflowOpened { nonce: RunNonce([7; 16]), version: "bench".to_owned(), at: AT };
        let attempt = Record::AttemptOpened {
            attempt: AttemptId::FIRST,
            epoch: writer.journal.epoch(),
            reason: AttemptReason::First,
            peer: None,
            at: AT,
        };
        let ticket =
            writer.commit(Batch { records: vec![opened, attempt], bodies: Vec::new() }, Urgency::Now);
        writer.runtime.block_on(ticket).unwrap();
        writer
    }

    fn commit(&self, batch: Batch, urgency: Urgency) -> Ticket {
        self.journal.commit(&self.key, self.journal.epoch(), batch, urgency).unwrap()
    }

    /// A step's two durable writes, each timed.
    fn step(&mut self, times: &mut Vec<Duration>) {
        for batch in self.batches() {
            let begun = Instant::now();
            let ticket = self.commit(batch, Urgency::Now);
            self.runtime.block_on(ticket).unwrap();
            times.push(begun.elapsed());
        }
    }

    /// A step that nobody waits for; the next flush takes it along.
    fn step_along(&mut self) -> Vec<Ticket> {
        self.batches().map(|batch| self.commit(batch, Urgency::Ride)).into()
    }

    /// Intent and outcome of the next step, with bodies nobody has written before.
    fn batches(&mut self) -> [Batch; 2] {
        let step = self.next;
        self.next = step.next();
        let [request, answer] = [1, 2].map(|half| {
            self.body[..8].copy_from_slice(&step.number().to_le_bytes());
            self.body[8] = half;
            Body::whole(Bytes::copy_from_slice(&self.body))
        });
        let intent = Intent {
            step,
            attempt: AttemptId::FIRST,
            epoch: self.journal.epoch(),
            kind: CallKind::Http,
            dialect: Dialect::Http,
            upstream: UpstreamName::parse("bench").unwrap(),
            operation: "POST /charge".to_owned(),
            class: EffectClass::Effect,
            exact: Fingerprint(request.hash.0),
            normalised: None,
            occurrence: 1,
            idempotency_key: None,
            request: request.hash,
            request_len: self.body.len() as u64,
            at: AT,
            identity: None,
            key_place: None,
        };
        let completed = Completed {
            step,
            status: 200,
            headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
            body: answer.hash,
            body_len: self.body.len() as u64,
            body_dropped: false,
            usage: None,
            finish_reason: None,
            announced: Vec::new(),
            is_error: false,
            possibly_billed: false,
            tried: 1,
            at: AT,
        };
        let dispatched = Record::Dispatched { step, tried: 1, at: AT };
        [
            Batch { records: vec![Record::Intent(intent), dispatched], bodies: vec![request] },
            Batch { records: vec![Record::Completed(completed)], bodies: vec![answer] },
        ]
    }
}

/// Opening a journal with a short workflow and one with a long one, and finding its end.
fn opening(rounds: usize) {
    const STEPS: [u64; 2] = [50, 10_000];
    let folders = STEPS.map(|steps| {
        let folder = folder();
        let path = folder.path().join("journal");
        let (journal, _) = open(&path);
        let mut writer = Writer::new(Arc::clone(&journal), 1);
        writer.body.truncate(256);
        let mut waiting = Vec::new();
        for _ in 0..steps {
            waiting.extend(writer.step_along());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for ticket in waiting {
            runtime.block_on(ticket).unwrap();
        }
        journal.close().unwrap();
        folder
    });
    let mut times = STEPS.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((steps, folder), times) in STEPS.iter().zip(&folders).zip(&mut times) {
            let begun = Instant::now();
            let (journal, key) = open(&folder.path().join("journal"));
            let head = journal.attach(&key).unwrap().unwrap();
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            assert_eq!(head.steps, *steps);
            journal.close().unwrap();
        }
    }
    let [short, long] = times.map(median);
    println!(
        "\nopening after a clean stop: {short:.1} ms with 50 steps, {long:.1} ms with 10,000: {:.2}x",
        long / short
    );
}

/// An engine, and the key of the first workflow a bench writes in it.
fn open(path: &Path) -> (Arc<Embedded>, WorkflowKey) {
    let (journal, _) = Embedded::open(Options::new(path.to_owned(), Arc::new(SystemClock))).unwrap();
    let key = WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse("bench-1").unwrap() };
    (Arc::new(journal), key)
}

/// Beside the build's own output: the temporary folder is often memory, and no disk at all.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Bytes that do not compress.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(bytes);
}

fn round(times: Vec<Duration>, took: Duration) -> Round {
    let count = times.len();
    let p50_us = median(times.into_iter().map(|time| time.as_secs_f64() * 1e6).collect());
    Round { p50_us, per_second: count as f64 / took.as_secs_f64() }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
