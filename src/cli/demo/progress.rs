//! What a person sees while the demo plays: one line that changes on a terminal, a few plain lines anywhere
//! else. Always on standard error, so that standard output is the result alone.

use std::io::{self, IsTerminal, Write};

use super::errand::STEPS;

/// Without a terminal one step in so many is shown.
const PLAIN_EVERY: u32 = 10;

/// The line.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    act: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), act: String::new() }
    }

    /// What is played from now on.
    pub(super) fn act(&mut self, act: impl Into<String>) {
        self.act = act.into();
        if !self.terminal {
            self.show(&self.act);
        }
    }

    /// A step has begun.
    pub(super) fn step(&self, step: u32, what: &str) {
        if self.terminal {
            self.show(&format!("{:<44} step {step:>2} of {STEPS}  {what}", self.act));
        } else if step.is_multiple_of(PLAIN_EVERY) {
            self.show(&format!("  step {step} of {STEPS}  {what}"));
        }
    }

    /// Leaves no trace on a terminal.
    pub(super) fn clear(&self) {
        if self.terminal {
            self.write("\r\x1b[2K");
        }
    }

    fn show(&self, line: &str) {
        if self.terminal { self.write(&format!("\r\x1b[2K{line}")) } else { self.write(&format!("{line}\n")) }
    }

    fn write(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // Progress nobody can see is no reason to stop.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}
