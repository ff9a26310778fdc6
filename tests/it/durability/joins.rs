//! Work that outlives whoever asked for it: retries that join, answers that are delivered again, streams
//! that are read on without their agent.

use crate::support::client::{Ask, Client};
use crate::support::gate::Gate;
use crate::support::h2::H2;
use crate::support::llm::{Api, Usage, chat};
use crate::support::sidecar::Sidecar;
use crate::support::upstream::{Act, Script, Upstream};

use super::{chat_path, completion, counted, counting, crm, openai};

const WORDS: [&str; 10] =
    ["one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ", "nine ", "ten"];

fn ask(attempt: usize) -> Ask {
    Ask::post(chat_path(attempt), Api::OpenaiChat.ask("count", true))
}

/// The whole stream of [`WORDS`].
fn whole() -> String {
    chat(&WORDS, Usage::Asked).concat()
}

/// A stream of ten words that stops at `gate` after the third.
fn stopping(gate: &Gate) -> Script {
    let events = chat(&WORDS, Usage::Asked);
    Script::stream().chunks(&events[..3]).hold(gate).chunks(&events[3..]).end()
}

#[test]
fn case_13_the_same_question_five_times_at_once_is_five_calls_and_five_answers() {
    let upstream = Upstream::start(completion);
    let gate = Gate::new();
    let held = gate.clone();
    upstream.answers(move |request| completion(request).held(&held));
    let sidecar = openai(&upstream).start();
    let ask = |attempt| Ask::post(chat_path(attempt), Api::OpenaiChat.ask("sample", false));
    let mut open: Vec<Client> = (0..5)
        .map(|_| {
            let mut connection = sidecar.connect();
            connection.send(&ask(1));
            connection
        })
        .collect();
    gate.reached(5);
    gate.open();
    let mut lived: Vec<String> =
        open.iter_mut().map(|open| open.read("POST").unwrap().expect(200, "live").text()).collect();
    let mut replayed: Vec<String> =
        (0..5).map(|_| sidecar.call(&ask(2)).expect(200, "replay").text()).collect();
    lived.sort();
    replayed.sort();
    assert_eq!(replayed, lived);
    lived.dedup();
    assert_eq!(lived.len(), 5, "five different answers");
    sidecar.call(&ask(2)).expect(200, "live");
    assert_eq!(upstream.count(), 6);
}

/// What an SDK may add when it tries again.
const RETRIES: [&[(&str, &str)]; 3] = [
    &[],
    &[("x-stainless-retry-count", "1")],
    &[("x-stainless-retry-count", "1"), ("idempotency-key", "k-1")],
];

fn with(ask: Ask, headers: &[(&str, &str)]) -> Ask {
    headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value))
}

#[test]
fn case_14_a_retry_joins_the_stream_that_still_runs_over_http_1() {
    for headers in RETRIES {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| stopping(&held));
        let sidecar = openai(&upstream).start();
        let mut first = sidecar.connect();
        first.send(&ask(1));
        first.head("POST").unwrap().until("three").unwrap();
        drop(first);
        sidecar.wait_connections(0.0);
        let mut second = sidecar.connect();
        second.send(&with(ask(1), headers));
        let mut joined = second.head("POST").unwrap();
        assert_eq!((joined.status, joined.header("x-outrigger-source")), (200, Some("join")));
        joined.until("three").unwrap();
        gate.open();
        assert_eq!(joined.whole().unwrap().text(), whole());
        assert_eq!(upstream.count(), 1);
        assert_eq!(sidecar.states("w"), ["completed"]);
    }
}

#[test]
fn case_14_a_retry_joins_the_stream_that_still_runs_over_http_2() {
    for headers in RETRIES {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| stopping(&held));
        let sidecar = openai(&upstream).start();
        let agent = H2::connect(sidecar.address());
        let mut first = agent.head(&ask(1)).unwrap();
        first.until("three").unwrap();
        // The stream is reset, the connection goes on. A round trip later the sidecar has seen the reset.
        drop(first);
        for _ in 0..3 {
            assert_eq!(agent.call(&Ask::get("/nowhere/x")).unwrap().status, 404);
        }
        let mut joined = agent.head(&with(ask(1), headers)).unwrap();
        let source = joined.headers.iter().find(|(name, _)| name == "x-outrigger-source");
        assert_eq!(source.map(|(_, value)| value.as_slice()), Some(b"join".as_slice()));
        joined.until("three").unwrap();
        gate.open();
        assert_eq!(joined.whole().unwrap().text(), whole());
        assert_eq!(upstream.count(), 1);
    }
}

#[test]
fn case_14_a_retry_before_the_head_came_joins_and_an_effect_is_not_sent_twice() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| counted(request).held(&held));
    let sidecar = crm(&upstream).start();
    let charge = Ask::post("/w/w/a/1/crm/charge", "{}");
    let mut first = sidecar.connect();
    first.send(&charge);
    gate.reached(1);
    drop(first);
    sidecar.wait_connections(0.0);
    let mut second = sidecar.connect();
    second.send(&charge);
    sidecar.wait_connections(1.0);
    gate.open();
    let answer = second.read("POST").unwrap();
    // By when it had been read the answer may have been there.
    assert!(matches!(answer.source(), "join" | "replay"), "{answer:?}");
    assert_eq!((answer.status, answer.step()), (200, 1), "{answer:?}");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_15_an_answer_that_was_recorded_but_not_delivered_is_delivered_to_the_retry() {
    // More than the sockets between them can hold, so that an agent that does not read has not got it.
    let long = "x".repeat(24 << 20);
    let answer = Api::OpenaiChat.answer(&long);
    let sent = answer.clone();
    let upstream = Upstream::start(move |_| Script::json(&sent));
    let sidecar = openai(&upstream).start();
    let ask = Ask::post(chat_path(1), Api::OpenaiChat.ask("long", false));
    let mut first = sidecar.connect();
    first.send(&ask);
    sidecar.wait_completed("w", 1);
    drop(first);
    sidecar.wait_connections(0.0);
    let again = sidecar.call(&ask).expect(200, "replay");
    assert_eq!(again.step(), 1);
    assert!(again.text() == answer, "the answer differs");
    // Delivered now: the same question is a new one.
    assert_eq!(sidecar.call(&ask).expect(200, "live").step(), 2);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn case_20_a_stream_that_upstream_cuts_is_no_result_and_the_restart_sends_it_again() {
    let upstream = Upstream::start(|request| {
        let events = chat(&WORDS, Usage::Asked);
        if request.count == 1 {
            Script::stream().chunks(&events[..3]).then(Act::Reset)
        } else {
            Script::events(&events)
        }
    });
    let sidecar = openai(&upstream).start();
    let broken = sidecar.try_call(&ask(1)).expect_err("never a clean end");
    assert!(String::from_utf8_lossy(&broken.body).contains("three"), "{broken:?}");
    assert_eq!(sidecar.states("w"), ["failed"]);
    let answer = sidecar.call(&ask(2)).expect(200, "live");
    assert_eq!(answer.text(), whole());
    let timeline = sidecar.timeline("w");
    assert_eq!(timeline["steps"][0]["state"], "completed");
    assert_eq!(timeline["steps"][0]["possibly_billed"], true, "{timeline}");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn case_21_a_stream_whose_agent_died_is_read_to_its_end_and_replayed_whole() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| stopping(&held));
    let sidecar = openai(&upstream).start();
    let mut first = sidecar.connect();
    first.send(&ask(1));
    first.head("POST").unwrap().until("three").unwrap();
    drop(first);
    gate.open();
    sidecar.wait_completed("w", 1);
    assert_eq!(sidecar.call(&ask(2)).expect(200, "replay").text(), whole());
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_21_a_restarted_agent_joins_the_stream_that_is_still_being_read() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| stopping(&held));
    let sidecar = openai(&upstream).start();
    let mut first = sidecar.connect();
    first.send(&ask(1));
    first.head("POST").unwrap().until("three").unwrap();
    drop(first);
    let mut second = sidecar.connect();
    second.send(&ask(2));
    let joined = second.head("POST").unwrap();
    assert_eq!(joined.header("x-outrigger-source"), Some("join"));
    gate.open();
    assert_eq!(joined.whole().unwrap().text(), whole());
    assert_eq!(upstream.count(), 1);
    // Used by the second attempt now: the third finds it recorded.
    assert_eq!(sidecar.call(&ask(3)).expect(200, "replay").text(), whole());
}

#[test]
fn case_22_after_a_death_of_the_sidecar_in_a_stream_the_restart_delivers_it_once_and_whole() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| {
        if request.count == 1 { stopping(&held) } else { Script::events(&chat(&WORDS, Usage::Asked)) }
    });
    let mut sidecar: Sidecar = openai(&upstream).start();
    let mut first = sidecar.connect();
    first.send(&ask(1));
    let mut reading = first.head("POST").unwrap();
    reading.until("three").unwrap();
    sidecar.kill9();
    gate.open();
    assert!(reading.whole().is_err(), "the agent sees a broken stream");
    sidecar.restart();
    assert_eq!(sidecar.call(&ask(2)).expect(200, "live").text(), whole(), "ten events, never three and ten");
    assert_eq!(sidecar.call(&ask(3)).expect(200, "replay").text(), whole());
    assert_eq!(upstream.count(), 2);
}

#[test]
fn an_sdk_that_tries_again_after_the_sidecar_came_back_goes_on_in_the_same_attempt() {
    let upstream = counting();
    let mut sidecar = crm(&upstream).start();
    for number in 0..6 {
        let ask = Ask::post("/w/w/a/1/crm/notes", format!(r#"{{"number": {number}}}"#));
        let answer = sidecar.call(&ask).expect(200, "live");
        assert_eq!(answer.step(), number + 1);
        sidecar.kill9();
        sidecar.restart();
    }
    for number in 0..6 {
        let ask = Ask::post("/w/w/a/2/crm/notes", format!(r#"{{"number": {number}}}"#));
        sidecar.call(&ask).expect(200, "replay");
    }
    assert_eq!(upstream.count(), 6);
}
