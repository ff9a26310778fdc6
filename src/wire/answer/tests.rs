//! Whole answers as providers and MCP servers send them (`tests/corpus/wire`), cut into chunks anyhow.

use super::*;

macro_rules! corpus {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/wire/", $path))
    };
}

mod begun;
mod cuts;
mod packed;

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Driven {
    /// Sent before the outcome was durable.
    now: Vec<u8>,
    held: Vec<u8>,
    recorded: Vec<u8>,
    /// How many pieces were sent at once.
    pieces: usize,
    outcome: Result<Outcome, Cut>,
}

fn drive<'a>(mut answer: Answer, chunks: impl IntoIterator<Item = &'a [u8]>) -> Driven {
    let mut pieces = Vec::new();
    for chunk in chunks {
        answer.feed(Bytes::copy_from_slice(chunk), &mut pieces).unwrap();
    }
    let outcome = answer.finish(&mut pieces);
    let (mut now, mut held, mut recorded, mut sent) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for piece in &pieces {
        match piece {
            Piece::Comment(bytes) => now.extend_from_slice(bytes),
            Piece::Event { bytes, .. } | Piece::Forward(bytes) => {
                now.extend_from_slice(bytes);
                recorded.extend_from_slice(bytes);
                sent += 1;
            }
            Piece::Hold(bytes) => {
                held.extend_from_slice(bytes);
                recorded.extend_from_slice(bytes);
            }
        }
    }
    Driven { now, held, recorded, pieces: sent, outcome }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    surface: Surface,
    status: u16,
    content_type: &'static str,
    encoding: Option<&'static str>,
    hide_usage: bool,
    rpc_id: Option<&'static str>,
    body: &'static [u8],
}

impl Case {
    fn new(surface: Surface, content_type: &'static str, body: &'static [u8]) -> Self {
        Self { surface, status: 200, content_type, encoding: None, hide_usage: false, rpc_id: None, body }
    }

    fn sse(surface: Surface, body: &'static [u8]) -> Self {
        Self::new(surface, "text/event-stream; charset=utf-8", body)
    }

    fn json(surface: Surface, body: &'static [u8]) -> Self {
        Self::new(surface, "application/json", body)
    }

    fn answer(&self) -> Answer {
        let head = AnswerHead {
            status: self.status,
            content_type: Some(self.content_type),
            content_encoding: self.encoding,
        };
        let rpc_id = self.rpc_id.map(str::to_owned);
        Answer::new(self.surface, &head, AnswerOptions { hide_usage: self.hide_usage, rpc_id })
    }

    fn drive(&self) -> Driven {
        drive(self.answer(), [self.body])
    }
}

fn mcp(case: Case, id: &'static str) -> Case {
    Case { rpc_id: Some(id), ..case }
}

/// Every stream of the corpus.
fn streams() -> Vec<Case> {
    use Surface::{AnthropicMessages, GeminiGenerate, Mcp, OpenaiChat, OpenaiCompletions, OpenaiResponses};
    let mut cases = Vec::new();
    for body in [
        &corpus!("chat/usage_asked.sse")[..],
        corpus!("chat/usage_not_asked.sse"),
        corpus!("chat/tool_calls.sse"),
        corpus!("chat/azure.sse"),
        corpus!("chat/llama_cpp.sse"),
        corpus!("chat/groq.sse"),
        corpus!("chat/deepseek.sse"),
        corpus!("chat/vllm_crlf_no_done.sse"),
        corpus!("chat/openrouter_error.sse"),
        corpus!("chat/error.sse"),
        corpus!("chat/two_choices.sse"),
    ] {
        cases.push(Case::sse(OpenaiChat, body));
    }
    for body in [&corpus!("chat/usage_asked.sse")[..], corpus!("chat/azure.sse")] {
        cases.push(Case { hide_usage: true, ..Case::sse(OpenaiChat, body) });
    }
    cases.push(Case::sse(OpenaiCompletions, corpus!("completions/text.sse")));
    for body in [
        &corpus!("responses/tool_call.sse")[..],
        corpus!("responses/incomplete.sse"),
        corpus!("responses/failed.sse"),
        corpus!("responses/error.sse"),
    ] {
        cases.push(Case::sse(OpenaiResponses, body));
    }
    for body in [
        &corpus!("messages/tool_use.sse")[..],
        corpus!("messages/cumulative.sse"),
        corpus!("messages/overloaded.sse"),
    ] {
        cases.push(Case::sse(AnthropicMessages, body));
    }
    for body in
        [&corpus!("gemini/function_call.sse")[..], corpus!("gemini/blocked.sse"), corpus!("gemini/error.sse")]
    {
        cases.push(Case::sse(GeminiGenerate, body));
    }
    cases.push(mcp(Case::sse(Mcp, corpus!("mcp/legacy.sse")), "7"));
    cases.push(mcp(Case::sse(Mcp, corpus!("mcp/new.sse")), "\"a-1\""));
    cases.push(mcp(Case::sse(Mcp, corpus!("mcp/no_response.sse")), "7"));
    cases
}

fn usage(counts: [Option<u64>; 5]) -> Option<Usage> {
    let [input, output, cache_read, cache_write, reasoning] = counts;
    Some(Usage { input, output, cache_read, cache_write, reasoning })
}

/// Checks what a model's answer amounts to, and where its held end begins.
#[track_caller]
fn check(case: Case, held_from: &str, expected: (Option<Usage>, Option<&str>, Option<&str>, &[&str])) {
    let driven = case.drive();
    let outcome = driven.outcome.unwrap();
    let announced: Vec<&str> = outcome.announced.iter().map(String::as_str).collect();
    let found = (outcome.usage, outcome.finish_reason.as_deref(), outcome.model.as_deref(), &announced[..]);
    assert_eq!(found, expected);
    assert_eq!(outcome.failed, None);
    let text = std::str::from_utf8(case.body).unwrap();
    let start = text.find(held_from).expect("the corpus has this event");
    let start = text[..start]
        .rfind("\n\n")
        .map_or_else(|| text[..start].rfind("\r\n\r\n").map_or(0, |at| at + 4), |at| at + 2);
    assert_eq!(String::from_utf8(driven.held).unwrap(), &text[start..], "the end that is held");
    assert_eq!([driven.now, text.as_bytes()[start..].to_vec()].concat(), case.body, "what goes at once");
}

const OPENAI: [Option<u64>; 5] = [Some(1200), Some(80), Some(1000), Some(64), Some(32)];
const GPT: Option<&str> = Some("gpt-5-2026-08-07");

#[test]
fn chat_streams_give_usage_reason_and_calls_and_hold_from_the_first_finish_reason() {
    let chat = |body| Case::sse(Surface::OpenaiChat, body);
    let stop = "\"finish_reason\":\"stop\"";
    check(chat(corpus!("chat/usage_asked.sse")), stop, (usage(OPENAI), Some("stop"), GPT, &[]));
    check(chat(corpus!("chat/usage_not_asked.sse")), stop, (None, Some("stop"), GPT, &[]));
    check(chat(corpus!("chat/azure.sse")), stop, (usage(OPENAI), Some("stop"), GPT, &[]));
    check(
        chat(corpus!("chat/tool_calls.sse")),
        "\"finish_reason\":\"tool_calls\"",
        (None, Some("tool_calls"), GPT, &["charge", "send_email"]),
    );
    check(chat(corpus!("chat/two_choices.sse")), stop, (None, Some("stop"), GPT, &[]));
    check(
        Case::sse(Surface::OpenaiCompletions, corpus!("completions/text.sse")),
        stop,
        (usage([Some(4), Some(1), None, None, None]), Some("stop"), Some("babbage-002"), &[]),
    );
}

#[test]
fn chat_of_others_is_understood_where_it_deviates() {
    let chat = |body| Case::sse(Surface::OpenaiChat, body);
    let stop = "\"finish_reason\":\"stop\"";
    check(
        chat(corpus!("chat/llama_cpp.sse")),
        stop,
        (usage([Some(11), Some(5), None, None, None]), Some("stop"), Some("qwen3"), &[]),
    );
    check(
        chat(corpus!("chat/groq.sse")),
        stop,
        (usage([Some(21), Some(7), None, None, None]), Some("stop"), Some("llama-3.3-70b"), &[]),
    );
    check(
        chat(corpus!("chat/vllm_crlf_no_done.sse")),
        "\"finish_reason\":\"length\"",
        (usage([Some(3), Some(4), None, None, None]), Some("length"), Some("m"), &[]),
    );
    let driven = chat(corpus!("chat/deepseek.sse")).drive();
    assert_eq!(driven.outcome.unwrap().usage, usage([Some(10), Some(4), Some(8), None, Some(1)]));
    assert!(driven.now.starts_with(b": keep-alive\n\n: keep-alive\n\ndata: "), "comments are forwarded");
    assert!(memchr::memmem::find(&driven.recorded, b"keep-alive").is_none(), "and not recorded");
}

#[test]
fn responses_hold_their_last_event_and_announce_only_what_the_agent_runs() {
    let counts = usage([Some(37), Some(11), Some(12), Some(5), Some(6)]);
    check(
        Case::sse(Surface::OpenaiResponses, corpus!("responses/tool_call.sse")),
        "event: response.completed",
        (counts, Some("completed"), GPT, &["charge"]),
    );
    check(
        Case::sse(Surface::OpenaiResponses, corpus!("responses/incomplete.sse")),
        "event: response.incomplete",
        (counts, Some("max_output_tokens"), GPT, &[]),
    );
}

#[test]
fn anthropic_pings_pass_unrecorded_and_the_end_is_held_from_the_stop_reason() {
    let tool_use = Case::sse(Surface::AnthropicMessages, corpus!("messages/tool_use.sse"));
    let claude = Some("claude-opus-4-7");
    check(
        tool_use,
        "event: message_delta",
        (
            usage([Some(3210), Some(89), Some(3000), Some(200), Some(20)]),
            Some("tool_use"),
            claude,
            &["charge"],
        ),
    );
    let driven = tool_use.drive();
    assert!(memchr::memmem::find(&driven.now, b"event: ping").is_some());
    assert!(memchr::memmem::find(&driven.recorded, b"event: ping").is_none());
    let cumulative = Case::sse(Surface::AnthropicMessages, corpus!("messages/cumulative.sse"));
    check(
        cumulative,
        "\"stop_reason\":\"end_turn\"",
        (usage([Some(3212), Some(40), Some(3000), Some(200), None]), Some("end_turn"), claude, &[]),
    );
}

#[test]
fn gemini_streams_end_with_a_finish_reason_or_a_blocked_prompt() {
    let gemini = Some("gemini-2.5-pro");
    check(
        Case::sse(Surface::GeminiGenerate, corpus!("gemini/function_call.sse")),
        "\"finishReason\"",
        (usage([Some(105), Some(50), Some(60), None, Some(30)]), Some("STOP"), gemini, &["charge"]),
    );
    check(
        Case::sse(Surface::GeminiGenerate, corpus!("gemini/blocked.sse")),
        "\"blockReason\"",
        (usage([Some(7), None, None, None, None]), Some("PROHIBITED_CONTENT"), gemini, &[]),
    );
}

#[track_caller]
fn check_failed(case: Case, kind: &str, message: &str) {
    let driven = case.drive();
    let expected = Failure { kind: kind.to_owned(), message: message.to_owned() };
    assert_eq!(driven.outcome.unwrap().failed, Some(expected));
    assert!(!driven.held.is_empty(), "the error event is held");
}

#[test]
fn a_stream_that_ends_in_an_error_event_has_failed() {
    let chat = |body| Case::sse(Surface::OpenaiChat, body);
    check_failed(chat(corpus!("chat/error.sse")), "server_error", "The server had an error");
    check_failed(chat(corpus!("chat/openrouter_error.sse")), "502", "Provider disconnected");
    let responses = |body| Case::sse(Surface::OpenaiResponses, body);
    check_failed(responses(corpus!("responses/failed.sse")), "server_error", "The model failed");
    check_failed(responses(corpus!("responses/error.sse")), "rate_limit_exceeded", "Slow down");
    let messages = Case::sse(Surface::AnthropicMessages, corpus!("messages/overloaded.sse"));
    check_failed(messages, "overloaded_error", "Overloaded");
    let gemini = Case::sse(Surface::GeminiGenerate, corpus!("gemini/error.sse"));
    check_failed(gemini, "UNAVAILABLE", "The model is overloaded.");
    let failed = Case::json(Surface::OpenaiResponses, corpus!("responses/failed.json"));
    check_failed(failed, "server_error", "The model failed");
    let error = br#"{"error":{"message":"upstream gone","code":502}}"#;
    check_failed(Case::json(Surface::OpenaiChat, error), "502", "upstream gone");
}

#[test]
fn whole_answers_are_read_too_and_their_last_frame_is_held() {
    let whole = |surface, body| {
        let driven = Case::json(surface, body).drive();
        assert_eq!((driven.held.as_slice(), driven.now.as_slice()), (body, &b""[..]));
        driven.outcome.unwrap()
    };
    let chat = whole(Surface::OpenaiChat, corpus!("chat/plain.json"));
    assert_eq!((chat.usage, chat.finish_reason.as_deref()), (usage(OPENAI), Some("tool_calls")));
    assert_eq!(chat.announced, ["charge", "grep"]);
    let responses = whole(Surface::OpenaiResponses, corpus!("responses/plain.json"));
    assert_eq!(responses.usage, usage([Some(37), Some(11), Some(12), Some(5), Some(6)]));
    assert_eq!(responses.announced, ["charge"]);
    let messages = whole(Surface::AnthropicMessages, corpus!("messages/plain.json"));
    assert_eq!(messages.usage, usage([Some(100), Some(30), Some(90), Some(0), None]));
    assert_eq!(
        (messages.finish_reason.as_deref(), &messages.announced[..]),
        (Some("tool_use"), &["charge".to_owned()][..])
    );
    let embeddings = whole(Surface::OpenaiEmbeddings, corpus!("embeddings/plain.json"));
    assert_eq!(embeddings.usage, usage([Some(9), None, None, None, None]));
    assert_eq!(embeddings.model.as_deref(), Some("text-embedding-3-small"));
    for body in [&corpus!("gemini/plain.json")[..], corpus!("gemini/array.json")] {
        let gemini = whole(Surface::GeminiGenerate, body);
        assert_eq!(gemini.usage, usage([Some(105), Some(50), Some(60), None, Some(30)]));
        assert_eq!(
            (gemini.finish_reason.as_deref(), &gemini.announced[..]),
            (Some("STOP"), &["charge".to_owned()][..])
        );
    }
}

#[test]
fn mcp_responses_are_found_by_their_id_in_json_and_in_streams() {
    let result = mcp(Case::json(Surface::Mcp, corpus!("mcp/result.json")), "7").drive().outcome.unwrap();
    assert_eq!(result.mcp_response.as_deref(), Some(&corpus!("mcp/result.json")[..]));
    assert!(!result.is_error, "`isError` deeper down means nothing");
    let tool_error = mcp(Case::json(Surface::Mcp, corpus!("mcp/tool_error.json")), "\"a\\u002d1\"").drive();
    assert!(tool_error.outcome.unwrap().is_error);
    let rpc_error =
        mcp(Case::json(Surface::Mcp, corpus!("mcp/rpc_error.json")), "7").drive().outcome.unwrap();
    assert!(rpc_error.is_error && rpc_error.mcp_response.is_some());
    let another = mcp(Case::json(Surface::Mcp, corpus!("mcp/result.json")), "8").drive().outcome.unwrap();
    assert_eq!(another.mcp_response, None);

    let legacy = mcp(Case::sse(Surface::Mcp, corpus!("mcp/legacy.sse")), "7").drive();
    assert!(legacy.held.starts_with(b"id: s1_3\r\n"), "requests of the server go at once");
    let response = legacy.outcome.unwrap().mcp_response.unwrap();
    assert_eq!(
        response,
        r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"charged"}],"isError":false}}"#
    );
    let new = mcp(Case::sse(Surface::Mcp, corpus!("mcp/new.sse")), "\"a-1\"").drive().outcome.unwrap();
    assert!(new.is_error);
    let response = new.mcp_response.unwrap();
    assert_eq!(
        response,
        "{\"jsonrpc\":\"2.0\",\n \"id\":\"a-1\",\"result\":{\"resultType\":\"complete\",\n\"content\":[],\"isError\":true}}"
    );
}

#[test]
fn a_refused_mcp_request_still_has_its_response_read() {
    let body = br#"{"jsonrpc":"2.0","id":7,"error":{"code":-32020,"message":"header mismatch"}}"#;
    let refused = Case { status: 400, ..mcp(Case::json(Surface::Mcp, body), "7") };
    assert!(refused.drive().outcome.unwrap().mcp_response.is_some());
    // A status of its own says what a body that is no response means; it is not cut.
    let odd = Case { status: 400, ..mcp(Case::json(Surface::Mcp, b"{"), "7") };
    assert_eq!(odd.drive().outcome, Ok(Outcome::default()));
}

#[test]
fn hidden_usage_leaves_no_trace_and_changes_nothing_else() {
    let asked = Case { hide_usage: true, ..Case::sse(Surface::OpenaiChat, corpus!("chat/usage_asked.sse")) };
    let driven = asked.drive();
    let sent = [driven.now, driven.held].concat();
    assert_eq!(String::from_utf8(sent).unwrap().as_bytes(), corpus!("chat/usage_not_asked.sse"));
    assert_eq!(driven.recorded, corpus!("chat/usage_not_asked.sse"), "a replay shows none either");
    assert_eq!(driven.outcome.unwrap().usage, usage(OPENAI), "but it is known");

    let azure =
        Case { hide_usage: true, ..Case::sse(Surface::OpenaiChat, corpus!("chat/azure.sse")) }.drive();
    let first = std::str::from_utf8(&azure.now).unwrap();
    assert!(first.starts_with(r#"data: {"choices":[],"#), "an empty chunk that is no usage chunk stays");
    assert!(!first.contains("\"usage\""));

    // What an upstream says unasked stays: it has always said so.
    for body in
        [&corpus!("chat/llama_cpp.sse")[..], corpus!("chat/groq.sse"), corpus!("chat/vllm_crlf_no_done.sse")]
    {
        let case = Case { hide_usage: true, ..Case::sse(Surface::OpenaiChat, body) };
        assert_eq!(case.drive().recorded, body);
    }
}

#[test]
fn odd_spacing_around_a_hidden_null_stays() {
    let body =
        b"data: { \"choices\" : [ ] , \"usage\" : null }\n\ndata: {\"usage\":null}\n\ndata: [DONE]\n\n";
    let driven = Case { hide_usage: true, ..Case::sse(Surface::OpenaiChat, body) }.drive();
    let sent = String::from_utf8(driven.recorded).unwrap();
    assert_eq!(sent, "data: { \"choices\" : [ ]  }\n\ndata: {}\n\ndata: [DONE]\n\n");
}

#[test]
fn what_is_not_inspected_passes_with_its_last_frame_held() {
    let unknown = Case { encoding: Some("compress"), ..Case::sse(Surface::OpenaiChat, b"") };
    let http = Case::sse(Surface::Http, b"");
    let error = Case { status: 500, ..Case::sse(Surface::OpenaiChat, b"") };
    for case in [unknown, http, error] {
        let driven = drive(case.answer(), [&b"\x1f\x8b one"[..], b"", b" two", b" three"]);
        assert_eq!(
            (driven.now.as_slice(), driven.held.as_slice()),
            (&b"\x1f\x8b one two"[..], &b" three"[..])
        );
        assert_eq!(driven.outcome, Ok(Outcome::default()));
    }
    let identity = Case {
        encoding: Some("Identity"),
        ..Case::sse(Surface::OpenaiChat, corpus!("chat/usage_asked.sse"))
    };
    assert!(identity.drive().outcome.unwrap().usage.is_some());
}

#[test]
fn a_burst_of_events_leaves_as_one_piece_without_a_copy() {
    let event =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
    let burst = Bytes::from(event.repeat(200));
    let mut answer = Case::sse(Surface::OpenaiChat, b"").answer();
    let mut pieces = Vec::new();
    answer.feed(burst.clone(), &mut pieces).unwrap();
    let [Piece::Forward(piece)] = pieces.as_slice() else { panic!("{} pieces", pieces.len()) };
    assert_eq!((piece.as_ptr(), piece.len()), (burst.as_ptr(), burst.len()));
}

#[test]
fn an_endless_event_breaks_the_answer_for_good() {
    let mut answer = Case::sse(Surface::OpenaiChat, b"").answer();
    let mut pieces = Vec::new();
    let chunk = Bytes::from(vec![b'x'; Splitter::EVENT_BYTES_MAX + 1]);
    assert_eq!(answer.feed(chunk, &mut pieces), Err(Cut::EventTooLong));
    assert_eq!(answer.feed(Bytes::from_static(b"\n\ndata: [DONE]\n\n"), &mut pieces), Err(Cut::EventTooLong));
    assert_eq!(answer.finish(&mut pieces), Err(Cut::EventTooLong));
    assert_eq!(pieces, []);
}
