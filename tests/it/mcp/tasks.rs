//! Calls that a server answers with a task: what of it survives the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::support::mcp::{Caller, Era, Form, Server, response};
use crate::support::sidecar::Sidecar;
use crate::support::upstream::{Script, Upstream};

use super::tools;

/// A server whose `charge` is a task that works for `polls` polls. After that it has ended; `forget` makes the
/// server know no task any more.
struct Tasks {
    server: Server,
    upstream: Upstream,
    sidecar: Sidecar,
    polls_left: Arc<AtomicUsize>,
}

fn tasks(polls: usize) -> Tasks {
    let server = Server::new(Era::Stateless, Form::Json);
    server.tool_calls(|call| {
        let task = json!({"task": {"taskId": "t-1", "status": "working", "ttl": 60000}});
        let is_task = call.params["task"].is_object();
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{task}}}"#, call.id);
        if is_task { Script::json(body) } else { call.reply }
    });
    let polls_left = Arc::new(AtomicUsize::new(polls));
    let left = Arc::clone(&polls_left);
    server.methods(move |method, params| match method {
        "tasks/get" => {
            let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            let status = if counted.is_ok() { "working" } else { "completed" };
            Some(json!({"taskId": params["taskId"], "status": status, "pollInterval": 5}))
        }
        "tasks/result" => Some(json!({"content": [{"type": "text", "text": "charged by a task"}]})),
        _ => None,
    });
    let upstream = server.start();
    let sidecar = tools(&upstream);
    Tasks { server, upstream, sidecar, polls_left }
}

impl Tasks {
    fn ask(&self, caller: &mut Caller, method: &str, params: &Value) -> Answer {
        self.sidecar.call(&caller.ask(method, params))
    }

    fn charge(&self, caller: &mut Caller) -> Answer {
        let params = json!({"name": "charge", "arguments": {}, "task": {"ttl": 60000}});
        self.ask(caller, "tools/call", &params)
    }

    fn status(&self, caller: &mut Caller) -> (String, String) {
        let answer = self.ask(caller, "tasks/get", &json!({"taskId": "t-1"}));
        let status = response(&answer)["result"]["status"].as_str().unwrap_or("none").to_owned();
        (status, answer.source().to_owned())
    }

    fn result(&self, caller: &mut Caller) -> Answer {
        self.ask(caller, "tasks/result", &json!({"taskId": "t-1"}))
    }
}

fn agent(attempt: usize) -> Caller {
    Caller::new(format!("/w/w/a/{attempt}/tools"), attempt as u64 * 100)
}

fn said(status: &str, source: &str) -> (String, String) {
    (status.to_owned(), source.to_owned())
}

#[test]
fn a_finished_task_is_told_from_the_journal_when_the_server_has_forgotten_it() {
    let tasks = tasks(2);
    let mut first = agent(1);
    tasks.charge(&mut first).expect(200, "live");
    for _ in 0..2 {
        assert_eq!(tasks.status(&mut first), said("working", "live"));
    }
    assert_eq!(tasks.status(&mut first), said("completed", "live"));
    tasks.result(&mut first).expect(200, "live");
    first.call(&tasks.sidecar, "send_email", &json!({})).expect(200, "live");

    tasks.server.methods(|_, _| panic!("the server is asked for what is recorded"));
    let requests = tasks.upstream.count();
    let mut second = agent(2);
    tasks.charge(&mut second).expect(200, "replay");
    assert_eq!(tasks.status(&mut second), said("completed", "replay"), "as it ended, not as it began");
    let result = tasks.result(&mut second).expect(200, "replay");
    assert_eq!(response(&result)["result"]["content"][0]["text"], "charged by a task");
    second.call(&tasks.sidecar, "send_email", &json!({})).expect(200, "replay");
    assert_eq!(tasks.upstream.count(), requests);
    assert_eq!(tasks.server.charges(), 1);
}

#[test]
fn a_task_that_still_works_is_asked_about_at_the_server_and_not_begun_again() {
    let tasks = tasks(3);
    let mut first = agent(1);
    tasks.charge(&mut first).expect(200, "live");
    assert_eq!(tasks.status(&mut first), said("working", "live"));

    let mut second = agent(2);
    tasks.charge(&mut second).expect(200, "replay");
    assert_eq!(tasks.status(&mut second), said("working", "live"));
    tasks.polls_left.store(0, Ordering::SeqCst);
    assert_eq!(tasks.status(&mut second), said("completed", "live"));
    tasks.result(&mut second).expect(200, "live");
    assert_eq!(tasks.server.charges(), 1);
}

#[test]
fn a_status_that_is_not_final_is_never_told_from_the_journal() {
    let tasks = tasks(1);
    let mut first = agent(1);
    tasks.charge(&mut first).expect(200, "live");
    assert_eq!(tasks.status(&mut first), said("working", "live"));
    first.call(&tasks.sidecar, "send_email", &json!({})).expect(200, "live");
    // Completed steps lie ahead, but the task goes on: an agent that waits for it must not wait for ever.
    let mut second = agent(2);
    assert_eq!(tasks.status(&mut second), said("completed", "live"));
}

#[test]
fn an_end_that_is_known_is_told_when_the_server_has_forgotten_the_task() {
    let tasks = tasks(0);
    let mut first = agent(1);
    tasks.charge(&mut first).expect(200, "live");
    assert_eq!(tasks.status(&mut first), said("completed", "live"));
    tasks.upstream.answers(|request| {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let error = json!({"code": -32602, "message": "Task not found"});
        Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string())
    });
    let mut second = agent(2);
    tasks.charge(&mut second).expect(200, "replay");
    assert_eq!(tasks.status(&mut second), said("completed", "replay"));
}

#[test]
fn cancelling_a_task_is_an_effect_and_happens_once() {
    let tasks = tasks(9);
    let params = json!({"taskId": "t-1"});
    for (attempt, source) in [(1, "live"), (2, "replay")] {
        let mut caller = agent(attempt);
        tasks.charge(&mut caller).expect(200, source);
        tasks.ask(&mut caller, "tasks/cancel", &params).expect(200, source);
    }
    assert_eq!(tasks.server.count("tasks/cancel"), 1);
    let other = tasks.ask(&mut agent(2), "tasks/cancel", &json!({"taskId": "t-2"}));
    other.expect(200, "live");
}
