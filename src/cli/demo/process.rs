//! The demo's child processes: started in groups of their own with an environment of their own, read line by
//! line, and dead at the latest when the demo is. Knows no role's meaning.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::error::Error;

/// Longest silence of a child that has something to say.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest time from SIGTERM to the end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How much of a child's log an error quotes, in bytes.
const TAIL_BYTES: usize = 2000;

/// How to start a child.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// What an error calls it; its log is named after it.
    pub(super) role: &'static str,
    /// Arguments of this very program.
    pub(super) arguments: Vec<OsString>,
    /// The whole environment: nothing is inherited.
    pub(super) environment: Vec<(&'static str, String)>,
    /// Where its log goes.
    pub(super) folder: &'a Path,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    role: &'static str,
    process: tokio::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Child {
    /// Starts this program again in another role.
    ///
    /// # Errors
    /// [`Error::Process`], [`Error::Folder`].
    pub(super) fn start(start: Start<'_>) -> Result<Self, Error> {
        let role = start.role;
        let failed = |source| Error::Process { doing: "start", role, source };
        let log = start.folder.join(format!("{role}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|source| Error::Folder { path: log.clone(), source })?;
        let mut process = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["demo", "__leash", "--parent", &std::process::id().to_string(), "--"])
            .args(&start.arguments)
            .env_clear()
            .envs(start.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            // A group of its own: the terminal's Ctrl-C reaches only the demo, which ends the others, and
            // an agent started again has nothing in common with the one that was killed.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = process.stdout.take().ok_or_else(|| failed(io::Error::other("it has no output")))?;
        Ok(Self { role, process, lines: BufReader::new(stdout).lines(), log })
    }

    /// The child's next line; `None` when it has closed its output. Safe to drop half-way.
    ///
    /// # Errors
    /// [`Error::Silent`], [`Error::Process`].
    pub(super) async fn line(&mut self) -> Result<Option<String>, Error> {
        match tokio::time::timeout(SILENCE_MAX, self.lines.next_line()).await {
            Ok(line) => line.map_err(|source| Error::Process { doing: "listen to", role: self.role, source }),
            Err(_) => Err(Error::Silent { role: self.role, limit: SILENCE_MAX, tail: self.tail() }),
        }
    }

    /// The child's next line, for a child that has to say one.
    ///
    /// # Errors
    /// As [`Self::line`], and [`Error::Died`].
    pub(super) async fn line_expected(&mut self) -> Result<String, Error> {
        match self.line().await? {
            Some(line) => Ok(line),
            None => Err(self.died().await),
        }
    }

    /// Waits for the child to end by itself, successfully.
    ///
    /// # Errors
    /// [`Error::Died`] when it does not end well, [`Error::Silent`] when it does not end.
    pub(super) async fn finished(mut self) -> Result<(), Error> {
        match tokio::time::timeout(STOP_MAX, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => Err(self.death(status)),
            Err(_) => Err(Error::Silent { role: self.role, limit: STOP_MAX, tail: self.tail() }),
        }
    }

    /// Kills the child with SIGKILL, its whole group with it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub(super) async fn kill(mut self) -> Result<(), Error> {
        self.signal_group(Signal::KILL);
        let waited = self.process.wait().await;
        waited.map(drop).map_err(|source| Error::Process { doing: "kill", role: self.role, source })
    }

    /// Asks the child to end with SIGTERM and waits for it.
    ///
    /// # Errors
    /// As [`Self::finished`].
    pub(super) async fn stop(self) -> Result<(), Error> {
        self.signal_group(Signal::TERM);
        self.finished().await
    }

    fn signal_group(&self, signal: Signal) {
        // No id: it was waited for, and the number may be another process's by now.
        let Some(id) = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
            return;
        };
        // The only failure is a group that is gone already.
        let _ = rustix::process::kill_process_group(id, signal);
    }

    async fn died(&mut self) -> Error {
        match tokio::time::timeout(STOP_MAX, self.process.wait()).await {
            Ok(status) => self.death(status),
            Err(_) => Error::Silent { role: self.role, limit: STOP_MAX, tail: self.tail() },
        }
    }

    fn death(&self, status: io::Result<ExitStatus>) -> Error {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Error::Died { role: self.role, status, tail: self.tail() }
    }

    fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(TAIL_BYTES);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).trim().to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal_group(Signal::KILL);
    }
}

/// Becomes `command` of this program, to be killed by the kernel as soon as `parent` is gone. Returns only
/// when that fails.
pub(super) fn leash(parent: u32, command: &[impl AsRef<OsStr>]) -> Error {
    let failed = |source| Error::Process { doing: "tie", role: "child", source };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return failed(error.into());
    }
    // The parent may have died before the signal was asked for.
    let lives =
        rustix::process::getppid().is_some_and(|id| u32::try_from(id.as_raw_nonzero().get()) == Ok(parent));
    if !lives {
        return failed(io::Error::other("the demo is gone"));
    }
    match std::env::current_exe() {
        Ok(program) => failed(std::process::Command::new(program).args(command).exec()),
        Err(error) => failed(error),
    }
}
