//! `input_required` chains of the newer protocol: several requests, one step.

use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::support::mcp::{Caller, Era, Form, Server, ToolCall, response, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Script, Upstream};

use super::tools;

/// A server whose `charge` asks for the amount first and charges at the second leg, answered by `second`.
fn asking(form: Form, second: impl Fn(ToolCall) -> Script + Send + Sync + 'static) -> (Server, Upstream) {
    let server = Server::new(Era::Stateless, form);
    server.tool_calls(move |call| {
        if call.params["inputResponses"].is_object() {
            return second(call);
        }
        let state = format!("state-{}", call.nth);
        let asks = json!({"resultType": "input_required", "requestState": state,
            "inputRequests": {"amount": {"method": "elicitation/create", "params": {}}}});
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{asks}}}"#, call.id);
        match form {
            Form::Json => Script::json(body),
            Form::Events => Script::events(&[format!("data: {body}\n\n")]),
        }
    });
    let upstream = server.start();
    (server, upstream)
}

fn first_leg(sidecar: &Sidecar, caller: &mut Caller) -> Answer {
    caller.call(sidecar, "charge", &json!({"invoice": 7}))
}

fn state(answer: &Answer) -> String {
    let response = response(answer);
    assert_eq!(response["result"]["resultType"], "input_required", "{answer:?}");
    response["result"]["requestState"].as_str().unwrap().to_owned()
}

fn leg(sidecar: &Sidecar, caller: &mut Caller, state: &str, amount: u64) -> Answer {
    let params = json!({"name": "charge", "arguments": {"invoice": 7}, "requestState": state,
        "inputResponses": {"amount": {"action": "accept", "content": {"amount": amount}}}});
    sidecar.call(&caller.ask("tools/call", &params))
}

fn agent(attempt: usize) -> Caller {
    Caller::stateless(format!("/w/w/a/{attempt}/tools"), attempt as u64 * 100)
}

fn sent(upstream: &Upstream) -> Vec<Value> {
    upstream.requests().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

#[test]
fn all_legs_of_a_chain_are_one_step_and_its_result_answers_the_first_leg() {
    for form in [Form::Json, Form::Events] {
        let (server, upstream) = asking(form, |call| call.reply);
        let sidecar = tools(&upstream);
        let mut first = agent(1);
        let asks = first_leg(&sidecar, &mut first).expect(200, "live");
        let done = leg(&sidecar, &mut first, &state(&asks), 30).expect(200, "live");
        assert_eq!((asks.step(), done.step()), (1, 1), "{form:?}");
        assert_eq!(sent(&upstream)[1]["params"]["requestState"], "state-1", "the leg's own bytes are sent");
        assert_eq!(sidecar.states("w"), ["completed"]);

        let answered = first_leg(&sidecar, &mut agent(2)).expect(200, "replay");
        assert_eq!(result(&answered), result(&done), "{form:?}");
        // An agent that kept its place may ask with the later leg.
        let answered = leg(&sidecar, &mut agent(3), "state-1", 31).expect(200, "replay");
        assert_eq!(result(&answered), result(&done), "{form:?}");
        assert_eq!(server.charges(), 2, "{form:?}: two legs, and nothing else was sent");
    }
}

#[test]
fn the_same_call_after_a_finished_chain_is_another_one() {
    let (server, upstream) = asking(Form::Json, |call| call.reply);
    let sidecar = tools(&upstream);
    let mut agent = agent(1);
    for step in [1, 2] {
        let asks = first_leg(&sidecar, &mut agent);
        assert_eq!(leg(&sidecar, &mut agent, &state(&asks), 30).step(), step);
    }
    assert_eq!(server.charges(), 4);
    assert_eq!(sidecar.states("w"), ["completed", "completed"]);
}

#[test]
fn a_chain_that_only_asked_is_begun_anew_by_the_next_attempt() {
    let (server, upstream) = asking(Form::Json, |call| call.reply);
    let mut sidecar = tools(&upstream);
    state(&first_leg(&sidecar, &mut agent(1)));
    assert_eq!(sidecar.states("w"), ["failed"]);
    assert_eq!(sidecar.timeline("w")["steps"][0]["detail"], "it asked for input");
    sidecar.kill9();
    sidecar.restart();
    let mut second = agent(2);
    let asks = first_leg(&sidecar, &mut second).expect(200, "live");
    assert_eq!((state(&asks).as_str(), asks.step()), ("state-2", 1), "the old state may be stale");
    leg(&sidecar, &mut second, "state-2", 30).expect(200, "live");
    assert_eq!(sidecar.states("w"), ["completed"]);
    assert_eq!(server.charges(), 3);
}

#[test]
fn a_later_leg_in_doubt_puts_the_step_in_doubt_whatever_the_new_inputs() {
    let (server, upstream) = asking(Form::Json, |_| Script::default().then(Act::Reset));
    let mut sidecar = tools(&upstream);
    let mut first = agent(1);
    let asks = first_leg(&sidecar, &mut first);
    let in_doubt = |answer: Answer| {
        let (text, is_error) = result(&answer);
        assert!(is_error && text.contains("OG3001"), "{answer:?}");
    };
    in_doubt(leg(&sidecar, &mut first, &state(&asks), 30));
    in_doubt(leg(&sidecar, &mut first, &state(&asks), 40));
    sidecar.kill9();
    sidecar.restart();
    let mut second = agent(2);
    in_doubt(first_leg(&sidecar, &mut second));
    in_doubt(leg(&sidecar, &mut second, "state-1", 50));
    assert_eq!(server.charges(), 2, "the first leg and the one that broke");
    assert_eq!(sidecar.states("w"), ["in_doubt"]);
}

#[test]
fn every_leg_carries_the_key_of_its_step() {
    let (_server, upstream) = asking(Form::Json, |call| call.reply);
    let rule = "tools: { charge: { idempotency_key: { argument: /key } } }";
    let sidecar = Setup::new().upstream_with("tools", "mcp", &upstream.url(), rule).start();
    let mut caller = agent(1);
    let asks = first_leg(&sidecar, &mut caller);
    leg(&sidecar, &mut caller, &state(&asks), 30).expect(200, "live");
    let keys: Vec<String> = sent(&upstream)
        .iter()
        .map(|sent| sent["params"]["arguments"]["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
}

#[test]
fn a_prompt_may_ask_for_input_as_well() {
    let server = Server::new(Era::Stateless, Form::Json);
    server.methods(|method, params| {
        assert_eq!(method, "prompts/get");
        Some(if params["inputResponses"].is_object() {
            json!({"resultType": "complete", "messages": []})
        } else {
            json!({"resultType": "input_required", "requestState": "s", "inputRequests": {}})
        })
    });
    let upstream = server.start();
    let sidecar = tools(&upstream);
    let plain = json!({"name": "p"});
    let later = json!({"name": "p", "requestState": "s", "inputResponses": {}});
    let mut caller = agent(1);
    for params in [&plain, &later] {
        assert_eq!(sidecar.call(&caller.ask("prompts/get", params)).expect(200, "live").step(), 1);
    }
    let answered = sidecar.call(&agent(2).ask("prompts/get", &plain)).expect(200, "replay");
    assert_eq!(response(&answered)["result"]["resultType"], "complete");
    assert_eq!(upstream.count(), 2);
}
