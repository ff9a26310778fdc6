//! Agents that come over a Unix socket: who they are, and what becomes of the socket itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::agent::Agent;
use crate::support::cli;
use crate::support::client::{Answer, Ask, Client};
use crate::support::h2::H2;
use crate::support::llm::Api;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

fn counting() -> (Upstream, Sidecar) {
    let upstream = Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)));
    let sidecar = Setup::new().socket().upstream("crm", "http", &upstream.url()).start();
    (upstream, sidecar)
}

fn note(number: usize) -> Ask {
    Ask::post("/w/w/crm/notes", format!(r#"{{"number":{number}}}"#))
}

#[track_caller]
fn check(answer: &Answer, source: &str, attempt: &str) {
    assert_eq!((answer.status, answer.source(), answer.attempt()), (200, source, attempt), "{answer:?}");
}

#[test]
fn rule_b_an_agent_over_a_unix_socket_is_its_process_as_over_tcp() {
    let (upstream, sidecar) = counting();
    let mut first = Agent::start_unix(&sidecar.socket());
    check(&first.call(&note(0)), "live", "1; reason=first");
    check(&first.call_from_child(&note(1)), "live", "1; reason=first");
    // A relative by way of the other listener, and a stranger by way of either.
    let mut stranger = Agent::start_unix(&sidecar.socket());
    let refused = stranger.call(&note(0));
    assert!(refused.status == 422 && refused.text().contains("OG3003"), "{refused:?}");
    let refused = Agent::start(sidecar.address()).call(&note(0));
    assert!(refused.status == 422 && refused.text().contains("OG3003"), "{refused:?}");
    first.end();
    check(&stranger.call(&note(0)), "replay", "2; reason=process");
    stranger.end();
    let mut third = Agent::start(sidecar.address());
    check(&third.call(&note(1)), "replay", "3; reason=process");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn streams_and_http_2_go_over_a_unix_socket_as_over_tcp() {
    let api = Api::OpenaiChat;
    let upstream = Upstream::start(move |_| Script::events(&api.events(&["one ", "two"])));
    let sidecar = Setup::new().socket().upstream("llm", "openai", &upstream.url()).start();
    let ask =
        |attempt: usize| Ask::post(format!("/w/w/a/{attempt}/llm{}", api.path(true)), api.ask("count", true));
    let lived = Client::connect_unix(&sidecar.socket()).call(&ask(1)).unwrap().expect(200, "live");
    assert_eq!(lived.text(), api.events(&["one ", "two"]).concat());
    let replayed = H2::connect_unix(&sidecar.socket()).call(&ask(2)).unwrap().expect(200, "replay");
    assert_eq!(replayed.text(), lived.text());
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_socket_has_its_mode_outlives_a_kill_is_replaced_and_goes_with_a_clean_stop() {
    let (_upstream, mut sidecar) = counting();
    let socket = sidecar.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    sidecar.kill9();
    assert!(UnixStream::connect(&socket).is_err(), "nobody listens at what was left");
    assert!(socket.exists());
    sidecar.restart();
    let mut agent = Client::connect_unix(&socket);
    assert_eq!(agent.call(&Ask::get("/crm/x")).unwrap().status, 200);
    assert!(sidecar.stop().success());
    assert!(!socket.exists());
    let left: Vec<_> =
        fs::read_dir(sidecar.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn a_socket_that_another_process_has_is_named_before_anything_else_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, journal) = (dir.path().join("agents.sock"), dir.path().join("journal"));
    let config = dir.path().join("outrigger.yaml");
    let yaml = format!(
        "listen: [{{ socket: \"{}\" }}]\nadmin: {{ address: 127.0.0.1:0 }}\njournal: {{ path: \"{}\" }}\n",
        socket.display(),
        journal.display()
    );
    fs::write(&config, yaml).unwrap();
    let serve = || cli::run(&["serve", "--config", config.to_str().unwrap()]).expect_code(1);
    let other = UnixListener::bind(&socket).unwrap();
    serve().says(&["another process listens at", "agents.sock", "OG5018"]);
    assert!(UnixStream::connect(&socket).is_ok(), "the other one is not disturbed");
    drop(other);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "mine").unwrap();
    serve().says(&["agents.sock", "is no socket", "OG5018"]);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
    assert!(!journal.exists(), "the journal stays untouched");
    // What was bound is taken back when another part cannot be had.
    fs::remove_file(&socket).unwrap();
    fs::write(&journal, "no directory").unwrap();
    serve().says(&["journal.path"]);
    assert!(!socket.exists());
}

#[test]
fn the_ready_line_and_the_listen_argument_name_sockets() {
    let (_upstream, sidecar) = counting();
    let version = sidecar.ask_admin(&Ask::get("/v1/version")).json();
    let listen = [sidecar.address().to_string(), "unix:./agents.sock".to_owned()];
    assert_eq!(version["listen"], serde_json::json!(listen));
    let socket = format!("unix:{}", sidecar.socket().display());
    let config = sidecar.config();
    // The path that is asked for is looked at before the journal, which is in use as well.
    cli::run(&["serve", "--config", config.to_str().unwrap(), "--listen", &socket])
        .expect_code(1)
        .says(&["another process listens at", "OG5018"]);
    cli::run(&["serve", "--listen", "unix:"]).expect_code(2).says(&["--listen", "OG2004"]);
}
