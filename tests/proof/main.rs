//! The proof (durability.md, section 11): the whole sidecar with its journal in this process, on a disk that forgets
//! what was not flushed, ended thousands of times at fail-points, writes and messages, and checked after each.
//! Needs the feature `failpoints`; `tests/proof/run` runs it and writes what it found into the report.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what must be so, and fails where it is not"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests watch the program from outside, with their own clock, environment and tasks"
)]

mod agent;
mod campaign;
mod crashes;
mod defects;
mod every_point;
#[path = "../../src/journal/embedded/tests/layer.rs"]
#[expect(dead_code, reason = "the engine's own tests halt it and clear its names")]
mod layer;
mod life;
#[path = "../it/support/mod.rs"]
mod support;
mod world;

// Where `layer` finds it.
use outrigger::journal::embedded::Watch;

/// Fail-points are the whole process's: one test at a time.
pub(crate) fn alone() -> impl Drop {
    static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    ONE.lock()
}
