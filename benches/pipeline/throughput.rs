//! What every proxy is compared in: CPU per call under load, time added to a single call, and how promptly a
//! paced stream arrives.

use std::time::Duration;

use crate::load::{Answer, Connection, Crowd, fresh};
use crate::process::{DIRECT, FLOOR, Field};
use crate::report::{Report, Table};
use crate::support::{Chat, SIZES_KB};
use crate::{Effort, median};

const CONNECTIONS: usize = 16;
/// What runs on after the last answer (an index, a flush) belongs to the calls.
const SETTLE: Duration = Duration::from_millis(50);

/// One kind of call under load.
struct Load {
    name: &'static str,
    kilobytes: usize,
    answer: Answer,
    /// The most it may cost passing and journaling, in floors.
    targets: &'static [(&'static str, f64)],
}

const LOADS: [Load; 4] = [
    Load {
        name: "1 KB",
        kilobytes: SIZES_KB[0],
        answer: Answer::Json,
        targets: &[("passing", 1.5), ("journaling", 3.0)],
    },
    Load {
        name: "50 KB",
        kilobytes: SIZES_KB[1],
        answer: Answer::Json,
        targets: &[("passing", 1.5), ("journaling", 3.0)],
    },
    Load {
        name: "400 KB",
        kilobytes: SIZES_KB[2],
        answer: Answer::Json,
        targets: &[("passing", 1.5), ("journaling", 2.5)],
    },
    Load { name: "SSE, burst of 200", kilobytes: SIZES_KB[0], answer: Answer::Burst, targets: &[] },
];

/// CPU per call with 16 connections.
pub(crate) async fn cpu(field: &Field, effort: Effort, report: &mut Report) {
    let mut micros = vec![vec![Vec::new(); field.runners.len()]; LOADS.len()];
    let mut kernel = micros.clone();
    for _ in 0..effort.rounds {
        for (at, load) in LOADS.iter().enumerate() {
            for (position, runner) in field.runners.iter().enumerate() {
                let Some(process) = &runner.process else { continue };
                let mut crowd = Crowd::gather(runner.way, load.kilobytes, CONNECTIONS).await;
                tokio::time::sleep(SETTLE).await;
                let before = process.cpu();
                let done = crowd.ask(load.answer, effort.window).await;
                tokio::time::sleep(SETTLE).await;
                let used = process.cpu().since(before);
                micros[at][position].push(used.all() / done.calls as f64);
                kernel[at][position].push(used.kernel / used.all());
            }
        }
    }
    let mut table = Table::new("CPU per call, 16 connections, in floors", field);
    for ((load, micros), kernel) in LOADS.iter().zip(&micros).zip(&kernel) {
        let against = |runner: usize, of: usize| {
            median(micros[runner].iter().zip(&micros[of]).map(|(own, other)| own / other))
        };
        table.row(load.name, |runner| match runner {
            DIRECT => "-".to_owned(),
            FLOOR => format!("1 ({:.0} us)", median(micros[FLOOR].iter().copied())),
            _ => format!("{:.2}", against(runner, FLOOR)),
        });
        table.row(format!("{}, kernel's share", load.name), |runner| match runner {
            DIRECT => "-".to_owned(),
            _ => format!("{:.0} %", 100.0 * median(kernel[runner].iter().copied())),
        });
        for (runner, most) in load.targets {
            if let Some(at) = field.position(runner) {
                report.check(format!("CPU {runner}, {}", load.name), against(at, FLOOR), *most, "floors");
            }
        }
        if let (Answer::Burst, Some(nginx)) = (load.answer, field.position("nginx")) {
            for runner in ["passing", "journaling"] {
                if let Some(at) = field.position(runner) {
                    report.check(format!("CPU {runner}, {}", load.name), against(at, nginx), 1.2, "nginx");
                }
            }
        }
    }
    report.table(table);
}

/// Time that a proxy adds to the median of single calls.
pub(crate) async fn latency(field: &Field, effort: Effort, report: &mut Report) {
    let mut table = Table::new("Added p50 of one call at a time, in the floor's", field);
    for kilobytes in SIZES_KB {
        let chat = Chat::new(kilobytes, false);
        let mut connections = Vec::new();
        for runner in &field.runners {
            let path = runner.way.chat(&format!("bench-{}", fresh()));
            let mut connection = Connection::open(&runner.way).await;
            connection.ask(&path, Answer::Json, chat.turn(fresh())).await;
            connections.push((connection, path));
        }
        let mut added = vec![Vec::new(); field.runners.len()];
        for _ in 0..effort.rounds {
            let mut times = vec![Vec::new(); field.runners.len()];
            for _ in 0..effort.calls {
                for ((connection, path), times) in connections.iter_mut().zip(&mut times) {
                    let seen = connection.ask(path, Answer::Json, chat.turn(fresh())).await;
                    times.push(seen.whole.as_secs_f64() * 1e6);
                }
            }
            let p50: Vec<f64> = times.into_iter().map(median).collect();
            for (added, own) in added.iter_mut().zip(&p50) {
                added.push(own - p50[DIRECT]);
            }
        }
        let ratio =
            |runner: usize| median(added[runner].iter().zip(&added[FLOOR]).map(|(own, floor)| own / floor));
        let micros = |runner: usize| median(added[runner].iter().copied());
        table.row(format!("{kilobytes} KB"), |runner| match runner {
            DIRECT => "0".to_owned(),
            _ => format!("{:.2} ({:.0} us)", ratio(runner), micros(runner)),
        });
        if let Some(journaling) = field.position("journaling").filter(|_| kilobytes <= SIZES_KB[1]) {
            report.added_by_journaling(kilobytes, micros(journaling) / 1e3);
        }
    }
    let first = first_calls(field, effort).await;
    table.row("1 KB, first of a workflow", |runner| match runner {
        DIRECT => "0".to_owned(),
        _ => format!("{:.2} ({:.0} us)", first[runner] / first[FLOOR], first[runner]),
    });
    report.table(table);
}

/// Microseconds that each proxy adds to the first call on a connection, which opens a workflow where there
/// are workflows.
async fn first_calls(field: &Field, effort: Effort) -> Vec<f64> {
    let chat = Chat::new(SIZES_KB[0], false);
    let mut added = vec![Vec::new(); field.runners.len()];
    for _ in 0..effort.rounds {
        let mut times = vec![Vec::new(); field.runners.len()];
        for _ in 0..effort.calls / 5 {
            for (runner, times) in field.runners.iter().zip(&mut times) {
                let path = runner.way.chat(&format!("bench-{}", fresh()));
                let mut connection = Connection::open(&runner.way).await;
                let seen = connection.ask(&path, Answer::Json, chat.turn(fresh())).await;
                times.push(seen.whole.as_secs_f64() * 1e6);
            }
        }
        let p50: Vec<f64> = times.into_iter().map(median).collect();
        for (added, own) in added.iter_mut().zip(&p50) {
            added.push(own - p50[DIRECT]);
        }
    }
    added.into_iter().map(median).collect()
}

/// A delta every 5 ms on 16 connections: time to the first byte and lag per delta.
pub(crate) async fn paced(field: &Field, effort: Effort, report: &mut Report) {
    let mut first = vec![Vec::new(); field.runners.len()];
    let mut lag = first.clone();
    for _ in 0..effort.rounds {
        for (at, runner) in field.runners.iter().enumerate() {
            let mut crowd = Crowd::gather(runner.way, SIZES_KB[0], CONNECTIONS).await;
            let done = crowd.ask(Answer::Paced, Duration::ZERO).await;
            first[at].push(median(done.seen.iter().map(|seen| seen.first.as_secs_f64() * 1e3)));
            let lags = done.seen.iter().flat_map(|seen| &seen.lags_ns);
            lag[at].push(median(lags.map(|lag| *lag as f64 / 1e6)));
        }
    }
    let mut table = Table::new("SSE, a delta every 5 ms, 16 connections: added p50 in ms", field);
    for (name, what, figures) in
        [("to the first byte", "first byte", first), ("lag per delta", "lag per delta", lag)]
    {
        let added = |runner: usize| {
            median(figures[runner].iter().zip(&figures[DIRECT]).map(|(own, direct)| own - direct))
        };
        table.row(name, |runner| match runner {
            DIRECT => format!("0 ({:.2} in all)", median(figures[DIRECT].iter().copied())),
            _ => format!("{:.2}", added(runner)),
        });
        for runner in ["passing", "journaling"] {
            if let Some(at) = field.position(runner) {
                report.check(format!("SSE {what}, {runner}"), added(at), 1.0, "ms added");
            }
        }
    }
    report.table(table);
}
