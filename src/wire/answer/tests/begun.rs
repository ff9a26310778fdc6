//! From when on an answer calls tools: agents that read a stream act on a call before its stream is over.

use super::*;

/// How much of the body had come when it was seen that a tool is called, the body being fed byte by byte.
fn seen_after(case: Case) -> Option<usize> {
    let (mut answer, mut pieces) = (case.answer(), Vec::new());
    assert!(!answer.calls_tools());
    (1..=case.body.len()).find(|len| {
        answer.feed(Bytes::copy_from_slice(&case.body[len - 1..*len]), &mut pieces).unwrap();
        answer.calls_tools()
    })
}

#[track_caller]
fn check(case: Case, before: &str) {
    let seen = seen_after(case).map(|len| &case.body[..len]);
    let text = std::str::from_utf8(seen.expect("a tool is called")).unwrap();
    assert!(!text.contains(before), "seen only behind {before:?}:\n{text}");
}

#[test]
fn a_tool_call_is_seen_before_its_arguments_are_there() {
    check(Case::sse(Surface::OpenaiChat, corpus!("chat/tool_calls.sse")), "finish_reason\":\"tool_calls");
    check(Case::sse(Surface::AnthropicMessages, corpus!("messages/tool_use.sse")), "input_json_delta");
    let responses = Case::sse(Surface::OpenaiResponses, corpus!("responses/tool_call.sse"));
    check(responses, "response.function_call_arguments.done");
}

#[test]
fn a_stream_of_gemini_as_one_array_is_seen_to_call_a_tool_while_it_comes() {
    let case = Case::json(Surface::GeminiGenerate, corpus!("gemini/array.json"));
    check(case, "finishReason");
    let key = b"\"functionCall\"";
    let end = memchr::memmem::find(case.body, key).unwrap() + key.len();
    assert_eq!(seen_after(case), Some(end));
    assert_eq!(seen_after(Case { body: br#"[{"text":"say \"functionCall\""}]"#, ..case }), None);
}

#[test]
fn what_the_provider_calls_itself_is_no_call_of_the_agents() {
    let event = concat!(
        "event: response.output_item.added\n",
        "data: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"mcp_call\",\"name\":\"x\"}}\n\n",
        "event: response.mcp_call_arguments.done\n",
        "data: {\"type\":\"response.mcp_call_arguments.done\",\"arguments\":\"{}\"}\n\n",
    );
    assert_eq!(seen_after(Case::sse(Surface::OpenaiResponses, event.as_bytes())), None);
}
