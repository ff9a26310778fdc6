//! What the design's list of cases names below the cases, as far as no other file has it: clocks, uploads,
//! compressed answers.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use outrigger::app::SystemClock;
use outrigger::journal::embedded::{Embedded, Options};
use outrigger::journal::{Batch, Body, Completed, Intent, Journal, Record, Urgency};
use outrigger::model::BodyHash;

use crate::support::client::Ask;
use crate::support::h2::H2;
use crate::support::llm::Api;
use crate::support::mcp::{self, Caller};
use crate::support::ports;
use crate::support::sidecar::Setup;
use crate::support::upstream::{Script, Upstream, head, reset};

use super::{chat_path, completion, counted, openai};

/// Moves the time of a record; those that are not here have none, or do not occur in this test's journal.
fn shift(record: &mut Record, by_ms: i64) {
    if let Record::Intent(Intent { at, .. })
    | Record::Completed(Completed { at, .. })
    | Record::WorkflowOpened { at, .. }
    | Record::AttemptOpened { at, .. }
    | Record::Dispatched { at, .. }
    | Record::Redelivered { at, .. } = record
    {
        at.0 += by_ms;
    }
}

/// The body that a record names.
fn named(record: &Record) -> Option<BodyHash> {
    if let Record::Intent(Intent { request: hash, .. }) | Record::Completed(Completed { body: hash, .. }) =
        record
    {
        return Some(*hash);
    }
    None
}

/// Copies a journal as a machine would have written it whose clock was `ahead_ms` ahead, and set right while the
/// last step ran.
fn copy_ahead(from: &Path, to: &Path, ahead_ms: i64) {
    let options = |path: &Path| Options::new(path, std::sync::Arc::new(SystemClock));
    let (source, _) = Embedded::open_read_only(options(from)).unwrap();
    let (copy, _) = Embedded::open(options(to)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for row in source.workflows().unwrap() {
        let records = source.scan(&row.key).unwrap();
        let jump = records.iter().rposition(|record| matches!(record, Record::Completed(_))).unwrap();
        for (number, mut record) in records.into_iter().enumerate() {
            if number < jump {
                shift(&mut record, ahead_ms);
            }
            let hash = named(&record);
            let bodies = hash.iter().map(|hash| Body::whole(source.body(hash).unwrap())).collect();
            let batch = Batch { records: vec![record], bodies };
            runtime.block_on(copy.commit(&row.key, copy.epoch(), batch, Urgency::Now).unwrap()).unwrap();
        }
    }
    copy.close().unwrap();
}

#[test]
fn below_the_cases_a_clock_that_jumps_back_changes_no_order_and_loses_nothing() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let (model, tool) = (Upstream::start(completion), Upstream::start(counted));
    let setup = openai(&model).upstream("crm", "http", &tool.url());
    let ask = |attempt: usize, turn: usize| {
        Ask::post(chat_path(attempt), Api::OpenaiChat.ask(&format!("turn {turn}"), false))
    };
    let charge = |attempt: usize, turn: usize| {
        Ask::post(format!("/w/w/a/{attempt}/crm/charge"), format!(r#"{{"turn":{turn}}}"#))
    };
    let mut before = setup.clone().start();
    for turn in 0..3 {
        before.call(&ask(1, turn)).expect(200, "live");
        before.call(&charge(1, turn)).expect(200, "live");
    }
    assert!(before.stop().success());

    // The same journal under a clock that was a day ahead; now it is a day behind that.
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    copy_ahead(&before.journal(), &journal, DAY_MS);
    let mut after = setup.journal_at(&journal).start();
    for attempt in 2..4 {
        let recorded = if attempt == 2 { 3 } else { 5 };
        for turn in 0..5 {
            let source = if turn < recorded { "replay" } else { "live" };
            after.call(&ask(attempt, turn)).expect(200, source);
            after.call(&charge(attempt, turn)).expect(200, source);
        }
        // What is in memory is made anew from records whose times go back.
        after.kill9();
        after.restart();
    }
    assert_eq!((model.count(), tool.count()), (5, 5));
    let timeline = after.timeline("w");
    let steps = timeline["steps"].as_array().unwrap();
    let numbers: Vec<u64> = steps.iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    // No duration is longer than the test; that of the step in which the clock was set is not known.
    let durations: Vec<u64> = steps.iter().map(|step| step["duration_ms"].as_u64().unwrap()).collect();
    assert!(durations.iter().all(|duration| *duration < DAY_MS.unsigned_abs()), "{durations:?}");
    assert_eq!(durations[5], 0, "{durations:?}");
    assert!(after.stop().success());
    after.cli(&["journal", "verify"]).expect_code(0);
}

/// A whole body, compressed.
fn packed(encoding: &str, plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match encoding {
        "br" => brotli::CompressorWriter::new(&mut bytes, 4096, 5, 20).write_all(plain).unwrap(),
        _ => {
            let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
    }
    bytes
}

/// An answer in one piece, however its body reads.
fn answer(content_type: &str, encoding: &str, body: &[u8]) -> Script {
    let headers = [("content-type", content_type), ("content-encoding", encoding)];
    Script::raw([&head(200, &headers, Some(body.len())), body].concat())
}

#[test]
fn below_the_cases_upstreams_that_compress_unasked_are_read_and_passed_on_as_they_are() {
    let events = Api::OpenaiChat.events(&["one ", "two"]);
    for encoding in ["gzip", "br"] {
        let stream = packed(encoding, events.concat().as_bytes());
        let cut = packed(encoding, events[..1].concat().as_bytes());
        let rpc = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"charged"}]}}"#;
        let (whole, half, charged) = (stream.clone(), cut.clone(), packed(encoding, rpc));
        let (name, other) = (encoding.to_owned(), encoding.to_owned());
        let model = Upstream::start(move |request| {
            let body = if request.text().contains("cut") { &half } else { &whole };
            answer("text/event-stream", &name, body)
        });
        let tools = Upstream::start(move |_| answer("application/json", &other, &charged));
        let setup = openai(&model).upstream("tools", "mcp", &tools.url());
        let sidecar = setup.start();
        let ask = |attempt: usize, prompt: &str| {
            Ask::post(chat_path(attempt), Api::OpenaiChat.ask(prompt, true))
                .header("accept-encoding", encoding)
        };
        for (attempt, source, id) in [(1, "live", 1), (2, "replay", 9)] {
            let told = sidecar.call(&ask(attempt, "count")).expect(200, source);
            assert_eq!((told.header("content-encoding"), told.body == stream), (Some(encoding), true));
            // A tool's response is found in its answer, and gets the id of whoever asks then.
            let mut caller = Caller::stateless(format!("/w/w/a/{attempt}/tools"), id);
            let told = sidecar.call(&caller.tool("charge", &serde_json::json!({}))).expect(200, source);
            if source == "replay" {
                assert_eq!(told.header("content-encoding"), None, "{told:?}");
                assert_eq!((&told.json()["id"], mcp::result(&told).0), (&id.into(), "charged".to_owned()));
            }
        }
        assert_eq!(model.requests()[0].header("accept-encoding"), Some("identity"));
        // A stream that stops too early is cut, however cleanly its compression ends.
        let broken = sidecar.try_call(&ask(2, "cut")).expect_err("a clean end");
        assert!(broken.body == cut, "{encoding}: nothing is put behind what came");
        assert_eq!(sidecar.states("w"), ["completed", "completed", "failed"], "{encoding}");
        let usage = &sidecar.timeline("w")["steps"][0]["usage"];
        assert!(usage.to_string().contains("11"), "its usage is read: {usage}");
    }
}

#[test]
fn below_the_cases_an_upload_that_its_agent_cuts_half_way_is_no_step_and_reaches_nobody_as_a_whole() {
    let (model, tool) = (Upstream::start(completion), Upstream::start(counted));
    let sidecar = openai(&model).upstream("crm", "http", &tool.url()).start();
    let body = Api::OpenaiChat.ask("count", false);
    let paths = [
        "/w/w/a/1/crm/charge",
        "/w/w/a/1/openai/v1/chat/completions",
        "/crm/charge",
        "/openai/v1/chat/completions",
    ];
    for path in paths {
        let whole = Ask::post(path, body.clone());
        let sized = whole.to_bytes(sidecar.address());
        let chunked = Ask::new("POST", path).header("transfer-encoding", "chunked");
        let half = &body[..body.len() / 2];
        let mut chunked = chunked.to_bytes(sidecar.address());
        chunked.extend_from_slice(format!("{:x}\r\n{half}\r\n", half.len()).as_bytes());
        for cut in [&sized[..sized.len() - 10], &chunked] {
            let mut connection = sidecar.connect();
            connection.write(cut);
            connection.finish();
            // An answer that says so, or none; the connection is over in either case.
            if let Ok(answer) = connection.read("POST") {
                assert!((400..500).contains(&answer.status) || answer.status == 502, "{path}: {answer:?}");
            }
        }
    }
    sidecar.wait_connections(0.0);
    assert_eq!((model.count(), tool.count()), (0, 0));
    assert_eq!(sidecar.timeline_now("w")["steps"].as_array().map_or(0, Vec::len), 0);
    sidecar.call(&Ask::post(paths[0], body.clone())).expect(200, "live");
    // An HTTP/2 stream that is reset in the middle of its upload leaves the connection's others alone.
    let agent = H2::connect(sidecar.address());
    assert!(agent.cut_upload(&Ask::post(paths[0], body)).is_err());
    assert_eq!(agent.call(&Ask::get("/nowhere/x")).unwrap().status, 404);
    assert_eq!((tool.count(), sidecar.states("w").len()), (1, 1));
}

#[test]
fn below_the_cases_an_upload_that_the_upstream_cuts_half_way_is_in_doubt() {
    const UPLOAD_BYTES: usize = 16 << 20;
    let listener = TcpListener::bind(ports::free()).unwrap();
    let address = listener.local_addr().unwrap();
    let cutting = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 64 * 1024]).unwrap();
        reset(stream);
        listener
    });
    let sidecar = Setup::new().upstream("crm", "http", &format!("http://{address}")).start();
    let ask = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/import"), vec![b' '; UPLOAD_BYTES]);
    let refused = sidecar.call(&ask(1));
    assert!(refused.status == 422 && refused.text().contains("OG3001"), "{refused:?}");
    let listener = cutting.join().unwrap();
    let again = sidecar.call(&ask(2));
    assert!(again.status == 422 && again.text().contains("OG3001"), "{again:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it was not sent again");
    assert_eq!(sidecar.states("w"), ["in_doubt"]);
}
