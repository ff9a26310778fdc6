//! What the config says of a tool, and what becomes of its effects then: keys, identities, statuses, repeats.

use serde_json::{Value, json};

use crate::support::client::Ask;
use crate::support::gate::Gate;
use crate::support::mcp::{Caller, Era, Form, Server, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Request, Script, Upstream};

use super::{counted, counting};

/// A sidecar before an HTTP upstream with one tool, `charge`: POST /charges.
fn charging(upstream: &Upstream, rule: &str) -> Setup {
    let tools = format!("tools: {{ charge: {{ method: POST, path: /charges, {rule} }} }}");
    Setup::new().upstream_with("crm", "http", &upstream.url(), &tools)
}

fn charge(attempt: usize, body: &str) -> Ask {
    Ask::post(format!("/w/w/a/{attempt}/crm/charges"), body)
}

/// Charges that are the same to an upstream which honours keys.
fn distinct_keys(requests: &[Request]) -> Vec<String> {
    let mut keys: Vec<String> = requests
        .iter()
        .map(|request| request.header("idempotency-key").unwrap_or("none").to_owned())
        .collect();
    keys.dedup();
    keys
}

/// Kills the sidecar while the first request is under way upstream, and starts it again.
fn killed_under_way(sidecar: &mut Sidecar, upstream: &Upstream, ask: &Ask) {
    let gate = Gate::new();
    let held = gate.clone();
    upstream.answers(move |request| counted(request).held(&held));
    let mut agent = sidecar.connect();
    agent.send(ask);
    gate.reached(1);
    sidecar.kill9();
    gate.open();
    upstream.answers(counted);
    sidecar.restart();
}

#[test]
fn case_3_the_recorded_bytes_are_sent_again_with_the_identical_key() {
    let upstream = counting();
    let mut sidecar = charging(&upstream, "idempotency_key: { header: Idempotency-Key }").start();
    killed_under_way(&mut sidecar, &upstream, &charge(1, r#"{ "amount" : 5 }"#));
    // The same call, spelled otherwise.
    let answer = sidecar.call(&charge(2, r#"{"amount":5}"#)).expect(200, "live");
    assert_eq!(answer.step(), 1);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].text(), r#"{ "amount" : 5 }"#, "the recorded bytes, not the live ones");
    let keys = distinct_keys(&requests);
    assert!(keys.len() == 1 && keys[0].starts_with("or-"), "{keys:?}");
    assert_eq!(sidecar.call(&charge(3, r#"{"amount":5}"#)).expect(200, "replay").body, answer.body);
    assert_eq!(sidecar.states("w"), ["completed"]);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn case_3_a_key_among_the_arguments_of_an_mcp_tool_is_recorded_and_sent_again() {
    let server = Server::new(Era::Stateless, Form::Json);
    let upstream = server.start();
    let gate = Gate::new();
    let held = gate.clone();
    server.tool_calls(move |call| if call.nth == 1 { call.reply.held(&held) } else { call.reply });
    let rule = "tools: { charge: { idempotency_key: { argument: /idempotency_key } } }";
    let mut sidecar = Setup::new().upstream_with("tools", "mcp", &upstream.url(), rule).start();
    let mut agent = sidecar.connect();
    agent.send(&Caller::stateless("/w/w/a/1/tools", 7).tool("charge", &json!({"invoice_id": 7})));
    gate.reached(1);
    sidecar.kill9();
    gate.open();
    sidecar.restart();
    // `call` checks that the response has the id of the request that asks now.
    let answer = Caller::stateless("/w/w/a/2/tools", 40).call(&sidecar, "charge", &json!({"invoice_id": 7}));
    assert!(!result(&answer).1, "{answer:?}");
    let sent: Vec<Value> =
        upstream.requests().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let arguments = |at: usize| &sent[at]["params"]["arguments"];
    assert!(arguments(0)["idempotency_key"].as_str().is_some_and(|key| key.starts_with("or-")), "{sent:?}");
    assert_eq!((arguments(0), &sent[0]["id"], &sent[1]["id"]), (arguments(1), &json!(7), &json!(40)));
    Caller::stateless("/w/w/a/3/tools", 90).call(&sidecar, "charge", &json!({"invoice_id": 7}));
    assert_eq!(upstream.count_of("/mcp"), 2, "the third attempt is answered from the journal");
}

#[test]
fn a_key_that_the_agent_sends_itself_is_kept_and_the_recorded_one_is_sent_again() {
    let upstream = counting();
    let mut sidecar = charging(&upstream, "idempotency_key: { header: Idempotency-Key }").start();
    let with_key = |attempt: usize, key: &str| charge(attempt, "{}").header("idempotency-key", key);
    killed_under_way(&mut sidecar, &upstream, &with_key(1, "first-life"));
    sidecar.call(&with_key(2, "second-life")).expect(200, "live");
    assert_eq!(distinct_keys(&upstream.requests()), ["first-life"]);
}

#[test]
fn case_5_a_keyed_effect_that_failed_half_way_is_no_doubt_but_the_next_try() {
    let upstream =
        Upstream::start(|request| if request.count < 3 { Script::status(504) } else { counted(request) });
    let sidecar = charging(&upstream, "idempotency_key: { header: Idempotency-Key }").start();
    for _ in 0..2 {
        assert_eq!(sidecar.call(&charge(1, "{}")).status, 504);
    }
    assert_eq!(sidecar.call(&charge(1, "{}")).expect(200, "live").step(), 1);
    assert_eq!((distinct_keys(&upstream.requests()).len(), upstream.count()), (1, 3));
}

#[test]
fn every_effect_has_a_key_of_its_own_and_every_workflow_other_ones() {
    let upstream = counting();
    let sidecar = charging(&upstream, "idempotency_key: { header: Idempotency-Key }").start();
    for path in ["/w/w/a/1/crm/charges", "/w/w/a/1/crm/charges", "/w/v/a/1/crm/charges"] {
        sidecar.call(&Ask::post(path, "{}")).expect(200, "live");
    }
    let mut keys = distinct_keys(&upstream.requests());
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3, "{keys:?}");
}

#[test]
fn case_18_a_reworded_memo_finds_the_charge_that_was_made() {
    let upstream = counting();
    let mut sidecar = charging(&upstream, "identity: [/invoice_id]").start();
    let memo = |attempt: usize, invoice: u32, memo: &str| {
        charge(attempt, &json!({"invoice_id": invoice, "memo": memo}).to_string())
    };
    let made = sidecar.call(&memo(1, 7, "Thank you!")).expect(200, "live");
    sidecar.call(&memo(1, 8, "Thanks")).expect(200, "live");
    sidecar.kill9();
    sidecar.restart();
    let found = sidecar.call(&memo(2, 7, "Many thanks")).expect(200, "replay");
    assert_eq!((found.step(), found.body), (1, made.body));
    // Used: the same invoice a second time is a second charge.
    assert_eq!(sidecar.call(&memo(2, 7, "Once more")).expect(200, "live").step(), 3);
    assert_eq!(sidecar.call(&memo(2, 8, "Thanks, again")).expect(200, "replay").step(), 2);
    assert_eq!(upstream.count(), 3);
}

#[test]
fn case_18_a_reworded_effect_in_doubt_is_in_doubt() {
    let upstream = counting();
    let mut sidecar = charging(&upstream, "identity: [/invoice_id]").start();
    killed_under_way(&mut sidecar, &upstream, &charge(1, r#"{"invoice_id":7,"memo":"a"}"#));
    let refused = sidecar.call(&charge(2, r#"{"invoice_id":7,"memo":"other words"}"#));
    assert!(refused.status == 422 && refused.text().contains("OG3001"), "{refused:?}");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_corrected_effect_is_no_retry_of_the_one_that_was_not_carried_out() {
    let rules =
        ["identity: [/invoice_id]", "identity: [/invoice_id], idempotency_key: { header: Idempotency-Key }"];
    for (rule, status, attempt) in [(rules[0], 429, 1), (rules[0], 403, 2), (rules[1], 429, 1)] {
        let upstream =
            Upstream::start(
                move |request| {
                    if request.count == 1 { Script::status(status) } else { counted(request) }
                },
            );
        let sidecar = charging(&upstream, rule).start();
        let of = |attempt: usize, cents: u32| {
            charge(attempt, &json!({"invoice_id": 7, "amount_cents": cents}).to_string())
        };
        assert_eq!(sidecar.call(&of(1, 100)).status, status);
        sidecar.settle();
        let corrected = sidecar.call(&of(attempt, 50)).expect(200, "live");
        assert_eq!(corrected.step(), 2, "a step of its own");
        // What was not carried out is tried again when it is asked for in the same words.
        assert_eq!(sidecar.call(&of(attempt, 100)).expect(200, "live").step(), 1);
        let sent: Vec<Vec<u8>> = upstream.requests().into_iter().map(|request| request.body).collect();
        assert_eq!(sent, [of(1, 100).body, of(1, 50).body, of(1, 100).body], "{rule}");
        assert_eq!(sidecar.states("w"), ["completed", "completed"]);
        // The corrected one is found in other words, and by these alone.
        let reworded = charge(3, r#"{"invoice_id":7,"amount_cents":50,"memo":"b"}"#);
        assert_eq!(sidecar.call(&of(3, 100)).expect(200, "replay").step(), 1);
        assert_eq!(sidecar.call(&reworded).expect(200, "replay").step(), 2);
    }
}

#[test]
fn an_effect_that_was_carried_out_in_other_words_since_is_not_carried_out_in_its_first_words() {
    for rule in ["identity: [/invoice_id]", "effect: effect"] {
        let upstream =
            Upstream::start(
                |request| {
                    if request.count == 1 { Script::status(429) } else { counted(request) }
                },
            );
        let sidecar = charging(&upstream, rule).start();
        let of =
            |attempt: usize, memo: &str| charge(attempt, &json!({"invoice_id": 7, "memo": memo}).to_string());
        // The agent dies before it tries again, and its next life words the charge differently.
        assert_eq!(sidecar.call(&of(1, "a")).status, 429);
        sidecar.settle();
        sidecar.call(&of(2, "b")).expect(200, "live");
        let answer = sidecar.call(&of(3, "a"));
        match rule {
            "effect: effect" => {
                assert!(answer.status == 422 && answer.text().contains("OG3012"), "{answer:?}")
            }
            _ => assert_eq!(answer.expect(200, "replay").step(), 2),
        }
        assert_eq!(upstream.count(), 2, "{rule}: the refusal and one charge");
    }
}

#[test]
fn a_key_that_the_tool_takes_elsewhere_since_makes_no_repetition_safe() {
    let places = [
        "idempotency_key: { header: Idempotency-Key }",
        "idempotency_key: { header: X-Request-Key }",
        "idempotency_key: { argument: /key }",
        "idempotency_key: { argument: /request_key }",
    ];
    let moved = places.iter().flat_map(|from| places.map(|to| (*from, to))).filter(|(from, to)| from != to);
    for (from, to) in moved.chain(places.map(|from| (from, "effect: effect"))) {
        let upstream = counting();
        let mut sidecar = charging(&upstream, from).start();
        killed_under_way(&mut sidecar, &upstream, &charge(1, r#"{"amount":5}"#));
        sidecar.kill9();
        sidecar.change(charging(&upstream, to));
        sidecar.restart();
        let refused = sidecar.call(&charge(2, r#"{"amount":5}"#));
        assert!(refused.status == 422 && refused.text().contains("OG3001"), "{from} to {to}: {refused:?}");
        assert_eq!(upstream.count(), 1, "{from} to {to}");
    }
}

#[test]
fn what_was_sent_as_a_read_and_is_an_effect_since_is_in_doubt_and_can_be_resolved() {
    for (before, outcome) in
        [("read", "--not-executed"), ("idempotent", "--not-executed"), ("read", "--abandon")]
    {
        let upstream = Upstream::start(|_| Script::status(504));
        let mut sidecar = charging(&upstream, &format!("effect: {before}")).start();
        assert_eq!(sidecar.call(&charge(1, "{}")).status, 504);
        assert!(sidecar.stop().success());
        upstream.answers(counted);
        sidecar.change(charging(&upstream, "effect: effect"));
        sidecar.restart();
        let refused = sidecar.call(&charge(2, "{}"));
        assert!(refused.status == 422 && refused.text().contains("OG3001"), "{before}: {refused:?}");
        assert_eq!((upstream.count(), sidecar.states("w")), (1, vec!["in_doubt".to_owned()]));
        sidecar.cli(&["close", "w"]).expect_code(3);
        sidecar.cli(&["resolve", "w", "1", outcome]).expect_code(0);
        if outcome == "--not-executed" {
            assert_eq!(sidecar.call(&charge(2, "{}")).expect(200, "live").step(), 1);
        }
        sidecar.cli(&["close", "w"]).expect_code(0);
    }
}

#[test]
fn what_was_not_carried_out_is_sent_as_the_stricter_of_what_it_was_and_is() {
    let key = "idempotency_key: { header: Idempotency-Key }";
    let effect = "effect: effect";
    let changes =
        [("effect: read", effect), (effect, "effect: read"), (effect, "effect: idempotent"), (key, effect)];
    for (before, since) in changes {
        let upstream = Upstream::start(|request| match request.count {
            1 => Script::status(429),
            _ => Script::raw("").then(Act::Reset),
        });
        let mut sidecar = charging(&upstream, before).start();
        assert_eq!(sidecar.call(&charge(1, "{}")).status, 429);
        assert!(sidecar.stop().success());
        sidecar.change(charging(&upstream, since));
        sidecar.restart();
        // Sent, told to be in doubt, and not sent again.
        for _ in 0..2 {
            let doubt = sidecar.call(&charge(2, "{}"));
            assert!(doubt.status == 422 && doubt.text().contains("OG3001"), "{before}, {since}: {doubt:?}");
        }
        assert_eq!(upstream.count(), 2);
        sidecar.cli(&["resolve", "w", "1", "--abandon"]).expect_code(0);
    }
}

#[test]
fn a_status_that_proves_nothing_was_done_clears_the_effect() {
    let failing = |status: u16| {
        Upstream::start(
            move |request| if request.count == 1 { Script::status(status) } else { counted(request) },
        )
    };
    let upstream = failing(503);
    let sidecar = charging(&upstream, "not_executed: [409, 503]").start();
    assert_eq!(sidecar.call(&charge(1, "{}")).status, 503);
    assert_eq!(sidecar.call(&charge(1, "{}")).expect(200, "live").step(), 1);
    // The list is the whole list: 429 is no longer on it.
    let upstream = failing(429);
    let sidecar = charging(&upstream, "not_executed: [503]").start();
    assert_eq!(sidecar.call(&charge(1, "{}")).status, 429);
    let refused = sidecar.call(&charge(1, "{}"));
    assert!(refused.status == 422 && refused.text().contains("OG3001"), "{refused:?}");
}

#[test]
fn an_operator_who_takes_a_second_effect_gets_it_and_the_journal_says_so() {
    let upstream = counting();
    let mut sidecar = charging(&upstream, "in_doubt: retry").start();
    killed_under_way(&mut sidecar, &upstream, &charge(1, "{}"));
    sidecar.call(&charge(2, "{}")).expect(200, "live");
    assert_eq!((upstream.count(), sidecar.states("w")), (2, vec!["completed".to_owned()]));
}

#[test]
fn a_tool_call_that_only_reads_is_sent_again_and_one_that_is_idempotent_as_it_was_recorded() {
    for (rule, again) in [("effect: read", r#"{"q":1}"#), ("effect: idempotent", r#"{ "q" : 1 }"#)] {
        let upstream = counting();
        let mut sidecar = charging(&upstream, rule).start();
        killed_under_way(&mut sidecar, &upstream, &charge(1, r#"{ "q" : 1 }"#));
        sidecar.call(&charge(2, r#"{"q":1}"#)).expect(200, "live");
        assert_eq!(upstream.requests()[1].text(), again, "{rule}");
    }
}

#[test]
fn an_idempotent_method_can_be_an_effect_and_a_read_can_be_one_too() {
    let upstream = Upstream::start(|_| Script(vec![Act::Close]));
    let tools = "tools: { put: { method: PUT, path: '/things/{id}', effect: effect } }";
    let sidecar = Setup::new().upstream_with("crm", "http", &upstream.url(), tools).start();
    for (path, status) in [("/w/w/a/1/crm/things/7", 422), ("/w/w/a/1/crm/others/7", 502)] {
        let put = Ask { method: "PUT".to_owned(), ..Ask::post(path, "{}") };
        sidecar.call(&put);
        assert_eq!(sidecar.call(&put).status, status, "{path}");
    }
    assert_eq!(sidecar.timeline("w")["steps"][0]["operation"], "put", "an HTTP tool goes by its name");
}
