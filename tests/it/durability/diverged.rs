//! Restarted agents that go another way than the recorded run.

use serde_json::json;

use crate::support::client::{Answer, Ask};
use crate::support::llm::Api;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Request, Script, Upstream};

use super::{completion, counted, counting};

/// A sidecar before a model and an HTTP upstream.
fn start(extra: &str) -> (Upstream, Upstream, Sidecar) {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let setup = Setup::new().upstream("openai", "openai", &model.url()).upstream_with(
        "crm",
        "http",
        &crm.url(),
        extra,
    );
    (model, crm, setup.start())
}

fn ask(attempt: usize, prompt: &str) -> Ask {
    Ask::post(super::chat_path(attempt), Api::OpenaiChat.ask(prompt, false))
}

fn charge(attempt: usize, cents: u32) -> Ask {
    let body = json!({"invoice_id": 7, "amount_cents": cents, "secret": "hunter2"}).to_string();
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), body)
}

fn mail(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/mail"), "{}")
}

#[track_caller]
fn check_diverged(answer: &Answer, says: &[&str]) {
    assert_eq!((answer.status, answer.header("x-should-retry")), (422, Some("false")), "{answer:?}");
    let text = answer.text();
    for part in ["OG3012"].iter().chain(says) {
        assert!(text.contains(part), "no {part:?} in {answer:?}");
    }
    assert!(!text.contains("hunter2"), "a refusal shows no arguments: {answer:?}");
}

#[test]
fn case_16_a_prompt_with_the_time_goes_live_and_completed_effects_are_not_repeated() {
    let (model, crm, sidecar) = start("");
    sidecar.call(&ask(1, "It is 9:00. Pay.")).expect(200, "live");
    sidecar.call(&charge(1, 100)).expect(200, "live");
    sidecar.call(&ask(1, "It is 9:00. Paid.")).expect(200, "live");

    sidecar.call(&ask(2, "It is 9:05. Pay.")).expect(200, "live");
    sidecar.call(&charge(2, 100)).expect(200, "replay");
    sidecar.call(&ask(2, "It is 9:05. Paid.")).expect(200, "live");
    assert_eq!((model.count(), crm.count()), (4, 1));
    let timeline = sidecar.timeline("w");
    let diverged = &timeline["diverged"][0];
    assert_eq!(
        (&diverged["attempt"], &diverged["expected"], &diverged["refused"]),
        (&json!(2), &json!(1), &json!(false))
    );
    assert_eq!(diverged["pointer"], "/messages/0/content", "{timeline}");
    assert!(diverged["recorded"].as_str().unwrap().contains("characters"), "{timeline}");
    sidecar.cli(&["timeline", "w"]).expect_code(0).prints(&["another way", "/messages/0/content"]);
}

#[test]
fn case_18_another_amount_is_refused_until_somebody_accepts_it() {
    for running in [true, false] {
        let (_model, crm, mut sidecar) = start("");
        sidecar.call(&ask(1, "pay")).expect(200, "live");
        sidecar.call(&charge(1, 100)).expect(200, "live");
        sidecar.call(&mail(1)).expect(200, "live");

        sidecar.call(&ask(2, "pay")).expect(200, "replay");
        check_diverged(&sidecar.call(&charge(2, 200)), &["/amount_cents", "step 2"]);
        assert_eq!(crm.count(), 2, "nothing was sent");
        if !running {
            assert!(sidecar.stop().success());
        }
        sidecar.cli(&["accept", "w"]).expect_code(0).prints(&["2, 3"]);
        if !running {
            sidecar.restart();
        }
        sidecar.call(&charge(2, 200)).expect(200, "live");
        // What the recorded run did is still done: a fork never repeats it.
        sidecar.call(&mail(2)).expect(200, "replay");
        sidecar.call(&charge(2, 100)).expect(200, "replay");
        assert_eq!(crm.count(), 3);
        sidecar.cli(&["accept", "w"]).expect_code(3).says(&["left no recorded step out"]);
    }
}

#[test]
fn case_18_effects_of_declared_identities_are_told_apart() {
    let tools = "tools: { charge: { method: POST, path: /charge, identity: [/amount_cents] } }";
    let (_model, crm, sidecar) = start(tools);
    sidecar.call(&charge(1, 100)).expect(200, "live");
    sidecar.call(&charge(2, 200)).expect(200, "live");
    sidecar.call(&charge(2, 100)).expect(200, "replay");
    assert_eq!(crm.count(), 2);
}

#[test]
fn case_19_a_tool_outside_gives_another_output_and_the_next_model_call_diverges() {
    let (model, crm, sidecar) = start("");
    for attempt in [1, 2] {
        sidecar.call(&ask(attempt, "look")).expect(200, if attempt == 1 { "live" } else { "replay" });
        sidecar.call(&ask(attempt, &format!("the file says {attempt}"))).expect(200, "live");
        if attempt == 1 {
            sidecar.call(&mail(1)).expect(200, "live");
        }
    }
    // The same mail is the recorded one, whatever led to it; another effect is not sent.
    sidecar.call(&mail(2)).expect(200, "replay");
    check_diverged(&sidecar.call(&charge(2, 100)), &["step 2"]);
    assert_eq!((model.count(), crm.count()), (3, 1));
}

#[test]
fn below_the_cases_an_agent_resumes_from_a_checkpoint_of_its_own_at_step_30() {
    let (model, crm, sidecar) = start("");
    for turn in 1..30 {
        sidecar.call(&ask(1, &format!("turn {turn}"))).expect(200, "live");
    }
    let charged = sidecar.call(&charge(1, 30)).expect(200, "live");
    for turn in 31..40 {
        sidecar.call(&ask(1, &format!("turn {turn}"))).expect(200, "live");
    }
    // What lies before its checkpoint is not asked for again, and holds nothing up that comes after.
    assert_eq!(sidecar.call(&charge(2, 30)).expect(200, "replay").body, charged.body);
    for turn in 31..40 {
        sidecar.call(&ask(2, &format!("turn {turn}"))).expect(200, "replay");
    }
    sidecar.call(&ask(2, "turn 40")).expect(200, "live");
    sidecar.call(&charge(2, 41)).expect(200, "live");
    assert_eq!((model.count(), crm.count()), (39, 2));
    assert_eq!(sidecar.timeline("w")["diverged"], json!([]));
}

#[test]
fn an_effect_waits_for_its_siblings_to_be_asked_for_in_another_order() {
    let (_model, crm, sidecar) = start("");
    sidecar.call(&ask(1, "pay three")).expect(200, "live");
    for cents in [100, 200] {
        sidecar.call(&charge(1, cents)).expect(200, "live");
    }
    sidecar.call(&ask(2, "pay three")).expect(200, "replay");
    // The third one, which the crash came before, is asked for first.
    let mut third = sidecar.connect();
    third.send(&charge(2, 300));
    for cents in [200, 100] {
        sidecar.call(&charge(2, cents)).expect(200, "replay");
    }
    third.read("POST").unwrap().expect(200, "live");
    assert_eq!(crm.count(), 3);
}

#[test]
fn a_reworded_effect_beside_one_in_doubt_is_refused() {
    let crm = Upstream::start(|_| Script::status(504));
    let sidecar = super::crm(&crm).start();
    let note = |attempt: usize, text: &str| {
        Ask::post(format!("/w/w/a/{attempt}/crm/notes"), json!({ "text": text }).to_string())
    };
    assert_eq!(sidecar.call(&note(1, "Thank you")).status, 504);
    check_diverged(&sidecar.call(&note(2, "Many thanks")), &["step 1", "/text"]);
    assert_eq!(crm.count(), 1);
}

#[test]
fn a_reworded_effect_is_refused_also_where_the_attempt_matches_only_behind_the_recorded_one() {
    for status in [200, 504] {
        let (_model, crm, sidecar) = start("");
        crm.answers(move |request| match request.target.as_str() {
            "/charge" if request.count == 1 && status != 200 => Script::status(status),
            _ => counted(request),
        });
        let look = |attempt: usize| Ask::get(format!("/w/w/a/{attempt}/crm/balance"));
        let memo = |attempt: usize, text: &str| {
            Ask::post(format!("/w/w/a/{attempt}/crm/charge"), json!({ "memo": text }).to_string())
        };
        sidecar.call(&ask(1, "It is 9:00. Pay.")).expect(200, "live");
        assert_eq!(sidecar.call(&memo(1, "Thank you")).status, status);
        sidecar.call(&look(1)).expect(200, "live");
        sidecar.call(&ask(1, "It is 9:00. Paid.")).expect(200, "live");

        sidecar.call(&ask(2, "It is 9:05. Pay.")).expect(200, "live");
        sidecar.call(&look(2)).expect(200, "replay");
        check_diverged(&sidecar.call(&memo(2, "Many thanks")), &["step 2", "/memo"]);
        assert_eq!(crm.count(), 2, "nothing was sent");
        sidecar.cli(&["accept", "w"]).expect_code(0).prints(&["2"]);
        sidecar.call(&memo(2, "Many thanks")).expect(200, "live");
    }
}

#[test]
fn an_operator_may_let_every_fork_go_on() {
    let upstream = counting();
    let setup = Setup::new().upstream("crm", "http", &upstream.url()).line("on_divergence: live");
    let sidecar = setup.start();
    sidecar.call(&charge(1, 100)).expect(200, "live");
    sidecar.call(&mail(1)).expect(200, "live");
    sidecar.call(&charge(2, 200)).expect(200, "live");
    assert_eq!(upstream.count(), 3);
    assert_eq!(sidecar.timeline("w")["diverged"][0]["operation"], "POST /charge");
}

/// A chat completion that asks for two charges at once.
fn two_charges(_: &Request) -> Script {
    let call = |cents: u32| {
        let arguments =
            format!("{{ \"secret\": \"hunter2\", \"invoice_id\": 7, \"amount_cents\": {cents} }}");
        json!({"id": format!("call_{cents}"), "type": "function",
            "function": {"name": "crm__charge", "arguments": arguments}})
    };
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call(100), call(200)]});
    let choice = json!({"index": 0, "finish_reason": "tool_calls", "message": message});
    Script::json(json!({"id": "chatcmpl-1", "model": "gpt-5", "choices": [choice]}).to_string())
}

#[test]
fn a_call_that_a_recorded_answer_of_a_model_asks_for_is_no_other_way() {
    let (model, crm) = (Upstream::start(two_charges), Upstream::start(counted));
    let tools = "tools: { charge: { method: POST, path: /charge } }";
    let setup = Setup::new().upstream("openai", "openai", &model.url());
    let sidecar = setup.upstream_with("crm", "http", &crm.url(), tools).start();
    sidecar.call(&ask(1, "pay both")).expect(200, "live");
    sidecar.call(&charge(1, 100)).expect(200, "live");

    // The first life ended between the two. The second one may begin with either.
    sidecar.call(&ask(2, "pay both")).expect(200, "replay");
    sidecar.call(&charge(2, 200)).expect(200, "live");
    // Announced once, not twice; and what nobody announced is another way.
    check_diverged(&sidecar.call(&charge(2, 200)), &["step 2"]);
    check_diverged(&sidecar.call(&charge(2, 300)), &["step 2"]);
    sidecar.call(&charge(2, 100)).expect(200, "replay");
    assert_eq!((model.count(), crm.count()), (1, 2));
}
