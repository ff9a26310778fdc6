//! What an agent is told when its request cannot be served: in its own dialect, with a code, and whether
//! it is safe to send again.

use crate::support::client::{Answer, Ask};
use crate::support::ports;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

const DIALECTS: [&str; 5] = ["anthropic", "gemini", "http", "mcp", "openai"];

fn path(dialect: &str) -> &'static str {
    match dialect {
        "anthropic" => "/v1/messages",
        "gemini" => "/v1beta/models/g:generateContent",
        "mcp" => "/mcp",
        "openai" => "/v1/chat/completions",
        _ => "/notes",
    }
}

fn start(url: &str, extra: &str) -> Sidecar {
    let with = |setup: Setup, dialect: &&str| setup.upstream_with(dialect, dialect, url, extra);
    DIALECTS.iter().fold(Setup::new(), with).start()
}

/// The message of a refusal, from where the dialect's SDK looks for it.
#[track_caller]
fn message(dialect: &str, answer: &Answer) -> String {
    let body = answer.json();
    let text = match dialect {
        "anthropic" => {
            assert_eq!(body["type"], "error", "{answer:?}");
            &body["error"]["message"]
        }
        "gemini" => {
            assert_eq!(body["error"]["code"], answer.status, "{answer:?}");
            &body["error"]["message"]
        }
        "mcp" => {
            assert_eq!(body["jsonrpc"], "2.0", "{answer:?}");
            &body["error"]["message"]
        }
        "openai" => {
            let keys = ["message", "type", "param", "code"];
            assert!(keys.iter().all(|key| body["error"].get(key).is_some()), "{answer:?}");
            &body["error"]["message"]
        }
        _ => {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
            &body["detail"]
        }
    };
    text.as_str().unwrap_or_else(|| panic!("no message: {answer:?}")).to_owned()
}

#[test]
fn a_bad_workflow_id_is_refused_in_the_callers_dialect_before_anything_is_sent() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream.url(), "");
    for id in ["-x", ".x", "a%20b", "a%2Fb", &"x".repeat(129), "", "é"] {
        let answer = sidecar.call(&Ask::post(format!("/w/{id}/openai/v1/chat/completions"), "{}"));
        assert!(matches!(answer.status, 400 | 404), "{id:?}: {answer:?}");
    }
    for dialect in DIALECTS {
        let ask =
            Ask::post(format!("/{dialect}{}", path(dialect)), "{}").header("x-outrigger-workflow", "no id");
        let answer = sidecar.call(&ask);
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{answer:?}");
        if dialect != "mcp" {
            assert_eq!(answer.status, 400, "{answer:?}");
        }
        assert!(
            message(dialect, &answer).contains("workflow id") && answer.text().contains("OG1001"),
            "{answer:?}"
        );
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_upstream_nobody_configured_is_told_with_the_names_there_are() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream.url(), "");
    let answer = sidecar.call(&Ask::get("/opnai/v1/models"));
    assert_eq!(answer.status, 404);
    let text = answer.text();
    assert!(
        text.contains("OG1004") && text.contains("did you mean") && text.contains("openai"),
        "{answer:?}"
    );
    for path in ["/", "/w", "/w/x", "/w/x/a/1", "//", "/w/x/a"] {
        let answer = sidecar.call(&Ask::get(path));
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
    }
}

#[test]
fn a_body_of_65_mib_is_413_in_the_callers_dialect() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream.url(), "");
    for dialect in DIALECTS {
        for prefix in ["", "/w/w/a/1"] {
            // Announced: refused before it is sent.
            let ask = Ask::post(format!("{prefix}/{dialect}{}", path(dialect)), "")
                .header("content-length", (65 << 20).to_string());
            let mut connection = sidecar.connect();
            connection.write(&ask.to_bytes(sidecar.address()));
            let answer = connection.read("POST").unwrap();
            assert_eq!(answer.status, 413, "{dialect} {prefix}: {answer:?}");
            assert_eq!(answer.header("x-should-retry"), Some("false"), "{answer:?}");
            let told = message(dialect, &answer);
            assert!(told.contains("64 MiB") && told.contains("body_mib_max"), "{told}");
            assert!(answer.text().contains("OG1005"), "{answer:?}");
        }
    }
    assert_eq!(upstream.connections(), 0);
    // Not announced: refused when it gets too long.
    let part = vec![b' '; 1 << 20];
    for path in ["/openai/v1/chat/completions", "/w/w/a/1/http/notes", "/http/notes"] {
        let mut connection = sidecar.connect();
        let ask = Ask::new("POST", path).header("transfer-encoding", "chunked");
        connection.write(&ask.to_bytes(sidecar.address()));
        for _ in 0..65 {
            connection.write(format!("{:x}\r\n", part.len()).as_bytes());
            connection.write(&part);
            connection.write(b"\r\n");
        }
        connection.write(b"0\r\n\r\n");
        assert_eq!(connection.read("POST").unwrap().status, 413, "{path}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_unreachable_upstream_is_502_and_says_that_nothing_was_sent() {
    let sidecar = start(&format!("http://{}", ports::free()), "connect_timeout_s: 2");
    for dialect in DIALECTS {
        for prefix in ["", "/w/w/a/1"] {
            let body = if dialect == "mcp" {
                r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"t","arguments":{}}}"#
            } else {
                "{}"
            };
            let answer = sidecar.call(&Ask::post(format!("{prefix}/{dialect}{}", path(dialect)), body));
            let text = answer.text();
            assert!(
                text.contains("OG4001") && text.contains("nothing was sent"),
                "{dialect} {prefix}: {answer:?}"
            );
            if dialect != "mcp" {
                assert_eq!(answer.status, 502, "{dialect}: {answer:?}");
                assert!(message(dialect, &answer).contains(dialect));
            }
        }
    }
    // Still at work.
    assert_eq!(sidecar.ask_admin(&Ask::get("/readyz")).status, 200);
}

#[test]
fn a_name_that_does_not_resolve_is_an_unreachable_upstream() {
    let sidecar = start("http://no-such-host.invalid:80", "connect_timeout_s: 5");
    let answer = sidecar.call(&Ask::post("/http/notes", "{}"));
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.text().contains("OG4001"), "{answer:?}");
}

#[test]
fn tunnels_are_refused_clearly() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream.url(), "");
    let upgrade =
        Ask::get("/openai/v1/realtime").header("connection", "upgrade").header("upgrade", "websocket");
    let answer = sidecar.call(&upgrade);
    assert_eq!(answer.status, 501, "{answer:?}");
    assert!(answer.text().contains("OG1008"), "{answer:?}");
    let answer = sidecar.call(&Ask::new("CONNECT", "example.org:443"));
    assert_eq!(answer.status, 501, "{answer:?}");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_request_that_stops_coming_is_given_up_and_one_cut_short_is_not_sent() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = Setup::new()
        .upstream("crm", "http", &upstream.url())
        .limits("body_idle_timeout_s: 1, header_timeout_s: 1, idle_timeout_s: 1")
        .start();
    let half = Ask::new("POST", "/w/w/a/1/crm/notes").header("content-length", "10");
    let mut slow = sidecar.connect();
    slow.write(&half.to_bytes(sidecar.address()));
    slow.write(b"half");
    let answer = slow.read("POST").unwrap();
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.text().contains("OG1010"), "{answer:?}");

    let mut cut = sidecar.connect();
    cut.write(&half.to_bytes(sidecar.address()));
    cut.write(b"half");
    drop(cut);
    let mut silent = sidecar.connect();
    silent.write(b"POST /w/w/a/1/crm/notes HTTP/1.1\r\nhost: x\r\n");
    assert!(silent.is_closed_within(std::time::Duration::from_secs(10)), "a head that never ends");
    for said in ["", "PRI * HTTP/2.0\r\n"] {
        let mut silent = sidecar.connect();
        silent.write(said.as_bytes());
        assert!(silent.is_closed_within(std::time::Duration::from_secs(10)), "after {said:?}");
    }
    drop(slow);
    sidecar.wait_connections(0.0);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_head_that_is_too_large_is_refused_and_a_large_one_is_not() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream.url(), "");
    let large = Ask::get("/http/x").header("x-large", "a".repeat(48 << 10));
    assert_eq!(sidecar.call(&large).status, 200);
    let too_large = Ask::get("/http/x").header("x-large", "a".repeat(200 << 10));
    if let Ok(answer) = sidecar.try_call(&too_large) {
        assert_eq!(answer.status, 431, "{answer:?}");
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn base_urls_of_anthropic_work_with_and_without_v1() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream.url(), "");
    for prefix in ["/anthropic", "/anthropic/v1", "/w/w/a/1/anthropic", "/w/w/a/2/anthropic/v1"] {
        assert_eq!(sidecar.call(&Ask::post(format!("{prefix}/v1/messages"), "{}")).status, 200);
    }
    assert_eq!(upstream.count_of("/v1/messages"), 3, "the second attempt replays what the first asked");
    assert_eq!(upstream.count_of("/v1/v1"), 0);
}
