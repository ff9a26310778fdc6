//! What the config says is noise in a model call: found as recorded although it differs, and sent as it is.

use serde_json::json;

use crate::support::client::Ask;
use crate::support::llm::Api;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::Upstream;

use super::{chat_path, completion, counted};

const SCRUBS: &str = r"match: { scrubs: [{ pointer: '/messages/*/content', regex: '\d{1,2}:\d{2}' }] }";

fn ask(attempt: usize, prompt: &str) -> Ask {
    Ask::post(chat_path(attempt), Api::OpenaiChat.ask(prompt, false))
}

fn charge(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), r#"{"invoice_id":7}"#)
}

fn setup(model: &Upstream, crm: &Upstream, extra: &str) -> Setup {
    Setup::new().upstream_with("openai", "openai", &model.url(), extra).upstream("crm", "http", &crm.url())
}

#[track_caller]
fn check_found(sidecar: &Sidecar, step: usize, attempt: u32, by: &str) {
    let timeline = sidecar.timeline("w");
    assert_eq!(
        timeline["steps"][step - 1]["found"],
        json!([{"attempt": attempt, "match": by}]),
        "{timeline}"
    );
}

#[test]
fn case_17_a_declared_scrub_finds_the_recorded_step_and_the_body_that_is_sent_is_not_scrubbed() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let sidecar = setup(&model, &crm, SCRUBS).start();
    let lived = sidecar.call(&ask(1, "It is 9:00. Pay.")).expect(200, "live");
    sidecar.call(&charge(1)).expect(200, "live");
    sidecar.call(&ask(1, "It is 9:00. Paid.")).expect(200, "live");

    let replayed = sidecar.call(&ask(2, "It is 10:05. Pay.")).expect(200, "replay");
    assert_eq!((replayed.body, replayed.headers.len() > 1), (lived.body, true));
    sidecar.call(&charge(2)).expect(200, "replay");
    sidecar.call(&ask(2, "It is 9:00. Paid.")).expect(200, "replay");
    check_found(&sidecar, 1, 2, "normalised");
    check_found(&sidecar, 2, 2, "exact");
    check_found(&sidecar, 3, 2, "exact");
    sidecar
        .cli(&["timeline", "w"])
        .expect_code(0)
        .prints(&["attempt 2 asked for step 1 in other words: found as normalised"]);
    // Other words are another call, and what is sent is what was asked, to the byte.
    let other = ask(2, "It is 10:05. Do not pay.");
    sidecar.call(&other).expect(200, "live");
    assert_eq!((model.count(), crm.count()), (3, 1));
    let sent: Vec<Vec<u8>> = model.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(sent, [ask(1, "It is 9:00. Pay.").body, ask(1, "It is 9:00. Paid.").body, other.body]);
}

#[test]
fn case_17_a_scrub_that_was_declared_after_the_divergence_finds_what_was_recorded_before() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let mut sidecar = setup(&model, &crm, "").start();
    sidecar.call(&ask(1, "It is 9:00. Pay.")).expect(200, "live");
    sidecar.call(&charge(1)).expect(200, "live");
    for _ in 0..2 {
        sidecar.call(&ask(1, "It is 9:00. Paid.")).expect(200, "live");
    }
    // Without the scrub the second life diverges.
    sidecar.call(&ask(2, "It is 9:05. Pay.")).expect(200, "live");
    assert!(sidecar.stop().success());
    sidecar.change(setup(&model, &crm, SCRUBS));
    sidecar.restart();
    let before = model.count();
    let first = sidecar.call(&ask(3, "It is 9:10. Pay.")).expect(200, "replay");
    assert_eq!(first.step(), 1);
    sidecar.call(&charge(3)).expect(200, "replay");
    // Equal ones are still told apart, in their order.
    let steps: Vec<u64> =
        (0..2).map(|_| sidecar.call(&ask(3, "It is 9:10. Paid.")).expect(200, "replay").step()).collect();
    assert_eq!(steps, [3, 4]);
    sidecar.call(&ask(3, "It is 9:10. Something new.")).expect(200, "live");
    assert_eq!((model.count() - before, crm.count()), (1, 1));

    // Another scrub beside the first one, or in its place, finds all of it again.
    let wider =
        r"match: { scrubs: [{ pointer: /messages/0/content, regex: 'at \d+ o.clock|\d{1,2}:\d{2}' }] }";
    assert!(sidecar.stop().success());
    sidecar.change(setup(&model, &crm, wider));
    sidecar.restart();
    sidecar.call(&ask(4, "It is 9:15. Pay.")).expect(200, "replay");
    sidecar.call(&ask(4, "It is 9:15. Something new.")).expect(200, "replay");
    assert_eq!(model.count() - before, 1);
}

#[test]
fn case_16_the_scrub_that_doctor_proposes_makes_the_next_restart_replay() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let mut sidecar = setup(&model, &crm, "").start();
    let life = |sidecar: &Sidecar, attempt: usize, time: &str| {
        let prompt =
            |what: &str| format!("It is 2026-11-{attempt:02}T{time}:00Z, run {attempt:032x}. {what}");
        let sources = [ask(attempt, &prompt("Pay.")), charge(attempt), ask(attempt, &prompt("Paid."))];
        sources.map(|ask| sidecar.call(&ask).header("x-outrigger-source").unwrap_or_default().to_owned())
    };
    assert_eq!(life(&sidecar, 1, "09:00"), ["live"; 3]);
    assert_eq!(life(&sidecar, 2, "09:05"), ["live", "replay", "live"]);
    let report = sidecar.cli(&["doctor", "w", "--json"]).expect_code(0).stdout;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["pairs"].as_array().unwrap().iter().all(|pair| pair["verdict"] == "aligned"), "{report}");
    assert!(sidecar.stop().success());
    // JSON is YAML's flow style.
    sidecar.change(setup(&model, &crm, &format!("match: {}", report["proposals"][0]["match"])));
    sidecar.restart();
    let before = model.count();
    assert_eq!(life(&sidecar, 3, "10:10"), ["replay"; 3]);
    assert_eq!((model.count(), crm.count()), (before, 1));
    sidecar
        .cli(&["doctor", "w"])
        .expect_code(0)
        .prints(&["no difference was found", "3 calls found what is recorded, 2 of them in other words"]);
}

#[test]
fn case_17_a_call_to_another_path_or_with_another_header_is_not_found_by_a_scrub() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let mut sidecar = setup(&model, &crm, "").start();
    sidecar.call(&ask(1, "It is 9:00. Pay.")).expect(200, "live");
    assert!(sidecar.stop().success());
    sidecar.change(setup(&model, &crm, SCRUBS));
    sidecar.restart();
    let body = Api::OpenaiChat.ask("It is 9:05. Pay.", false);
    let beta = ask(2, "It is 9:05. Pay.").header("openai-beta", "assistants=v2");
    sidecar.call(&beta).expect(200, "live");
    sidecar.call(&Ask::post("/w/w/a/2/openai/chat/completions", body)).expect(200, "live");
    sidecar.call(&ask(2, "It is 9:05. Pay.")).expect(200, "replay");
    assert_eq!(model.count(), 3);
}

#[test]
fn members_that_the_config_names_are_left_out_and_others_are_not() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let extra = "match: { normalise: { store: true, cache_control: true, user: false } }";
    let sidecar = setup(&model, &crm, extra).start();
    let ask = |attempt: usize, members: &str, part: &str| {
        let body = format!(
            r#"{{"model":"m",{members}"messages":[{{"role":"user","content":[{{"type":"text","text":"hi"{part}}}]}}]}}"#
        );
        Ask::post(chat_path(attempt), body)
    };
    let cached = r#","cache_control":{"type":"ephemeral"}"#;
    sidecar.call(&ask(1, r#""store":true,"#, cached)).expect(200, "live");
    sidecar.call(&ask(2, r#""store":false,"metadata":{"run":"2"},"#, "")).expect(200, "replay");
    sidecar.call(&ask(3, r#""user":"u","#, "")).expect(200, "live");
    sidecar.call(&ask(4, r#""service_tier":"flex","#, "")).expect(200, "live");
    assert_eq!(model.count(), 3);
}

#[test]
fn calls_that_differ_in_a_header_that_the_config_names_are_different_calls() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let sidecar = setup(&model, &crm, "match: { headers: [x-tenant] }").start();
    let of = |attempt, tenant| {
        ask(attempt, "hi").header("x-tenant", tenant).header("x-other", attempt.to_string())
    };
    sidecar.call(&of(1, "a")).expect(200, "live");
    sidecar.call(&of(2, "b")).expect(200, "live");
    sidecar.call(&of(2, "a")).expect(200, "replay");
    assert_eq!(model.count(), 2);
}
