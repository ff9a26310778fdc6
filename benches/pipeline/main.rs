//! What a call through Outrigger costs from end to end, beside no proxy at all, a minimal hyper proxy (the
//! floor) and nginx: every proxy a process of its own, all through one mock in one run. Prints ratios and holds
//! them against the targets. Interleaves everything it compares, since the machine is never quiet.
//!
//! `cargo bench --bench pipeline -- [--quick] [--write]`: `--quick` takes under a minute, `--write` puts the
//! tables into `benches/REPORT.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench looks at its own clock, prints what it found, and fails where something is not so"
)]

mod durable;
mod floor;
mod load;
mod memory;
mod mock;
mod process;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod throughput;

use std::time::Duration;

use report::Report;

/// How long to look at what.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Rounds of everything that is compared.
    rounds: usize,
    /// Closed loop of one proxy and one kind of call in one round.
    window: Duration,
    /// Calls one after the other, of each kind, in one round.
    calls: usize,
}

const FULL: Effort = Effort { rounds: 9, window: Duration::from_millis(1200), calls: 150 };
const QUICK: Effort = Effort { rounds: 3, window: Duration::from_millis(400), calls: 50 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.first().map(String::as_str) {
        Some("--role-floor") => runtime.block_on(floor::serve(arguments[1].parse().unwrap())),
        Some("--role-mock") => runtime.block_on(mock::serve()),
        // Without `--bench` this is a test run of all targets: there is nothing to test here.
        _ if !has("--bench") => {}
        _ => runtime.block_on(measure(if has("--quick") { QUICK } else { FULL }, has("--write"))),
    }
}

async fn measure(effort: Effort, write: bool) {
    // Beside the build's own output: the temporary folder is often memory, and no disk at all.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut report = Report::new(effort);
    {
        let field = process::Field::start(folder.path());
        throughput::cpu(&field, effort, &mut report).await;
        throughput::latency(&field, effort, &mut report).await;
        throughput::paced(&field, effort, &mut report).await;
        durable::steps(&field, folder.path(), effort, &mut report).await;
        durable::replay(&field, effort, &mut report).await;
    }
    memory::measure(folder.path(), &mut report).await;
    report.finish(write);
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
