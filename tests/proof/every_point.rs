//! The sidecar as a process of its own, killed as by `kill -9` at each fail-point: what the process really leaves on
//! a real disk, point by point.

use outrigger::failpoint::{Point, Trigger};
use serde_json::{Value, json};

use crate::support::client::{Answer, Ask, Broken};
use crate::support::mcp::Caller;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Request, Script, Upstream};

/// Enough for a segment of the smallest size to be sealed.
const CALLS: usize = 8;
const LARGE_BYTES: usize = 400_000;

/// Points that only a log with a torn end leads to, which no killed process leaves.
const NEEDS_POWER_CUT: [Point; 1] = [Point::TailKept];
/// Points that only an orderly stop leads to.
const NEEDS_STOP: [Point; 1] = [Point::StopComing];
/// Points that only a call in doubt leads to.
const NEEDS_DOUBT: [Point; 1] = [Point::DoubtRecorded];

fn handler(request: &Request) -> Script {
    if request.target.contains("/flaky") && request.nth == 1 {
        return Script::status(503);
    }
    if request.target.contains("/mcp") {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let result = json!({"content": [{"type": "text", "text": format!("number {}", request.count)}]});
        return Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string());
    }
    // Incompressible, so that segments fill.
    let mut random = crate::support::random::Random::new(request.count as u64);
    let noise: String = (0..LARGE_BYTES).map(|_| char::from(b'a' + (random.next() % 26) as u8)).collect();
    Script::json(json!({"number": request.count, "noise": noise}).to_string())
}

fn ask(at: usize, attempt: usize) -> Ask {
    let base = format!("/w/w/a/{attempt}");
    match at % 4 {
        0 => Ask::post(format!("{base}/crm/notes"), format!(r#"{{"note":{at}}}"#)),
        1 => Ask::get(format!("{base}/crm/customers?id={at}")),
        2 => Ask::get(format!("{base}/crm/flaky?id={at}")),
        _ => Caller::stateless(format!("{base}/tools"), 7).tool("charge", &json!({"at": at})),
    }
}

fn is_in_doubt(answer: &Answer) -> bool {
    answer.body.len() < 10_000 && answer.text().contains("OG3001")
}

/// Calls up to the end, or to what breaks or is in doubt.
fn run(sidecar: &Sidecar, attempt: usize, got: &mut Vec<String>) -> Option<Broken> {
    for at in 0..CALLS {
        let answer = loop {
            match sidecar.try_call(&ask(at, attempt)) {
                Ok(answer) if answer.status == 503 && at % 4 == 2 => {}
                Ok(answer) => break answer,
                Err(broken) => return Some(broken),
            }
        };
        if is_in_doubt(&answer) {
            assert_eq!(at, got.len(), "acknowledged and in doubt: {answer:?}");
            assert!(at % 4 == 0 || at % 4 == 3, "{answer:?}");
            return None;
        }
        assert_eq!(answer.status, 200, "call {at}: {answer:?}");
        match got.get(at) {
            Some(known) => {
                assert_eq!(answer.source(), "replay", "call {at} was sent again");
                assert!(*known == answer.text(), "call {at}: another answer");
            }
            None => got.push(answer.text()),
        }
    }
    None
}

#[test]
fn a_process_killed_at_any_fail_point_loses_no_answer_and_repeats_no_effect() {
    for point in Point::ALL.into_iter().filter(|point| !NEEDS_POWER_CUT.contains(point)) {
        let upstream = Upstream::start(handler);
        let trigger = Trigger { point, hit: 1 };
        let url = upstream.url();
        let setup = Setup::new().upstream("crm", "http", &url).upstream("tools", "mcp", &url);
        let mut sidecar = setup.clone().start();
        let mut got = Vec::new();
        if NEEDS_DOUBT.contains(&point) {
            leave_a_doubt(&mut sidecar, &upstream);
        } else {
            // An attempt with something to replay.
            assert!(sidecar.try_call(&ask(0, 1)).is_ok());
        }
        sidecar.kill9();
        sidecar.change(setup.clone().env("OUTRIGGER_FAILPOINT", &trigger.to_string()));
        if sidecar.try_restart() {
            run(&sidecar, 2, &mut got);
            if NEEDS_STOP.contains(&point) {
                sidecar.terminate();
            }
        }
        assert!(sidecar.is_killed(), "{trigger} was not reached");
        sidecar.change(setup);
        sidecar.restart();
        assert!(run(&sidecar, 3, &mut got).is_none(), "{trigger}: it does not go on");
        let effects = upstream.requests();
        for at in 0..CALLS {
            let body = if at % 4 == 0 { format!(r#"{{"note":{at}}}"#) } else { format!(r#"{{"at":{at}}}"#) };
            let count = effects.iter().filter(|request| request.text().contains(&body)).count();
            assert!(count <= 1, "{trigger}: effect {at} was carried out {count} times");
        }
    }
}

/// Ends with call 0 sent and not answered.
fn leave_a_doubt(sidecar: &mut Sidecar, upstream: &Upstream) {
    let gate = crate::support::gate::Gate::new();
    let held = gate.clone();
    upstream.answers(move |request| handler(request).held(&held));
    let mut agent = sidecar.connect();
    agent.send(&ask(0, 1));
    gate.reached(1);
    sidecar.kill_shared();
    sidecar.restart();
    gate.open();
    upstream.answers(handler);
}
