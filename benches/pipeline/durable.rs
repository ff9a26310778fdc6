//! What is Outrigger's alone: a step that is on disk before its answer ends, against a bare append and
//! fdatasync on the same disk at the same time; and a step answered from the journal.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::load::{Answer, Connection, fresh};
use crate::process::{DIRECT, Field};
use crate::report::Report;
use crate::support::Chat;
use crate::{Effort, median};

/// Bytes of a bare append.
const APPEND_BYTES: usize = 512;
/// Steps of the workflow that is replayed.
const REPLAYED: u64 = 50;
/// KB of each of its requests.
const REPLAYED_KB: usize = 10;

/// One step after the other, an effect and a model call, each beside a bare flush and the same call without
/// a proxy.
pub(crate) async fn steps(field: &Field, folder: &Path, effort: Effort, report: &mut Report) {
    let runner = field.runner("journaling").unwrap();
    let direct = field.runners[DIRECT].way;
    let workflow = format!("bench-{}/a/1", fresh());
    let effect = runner.way.path(&workflow, "tools", "/charge");
    let model = runner.way.chat(&workflow);
    let chat = Chat::new(1, false);
    let mut to_mock = Connection::open(&direct).await;
    let mut to_outrigger = Connection::open(&runner.way).await;
    let mut file = File::create(folder.join("bare")).unwrap();
    let (mut bare_p50, mut added_effect, mut added_model, mut whole) = (vec![], vec![], vec![], vec![]);
    for _ in 0..effort.rounds {
        let mut times = [const { Vec::new() }; 5];
        for _ in 0..effort.calls {
            let begun = Instant::now();
            file.write_all(&[7; APPEND_BYTES]).unwrap();
            file.sync_data().unwrap();
            times[0].push(begun.elapsed().as_secs_f64());
            let body = || format!("{{\"invoice\":{},\"amount_cents\":1200}}", fresh()).into_bytes();
            let calls = [
                to_mock.ask("/charge", Answer::Json, body()).await,
                to_outrigger.ask(&effect, Answer::Json, body()).await,
                to_mock.ask("/v1/chat/completions", Answer::Json, chat.turn(fresh())).await,
                to_outrigger.ask(&model, Answer::Json, chat.turn(fresh())).await,
            ];
            for (times, seen) in times[1..].iter_mut().zip(calls) {
                times.push(seen.whole.as_secs_f64());
            }
        }
        let [bare, effect_direct, effect, model_direct, model] = times.map(median);
        bare_p50.push(bare);
        added_effect.push((effect - effect_direct) / bare);
        added_model.push((model - model_direct) / bare);
        whole.push(effect / bare);
    }
    let flush_ms = median(bare_p50) * 1e3;
    report.line(format!(
        "One append of {APPEND_BYTES} bytes and fdatasync: p50 {flush_ms:.2} ms. A whole effect step, the call \
         itself included: {:.2} of it.",
        median(whole)
    ));
    report.flush_is(flush_ms);
    report.check("effect step, added".to_owned(), median(added_effect), 2.5, "bare flushes");
    report.check("LLM step, added".to_owned(), median(added_model), 1.3, "bare flushes");
}

/// A recorded workflow, asked again by a second attempt.
pub(crate) async fn replay(field: &Field, effort: Effort, report: &mut Report) {
    let way = field.runner("journaling").unwrap().way;
    let chat = Chat::new(REPLAYED_KB, false);
    let (mut step_ms, mut total_ms) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let workflow = format!("bench-{}", fresh());
        let mut connection = Connection::open(&way).await;
        let path = way.chat(&format!("{workflow}/a/1"));
        for turn in 0..REPLAYED {
            connection.ask(&path, Answer::Json, chat.turn(turn)).await;
        }
        drop(connection);
        let path = way.chat(&format!("{workflow}/a/2"));
        let mut connection = Connection::open(&way).await;
        let begun = Instant::now();
        let mut times = Vec::new();
        for turn in 0..REPLAYED {
            let seen = connection.ask(&path, Answer::Json, chat.turn(turn)).await;
            assert_eq!(seen.source.as_deref(), Some("replay"), "step {turn} of {workflow}");
            times.push(seen.whole.as_secs_f64() * 1e3);
        }
        total_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        step_ms.push(median(times));
    }
    report.check("replayed step, p50".to_owned(), median(step_ms), 1.0, "ms");
    report.check(format!("replay of {REPLAYED} steps"), median(total_ms), 50.0, "ms");
}
