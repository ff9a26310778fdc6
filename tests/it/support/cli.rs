//! The command line as a person runs it: a process, its output, its exit.

use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time any command of a test may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    /// What it answers on standard output must hold all of these.
    #[track_caller]
    pub(crate) fn prints(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "no {part:?} in:\n{}", self.stdout);
        }
        self
    }

    /// What it says to a person must hold all of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        // Terminals and pipes alike get lines that were wrapped somewhere.
        let said = flat(&self.stderr);
        for part in parts {
            assert!(said.contains(&flat(part)), "no {part:?} in:\n{}", self.stderr);
        }
        self
    }
}

/// The words, without line breaks and the ornaments of a diagnostic.
fn flat(text: &str) -> String {
    let plain = text.replace(['│', '╭', '╰', '─', '·', '|'], " ");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `outrigger` with these words, not yet started.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    clean_environment(&mut command);
    command
}

/// Runs `outrigger` with these words to its end.
#[track_caller]
pub(crate) fn run(words: &[&str]) -> Output {
    finish(command(words).spawn().unwrap())
}

/// Waits for a process to end and collects what it said.
#[track_caller]
pub(crate) fn finish(child: Child) -> Output {
    let id = child.id();
    let waiter = std::thread::spawn(move || child.wait_with_output().unwrap());
    let begun = Instant::now();
    while !waiter.is_finished() {
        if begun.elapsed() > COMMAND_MAX {
            signal(id, Signal::KILL);
            panic!("a command did not end: {:?}", waiter.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = waiter.join().unwrap();
    Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Settings of whoever runs the suite must not reach what is tested.
pub(crate) fn clean_environment(command: &mut Command) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", "/nonexistent").env("NO_COLOR", "1");
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may be gone already.
    _ = kill_process(pid, signal);
}

/// Whether a process is there and not a zombie. While other threads of a zombie end, its sockets are open.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.rsplit_once(") ").is_some_and(|(_, rest)| threads > 1 || !rest.starts_with(['Z', 'X']))
}

/// The processes that a process has started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let pids = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    pids.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Says what a test leaves out and why, also when it passes: past the harness, which keeps what passing
/// tests print.
pub(crate) fn left_out(why: &str) {
    _ = writeln!(std::io::stderr(), "left out: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
