//! A model behind the OpenAI chat completions API, as JSON and as a stream. What it says is the errand's; its
//! ids are new in every answer, and its token counts follow from the text alone.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::counters::Counters;
use super::{Body, fresh_id, json as json_response, with_type};
use crate::cli::demo::errand::{self, Turn};

/// How long the model thinks before its first token.
const THINKING: Duration = Duration::from_millis(20);
/// From one part of a stream to the next.
const BETWEEN_PARTS: Duration = Duration::from_millis(1);
/// Characters of text or arguments in one part of a stream.
const PART_CHARS: usize = 24;
/// The time every answer claims: nothing the model says depends on the clock.
const CREATED: u64 = 1_795_132_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tokens {
    prompt: u64,
    cached: u64,
    completion: u64,
}

/// Answers one chat completion.
pub(super) async fn chat(counters: &Counters, body: &[u8]) -> Response<Body> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return refuse("the body is not JSON");
    };
    let Some(messages) = request.get("messages").and_then(Value::as_array) else {
        return refuse("`messages` is missing");
    };
    let results = messages.iter().filter(|message| message.get("role") == Some(&json!("tool"))).count();
    let message = message(errand::turn_after(results));
    let tokens = tokens(&request, &message);
    counters.model_call(tokens.prompt, tokens.completion).await;
    tokio::time::sleep(THINKING).await;
    let model = request.get("model").cloned().unwrap_or_default();
    if request.get("stream") != Some(&Value::Bool(true)) {
        return json_response(StatusCode::OK, completion(&model, &message, tokens).to_string());
    }
    let usage = request.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
    let events = stream::iter(events(&model, &message, usage.then_some(tokens))).then(|event| async move {
        tokio::time::sleep(BETWEEN_PARTS).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from(event)))
    });
    with_type(StatusCode::OK, "text/event-stream", StreamBody::new(events).boxed_unsync())
}

fn refuse(message: &str) -> Response<Body> {
    let error = json!({"error": {"message": message, "type": "invalid_request_error",
                                 "param": null, "code": null}});
    json_response(StatusCode::BAD_REQUEST, error.to_string())
}

/// The assistant's message, with ids of its own.
fn message(turn: Turn) -> Value {
    match turn {
        Turn::Answer(text) => json!({"role": "assistant", "content": text}),
        Turn::Tools(wanted) => {
            let calls: Vec<Value> = wanted
                .into_iter()
                .map(|one| {
                    json!({"id": fresh_id("call_"), "type": "function",
                           "function": {"name": one.tool, "arguments": one.arguments.to_string()}})
                })
                .collect();
            json!({"role": "assistant", "content": null, "tool_calls": calls})
        }
    }
}

/// About four characters each. Only the conversation and the tools count, so that a member somebody adds to
/// the request changes nothing.
fn tokens(request: &Value, message: &Value) -> Tokens {
    let length = |name: &str| request.get(name).map_or(0, |value| value.to_string().len());
    let prompt = count(length("messages") + length("tools"));
    let cached = if prompt < 1024 { 0 } else { (prompt - prompt / 8) / 128 * 128 };
    Tokens { prompt, cached, completion: count(message.to_string().len()) }
}

fn count(characters: usize) -> u64 {
    u64::try_from(characters.div_ceil(4)).unwrap_or(u64::MAX)
}

fn usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    })
}

fn finish_reason(message: &Value) -> &'static str {
    if message.get("tool_calls").is_some() { "tool_calls" } else { "stop" }
}

fn completion(model: &Value, message: &Value, tokens: Tokens) -> Value {
    json!({
        "id": fresh_id("chatcmpl-"),
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": null,
                     "finish_reason": finish_reason(message)}],
        "usage": usage(tokens),
    })
}

/// The events of a streamed answer, usage in an event of its own where it was asked for.
fn events(model: &Value, message: &Value, asked: Option<Tokens>) -> Vec<String> {
    let id = fresh_id("chatcmpl-");
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({"id": id, "object": "chat.completion.chunk", "created": CREATED,
                               "model": model, "choices": choices});
        if let (Some(members), Some(usage)) = (chunk.as_object_mut(), usage) {
            members.insert("usage".to_owned(), usage);
        }
        format!("data: {chunk}\n\n")
    };
    let null = asked.map(|_| Value::Null);
    let mut events: Vec<String> = deltas(message)
        .into_iter()
        .map(|delta| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), null.clone()))
        .collect();
    let last = json!([{"index": 0, "delta": {}, "finish_reason": finish_reason(message)}]);
    events.push(chunk(last, null));
    if let Some(tokens) = asked {
        events.push(chunk(json!([]), Some(usage(tokens))));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn deltas(message: &Value) -> Vec<Value> {
    let mut deltas = vec![json!({"role": "assistant", "content": message.get("content")})];
    if let Some(text) = message.get("content").and_then(Value::as_str) {
        deltas.extend(parts(text).map(|part| json!({"content": part})));
    }
    let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    for (index, call) in calls.enumerate() {
        let name = call.pointer("/function/name");
        deltas.push(json!({"tool_calls": [{"index": index, "id": call.get("id"), "type": "function",
                                           "function": {"name": name, "arguments": ""}}]}));
        let arguments = call.pointer("/function/arguments").and_then(Value::as_str).unwrap_or_default();
        deltas.extend(
            parts(arguments)
                .map(|part| json!({"tool_calls": [{"index": index, "function": {"arguments": part}}]})),
        );
    }
    deltas
}

fn parts(text: &str) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let parts: Vec<String> = characters.chunks(PART_CHARS).map(|part| part.iter().collect()).collect();
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(request: Value) -> (http::response::Parts, String) {
        let (head, body) = chat(&Counters::new(None), request.to_string().as_bytes()).await.into_parts();
        (head, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    fn conversation(results: usize, extra: Value) -> Value {
        let mut messages = vec![json!({"role": "user", "content": "reconcile"})];
        messages.extend((0..results).map(|_| json!({"role": "tool", "tool_call_id": "x", "content": "ok"})));
        let mut request = json!({"model": "m", "messages": messages});
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        request
    }

    #[tokio::test]
    async fn a_plain_answer_has_one_call_usage_and_ids_of_its_own() {
        let (head, body) = answer(conversation(0, json!({}))).await;
        assert_eq!(head.headers["content-type"], "application/json");
        let first: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(first["choices"][0]["finish_reason"], "tool_calls");
        let call = &first["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"], "fraud_check");
        let usage = &first["usage"];
        let total = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], total);
        let again: Value = serde_json::from_str(&answer(conversation(0, json!({}))).await.1).unwrap();
        assert_ne!(call["id"], again["choices"][0]["message"]["tool_calls"][0]["id"]);
        assert_eq!(*usage, again["usage"]);
    }

    #[tokio::test]
    async fn a_stream_tells_its_usage_only_when_asked_and_then_in_every_chunk() {
        let (head, body) = answer(conversation(2, json!({"stream": true}))).await;
        assert_eq!(head.headers["content-type"], "text/event-stream");
        assert!(!body.contains("usage"), "{body}");
        assert!(body.ends_with("data: [DONE]\n\n"));
        let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
        let (_, body) = answer(conversation(2, asked)).await;
        let chunks: Vec<Value> = body
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        let (last, others) = chunks.split_last().unwrap();
        assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
        assert_eq!(last["choices"], json!([]));
        assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    }

    #[tokio::test]
    async fn what_the_request_carries_beside_the_conversation_costs_no_tokens() {
        let (plain, more) = (conversation(4, json!({})), conversation(4, json!({"user": "someone else"})));
        assert_eq!(tokens(&plain, &json!({})), tokens(&more, &json!({})));
    }

    #[tokio::test]
    async fn a_body_that_is_no_conversation_is_a_400() {
        assert_eq!(answer(json!({"model": "m"})).await.0.status, StatusCode::BAD_REQUEST);
    }
}
