//! The one place that prints. Answers go to standard output, everything else to standard error. Nobody
//! reading is no error: `outrigger timeline X | head` ends quietly.

use std::io::{self, IsTerminal, Write};

use crate::config::{Env, ProcessEnv};

use super::failure::Failure;

/// Prints an answer as it is.
pub(super) fn text(text: &str) {
    let mut stdout = io::stdout().lock();
    _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints one line of an answer.
pub(super) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Says something beside the answer, each line marked as ours: the standard error of `run` is the
/// command's too.
pub(super) fn note(note: &str) {
    let marked: String = note.lines().map(|line| format!("outrigger: {line}\n")).collect();
    _ = io::stderr().lock().write_all(marked.as_bytes());
}

pub(super) fn failure(failure: &Failure) {
    _ = io::stderr().lock().write_all(failure.render(colour()).as_bytes());
}

/// Whether standard error takes colours: a terminal, and `NO_COLOR` is not set.
fn colour() -> bool {
    io::stderr().is_terminal() && ProcessEnv.var("NO_COLOR").map_or(true, |value| value.is_empty())
}
