//! What model providers send and what their clients ask, as far as tests need it: one short conversation
//! per API, streamed and not.

use serde_json::json;

/// The APIs that are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Anthropic,
    Gemini,
    OpenaiChat,
    OpenaiResponses,
}

impl Api {
    pub(crate) const ALL: [Self; 4] =
        [Self::Anthropic, Self::Gemini, Self::OpenaiChat, Self::OpenaiResponses];

    /// As the config names it.
    pub(crate) fn dialect(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::OpenaiChat | Self::OpenaiResponses => "openai",
        }
    }

    /// The path below the upstream's name.
    pub(crate) fn path(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Self::Anthropic, _) => "/v1/messages",
            (Self::Gemini, false) => "/v1beta/models/gemini-2.5-pro:generateContent",
            (Self::Gemini, true) => "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            (Self::OpenaiChat, _) => "/v1/chat/completions",
            (Self::OpenaiResponses, _) => "/v1/responses",
        }
    }

    /// A request with this prompt.
    pub(crate) fn ask(self, prompt: &str, stream: bool) -> String {
        match self {
            Self::Anthropic => json!({"model": "claude-sonnet-4-5", "max_tokens": 64, "stream": stream,
                "messages": [{"role": "user", "content": prompt}]}),
            Self::Gemini => json!({"contents": [{"role": "user", "parts": [{"text": prompt}]}]}),
            Self::OpenaiChat => {
                json!({"model": "gpt-5", "stream": stream, "stream_options": {"include_usage": true},
                    "messages": [{"role": "user", "content": prompt}]})
            }
            Self::OpenaiResponses => json!({"model": "gpt-5", "stream": stream, "input": prompt}),
        }
        .to_string()
    }

    /// An answer in one piece.
    pub(crate) fn answer(self, text: &str) -> String {
        match self {
            Self::Anthropic => json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
                "usage": {"input_tokens": 11, "output_tokens": 7}}),
            Self::Gemini => json!({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]},
                "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}}),
            Self::OpenaiChat => json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1,
                "model": "gpt-5", "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}),
            Self::OpenaiResponses => json!({"id": "resp_1", "object": "response", "status": "completed",
                "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}],
                "usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}}),
        }
        .to_string()
    }

    /// The events of a streamed answer of these words. The last event is the one that ends it.
    pub(crate) fn events(self, words: &[&str]) -> Vec<String> {
        match self {
            Self::Anthropic => anthropic(words),
            Self::Gemini => gemini(words),
            Self::OpenaiChat => chat(words, Usage::Asked),
            Self::OpenaiResponses => responses(words),
        }
    }

    /// A piece of the text by which a client knows that the stream is over.
    pub(crate) fn terminal(self) -> &'static str {
        match self {
            Self::Anthropic => "message_stop",
            Self::Gemini => "finishReason",
            Self::OpenaiChat => "[DONE]",
            Self::OpenaiResponses => "response.completed",
        }
    }
}

/// Whether a chat stream tells its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Asked,
    NotAsked,
}

/// A chat completion's stream.
pub(crate) fn chat(words: &[&str], usage: Usage) -> Vec<String> {
    let null = if usage == Usage::Asked { r#","usage":null"# } else { "" };
    let chunk = |delta: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5\",\
             \"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]{null}}}\n\n"
        )
    };
    let mut events: Vec<String> =
        words.iter().map(|word| chunk(&json!({"content": word}).to_string(), "null")).collect();
    events.push(chunk("{}", "\"stop\""));
    if usage == Usage::Asked {
        events.push(
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5\",\
             \"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7,\"total_tokens\":18}}\n\n"
                .to_owned(),
        );
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn responses(words: &[&str]) -> Vec<String> {
    let event = |number: usize, kind: &str, rest: &str| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number}{rest}}}\n\n")
    };
    let mut events =
        vec![event(0, "response.created", ",\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\"}")];
    for (number, word) in words.iter().enumerate() {
        let rest = format!(",\"item_id\":\"i\",\"delta\":{}", json!(word));
        events.push(event(number + 1, "response.output_text.delta", &rest));
    }
    let rest = ",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\
                \"usage\":{\"input_tokens\":11,\"output_tokens\":7,\"total_tokens\":18}}";
    events.push(event(words.len() + 1, "response.completed", rest));
    events
}

fn anthropic(words: &[&str]) -> Vec<String> {
    let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
    let mut events = vec![
        event(
            "message_start",
            ",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\
             \"usage\":{\"input_tokens\":11,\"output_tokens\":1}}",
        ),
        event("content_block_start", ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}"),
    ];
    for word in words {
        let delta = json!({"type": "text_delta", "text": word});
        events.push(event("content_block_delta", &format!(",\"index\":0,\"delta\":{delta}")));
    }
    events.push(event("content_block_stop", ",\"index\":0"));
    events.push(event(
        "message_delta",
        ",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":7}",
    ));
    events.push(event("message_stop", ""));
    events
}

fn gemini(words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    let event = |(at, word): (usize, &&str)| {
        let finish = if at == last { ",\"finishReason\":\"STOP\"" } else { "" };
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"role\":\"model\",\"parts\":[{}]}}{finish}}}],\
             \"usageMetadata\":{{\"promptTokenCount\":11,\"candidatesTokenCount\":{},\"totalTokenCount\":18}}}}\n\n",
            json!({"text": word}),
            if at == last { 7 } else { 1 },
        )
    };
    words.iter().enumerate().map(event).collect()
}
