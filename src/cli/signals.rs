//! SIGINT and SIGTERM, as values.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a person or a supervisor asks of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Interrupt,
    Terminate,
}

impl Asked {
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Interrupt => SignalKind::interrupt().as_raw_value(),
            Self::Terminate => SignalKind::terminate().as_raw_value(),
        }
    }

    /// How shells count a process that ended with the signal.
    pub(super) fn exit_code(self) -> u8 {
        u8::try_from(self.number()).unwrap_or(0).saturating_add(128)
    }
}

/// From its making on, the signals no longer end the process; they wait here.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// # Errors
    /// When the system refuses a handler.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}
