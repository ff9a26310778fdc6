//! Power cuts on the program as it is shipped: `powercut.c` stands between it and the kernel and writes down what was
//! there before each change of a file; the process is killed, and what it had not flushed is taken back. `kill -9`
//! alone proves nothing about flushes: the page cache survives it.
//!
//! Model: a flush makes a file's blocks of 512 bytes and its length durable, a flush of a directory its names. Of the
//! rest all is lost, or any part: each block as it was before any of its changes, and the names up to any of theirs.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::world::{Call, Kind, World};
use super::{check_replayed, setup};
use crate::support::cli;
use crate::support::random::{Random, seed};
use crate::support::sidecar::Setup;
use crate::support::table::{self, Table};

const BLOCK: usize = 512;
/// Cuts when nothing else is asked for.
const CUTS: usize = 24;
const CALLS: usize = 8;
/// What `powercut.c` ends a process with that it cannot watch.
const CANNOT: i32 = 99;

const WRITE: u32 = 1;
const SYNC_BEGIN: u32 = 2;
const SYNC: u32 = 3;
const CREATE: u32 = 4;
const RENAME: u32 = 5;
const UNLINK: u32 = 6;
const DIR_SYNC: u32 = 7;
const CUT: u32 = 8;

/// What was written down of one change.
#[derive(Clone, Debug)]
struct Note {
    kind: u32,
    number: u64,
    offset: u64,
    size: u64,
    path: PathBuf,
    other: PathBuf,
    data: Vec<u8>,
}

fn notes(log: &Path) -> Vec<Note> {
    let bytes = fs::read(log).unwrap_or_default();
    let mut rest = bytes.as_slice();
    let mut notes = Vec::new();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // The last one may be unfinished: what it tells of was not done.
    while rest.len() >= 40 {
        let [kind, path, other, data] = [0, 4, 8, 12].map(|at| word(rest, at));
        let lens = [path, other, data].map(|len| len as usize);
        let Some(body) = rest.get(40..40 + lens.iter().sum::<usize>()) else { break };
        let (path, tail) = body.split_at(lens[0]);
        let (other, data) = tail.split_at(lens[1]);
        let text = |bytes: &[u8]| PathBuf::from(std::str::from_utf8(bytes).unwrap());
        notes.push(Note {
            kind,
            number: long(rest, 16),
            offset: long(rest, 24),
            size: long(rest, 32),
            path: text(path),
            other: text(other),
            data: data.to_vec(),
        });
        rest = &rest[40 + body.len()..];
    }
    notes
}

/// Operations on files that a process made: each has one note, and a flush another one when it is done.
fn operations(log: &Path) -> usize {
    notes(log).iter().filter(|note| note.kind != SYNC).count()
}

/// How much of what was not flushed is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    All,
    Any,
}

/// What was not flushed at the end of the log.
#[derive(Debug, Default)]
struct Unflushed {
    changes: HashMap<PathBuf, Vec<Note>>,
    names: Vec<Note>,
}

impl Unflushed {
    fn read(log: &Path) -> Self {
        let mut left = Self::default();
        for note in notes(log) {
            match note.kind {
                WRITE | CUT => left.changes.entry(note.path.clone()).or_default().push(note),
                SYNC => {
                    if let Some(changes) = left.changes.get_mut(&note.path) {
                        changes.retain(|change| change.number > note.offset);
                    }
                }
                DIR_SYNC => left.names.retain(|name| name.path.parent() != Some(&note.path)),
                RENAME => {
                    if let Some(changes) = left.changes.remove(&note.path) {
                        left.changes.insert(note.other.clone(), changes);
                    }
                    left.names.push(note);
                }
                UNLINK => {
                    if let Some(changes) = left.changes.remove(&note.path) {
                        left.changes.insert(note.other.clone(), changes);
                    }
                    left.names.push(note);
                }
                CREATE => left.names.push(note),
                SYNC_BEGIN => {}
                other => panic!("a note of kind {other}"),
            }
        }
        left.changes.retain(|_, changes| !changes.is_empty());
        left
    }

    /// Takes it back; how many blocks and names.
    fn lose(self, loss: Loss, random: &mut Random) -> (usize, usize) {
        let mut paths: Vec<_> = self.changes.into_iter().collect();
        paths.sort_by(|a, b| a.0.cmp(&b.0));
        let blocks = paths.iter().map(|(path, changes)| take_back(path, changes, loss, random)).sum();
        let from = if loss == Loss::All { 0 } else { random.below(self.names.len() + 1) };
        let lost = &self.names[from..];
        for name in lost.iter().rev() {
            match name.kind {
                CREATE => _ = fs::remove_file(&name.path),
                RENAME if !name.path.exists() => _ = fs::rename(&name.other, &name.path),
                UNLINK if !name.path.exists() => _ = fs::rename(&name.other, &name.path),
                _ => {}
            }
        }
        (blocks, lost.len())
    }
}

fn take_back(path: &Path, changes: &[Note], loss: Loss, random: &mut Random) -> usize {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return 0 };
    let mut blocks: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
    for change in changes {
        for (at, block) in (0..).zip(change.data.chunks(BLOCK)) {
            blocks.entry(change.offset / BLOCK as u64 + at).or_default().push(block);
        }
    }
    let size = changes[0].size;
    if loss == Loss::All || random.chance(2) {
        file.set_len(size).unwrap();
    }
    let len = file.metadata().unwrap().len();
    let mut lost = 0;
    for (block, before) in blocks {
        // As it was before one of its changes, or as it is.
        let which = if loss == Loss::All { 0 } else { random.below(before.len() + 1) };
        let at = block * BLOCK as u64;
        if at >= len {
            // It was written behind the old end, and went with the length.
            lost += 1;
            continue;
        }
        let Some(bytes) = before.get(which) else { continue };
        let fits = bytes.len().min(usize::try_from(len - at).unwrap());
        file.write_all_at(&bytes[..fits], at).unwrap();
        lost += 1;
    }
    lost
}

/// A machine whose power can be cut.
struct Machine {
    dir: tempfile::TempDir,
    library: PathBuf,
    boots: usize,
}

impl Machine {
    /// `None` where a process cannot be watched; says so.
    fn new() -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            cli::left_out("power cuts of the real program: powercut.c knows x86-64 only");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("powercut.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crash/powercut.c");
        let built = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.is_ok_and(|status| status.success()), "powercut.c is not compiled");
        let machine = Self { dir, library, boots: 0 };
        let mut tried = cli::command(&["--version"]);
        tried.envs(machine.environment());
        if cli::finish(tried.spawn().unwrap()).status.code() == Some(CANNOT) {
            cli::left_out("power cuts of the real program: this machine allows no seccomp filter");
            return None;
        }
        Some(machine)
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("changes")
    }

    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let boot = self.dir.path().join("boot-id");
        fs::write(&boot, format!("boot-{}\n", self.boots)).unwrap();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("POWERCUT_DIR", text(&self.journal())),
            ("POWERCUT_LOG", text(&self.log())),
            ("POWERCUT_BOOT", text(&boot)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// How a sidecar is set up on it, with more variables.
    fn setup(&self, world: &World, more: &[(&str, &str)]) -> Setup {
        let mut setup = setup(world, None).journal_at(&self.journal());
        for (name, value) in self.environment() {
            setup = setup.env(&name, &value);
        }
        more.iter().fold(setup, |setup, (name, value)| setup.env(name, value))
    }

    /// The power is gone: the process is dead, and so is what it had not flushed.
    fn cut(&mut self, loss: Loss, random: &mut Random) -> (usize, usize) {
        let lost = Unflushed::read(&self.log()).lose(loss, random);
        File::create(self.log()).unwrap();
        self.boots += 1;
        lost
    }
}

#[test]
fn case_6_a_power_cut_right_behind_the_terminal_event_leaves_the_step_completed() {
    let Some(mut machine) = Machine::new() else { return };
    let world = World::start();
    let mut random = Random::new(seed("OUTRIGGER_TEST_SEED"));
    let mut sidecar = machine.setup(&world, &[]).start();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let workflow = format!("w{number}");
        let call = Call::new(&workflow, 0, kind);
        let answer = call.send(&sidecar, 1).unwrap().expect(200, "live");
        sidecar.kill9();
        machine.cut(Loss::All, &mut random);
        sidecar.change(machine.setup(&world, &[]));
        sidecar.restart();
        assert_eq!(sidecar.timeline_now(&workflow)["steps"][0]["state"], "completed", "{call:?}");
        check_replayed(&call, &call.send(&sidecar, 2).unwrap(), &call.text(&answer));
        assert_eq!(world.count(&call), 1);
    }
}

#[test]
fn without_flushes_the_same_power_cut_loses_the_step() {
    let Some(mut machine) = Machine::new() else { return };
    let world = World::start();
    let ignored = [("POWERCUT_IGNORE_SYNC", "1")];
    let mut sidecar = machine.setup(&world, &ignored).start();
    let call = Call::new("w", 0, Kind::Post);
    call.send(&sidecar, 1).unwrap().expect(200, "live");
    sidecar.kill9();
    machine.cut(Loss::All, &mut Random::new(1));
    sidecar.change(machine.setup(&world, &ignored));
    sidecar.restart();
    assert_eq!(sidecar.timeline_now("w")["steps"][0]["state"], serde_json::Value::Null);
    call.send(&sidecar, 2).unwrap().expect(200, "live");
    assert_eq!(world.count(&call), 2, "the layer is what makes the difference");
}

#[test]
fn power_cuts_at_any_moment_lose_no_answer_and_repeat_no_effect() {
    let Some(mut machine) = Machine::new() else { return };
    let seed = seed("OUTRIGGER_TEST_SEED");
    let mut random = Random::new(seed);
    let cuts = table::number("OUTRIGGER_PROOF_POWER_CUTS", CUTS);
    let world = World::start();
    let mut counts = Counts::default();
    let mut sidecar = machine.setup(&world, &[]).start();
    for step in 0..CALLS {
        Call::new("measured", step, Kind::ALL[step % Kind::ALL.len()]).send(&sidecar, 1).unwrap();
    }
    // A start and its calls take about so many. Starts behind a cut take a few more: some rounds get through.
    let operations = operations(&machine.log());
    for round in 0..cuts {
        sidecar.kill9();
        machine.cut(Loss::All, &mut random);
        let at = (1 + random.below(operations)).to_string();
        let loss = if random.chance(2) { Loss::All } else { Loss::Any };
        let workflow = format!("round-{round}");
        let calls: Vec<Call> =
            (0..CALLS).map(|step| Call::new(&workflow, step, *random.pick(&Kind::ALL))).collect();
        sidecar.change(machine.setup(&world, &[("POWERCUT_AT", &at)]));
        let mut known = Vec::new();
        if sidecar.try_restart() {
            let answers = calls.iter().map_while(|call| Some(call.text(&call.send(&sidecar, 1).ok()?)));
            known.extend(answers);
            if known.len() == calls.len() {
                sidecar.kill9();
            } else {
                assert!(sidecar.is_killed(), "round {round}: it ended by itself");
            }
        } else {
            assert!(sidecar.is_killed(), "round {round}: it did not start");
        }
        let (blocks, names) = machine.cut(loss, &mut random);
        counts.add(loss, known.len(), blocks, names);
        sidecar.change(machine.setup(&world, &[]));
        sidecar.restart();
        for (at, call) in calls.iter().enumerate() {
            let answer = call.send(&sidecar, 2).unwrap();
            if call.is_in_doubt(&answer) {
                assert!(at == known.len() && call.kind.is_effect(), "round {round}: {call:?} {answer:?}");
                counts.doubts += 1;
                break;
            }
            match known.get(at) {
                Some(known) => check_replayed(call, &answer, known),
                None => drop(call.text(&answer)),
            }
        }
        for call in calls.iter().filter(|call| call.kind.is_effect()) {
            assert!(world.count(call) <= 1, "round {round}: {call:?} happened {} times", world.count(call));
        }
    }
    println!("{counts:?}");
    assert!(counts.answers > 0 && counts.blocks > 0, "cuts that lose nothing prove nothing: {counts:?}");
    counts.tell(cuts, seed);
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    answers: usize,
    blocks: usize,
    names: usize,
    doubts: usize,
}

impl Counts {
    fn add(&mut self, loss: Loss, answers: usize, blocks: usize, names: usize) {
        self.all += usize::from(loss == Loss::All);
        self.answers += answers;
        self.blocks += blocks;
        self.names += names;
    }

    fn tell(&self, cuts: usize, seed: u64) {
        let mut table = Table::new(&["power cuts of the program as it is shipped", ""]);
        table.row(["cuts", &cuts.to_string()]);
        table.row(["of them with everything lost that was not flushed", &self.all.to_string()]);
        table.row(["of them with any part of it lost", &(cuts - self.all).to_string()]);
        table.row(["seed", &seed.to_string()]);
        table.row(["blocks of 512 bytes lost", &self.blocks.to_string()]);
        table.row(["names of files lost", &self.names.to_string()]);
        table.row(["answers acknowledged before the cut", &self.answers.to_string()]);
        table.row(["calls held in doubt", &self.doubts.to_string()]);
        table.row(["**lost acknowledged steps**", "**0**"]);
        table.row(["**repeated effects**", "**0**"]);
        table.row(["**wrong bytes**", "**0**"]);
        table.write("power-cuts");
    }
}
