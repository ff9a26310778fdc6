//! The listener over real sockets, before a sidecar on a journal in memory.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Listen;
use crate::journal::memory::Memory;
use crate::journal::{Batch, Journal, Record, Urgency};
use crate::model::{Owner, RunNonce, TestClock, Timestamp, WorkflowId, WorkflowKey};
use crate::proxy::sidecar::Snapshot;

struct Listening {
    address: SocketAddr,
    sidecar: Arc<Sidecar>,
    journal: Memory,
    _serving: JoinSet<()>,
}

async fn listening() -> Listening {
    let now = Timestamp(1_795_183_200_000);
    let journal = Memory::new(Arc::new(TestClock(now)));
    let sidecar = Sidecar::bare(Snapshot::bare(), journal.clone(), now);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(serve(
        socket,
        Parts { sidecar: Arc::clone(&sidecar), listen: vec![Listen::Tcp("127.0.0.1:4747".parse().unwrap())] },
    ));
    Listening { address, sidecar, journal, _serving: serving }
}

impl Listening {
    /// One exchange on a connection of its own: status and body.
    async fn send(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    async fn json(&self, method: &str, path: &str) -> (u16, Value) {
        let (status, body) = self.ask(method, path).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")))
    }

    fn append(&self, owner: &str, id: &str, records: Vec<Record>) {
        let key = WorkflowKey { owner: Owner::recorded(owner), workflow: WorkflowId::parse(id).unwrap() };
        let batch = Batch { records, bodies: Vec::new() };
        drop(self.journal.commit(&key, self.journal.epoch(), batch, Urgency::Now).unwrap());
    }
}

fn opened() -> Record {
    Record::WorkflowOpened { nonce: RunNonce([0; 16]), version: "0".to_owned(), at: Timestamp(0) }
}

#[tokio::test]
async fn health_is_always_well_and_readiness_ends_with_draining() {
    let listening = listening().await;
    assert_eq!(listening.ask("GET", "/healthz").await, (200, "ok\n".to_owned()));
    let (status, ready) = listening.json("GET", "/readyz").await;
    assert_eq!(
        (status, &ready["ready"], &ready["journal"]["durability"]),
        (200, &Value::Bool(true), &"none".into())
    );
    listening.sidecar.drain();
    let (status, ready) = listening.json("GET", "/readyz").await;
    assert_eq!((status, &ready["ready"], &ready["draining"]), (503, &Value::Bool(false), &Value::Bool(true)));
    assert_eq!(listening.ask("GET", "/healthz").await.0, 200);
    assert_eq!(listening.json("POST", "/v1/workflows/w/attempts").await.0, 503, "no attempt begins now");
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_is_not_ready() {
    let listening = listening().await;
    let _newer = listening.journal.take_over();
    let (status, ready) = listening.json("GET", "/readyz").await;
    assert_eq!((status, &ready["journal"]["poisoned"]), (503, &Value::Bool(true)));
    assert!(ready["journal"]["error"].as_str().unwrap().contains("newer owner"), "{ready}");
    let (status, problem) = listening.json("POST", "/v1/workflows/w/attempts").await;
    assert_eq!((status, &problem["code"]), (503, &"OG3005".into()));
}

#[tokio::test]
async fn attempts_are_opened_one_after_the_other_until_the_workflow_is_closed() {
    let listening = listening().await;
    for number in 1..=2 {
        let (status, opened) = listening.json("POST", "/v1/workflows/order-7/attempts").await;
        assert_eq!((status, &opened["attempt"]), (201, &number.into()));
    }
    let (_, timeline) = listening.json("GET", "/v1/workflows/order-7/timeline").await;
    assert_eq!(timeline["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(timeline["attempts"][1]["reason"], "explicit");
    for _ in 0..2 {
        let (status, closed) = listening.json("POST", "/v1/workflows/order-7/close").await;
        assert_eq!((status, &closed["state"]), (200, &"closed".into()), "closing twice is closing");
    }
    let (status, problem) = listening.json("POST", "/v1/workflows/order-7/attempts").await;
    assert_eq!((status, &problem["code"]), (422, &"OG3004".into()));
    let (_, row) = listening.json("GET", "/v1/workflows/order-7").await;
    assert_eq!((&row["state"], &row["attempts"]), (&"closed".into(), &2.into()));
    let (_, rows) = listening.json("GET", "/v1/workflows").await;
    assert_eq!(rows["workflows"], serde_json::json!([row]));
}

#[tokio::test]
async fn foreign_and_unknown_workflows_are_one_and_the_same_answer() {
    let listening = listening().await;
    listening.append("somebody else", "secret", vec![opened()]);
    let unknown = listening.json("GET", "/v1/workflows/unknown/timeline").await;
    assert_eq!(unknown.0, 404);
    for (method, path) in [
        ("GET", "/v1/workflows/secret"),
        ("GET", "/v1/workflows/secret/timeline"),
        ("POST", "/v1/workflows/secret/close"),
        ("GET", "/v1/workflows/-bad-/timeline"),
        ("GET", "/v1/nothing"),
        ("GET", "/"),
    ] {
        assert_eq!(listening.json(method, path).await, unknown, "{method} {path}");
    }
    assert_eq!(listening.json("GET", "/v1/workflows").await.1["workflows"], serde_json::json!([]));
    assert_eq!(listening.json("POST", "/v1/workflows/-bad-/attempts").await.1["code"], "OG1001");
}

#[tokio::test]
async fn only_this_machine_and_no_web_page_is_answered() {
    let listening = listening().await;
    let get = |headers: &str| format!("GET /v1/workflows HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    for (headers, expected) in [
        ("Host: 127.0.0.1:4748\r\n", 200),
        ("Host: attacker.example\r\n", 403),
        ("Host: localhost\r\nHost: attacker.example\r\n", 403),
        ("Host: localhost\r\nOrigin: https://attacker.example\r\n", 403),
        ("", 403),
    ] {
        assert_eq!(listening.send(&get(headers)).await.0, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn methods_and_bodies_have_bounds() {
    let listening = listening().await;
    assert_eq!(listening.ask("POST", "/v1/workflows").await.0, 405);
    assert_eq!(listening.ask("GET", "/v1/workflows/w/close").await.0, 405);
    let post = |body: &str| {
        format!(
            "POST /v1/workflows/w/close HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    listening.append("local", "w", vec![opened()]);
    assert_eq!(listening.send(&post("{}")).await.0, 400);
    assert_eq!(listening.send(&post("{\"reason\": 1}")).await.0, 400);
    let large = "POST /v1/workflows/w/close HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 65537\r\n\r\n";
    assert_eq!(listening.send(&format!("{large}{}", "x".repeat(65_537))).await.0, 413);
    assert_eq!(listening.send(&post("{\"reason\": \"done\"}")).await.0, 200);
    let records = listening
        .journal
        .scan(&WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse("w").unwrap() });
    let Some(Record::WorkflowClosed { reason, .. }) = records.unwrap().pop() else { panic!("not closed") };
    assert_eq!(reason, "done");
}

#[tokio::test]
async fn metrics_are_prometheus_text_with_the_gauges_of_now() {
    let listening = listening().await;
    listening.json("POST", "/v1/workflows/w/attempts").await;
    let (status, text) = listening.ask("GET", "/metrics").await;
    assert_eq!(status, 200);
    for line in ["outrigger_workflows_live 1", "outrigger_ready 1"] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
}
