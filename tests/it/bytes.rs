//! What crosses the sidecar crosses it byte for byte, in both directions, but for the edits that are
//! promised; and of each edit: nothing else changes.

use std::collections::BTreeSet;
use std::io::Write;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::client::{Answer, Ask};
use crate::support::llm::{Api, Usage, chat};
use crate::support::random::Random;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Request, Script, Upstream, head};

/// The upstreams of every test here, by dialect, all the same one.
fn start(upstream: &Upstream) -> Sidecar {
    let setup = Setup::new();
    let dialects = ["anthropic", "gemini", "http", "mcp", "openai"];
    dialects.iter().fold(setup, |setup, dialect| setup.upstream(dialect, dialect, &upstream.url())).start()
}

/// JSON as nobody would write it and everybody may send it.
fn json_text() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        prop_oneof![
            Just("0"),
            Just("-0"),
            Just("1e400"),
            Just("1.0"),
            Just("1E+2"),
            Just("0.10"),
            Just("123456789012345678901234567890"),
            Just("9007199254740993"),
        ]
        .prop_map(str::to_owned),
        prop_oneof![Just("null"), Just("true"), Just("false")].prop_map(str::to_owned),
        string(),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        let item =
            (space(), inner, space()).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (space(), string(), space(), item.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
            // Twice the same key.
            (string(), space()).prop_map(|(key, space)| format!("{{{key}:{space}1,{key}:{space}2}}")),
        ]
    })
}

fn space() -> impl Strategy<Value = &'static str> + Clone {
    prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\n  "), 1 => Just("\t\r\n")]
}

fn string() -> impl Strategy<Value = String> + Clone {
    let piece = prop_oneof![
        Just("a"),
        Just("model"),
        Just("é"),
        Just("日本"),
        Just("😀"),
        Just("\\u0000"),
        Just("\\ud83d\\ude00"),
        Just("\\/"),
        Just("\\n"),
        Just("\\\""),
        Just("\u{2028}"),
        Just("data: "),
        Just(" "),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn header_pairs() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let value = prop::collection::vec(prop_oneof![0x21..=0x7eu8, 0x80..=0xffu8], 0..12);
    prop::collection::vec(("x-[a-z][a-z0-9-]{0,8}[a-z]", value), 0..4)
        .prop_map(|pairs| pairs.into_iter().filter(|(name, _)| !name.starts_with("x-should")).collect())
}

/// The paths of each dialect that are looked into, and one that is not.
const PATHS: [(&str, &str); 7] = [
    ("anthropic", "/v1/messages"),
    ("gemini", "/v1beta/models/g:generateContent?key=k&x=%2F%20+"),
    ("http", "/notes//a%2Fb/?q=%20a+b&q=&x"),
    ("openai", "/v1/chat/completions"),
    ("openai", "/v1/responses"),
    ("openai", "/v1/files;v=1?order=b&order=a"),
    ("mcp", "/mcp"),
];

#[derive(Clone, Debug)]
struct Case {
    asked: String,
    answered: String,
    headers_out: Vec<(String, Vec<u8>)>,
    headers_back: Vec<(String, Vec<u8>)>,
}

/// Wraps the two texts where the dialect needs an envelope.
fn bodies(dialect: &str, case: &Case) -> (String, String) {
    if dialect != "mcp" {
        return (case.asked.clone(), case.answered.clone());
    }
    let call = "\"method\" :\"tools/call\",\"params\": {\"name\":\"t\", \"arguments\":";
    let asked = format!("{{ \"jsonrpc\":\"2.0\" ,{call}{}}} , \"id\" : 12 }}", case.asked);
    (asked, format!("{{\"result\": {} , \"id\":12,\n\"jsonrpc\":\"2.0\"}}", case.answered))
}

fn script(body: &str, headers: &[(String, Vec<u8>)]) -> Script {
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n".to_vec();
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    Script::raw(bytes)
}

fn has_all(headers: &[(String, Vec<u8>)], wanted: &[(String, Vec<u8>)]) -> Result<(), TestCaseError> {
    for name in wanted.iter().map(|(name, _)| name).collect::<BTreeSet<_>>() {
        let values = |headers: &[(String, Vec<u8>)]| -> Vec<Vec<u8>> {
            let same = headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
            same.map(|(_, value)| value.clone()).collect()
        };
        prop_assert_eq!(values(headers), values(wanted), "header {}", name);
    }
    Ok(())
}

fn check_arrived(request: &Request, path: &str, body: &str, case: &Case) -> Result<(), TestCaseError> {
    prop_assert_eq!(&request.target, path);
    prop_assert_eq!(&request.text(), body);
    has_all(&request.headers, &case.headers_out)
}

fn check_returned(answer: &Answer, body: &str, case: &Case) -> Result<(), TestCaseError> {
    prop_assert_eq!(answer.status, 200);
    prop_assert_eq!(&answer.text(), body);
    has_all(&answer.headers, &case.headers_back)
}

#[test]
fn bodies_headers_and_paths_cross_unchanged_in_both_directions() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream);
    let strategy = (json_text(), json_text(), header_pairs(), header_pairs(), any::<u64>());
    let config = Config { cases: 40, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let tested =
        TestRunner::new(config).run(&strategy, |(asked, answered, headers_out, headers_back, id)| {
            let case = Case { asked, answered, headers_out, headers_back };
            let mut connection = sidecar.connect();
            for (number, (dialect, path)) in PATHS.iter().enumerate() {
                let (asked, answered) = bodies(dialect, &case);
                let reply = script(&answered, &case.headers_back);
                upstream.answers(move |_| reply.clone());
                let mut call = |prefix: &str| {
                    let mut ask = Ask::post(format!("{prefix}/{dialect}{path}"), asked.as_str());
                    ask.headers.extend(case.headers_out.iter().cloned());
                    connection
                        .call(&ask)
                        .map_err(|broken| TestCaseError::fail(format!("{dialect}{path}: {broken:?}")))
                };
                let workflow = format!("/w/p{id}-{number}/a");
                for prefix in [String::new(), format!("{workflow}/1")] {
                    let answer = call(&prefix)?;
                    check_arrived(upstream.requests().last().unwrap(), path, &asked, &case)?;
                    check_returned(&answer, &answered, &case)?;
                }
                let sent = upstream.count();
                check_returned(&call(&format!("{workflow}/2"))?, &answered, &case)?;
                prop_assert_eq!(upstream.count(), sent, "{}{}: a replay is not sent", dialect, path);
            }
            Ok(())
        });
    if let Err(error) = tested {
        panic!("{error}");
    }
}

#[test]
fn what_is_no_json_crosses_unchanged() {
    let mut random = Random::new(7);
    let bodies: Vec<Vec<u8>> = (0..20).map(|round| random.bytes(round * round * 37)).collect();
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream);
    for (number, body) in bodies.iter().enumerate() {
        let reply = body.clone();
        upstream.answers(move |_| Script::answer(200, "application/octet-stream", &reply));
        for dialect in ["anthropic", "gemini", "http", "openai"] {
            for prefix in
                ["".to_owned(), format!("/w/r{number}-{dialect}/a/1"), format!("/w/r{number}-{dialect}/a/2")]
            {
                let mut ask = Ask::new("PUT", format!("{prefix}/{dialect}/files/{number}"));
                ask.body.clone_from(body);
                let answer = sidecar.call(&ask.header("content-type", "application/octet-stream"));
                assert!(answer.body == *body, "{dialect} {prefix}: the answer differs");
                assert!(
                    upstream.requests().last().unwrap().body == *body,
                    "{dialect} {prefix}: the request differs"
                );
            }
        }
    }
}

#[test]
fn fifty_megabytes_cross_unchanged_with_and_without_a_workflow() {
    let body = Random::new(50).bytes(50_000_000);
    let upstream = Upstream::start(|request| Script::json(format!(r#"{{"len":{}}}"#, request.body.len())));
    let sidecar = start(&upstream);
    for path in ["/http/upload", "/openai/v1/files", "/w/big/a/1/http/upload"] {
        let mut ask = Ask::new("POST", path).header("content-type", "application/octet-stream");
        ask.body.clone_from(&body);
        let answer = sidecar.call(&ask);
        assert_eq!(answer.text(), r#"{"len":50000000}"#, "{path}");
        assert!(upstream.requests().last().unwrap().body == body, "{path}: other bytes arrived");
    }
}

#[test]
fn an_upload_without_a_length_crosses_unchanged() {
    let mut random = Random::new(9);
    let parts: Vec<Vec<u8>> = (0..200).map(|_| random.bytes(1000)).collect();
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = start(&upstream);
    for path in ["/http/upload", "/w/chunked/a/1/http/upload"] {
        let mut connection = sidecar.connect();
        let ask = Ask::new("POST", path).header("transfer-encoding", "chunked");
        connection.write(&ask.to_bytes(sidecar.address()));
        for part in &parts {
            connection.write(format!("{:x};ext=1\r\n", part.len()).as_bytes());
            connection.write(part);
            connection.write(b"\r\n");
        }
        connection.write(b"0\r\n\r\n");
        assert_eq!(connection.read("POST").unwrap().status, 200);
        assert!(upstream.requests().last().unwrap().body == parts.concat(), "{path}");
    }
}

#[test]
fn a_stream_of_ten_thousand_chunks_crosses_unchanged() {
    let words: Vec<String> = (0..10_000).map(|number| format!("word {number} \"quoted\" é ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for api in Api::ALL {
        let events = api.events(&words);
        let whole = events.concat();
        let upstream = Upstream::start(move |_| Script::events(&events));
        let sidecar = start(&upstream);
        for prefix in ["", "/w/long/a/1", "/w/long/a/2"] {
            let path = format!("{prefix}/{}{}", api.dialect(), api.path(true));
            let answer = sidecar.call(&Ask::post(path, api.ask("long", true)));
            assert!(answer.text() == whole, "{api:?} {prefix}: the stream differs");
        }
        assert_eq!(upstream.count(), 2, "{api:?}");
    }
}

#[test]
fn line_ends_and_odd_fields_of_a_stream_cross_unchanged() {
    let stream = "\u{feff}retry: 10\r\ndata:{\"choices\":[]}\r\n\r\nid: 7\rdata: {\"choices\" : [ ] }\r\r\
                  unknown: field\ndata: a\ndata: b\n\n: comment\n\ndata: [DONE]\n\n";
    let upstream = Upstream::start(move |_| {
        let parts: Vec<&[u8]> = stream.as_bytes().chunks(5).collect();
        Script::events(&parts)
    });
    let sidecar = start(&upstream);
    let ask = |prefix: &str| {
        let body = Api::OpenaiChat.ask("odd", true);
        Ask::post(format!("{prefix}/openai/v1/chat/completions"), body)
    };
    assert_eq!(sidecar.call(&ask("")).text(), stream);
    assert_eq!(sidecar.call(&ask("/w/odd/a/1")).text(), stream);
}

#[test]
fn edit_usage_only_the_option_is_added_to_the_request() {
    let upstream = Upstream::start(|_| Script::events(&chat(&["a", "b"], Usage::Asked)));
    let sidecar = start(&upstream);
    let bodies = [
        (
            "{ \"model\":\"m\" , \"stream\" : true,\"x\": 1e400, \"messages\" : [ ] }",
            "\"stream_options\":{\"include_usage\":true}",
        ),
        (
            "{\"stream\":true,\n\"stream_options\" : { \"include_obfuscation\" : false } , \"messages\":[]}",
            "\"include_usage\":true",
        ),
    ];
    for (number, (body, option)) in bodies.iter().enumerate() {
        for prefix in ["".to_owned(), format!("/w/u{number}/a/1")] {
            sidecar.call(&Ask::post(format!("{prefix}/openai/v1/chat/completions"), *body));
            let sent = upstream.requests().last().unwrap().text();
            let at = sent.find(option).unwrap_or_else(|| panic!("no option in {sent}"));
            let mut rest = format!("{}{}", &sent[..at], &sent[at + option.len()..]);
            // The comma that parts it from its neighbour.
            if rest.len() > body.len() {
                let comma = if rest[at..].starts_with(',') { at } else { rest[..at].rfind(',').unwrap() };
                rest.remove(comma);
            }
            assert_eq!(rest, *body, "sent: {sent}");
        }
    }
    for asked in ["{\"stream\":true,\"stream_options\":{\"include_usage\":true}}", "{\"stream\":false}", "{}"]
    {
        sidecar.call(&Ask::post("/openai/v1/chat/completions", asked));
        assert_eq!(upstream.requests().last().unwrap().text(), asked, "nothing to add");
    }
}

#[test]
fn edit_usage_only_its_traces_are_taken_out_of_the_answer() {
    let words = ["Hello \\u00e9\u{2028}", " usage\":null", ", \"usage\": null }"];
    let upstream = Upstream::start(move |_| Script::events(&chat(&words, Usage::Asked)));
    let sidecar = start(&upstream);
    let quiet = "{\"model\":\"m\",\"stream\":true,\"messages\":[]}";
    let asking =
        "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":[]}";
    for prefix in ["", "/w/u/a/1", "/w/u/a/2"] {
        let path = format!("{prefix}/openai/v1/chat/completions");
        let answer = sidecar.call(&Ask::post(&path, quiet));
        assert_eq!(answer.text(), chat(&words, Usage::NotAsked).concat(), "{prefix}");
        let answer = sidecar.call(&Ask::post(&path, asking));
        assert_eq!(answer.text(), chat(&words, Usage::Asked).concat(), "{prefix}: it asked for it");
    }
    let steps = sidecar.timeline("u")["steps"].clone();
    assert_eq!((&steps[0]["usage"]["input"], &steps[0]["usage"]["output"]), (&11.into(), &7.into()));
}

#[test]
fn edit_json_rpc_id_only_the_id_of_a_replay_changes() {
    for (content_type, wrap) in
        [("application/json", ("", "")), ("text/event-stream", ("event: message\ndata: ", "\n\n"))]
    {
        let result = "{ \"result\" : {\"id\":1, \"a\": 1e400 , \"a\":2, \"t\":\"\\u00e9\\/\"} ,\t\"id\" : 1 ,\"jsonrpc\":\"2.0\" }";
        let served = format!("{}{result}{}", wrap.0, wrap.1);
        let upstream = Upstream::start(move |_| Script::answer(200, content_type, &served));
        let sidecar = start(&upstream);
        let ask = |attempt: usize, id: &str| {
            let body = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"t\",\"arguments\":{{}}}}}}"
            );
            sidecar.call(&Ask::post(format!("/w/ids/a/{attempt}/mcp/mcp"), body))
        };
        let lived = ask(1, "1").expect(200, "live");
        let replayed = ask(2, "\"two\"").expect(200, "replay");
        assert_eq!(replayed.text(), lived.text().replace("\t\"id\" : 1 ,", "\t\"id\" : \"two\" ,"));
        assert_eq!(replayed.header("content-type"), Some(content_type));
        assert_eq!(ask(3, "1").expect(200, "replay").text(), lived.text());
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut packed, 4096, 5, 20);
    encoder.write_all(body).unwrap();
    drop(encoder);
    packed
}

#[test]
fn edit_content_encoding_only_the_encoding_is_taken_off() {
    let upstream = Upstream::start(|_| Script::json(Api::OpenaiChat.answer("x")));
    let sidecar = start(&upstream);
    let body = "{ \"model\":\"m\", \"n\": 1e400, \"messages\" : [ ] }";
    let packed = [
        ("gzip", gzip(body.as_bytes())),
        ("br", brotli(body.as_bytes())),
        ("zstd", zstd::encode_all(body.as_bytes(), 3).unwrap()),
    ];
    for (encoding, packed) in packed {
        for prefix in ["".to_owned(), format!("/w/{encoding}/a/1")] {
            let ask = Ask::post(format!("{prefix}/openai/v1/chat/completions"), packed.clone())
                .header("content-encoding", encoding)
                .header("x-kept", "yes");
            assert_eq!(sidecar.call(&ask).status, 200, "{encoding}");
            let sent = upstream.requests().pop().unwrap();
            assert_eq!(sent.text(), body, "{encoding}");
            assert_eq!((sent.header("content-encoding"), sent.header("x-kept")), (None, Some("yes")));
            assert_eq!(sent.header("content-length"), Some(body.len().to_string().as_str()));
        }
        // Where nothing is looked into, nothing is unpacked.
        let ask = Ask::post("/http/notes", packed.clone()).header("content-encoding", encoding);
        sidecar.call(&ask);
        let sent = upstream.requests().pop().unwrap();
        assert_eq!((sent.header("content-encoding"), sent.body == packed), (Some(encoding), true));
    }
}

#[test]
fn encodings_that_lie_or_explode_are_refused() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar =
        Setup::new().upstream("openai", "openai", &upstream.url()).limits("body_mib_max: 4").start();
    let bomb = gzip(&vec![b' '; 64 << 20]);
    for (encoding, body, status, code) in [
        ("gzip", b"not gzip".to_vec(), 400, "OG1007"),
        ("gzip", bomb, 413, "OG1005"),
        ("rot13", b"{}".to_vec(), 415, "OG1006"),
        ("gzip, br", gzip(b"{}"), 415, "OG1006"),
    ] {
        let ask = Ask::post("/openai/v1/chat/completions", body).header("content-encoding", encoding);
        let answer = sidecar.call(&ask);
        assert_eq!(answer.status, status, "{encoding}: {answer:?}");
        assert!(answer.text().contains(code), "{encoding}: {answer:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn compressed_answers_of_calls_that_are_not_looked_into_stay_compressed() {
    let packed = gzip(b"the answer");
    let reply = packed.clone();
    let upstream = Upstream::start(move |_| {
        let headers = [("content-type", "text/plain"), ("content-encoding", "gzip")];
        let mut bytes = head(200, &headers, Some(reply.len()));
        bytes.extend_from_slice(&reply);
        Script::raw(bytes)
    });
    let sidecar = start(&upstream);
    for prefix in ["", "/w/z/a/1", "/w/z/a/2"] {
        let answer = sidecar.call(&Ask::get(format!("{prefix}/http/page")).header("accept-encoding", "gzip"));
        assert_eq!(
            (answer.header("content-encoding"), answer.body == packed),
            (Some("gzip"), true),
            "{prefix}"
        );
    }
    assert_eq!(upstream.requests()[0].header("accept-encoding"), Some("gzip"));
}

#[test]
fn what_belongs_to_a_connection_stays_there() {
    let upstream = Upstream::start(|_| {
        let headers = [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("x-outrigger-step", "99"),
            ("x-end", "kept"),
        ];
        Script::raw(head(200, &headers, Some(0)))
    });
    let sidecar = start(&upstream);
    for prefix in ["", "/w/h/a/1"] {
        let ask = Ask::get(format!("{prefix}/http/x"))
            .header("connection", "x-mine, keep-alive")
            .header("x-mine", "1")
            .header("proxy-authorization", "secret")
            .header("te", "trailers")
            .header("x-outrigger-labels", "a=b")
            .header("x-end", "kept");
        let answer = sidecar.call(&ask);
        let sent = upstream.requests().pop().unwrap();
        for name in ["x-mine", "proxy-authorization", "te", "x-outrigger-labels"] {
            assert_eq!(sent.header(name), None, "{name} upstream");
        }
        assert_eq!(sent.header("x-end"), Some("kept"));
        assert_eq!(sent.header("host"), Some(upstream.address().to_string().as_str()));
        for name in ["x-hop", "keep-alive"] {
            assert_eq!(answer.header(name), None, "{name} back");
        }
        assert_ne!(answer.header("x-outrigger-step"), Some("99"));
        assert_eq!(answer.header("x-end"), Some("kept"));
    }
}
