//! The short life between `run` and its command: the program, started again, ties itself to the wrapper's
//! life and becomes the command. So the command dies with the wrapper even when that is killed with -9.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal};

use crate::diag::Code;

use super::super::failure::Failure;
use super::super::out;

/// How shells count a command that does not exist.
pub(super) const NOT_FOUND: u8 = 127;
/// How shells count a command that may not be executed.
pub(super) const NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The wrapper's process id.
    #[arg(long)]
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Never returns when the command can be started.
pub(in crate::cli) fn become_command(args: &Args) -> ExitCode {
    let Some((program, arguments)) = args.command.split_first() else { return NOT_FOUND.into() };
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(error) = tied {
        out::failure(&Failure::new(format!("the command cannot be tied to the wrapper's life: {error}")));
        return NOT_EXECUTABLE.into();
    }
    // The wrapper may have died before the tie was made; then nobody would ever end the command.
    if rustix::process::getppid() != Pid::from_raw(args.parent) {
        return ExitCode::FAILURE;
    }
    let error = Command::new(program).args(arguments).exec();
    let shown = program.to_string_lossy();
    let (code, what) = if error.kind() == io::ErrorKind::NotFound {
        (NOT_FOUND, format!("there is no command `{shown}`"))
    } else {
        (NOT_EXECUTABLE, format!("`{shown}` cannot be started: {error}"))
    };
    out::failure(&Failure::new(what).code(Code::CommandNotStarted));
    code.into()
}
