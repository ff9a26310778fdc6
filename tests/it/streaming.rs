//! Streams: what may leave when, how they end, and who reads them on.

mod dialects;

use std::time::Duration;

use crate::support::client::{Ask, Broken, find};
use crate::support::gate::Gate;
use crate::support::h2::H2;
use crate::support::llm::Api;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Script, Upstream, head};

pub(crate) const WORDS: [&str; 4] = ["one ", "two ", "three ", "four"];
/// How long something that must not happen is given to happen.
const NOT_WITHIN: Duration = Duration::from_millis(300);

pub(crate) fn start(api: Api, upstream: &Upstream) -> Sidecar {
    Setup::new().upstream("llm", api.dialect(), &upstream.url()).start()
}

/// A streaming request; with an attempt it belongs to workflow `w`.
pub(crate) fn ask(api: Api, attempt: Option<usize>) -> Ask {
    let prefix = attempt.map(|attempt| format!("/w/w/a/{attempt}")).unwrap_or_default();
    Ask::post(format!("{prefix}/llm{}", api.path(true)), api.ask("count", true))
}

/// Ways in which an upstream ends a stream too early.
fn cuts(api: Api) -> Vec<(&'static str, Script)> {
    let events = api.events(&WORDS);
    let half = || Script::stream().chunks(&events[..events.len() / 2]);
    vec![
        ("a reset", half().then(Act::Reset)),
        ("a close in the middle of the framing", half().then(Act::Close)),
        ("a clean end without the dialect's own", half().end()),
        ("half an event, then a clean end", half().chunk(&events[events.len() / 2][..9]).end()),
        ("all bytes that it announced", {
            let half = events[..events.len() / 2].concat();
            let head = head(200, &[("content-type", "text/event-stream")], Some(half.len()));
            Script::raw([head, half.into_bytes()].concat())
        }),
    ]
}

#[test]
fn a_stream_that_is_cut_never_ends_cleanly_over_http_1() {
    for api in Api::ALL {
        for (cut, script) in cuts(api) {
            let upstream = Upstream::start(move |_| script.clone());
            let sidecar = start(api, &upstream);
            for attempt in [None, Some(1)] {
                let broken = sidecar.try_call(&ask(api, attempt));
                let Err(Broken { status, body, .. }) = broken else {
                    panic!("{api:?}, {cut}, attempt {attempt:?}: a clean end: {broken:?}")
                };
                assert_eq!(status, Some(200), "{api:?}, {cut}");
                assert!(find(&body, b"one").is_some(), "{api:?}, {cut}: what came is passed on");
                assert!(find(&body, api.terminal().as_bytes()).is_none(), "{api:?}, {cut}: {body:?}");
            }
            assert_ne!(sidecar.states("w"), ["completed"], "{api:?}, {cut}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_is_a_reset_stream_over_http_2() {
    for api in Api::ALL {
        for (cut, script) in cuts(api) {
            let upstream = Upstream::start(move |_| script.clone());
            let sidecar = start(api, &upstream);
            let agent = H2::connect(sidecar.address());
            for attempt in [None, Some(1)] {
                let broken = agent.call(&ask(api, attempt));
                assert!(broken.is_err(), "{api:?}, {cut}, attempt {attempt:?}: {broken:?}");
                // Only the stream broke: the connection carries the next request.
                assert_eq!(agent.call(&Ask::get("/nowhere/x")).unwrap().status, 404);
            }
        }
    }
}

#[test]
fn a_stream_that_ends_in_its_dialects_error_is_passed_on_and_is_no_result() {
    let errors = [
        (Api::OpenaiChat, "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n"),
        (
            Api::Anthropic,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n",
        ),
        (
            Api::OpenaiResponses,
            "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"x\",\"sequence_number\":2}\n\n",
        ),
        (
            Api::Gemini,
            "data: {\"error\":{\"code\":503,\"message\":\"overloaded\",\"status\":\"UNAVAILABLE\"}}\n\n",
        ),
    ];
    for (api, error) in errors {
        let upstream = Upstream::start(move |request| {
            let events = api.events(&WORDS);
            if request.count == 1 {
                Script::stream().chunks(&events[..2]).chunk(error).end()
            } else {
                Script::events(&events)
            }
        });
        let sidecar = start(api, &upstream);
        let answer = sidecar.call(&ask(api, Some(1))).expect(200, "live");
        assert!(answer.text().ends_with(error), "{api:?}: {answer:?}");
        assert_eq!(sidecar.states("w"), ["failed"], "{api:?}");
        let answer = sidecar.call(&ask(api, Some(2))).expect(200, "live");
        assert_eq!(answer.text(), api.events(&WORDS).concat(), "{api:?}");
    }
}

/// Some agents call a tool as soon as its arguments are there, while the model still streams.
#[test]
fn an_effect_waits_while_the_answer_that_calls_it_is_not_recorded() {
    let gate = Gate::new();
    let held = gate.clone();
    let model = Upstream::start(move |_| {
        let called = r#"data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"charge","arguments":"{}"}}]}}]}"#;
        let stopped = r#"data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#;
        let begun = Script::stream().chunk(format!("{called}\n\n")).hold(&held);
        begun.chunk(format!("{stopped}\n\ndata: [DONE]\n\n")).end()
    });
    let tool = Upstream::start(|_| Script::text("charged"));
    let sidecar =
        Setup::new().upstream("llm", "openai", &model.url()).upstream("tool", "http", &tool.url()).start();
    let mut asking = sidecar.connect();
    asking.send(&ask(Api::OpenaiChat, Some(1)));
    let mut answer = asking.head("POST").unwrap();
    answer.until("charge").unwrap();
    let mut calling = sidecar.connect();
    calling.send(&Ask::post("/w/w/a/1/tool/charge", "{}"));
    std::thread::sleep(NOT_WITHIN);
    assert_eq!(tool.count(), 0, "the answer that calls the tool could still be lost");
    gate.open();
    assert_eq!(calling.read("POST").unwrap().expect(200, "live").text(), "charged");
    answer.whole().unwrap();
    assert_eq!((model.count(), tool.count()), (1, 1));
}

#[test]
fn the_end_of_an_answer_in_one_piece_is_its_last_byte() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let script = Script::text("x".repeat(100_000));
        let len = script.len();
        script.held_after(len - 1, &held)
    });
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    let mut connection = sidecar.connect();
    connection.send(&Ask::post("/w/w/a/1/crm/report", "{}"));
    gate.reached(1);
    assert_eq!(sidecar.states("w"), ["open"]);
    gate.open();
    assert_eq!(connection.read("POST").unwrap().expect(200, "live").body.len(), 100_000);
    assert_eq!(sidecar.states("w"), ["completed"]);
}

#[test]
fn comments_are_forwarded_at_once_and_not_recorded() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let events = Api::OpenaiChat.events(&WORDS);
        Script::stream()
            .chunk(": keep-alive 1\n\n")
            .chunks(&events[..2])
            .chunk(": keep-alive 2\n\n")
            .hold(&held)
            .chunks(&events[2..])
            .end()
    });
    let api = Api::OpenaiChat;
    let sidecar = start(api, &upstream);
    let mut connection = sidecar.connect();
    connection.send(&ask(api, Some(1)));
    let mut reading = connection.head("POST").unwrap();
    reading.until(": keep-alive 2\n\n").unwrap();
    gate.open();
    let lived = reading.whole().unwrap().text();
    assert!(lived.contains(": keep-alive 1\n\n"));
    let replayed = sidecar.call(&ask(api, Some(2))).expect(200, "replay").text();
    assert_eq!(replayed, api.events(&WORDS).concat());
}

#[test]
fn the_end_does_not_come_before_the_upstreams_own() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let script = Script::text("abc");
        let len = script.len();
        script.held_after(len - 1, &held)
    });
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    let mut connection = sidecar.connect();
    connection.send(&Ask::get("/crm/x"));
    let mut reading = connection.head("GET").unwrap();
    reading.until("ab").unwrap();
    assert!(!reading.ends_within(NOT_WITHIN));
    gate.open();
    assert_eq!(reading.whole().unwrap().text(), "abc");
}

/// The chunk of a chat stream that brings this delta.
fn delta(delta: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n"
    )
}

/// An event of a responses stream, which names its type twice.
fn event(kind: &str, rest: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n")
}

/// A stream that stops at `gate` behind these words.
fn stopping_after(api: Api, words: &str, gate: &Gate) -> Script {
    let events = api.events(&WORDS);
    Script::stream().chunk(words).hold(gate).chunks(&events[events.len() - 3..]).end()
}

#[test]
fn an_effect_that_a_running_stream_may_have_called_for_waits_for_that_streams_outcome() {
    let call = delta(
        "{\"tool_calls\":[{\"index\":0,\"id\":\"t\",\"type\":\"function\",\
         \"function\":{\"name\":\"charge\",\"arguments\":\"{}\"}}]}",
    );
    let just_words = delta("{\"content\":\"just words\"}");
    let item = |kind: &str| {
        let item = format!("\"output_index\":0,\"item\":{{\"type\":\"{kind}\",\"name\":\"charge\"}}");
        event("response.output_item.added", &item)
    };
    // Agents act on the arguments, before the item is done.
    let arguments =
        event("response.function_call_arguments.done", "\"name\":\"charge\",\"arguments\":\"{}\"");
    let input = event("response.custom_tool_call_input.done", "\"input\":\"charge\"");
    let the_providers =
        event("response.output_item.added", "\"item\":{\"type\":\"mcp_call\",\"name\":\"just words\"}");
    for (api, words, waits) in [
        (Api::OpenaiChat, call, true),
        (Api::OpenaiChat, just_words, false),
        (Api::OpenaiResponses, item("function_call"), true),
        (Api::OpenaiResponses, item("custom_tool_call"), true),
        (Api::OpenaiResponses, arguments, true),
        (Api::OpenaiResponses, input, true),
        (Api::OpenaiResponses, the_providers, false),
    ] {
        let gate = Gate::new();
        let held = gate.clone();
        let model = Upstream::start(move |_| stopping_after(api, &words, &held));
        let tool = Upstream::start(|_| Script::json("{}"));
        let sidecar =
            Setup::new().upstream("llm", "openai", &model.url()).upstream("crm", "http", &tool.url()).start();
        let mut stream = sidecar.connect();
        stream.send(&ask(api, Some(1)));
        let mut reading = stream.head("POST").unwrap();
        reading.until(if waits { "charge" } else { "just words" }).unwrap();
        let mut effect = sidecar.connect();
        effect.send(&Ask::post("/w/w/a/1/crm/charge", "{}"));
        if waits {
            sidecar.wait_state("w", 2, "open");
            std::thread::sleep(NOT_WITHIN);
            assert_eq!(tool.count(), 0, "sent before the model's answer is recorded");
        } else {
            tool.wait_for(1);
        }
        gate.open();
        reading.whole().unwrap();
        effect.read("POST").unwrap().expect(200, "live");
        assert_eq!((tool.count(), sidecar.states("w")), (1, vec!["completed".to_owned(); 2]));
    }
}

/// Peak resident memory of a process, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn an_answer_too_long_to_be_kept_reaches_its_reader_whole_and_stays_out_of_memory() {
    const MIB: usize = 1 << 20;
    const LONG_MIB: usize = 160;
    let upstream = Upstream::start(|_| {
        let text = Script::raw(head(200, &[("content-type", "text/plain")], Some(LONG_MIB * MIB)));
        (0..LONG_MIB).fold(text, |script, _| script.then(Act::Send(vec![b'x'; MIB])))
    });
    let limits = "recorded_mib_max: 1";
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).limits(limits).start();
    let before = peak_mib(sidecar.pid());
    let ask = |attempt: usize| Ask::get(format!("/w/w/a/{attempt}/crm/export"));
    let mut connection = sidecar.connect();
    connection.send(&ask(1));
    let mut reading = connection.head("GET").unwrap();
    reading.until(&"x".repeat(3 * MIB)).unwrap();
    // It is running still, and its beginning is gone: nobody can join it any more.
    let joining = sidecar.call(&ask(2));
    assert!(joining.status == 422 && joining.text().contains("OG3006"), "{joining:?}");
    let answer = reading.whole().unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, LONG_MIB * MIB));
    let grown = peak_mib(sidecar.pid()) - before;
    assert!(grown < 40, "memory grew by {grown} MiB for an answer of {LONG_MIB} MiB");
    let again = sidecar.call(&ask(3));
    assert!(again.status == 422 && again.text().contains("OG3006"), "{again:?}");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_stream_that_does_not_stop_behind_its_end_is_cut_and_stays_out_of_memory() {
    const LONG_MIB: usize = 96;
    let upstream = Upstream::start(|_| {
        let events = Api::OpenaiChat.events(&WORDS);
        let more = delta(&format!("{{\"content\":\"{}\"}}", "x".repeat(1 << 20)));
        let stream = Script::stream().chunks(&events[..events.len() - 1]);
        (0..LONG_MIB).fold(stream, |script, _| script.chunk(&more)).chunks(&events[events.len() - 1..]).end()
    });
    let limits = "recorded_mib_max: 1";
    let sidecar = Setup::new().upstream("llm", "openai", &upstream.url()).limits(limits).start();
    let before = peak_mib(sidecar.pid());
    let broken = sidecar.try_call(&ask(Api::OpenaiChat, Some(1))).expect_err("never a clean end");
    assert_eq!(broken.status, Some(200), "{broken:?}");
    assert_eq!(sidecar.states("w"), ["failed"]);
    let grown = peak_mib(sidecar.pid()) - before;
    assert!(grown < 40, "memory grew by {grown} MiB for what came behind the end");
}

#[test]
fn the_end_of_a_stream_may_be_longer_than_what_is_recorded() {
    let words = "x".repeat(3 << 20);
    let response = Api::OpenaiResponses.answer(&words);
    let whole = event("response.completed", &format!("\"response\":{response}"));
    let sent = whole.clone();
    let upstream = Upstream::start(move |_| Script::events(&[&sent]));
    let limits = "recorded_mib_max: 1";
    let sidecar = Setup::new().upstream("llm", "openai", &upstream.url()).limits(limits).start();
    let answer = sidecar.call(&ask(Api::OpenaiResponses, Some(1))).expect(200, "live");
    assert!(answer.text() == whole, "the answer differs");
}
