//! The program's log: on standard error, at the level and in the form the config says. Set up once.

use std::io;

use tracing::level_filters::LevelFilter;

use crate::config::{Log, LogFormat, LogLevel};

/// Whose standard error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stderr {
    Ours,
    /// A command writes to it too: what is only of interest to whoever runs a sidecar stays away.
    Shared,
}

pub(super) fn start(log: Log, stderr: Stderr) {
    let level = match (log.level, stderr) {
        (LogLevel::Debug, _) => LevelFilter::DEBUG,
        (LogLevel::Error, _) => LevelFilter::ERROR,
        (LogLevel::Info, Stderr::Ours) => LevelFilter::INFO,
        (LogLevel::Info, Stderr::Shared) | (LogLevel::Warn, _) => LevelFilter::WARN,
        (LogLevel::Trace, _) => LevelFilter::TRACE,
    };
    let built = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        // Where a line cannot be written, such as to a full disk, saying so there as well would panic.
        .log_internal_errors(false)
        // Colours would need a feature of their own, and panic without it.
        .with_ansi(false);
    // A second start in one process changes nothing.
    _ = match log.format {
        LogFormat::Json => built.json().try_init(),
        LogFormat::Text => built.try_init(),
    };
}
