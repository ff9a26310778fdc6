//! One life of the command: started, watched, signalled, and gone when this returns.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use super::super::signals::{Asked, Signals};

/// How a life of the command ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Ended {
    pub(in crate::cli) status: ExitStatus,
    /// The first signal that the wrapper got meanwhile.
    pub(in crate::cli) asked: Option<Asked>,
}

impl Ended {
    /// As shells count: its own code, or 128 and the signal that killed it.
    pub(in crate::cli) fn code(&self) -> u8 {
        let killed = || self.status.signal().unwrap_or(0).saturating_add(128);
        u8::try_from(self.status.code().unwrap_or_else(killed)).unwrap_or(1)
    }

    /// For people: `exit code 1`, `killed by signal 9`.
    pub(super) fn shown(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => self.status.to_string(),
        }
    }
}

/// Runs the command to its end with these variables beside the inherited ones, and with the wrapper's
/// standard input and outputs. A signal is handed on; after a second one, or after `grace`, it is killed.
///
/// Must be polled on a thread that lives as long as the process: the command is killed when the thread
/// that started it ends.
///
/// # Errors
/// When it cannot be started or waited for.
pub(in crate::cli) async fn run(
    command: &[OsString],
    variables: &[(String, String)],
    signals: &mut Signals,
    grace: Duration,
) -> io::Result<Ended> {
    let mut child = start(command, variables)?;
    let mut asked = None;
    loop {
        let patience = async {
            match asked {
                Some(_) => tokio::time::sleep(grace).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = child.wait() => return Ok(Ended { status: status?, asked }),
            signal = signals.next() => match asked {
                None => {
                    asked = Some(signal);
                    hand_on(&child, signal);
                }
                Some(_) => child.start_kill()?,
            },
            () = patience => child.start_kill()?,
        }
    }
}

fn start(command: &[OsString], variables: &[(String, String)]) -> io::Result<Child> {
    // The running program itself, also when its file has been replaced meanwhile.
    Command::new("/proc/self/exe")
        .arg0("outrigger")
        .args(["__child", "--parent", &std::process::id().to_string(), "--"])
        .args(command)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .kill_on_drop(true)
        .spawn()
}

fn hand_on(child: &Child, asked: Asked) {
    if asked == Asked::Interrupt && terminal_signals_us() {
        // Ctrl-C: the terminal has told the command already, and a second time means "at once" to many.
        return;
    }
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let signal = match asked {
        Asked::Interrupt => Signal::INT,
        Asked::Terminate => Signal::TERM,
    };
    if let Some(pid) = pid {
        // It may have ended in this very moment; waiting for it tells.
        _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a terminal's Ctrl-C goes to this process's group, to which the command belongs as well.
fn terminal_signals_us() -> bool {
    fs::read_to_string("/proc/self/stat").is_ok_and(|stat| is_foreground(&stat))
}

/// Reads proc(5): field 5 is the process group, field 8 the terminal's foreground group. The name in field
/// 2 may hold anything, so fields are counted from its last parenthesis.
fn is_foreground(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    matches!((fields.get(2), fields.get(5)), (Some(group), Some(foreground)) if group == foreground)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_counted_as_shells_do() {
        for (raw, code, shown) in
            [(0, 0, "exit code 0"), (3 << 8, 3, "exit code 3"), (9, 137, "killed by signal 9")]
        {
            let ended = Ended { status: ExitStatus::from_raw(raw), asked: None };
            assert_eq!((ended.code(), ended.shown().as_str()), (code, shown));
        }
    }

    #[test]
    fn a_terminal_signals_only_its_foreground_group() {
        assert!(is_foreground("7 (a) (b c) S 3 5 5 34816 5 4194304"));
        assert!(!is_foreground("7 (sh) S 3 5 5 34816 9 4194304"));
        assert!(!is_foreground("7 (sh) S 3 5 5 0 -1 4194304"), "no terminal");
        assert!(!is_foreground("garbage"));
    }
}
