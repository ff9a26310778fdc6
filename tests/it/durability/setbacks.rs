//! Failures and refusals that an agent went on from are told to its next life again; others are tried, or
//! decided, anew.

use serde_json::json;

use crate::support::client::{Answer, Ask};
use crate::support::gate::Gate;
use crate::support::llm::Api;
use crate::support::mcp::{Caller, Era, Form, Server, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Script, Upstream};

use super::{chat_path, completion, counted, crm, openai};

fn ask(attempt: usize, prompt: &str) -> Ask {
    Ask::post(chat_path(attempt), Api::OpenaiChat.ask(prompt, false))
}

fn charge(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charge"), r#"{"invoice_id":7}"#)
}

fn mail(attempt: usize) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/mail"), "{}")
}

/// A model that is busy whenever it is asked `busy`, and says another thing each time.
fn busy_model() -> Upstream {
    Upstream::start(|request| match request.text().contains("busy") {
        true => Script::answer(503, "application/json", format!(r#"{{"error":{}}}"#, request.count)),
        false => completion(request),
    })
}

/// Calls and waits until the sidecar knows that the answer has arrived.
#[track_caller]
fn told(sidecar: &Sidecar, ask: &Ask) -> Answer {
    let answer = sidecar.call(ask);
    sidecar.settle();
    answer
}

#[test]
fn case_23_a_failure_that_the_agent_went_on_from_is_replayed_with_all_its_tries() {
    for restarts in [false, true] {
        let model = busy_model();
        let mut sidecar = openai(&model).start();
        // An SDK tries twice, gives up, and the agent asks for something else.
        let failed: Vec<Answer> =
            (0..2).map(|_| told(&sidecar, &ask(1, "busy")).expect(503, "live")).collect();
        told(&sidecar, &ask(1, "another way")).expect(200, "live");
        if restarts {
            sidecar.kill9();
            sidecar.restart();
        }
        for failed in &failed {
            let again = told(&sidecar, &ask(2, "busy")).expect(503, "replay");
            assert_eq!((&again.body, again.step()), (&failed.body, 1));
        }
        sidecar.call(&ask(2, "another way")).expect(200, "replay");
        assert_eq!(model.count(), 3);
        // It never asked a third time; if it does now, that is the next try.
        sidecar.call(&ask(2, "busy")).expect(503, "live");
        assert_eq!(model.count(), 4);
    }
}

#[test]
fn case_23_parallel_siblings_are_no_going_on() {
    let (model, gate) = (busy_model(), Gate::new());
    let held = gate.clone();
    model.answers(move |request| match request.text().contains("busy") {
        true => Script::status(503),
        false => completion(request).held(&held),
    });
    let sidecar = openai(&model).start();
    let mut sibling = sidecar.connect();
    sibling.send(&ask(1, "side by side"));
    gate.reached(1);
    told(&sidecar, &ask(1, "busy")).expect(503, "live");
    gate.open();
    sibling.read("POST").unwrap().expect(200, "live");
    model.answers(completion);
    sidecar.call(&ask(2, "busy")).expect(200, "live");
}

#[test]
fn case_23_an_upstream_that_could_not_be_reached_is_told_in_the_same_words() {
    let mut upstream = Upstream::start(counted);
    let sidecar = crm(&upstream).start();
    sidecar.call(&mail(1)).expect(200, "live");
    upstream.stop();
    let failed = told(&sidecar, &Ask::get("/w/w/a/1/crm/look"));
    assert_eq!(failed.status, 502, "{failed:?}");
    upstream.start_again();
    told(&sidecar, &Ask::post("/w/w/a/1/crm/report", "{}")).expect(200, "live");

    sidecar.call(&mail(2)).expect(200, "replay");
    let again = told(&sidecar, &Ask::get("/w/w/a/2/crm/look")).expect(502, "replay");
    assert_eq!(again.body, failed.body);
    sidecar.call(&Ask::post("/w/w/a/2/crm/report", "{}")).expect(200, "replay");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_refusal_in_doubt_that_the_agent_went_on_from_is_told_again_even_when_it_is_resolved_since() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let setup = Setup::new().upstream("openai", "openai", &model.url());
    let sidecar = setup.upstream("crm", "http", &crm.url()).start();
    crm.answers(|_| Script::raw("").then(Act::Reset));
    let broken = told(&sidecar, &charge(1));
    assert_eq!(broken.status, 422, "{broken:?}");
    let doubt = told(&sidecar, &charge(1));
    assert!(doubt.text().contains("OG3001"), "{doubt:?}");
    told(&sidecar, &ask(1, "the charge is in doubt")).expect(200, "live");
    crm.answers(counted);
    let answer = sidecar.home().join("answer.json");
    std::fs::write(&answer, r#"{"receipt":1}"#).unwrap();
    sidecar.cli(&["resolve", "w", "1", "--completed", answer.to_str().unwrap()]).expect_code(0);

    for expected in [&broken, &doubt] {
        let again = told(&sidecar, &charge(2)).expect(422, "replay");
        assert_eq!(again.body, expected.body);
    }
    sidecar.call(&ask(2, "the charge is in doubt")).expect(200, "replay");
    // Asked once more than in its last life, it learns what was found out. Nothing is sent.
    let found_out = sidecar.call(&charge(2)).expect(200, "replay");
    assert_eq!(found_out.text(), r#"{"receipt":1}"#);
    assert_eq!((model.count(), crm.count()), (1, 1));
}

#[test]
fn a_refusal_that_the_agent_did_not_go_on_from_is_decided_anew() {
    let crm_upstream = Upstream::start(|_| Script::raw("").then(Act::Reset));
    let sidecar = crm(&crm_upstream).start();
    told(&sidecar, &charge(1));
    assert!(told(&sidecar, &charge(1)).text().contains("OG3001"));
    sidecar.cli(&["resolve", "w", "1", "--not-executed"]).expect_code(0);
    crm_upstream.answers(counted);
    sidecar.call(&charge(2)).expect(200, "live");
}

#[test]
fn a_refused_fork_is_told_again_to_a_life_that_takes_the_same_way() {
    let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
    let setup = Setup::new().upstream("openai", "openai", &model.url());
    let sidecar = setup.upstream("crm", "http", &crm.url()).start();
    sidecar.call(&charge(1)).expect(200, "live");
    sidecar.call(&ask(1, "charged")).expect(200, "live");
    let refused = told(&sidecar, &Ask::post("/w/w/a/2/crm/charge", r#"{"invoice_id":8}"#));
    assert!(refused.text().contains("OG3012"), "{refused:?}");
    told(&sidecar, &ask(2, "refused")).expect(200, "live");

    let again = told(&sidecar, &Ask::post("/w/w/a/3/crm/charge", r#"{"invoice_id":8}"#));
    assert_eq!(again.expect(422, "replay").body, refused.body);
    sidecar.call(&ask(3, "refused")).expect(200, "replay");
    assert_eq!((model.count(), crm.count()), (2, 1));
}

#[test]
fn a_failure_that_is_told_again_has_been_asked_for_and_holds_no_later_effect_up() {
    // What lies ahead is looked up when something new is asked for, before the failure is told or after.
    for (asks_first, restarts) in [(false, false), (false, true), (true, false)] {
        let (model, crm) = (Upstream::start(completion), Upstream::start(counted));
        let setup = Setup::new().upstream("openai", "openai", &model.url());
        let mut sidecar = setup.upstream("crm", "http", &crm.url()).start();
        let charge = |attempt: usize, invoice: u32| {
            Ask::post(format!("/w/w/a/{attempt}/crm/charge"), json!({"invoice_id": invoice}).to_string())
        };
        told(&sidecar, &ask(1, "pay both")).expect(200, "live");
        crm.answers(|_| Script::status(504));
        told(&sidecar, &charge(1, 7)).expect(504, "live");
        crm.answers(counted);
        told(&sidecar, &charge(1, 8)).expect(200, "live");

        if asks_first {
            sidecar.call(&ask(2, "what is the time?")).expect(200, "live");
        }
        told(&sidecar, &ask(2, "pay both")).expect(200, "replay");
        told(&sidecar, &charge(2, 7)).expect(504, "replay");
        sidecar.call(&charge(2, 8)).expect(200, "replay");
        if restarts {
            sidecar.kill9();
            sidecar.restart();
        }
        sidecar.call(&ask(2, "and now?")).expect(200, "live");
        sidecar.call(&charge(2, 9)).expect(200, "live");
        assert_eq!(crm.count(), 3);
    }
}

#[test]
fn a_tool_server_that_was_busy_is_told_again_with_the_id_of_the_request_that_asks() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let sidecar = Setup::new().upstream("tools", "mcp", &upstream.url()).start();
    let mut first = Caller::stateless("/w/w/a/1/tools", 1);
    server.tool_calls(|call| match call.tool.as_str() {
        "charge" => Script::raw("").then(Act::Reset),
        _ => call.reply,
    });
    let doubt = told(&sidecar, &first.tool("charge", &json!({"invoice_id": 7})));
    let (text, is_error) = result(&doubt);
    assert!(is_error && text.contains("OG3001"), "{doubt:?}");
    told(&sidecar, &first.tool("report", &json!({}))).expect(200, "live");

    let mut second = Caller::stateless("/w/w/a/2/tools", 40);
    let again = told(&sidecar, &second.tool("charge", &json!({"invoice_id": 7}))).expect(200, "replay");
    assert_eq!(result(&again).0, text);
    assert_ne!(again.json()["id"], doubt.json()["id"]);
    sidecar.call(&second.tool("report", &json!({}))).expect(200, "replay");
}

#[test]
fn a_stream_that_broke_off_is_told_again_as_a_failure_and_not_as_half_an_answer() {
    let model = Upstream::start(|request| match request.text().contains("busy") {
        true => Script::stream().chunks(&Api::OpenaiChat.events(&["half"])[..1]).then(Act::Reset),
        false => completion(request),
    });
    let sidecar = openai(&model).start();
    let path = |attempt| Ask::post(chat_path(attempt), Api::OpenaiChat.ask("busy", true));
    assert!(sidecar.try_call(&path(1)).is_err(), "no clean end");
    sidecar.settle();
    told(&sidecar, &ask(1, "without it")).expect(200, "live");
    let again = told(&sidecar, &path(2)).expect(502, "replay");
    assert!(again.text().contains("OG4004"), "{again:?}");
    sidecar.call(&ask(2, "without it")).expect(200, "replay");
    assert_eq!(model.count(), 2);
}
