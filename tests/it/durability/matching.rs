//! Which recorded answer a restarted agent's call gets: by what is asked, each answer once.

use serde_json::json;

use crate::support::agent::Agent;
use crate::support::client::{Answer, Ask};
use crate::support::llm::{Api, Usage, chat};
use crate::support::mcp::{Caller, Era, Form, Server};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

use super::{chat_path, completion, counted, counting, crm, openai};

/// The calls of an agent that alternates between a model, an MCP tool and an HTTP tool.
fn errand(count: usize, first_id: u64) -> Vec<Ask> {
    let mut tools = Caller::stateless("/w/errand/tools", first_id);
    (0..count)
        .map(|call| match call % 3 {
            0 => Ask::post(
                "/w/errand/openai/v1/chat/completions",
                Api::OpenaiChat.ask(&format!("turn {call}"), true),
            ),
            1 => tools.tool("charge", &json!({"invoice_id": call, "amount": "12.50"})),
            _ => Ask::post("/w/errand/crm/notes", format!(r#"{{"note": {call}}}"#)),
        })
        .collect()
}

#[test]
fn case_1_a_killed_agent_finds_its_47_steps_and_goes_on_with_the_48th() {
    let model = Upstream::start(|request| {
        let text = format!("answer {}", request.count);
        Script::events(&chat(&[&text, " and more"], Usage::Asked))
    });
    let server = Server::new(Era::Stateless, Form::Json);
    let (tools, crm) = (server.start(), counting());
    let sidecar = Setup::new()
        .upstream("openai", "openai", &model.url())
        .upstream("tools", "mcp", &tools.url())
        .upstream("crm", "http", &crm.url())
        .start();
    let calls = errand(48, 1);

    let mut first = Agent::start(sidecar.address());
    let lived: Vec<Answer> = calls[..47].iter().map(|ask| first.call(ask).expect(200, "live")).collect();
    first.kill9();
    let before = (model.count(), tools.count(), crm.count());

    let mut second = Agent::start(sidecar.address());
    for (number, (ask, lived)) in calls.iter().zip(&lived).enumerate() {
        let replayed = second.call(ask).expect(200, "replay");
        assert_eq!(replayed.body, lived.body, "step {}: other bytes", number + 1);
        assert_eq!(replayed.header("content-type"), lived.header("content-type"));
        assert_eq!(replayed.step(), number as u64 + 1);
        assert_eq!(replayed.attempt(), "2; reason=process");
    }
    assert_eq!((model.count(), tools.count(), crm.count()), before, "a replay reached an upstream");
    let next = second.call(&calls[47]).expect(200, "live");
    assert_eq!(next.step(), 48);
    let steps = sidecar.timeline("errand")["steps"].as_array().unwrap().clone();
    assert_eq!(steps.len(), 48);
    assert!(steps.iter().all(|step| step["state"] == "completed"));
}

#[test]
fn case_9_an_attempt_that_was_overtaken_is_refused_even_where_it_matches() {
    let upstream = counting();
    let sidecar = crm(&upstream).start();
    let ask = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/notes"), "{}");
    sidecar.call(&ask(1)).expect(200, "live");
    sidecar.call(&ask(2)).expect(200, "replay");
    let refused = sidecar.call(&ask(1));
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert!(refused.text().contains("OG3002"), "{refused:?}");
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(upstream.count(), 1);
}

/// Asks the same `count` times, one after the other.
fn polls(sidecar: &Sidecar, attempt: usize, count: usize, source: &str) -> Vec<String> {
    let ask = Ask::get(format!("/w/w/a/{attempt}/crm/jobs/7?wait=1"));
    (0..count).map(|_| sidecar.call(&ask).expect(200, source).text()).collect()
}

#[test]
fn case_12_the_kth_poll_of_a_loop_gets_the_kth_answer_also_after_a_restart_of_the_sidecar() {
    let upstream = counting();
    // The effect below is none of the recorded run.
    let mut sidecar = crm(&upstream).line("on_divergence: live").start();
    let lived = polls(&sidecar, 1, 10, "live");
    assert_eq!(upstream.count(), 10);

    let mut replayed = polls(&sidecar, 2, 4, "replay");
    assert!(sidecar.stop().success());
    sidecar.restart();
    replayed.extend(polls(&sidecar, 2, 3, "replay"));
    // An effect between them carries the notes of the polls before it to the disk, so a kill may follow.
    sidecar.call(&Ask::post("/w/w/a/2/crm/notes", "{}")).expect(200, "live");
    sidecar.kill9();
    sidecar.restart();
    replayed.extend(polls(&sidecar, 2, 3, "replay"));
    assert_eq!(replayed, lived);
    assert_eq!(polls(&sidecar, 2, 1, "live").len(), 1);
    assert_eq!(upstream.count(), 12);
}

#[test]
fn case_12_a_poll_in_the_first_attempt_goes_on_live_after_the_sidecar_alone_was_restarted() {
    let upstream = counting();
    let mut sidecar = crm(&upstream).start();
    polls(&sidecar, 1, 3, "live");
    assert!(sidecar.stop().success());
    sidecar.restart();
    polls(&sidecar, 1, 2, "live");
    assert_eq!(upstream.count(), 5);
}

#[test]
fn case_30_a_closed_workflow_is_refused_and_nothing_is_sent() {
    let upstream = counting();
    let sidecar = crm(&upstream).start();
    let ask = |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/crm/notes"), "{}");
    sidecar.call(&ask(1)).expect(200, "live");
    sidecar.cli(&["close", "w"]).expect_code(0);
    for attempt in [1, 2] {
        let refused = sidecar.call(&ask(attempt));
        assert_eq!((refused.status, refused.header("x-should-retry")), (422, Some("false")), "{refused:?}");
        assert!(refused.text().contains("OG3004"), "{refused:?}");
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(sidecar.timeline("w")["state"], "closed");
}

#[test]
fn a_model_call_that_failed_is_tried_again_as_the_same_step_and_replays_its_success() {
    for status in [408, 429, 500, 503, 529] {
        let upstream =
            Upstream::start(
                move |request| {
                    if request.count == 1 { Script::status(status) } else { completion(request) }
                },
            );
        let sidecar = openai(&upstream).start();
        let ask = |attempt| Ask::post(chat_path(attempt), Api::OpenaiChat.ask("hello", false));
        let failed = sidecar.call(&ask(1)).expect(status, "live");
        assert_eq!(failed.step(), 1);
        let lived = sidecar.call(&ask(1)).expect(200, "live");
        assert_eq!(lived.step(), 1, "a retry of {status} is the next try of the step");
        assert_eq!(sidecar.call(&ask(2)).expect(200, "replay").body, lived.body);
        assert_eq!(upstream.count(), 2);
        let timeline = sidecar.timeline("w");
        assert_eq!(
            (&timeline["steps"][0]["state"], &timeline["steps"][0]["tries"]),
            (&json!("completed"), &json!(2))
        );
        assert_eq!(timeline["steps"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn case_23_a_failure_the_agent_never_got_past_is_sent_again_after_its_restart() {
    let upstream =
        Upstream::start(|request| if request.count <= 3 { Script::status(503) } else { completion(request) });
    let sidecar = openai(&upstream).start();
    let ask = |attempt| Ask::post(chat_path(attempt), Api::OpenaiChat.ask("hello", false));
    for _ in 0..3 {
        sidecar.call(&ask(1)).expect(503, "live");
    }
    sidecar.call(&ask(2)).expect(200, "live");
    assert_eq!(sidecar.states("w"), ["completed"]);
}

#[test]
fn an_answer_that_would_be_the_same_again_is_a_result_and_replays() {
    for status in [400, 404, 405, 409, 410, 413, 415, 422] {
        let upstream = Upstream::start(move |_| Script::status(status));
        // With `ask` a 400 would be taken for a refusal of the usage option first.
        let sidecar =
            Setup::new().upstream_with("openai", "openai", &upstream.url(), "usage: observe").start();
        let ask = |attempt| Ask::post(chat_path(attempt), Api::OpenaiChat.ask("hello", true));
        let lived = sidecar.call(&ask(1)).expect(status, "live");
        let replayed = sidecar.call(&ask(2)).expect(status, "replay");
        assert_eq!(replayed.body, lived.body);
        assert_eq!(upstream.count(), 1);
    }
}

#[test]
fn a_changed_user_id_in_the_metadata_still_matches_but_another_prompt_does_not() {
    let upstream =
        Upstream::start(|request| Script::json(Api::Anthropic.answer(&format!("answer {}", request.count))));
    let sidecar = Setup::new().upstream("anthropic", "anthropic", &upstream.url()).start();
    let ask = |attempt: usize, prompt: &str, session: &str| {
        let body = format!(
            r#"{{"model":"claude","max_tokens":9,"metadata":{{"user_id":"{{\"session_id\":\"{session}\"}}"}},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
        );
        Ask::post(format!("/w/w/a/{attempt}/anthropic/v1/messages"), body)
            .header("x-claude-code-session-id", session)
    };
    let lived = sidecar.call(&ask(1, "pay", "one")).expect(200, "live");
    assert_eq!(sidecar.call(&ask(2, "pay", "two")).expect(200, "replay").body, lived.body);
    sidecar.call(&ask(2, "do not pay", "two")).expect(200, "live");
    let sent: Vec<String> = upstream.requests().iter().map(|request| request.text()).collect();
    assert!(sent[0].contains("one") && sent[1].contains("two"), "what is sent is never changed: {sent:?}");
}

#[test]
fn what_differs_only_in_form_is_the_same_call_and_what_differs_in_content_is_not() {
    let upstream = counting();
    let sidecar = crm(&upstream).start();
    let ask = |attempt: usize, body: &str| Ask::post(format!("/w/w/a/{attempt}/crm/notes"), body);
    sidecar.call(&ask(1, r#"{"a": 1, "b": [1, 2]}"#)).expect(200, "live");
    sidecar.call(&ask(2, r#"{"b":[1,2],"a":1}"#)).expect(200, "replay");
    sidecar.call(&ask(2, r#"{"b":[2,1],"a":1}"#)).expect(200, "live");
    sidecar.call(&ask(2, r#"{"b":[1,2],"a":1.0}"#)).expect(200, "live");
    assert_eq!(upstream.count(), 3);
    // A tool's `key` is no API key.
    sidecar.call(&Ask::get("/w/w/a/2/crm/customers?key=7")).expect(200, "live");
    sidecar.call(&Ask::get("/w/w/a/3/crm/customers?key=8")).expect(200, "live");
    sidecar.call(&Ask::get("/w/w/a/3/crm/customers?key=7")).expect(200, "replay");
}

#[test]
fn the_workflow_may_come_by_path_by_header_or_by_default_and_all_agree() {
    let upstream = counting();
    let sidecar = crm(&upstream).line("default_workflow: nightly").start();
    let by_path = sidecar.call(&Ask::get("/w/nightly/a/1/crm/x")).expect(200, "live");
    assert_eq!(by_path.header("x-outrigger-workflow"), Some("nightly"));
    let by_header =
        Ask::get("/crm/x").header("x-outrigger-workflow", "nightly").header("x-outrigger-attempt", "2");
    sidecar.call(&by_header).expect(200, "replay");
    let by_default = Ask::get("/crm/x").header("x-outrigger-attempt", "3");
    sidecar.call(&by_default).expect(200, "replay");
    // The default yields to a workflow that is named.
    let other = sidecar.call(&Ask::get("/w/other/a/1/crm/x")).expect(200, "live");
    assert_eq!(other.header("x-outrigger-workflow"), Some("other"));
    let torn = Ask::get("/w/nightly/crm/x").header("x-outrigger-workflow", "other");
    let refused = sidecar.call(&torn);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text().contains("OG1003"), "{refused:?}");
    for request in upstream.requests() {
        assert!(request.headers.iter().all(|(name, _)| !name.starts_with("x-outrigger")), "{request:?}");
    }
}

#[test]
fn head_and_empty_answers_are_recorded_and_replayed_as_they_were() {
    let upstream = Upstream::start(|request| match request.method.as_str() {
        "HEAD" => Script::raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n",
        ),
        "DELETE" => Script::raw("HTTP/1.1 204 No Content\r\nx-request-id: r1\r\n\r\n"),
        _ => Script::raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    });
    let sidecar = crm(&upstream).start();
    for (method, status) in [("HEAD", 200), ("DELETE", 204), ("GET", 200)] {
        let ask = |attempt: usize| Ask::new(method, format!("/w/{method}/a/{attempt}/crm/thing"));
        // Both on one connection: a body that should not be there would be read as the next answer.
        let mut connection = sidecar.connect();
        let lived = connection.call(&ask(1)).unwrap().expect(status, "live");
        let replayed = connection.call(&ask(2)).unwrap().expect(status, "replay");
        assert_eq!(replayed.body, lived.body);
        for name in ["etag", "x-request-id", "content-type"] {
            assert_eq!(replayed.header(name), lived.header(name), "{method}: {name}");
        }
        let again = connection.call(&Ask::get(format!("/w/{method}/a/2/crm/other"))).unwrap();
        assert_eq!(again.status, 200);
    }
    assert_eq!(upstream.count_of("/thing"), 3);
}

#[test]
fn a_compressed_request_is_the_same_call_as_the_plain_one() {
    use std::io::Write;
    let upstream = Upstream::start(counted);
    let sidecar = crm(&upstream).start();
    let body = br#"{"note": "the same"}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body).unwrap();
    let packed = Ask::post("/w/w/a/1/crm/notes", gzip.finish().unwrap()).header("content-encoding", "gzip");
    let lived = sidecar.call(&packed).expect(200, "live");
    let plain = Ask::post("/w/w/a/2/crm/notes", body);
    assert_eq!(sidecar.call(&plain).expect(200, "replay").body, lived.body);
}

#[test]
fn an_upstream_that_refuses_to_tell_usage_gets_the_agents_own_request_and_is_not_asked_again() {
    let upstream = Upstream::start(|request| {
        if request.text().contains("stream_options") {
            Script::answer(400, "application/json", r#"{"error":{"message":"unknown field stream_options"}}"#)
        } else {
            Script::events(&chat(&["fine"], Usage::NotAsked))
        }
    });
    let sidecar = openai(&upstream).start();
    let body = |prompt: &str| {
        format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#)
    };
    let answer = sidecar.call(&Ask::post(chat_path(1), body("one"))).expect(200, "live");
    assert_eq!(answer.text(), chat(&["fine"], Usage::NotAsked).concat());
    assert_eq!(upstream.count(), 2);
    assert_eq!(upstream.requests()[1].text(), body("one"));
    sidecar.call(&Ask::post(chat_path(1), body("two"))).expect(200, "live");
    assert_eq!(upstream.count(), 3, "it is not asked again");
    assert_eq!(sidecar.states("w"), ["completed", "completed"]);
}

#[test]
fn a_refusal_longer_than_what_is_searched_for_the_usage_option_is_the_answer_as_it_is() {
    for (status, len) in [(400, 100_000), (422, 3 << 20)] {
        let body = format!(r#"{{"error":{{"message":"{}"}}}}"#, "x".repeat(len));
        let sent = body.clone();
        let upstream = Upstream::start(move |_| Script::answer(status, "application/json", &sent));
        let sidecar = openai(&upstream).start();
        let ask = |attempt| {
            Ask::post(chat_path(attempt), r#"{"model":"m","stream":true,"messages":[]}"#.as_bytes())
        };
        for (attempt, source) in [(1, "live"), (2, "replay")] {
            let answer = sidecar.call(&ask(attempt)).expect(status, source);
            assert!(answer.text() == body, "the answer differs: {}", answer.body.len());
        }
        assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["completed".to_owned()]));
    }
}
