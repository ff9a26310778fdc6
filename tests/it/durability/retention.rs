//! Case 30: what becomes of a workflow's id, of its bodies and of its records once it is closed; and of a journal
//! that is as large as it may be.

use serde_json::{Value, json};

use crate::support::client::{Answer, Ask};
use crate::support::random::Random;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};
use crate::support::wait;

use super::{counted, counting, crm};

fn charge(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), r#"{"amount":7}"#)
}

#[track_caller]
fn refused(answer: &Answer, code: &str) {
    assert_eq!((answer.status, answer.header("x-should-retry")), (422, Some("false")), "{answer:?}");
    assert!(answer.text().contains(code), "{answer:?}");
}

/// A sidecar with one charge in workflow `w`, which is closed.
fn closed(upstream: &Upstream, lines: &[&str]) -> Sidecar {
    let setup = lines.iter().fold(crm(upstream), |setup, line| setup.line(line));
    let sidecar = setup.start();
    sidecar.call(&charge(1)).expect(200, "live");
    sidecar.cli(&["close", "w"]).expect_code(0);
    sidecar
}

fn gc(sidecar: &Sidecar) -> Value {
    serde_json::from_str(&sidecar.cli(&["gc", "--json"]).expect_code(0).stdout).unwrap()
}

#[test]
fn case_30_a_closed_workflows_id_is_refused_whatever_it_matches() {
    let upstream = counting();
    let mut sidecar = closed(&upstream, &[]);
    for _ in 0..2 {
        for attempt in [1, 2] {
            refused(&sidecar.call(&charge(attempt)), "OG3004");
        }
        refused(&sidecar.call(&Ask::get("/w/w/a/3/crm/other")), "OG3004");
        sidecar.kill9();
        sidecar.restart();
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_30_a_closed_workflow_that_replays_gives_what_is_recorded_and_sends_nothing() {
    let upstream = counting();
    let mut sidecar = closed(&upstream, &["reuse: replay"]);
    refused(&sidecar.call(&charge(1)), "OG3004");
    for attempt in [2, 3] {
        assert_eq!(sidecar.call(&charge(attempt)).expect(200, "replay").json()["call"], 1);
        // Each recorded step once in an attempt, as ever.
        refused(&sidecar.call(&charge(attempt)), "OG3004");
        refused(&sidecar.call(&Ask::get(format!("/w/w/a/{attempt}/crm/other"))), "OG3004");
    }
    refused(&sidecar.call(&charge(2)), "OG3002");
    sidecar.kill9();
    sidecar.restart();
    assert_eq!(sidecar.call(&charge(2)).expect(200, "replay").json()["call"], 1);
    assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["completed".to_owned()]));
}

#[test]
fn case_30_an_answer_that_has_expired_is_never_asked_for_again() {
    let upstream = counting();
    let mut sidecar = closed(&upstream, &["reuse: replay", "retention: { bodies_h: 0 }"]);
    sidecar.call(&charge(2)).expect(200, "replay");
    assert_eq!(gc(&sidecar)["bodies_expired"], json!(["w"]));
    for _ in 0..2 {
        for attempt in [3, 4] {
            refused(&sidecar.call(&charge(attempt)), "OG3013");
            refused(&sidecar.call(&Ask::get(format!("/w/w/a/{attempt}/crm/other"))), "OG3004");
        }
        sidecar.kill9();
        sidecar.restart();
    }
    assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["completed".to_owned()]));
    assert_eq!(gc(&sidecar)["bodies_expired"], json!([]), "once");
}

#[test]
fn case_30_when_the_records_are_gone_the_id_is_still_refused() {
    for reuse in ["refuse", "replay"] {
        let upstream = counting();
        let reuse = format!("reuse: {reuse}");
        let mut sidecar = closed(&upstream, &[&reuse, "retention: { bodies_h: 0, records_h: 0 }"]);
        assert_eq!(gc(&sidecar)["removed"], json!(["w"]));
        for _ in 0..2 {
            for attempt in [1, 2] {
                refused(&sidecar.call(&charge(attempt)), "OG3014");
            }
            assert_eq!(sidecar.timeline("w")["state"], "removed");
            sidecar.kill9();
            sidecar.restart();
        }
        assert_eq!(upstream.count(), 1);
        assert_eq!(sidecar.states("w"), [""; 0]);
    }
}

#[test]
fn case_30_a_new_run_of_the_same_id_knows_nothing_of_the_old_one() {
    let keys =
        "tools: { charge: { method: POST, path: /charge, idempotency_key: { header: Idempotency-Key } } }";
    for retention in ["retention: {}", "retention: { bodies_h: 0, records_h: 0 }"] {
        let upstream = Upstream::start(|request| {
            let key = request.header("idempotency-key").unwrap_or_default();
            Script::json(json!({ "call": request.count, "key": key }).to_string())
        });
        let setup = Setup::new().upstream_with("crm", "http", &upstream.url(), keys);
        let mut sidecar = setup.line("reuse: new_run").line(retention).start();
        let first = sidecar.call(&charge(1)).expect(200, "live").json();
        sidecar.call(&charge(2)).expect(200, "replay");
        sidecar.cli(&["close", "w"]).expect_code(0);
        gc(&sidecar);
        let second = sidecar.call(&charge(1)).expect(200, "live").json();
        assert_eq!((&first["call"], &second["call"]), (&json!(1), &json!(2)));
        assert!(first["key"] != second["key"] && second["key"] != "", "{first} {second}");
        sidecar.kill9();
        sidecar.restart();
        let replayed = sidecar.call(&charge(2)).expect(200, "replay").json();
        assert_eq!((replayed, upstream.count()), (second, 2));
        let timeline = sidecar.timeline("w");
        assert_eq!((timeline["steps"].as_array().unwrap().len(), &timeline["state"]), (1, &json!("open")));
    }
}

#[test]
fn case_30_a_workflow_in_doubt_is_kept_whole() {
    let upstream = Upstream::start(|_| Script::status(504));
    let sidecar = crm(&upstream).line("retention: { bodies_h: 0, records_h: 0 }").start();
    assert_eq!(sidecar.call(&charge(1)).status, 504);
    refused(&sidecar.call(&charge(1)), "OG3001");
    sidecar.cli(&["close", "w"]).expect_code(3);
    let swept = gc(&sidecar);
    assert_eq!((&swept["closed"], &swept["removed"]), (&json!([]), &json!([])));
    refused(&sidecar.call(&charge(2)), "OG3001");
    sidecar.cli(&["resolve", "w", "1", "--not-executed"]).expect_code(0);
    upstream.answers(counted);
    sidecar.call(&charge(2)).expect(200, "live");
}

#[test]
fn a_journal_as_large_as_it_may_be_refuses_new_steps_and_replays_the_others() {
    let upstream = counting();
    let setup = crm(&upstream).journal("segment_mib: 1, size_mib_max: 8");
    let sidecar = setup.line("retention: { bodies_h: 0, records_h: 0 }").start();
    // Random bytes do not compress.
    let note = |seed: u64, attempt: usize| {
        let mut ask = Ask::post(format!("/w/full/a/{attempt}/crm/notes"), Random::new(seed).bytes(700_000));
        ask.headers.clear();
        ask
    };
    let full = (1..40).find(|seed| {
        let answer = sidecar.call(&note(*seed, 1));
        let is_full = answer.status == 503 && answer.text().contains("OG5015");
        assert!(is_full || answer.status == 200, "{answer:?}");
        is_full
    });
    let full = full.expect("the journal has a limit");
    assert!(full > 3, "{full} steps");
    let sent = upstream.count();
    assert_eq!(sidecar.call(&charge(1)).status, 503);
    for seed in 1..full {
        sidecar.call(&note(seed, 2)).expect(200, "replay");
    }
    assert_eq!(upstream.count(), sent, "what was refused was not sent");
    assert!(sidecar.log().contains("nearly as large as it may be"), "{}", sidecar.log());
    let (bytes, bytes_max) = ("outrigger_journal_bytes", "outrigger_journal_bytes_max");
    assert!(sidecar.metric(bytes) >= sidecar.metric(bytes_max) && sidecar.metric(bytes_max) > 8e6);
    let ready = sidecar.ask_admin(&Ask::get("/readyz")).json();
    assert_eq!((&ready["ready"], &ready["journal"]["bytes_max"]), (&json!(true), &json!(8 << 20)));

    sidecar.cli(&["close", "full"]).expect_code(0);
    let swept = gc(&sidecar);
    assert_eq!(swept["removed"], json!(["full"]));
    assert!(swept["bytes_after"].as_u64().unwrap() < swept["bytes_before"].as_u64().unwrap() / 2, "{swept}");
    sidecar.call(&charge(1)).expect(200, "live");
    wait::until("the age of the oldest open workflow is known", || {
        gc(&sidecar);
        sidecar.metric("outrigger_workflow_oldest_open_seconds") > 0.5
    });
}
