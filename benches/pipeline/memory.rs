//! Resident memory of fresh processes: idle, and at its highest with 64 requests of 400 KB in flight.

use std::path::Path;
use std::time::Duration;

use crate::load::{Answer, Crowd};
use crate::process::{DIRECT, Field};
use crate::report::{Report, Table};
use crate::support::SIZES_KB;

const IN_FLIGHT: usize = 64;
/// After the start, until what starting needs has been given back.
const IDLE: Duration = Duration::from_millis(500);

pub(crate) async fn measure(folder: &Path, report: &mut Report) {
    let field = Field::start(&folder.join("memory"));
    tokio::time::sleep(IDLE).await;
    let mut figures = Vec::new();
    for runner in &field.runners {
        let Some(process) = &runner.process else {
            figures.push((0.0, 0.0));
            continue;
        };
        let (idle, _) = process.memory_mib();
        let mut crowd = Crowd::gather(runner.way, SIZES_KB[2], IN_FLIGHT).await;
        crowd.ask(Answer::Slow, Duration::ZERO).await;
        figures.push((idle, process.memory_mib().1));
    }
    let mut table = Table::new("Resident memory, MiB: idle, highest with 64 x 400 KB in flight", &field);
    table.row("idle -> highest", |runner| match runner {
        DIRECT => "-".to_owned(),
        _ => format!("{:.0} -> {:.0}", figures[runner].0, figures[runner].1),
    });
    report.table(table);
    for name in ["passing", "journaling"] {
        if let Some((idle, highest)) = field.position(name).map(|at| figures[at]) {
            report.check(format!("memory idle, {name}"), idle, 20.0, "MiB");
            report.check(format!("memory in flight, {name}"), highest, 120.0, "MiB");
        }
    }
}
