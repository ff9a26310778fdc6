//! Requests to model providers: which surface a path is, which model is asked, what the provider may do
//! on its own, and which parts of a body come again in the next request.

use std::ops::Range;

use crate::json::{Kind, Value};
use crate::model::{EffectClass, Surface};

/// What the path of a request to a model provider says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) surface: Surface,
    /// The model, where the path names it.
    pub(super) model: Option<&'a str>,
    /// The path asks for a stream.
    pub(super) stream: bool,
}

/// Which generation surface a `POST` to `path` is; `None` for everything else a provider offers. Known
/// by how the path ends, so that any prefix (`/v1`, `/openai/deployments/D`, a gateway's own) will do.
pub(super) fn target(path: &str) -> Option<Target<'_>> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let plain = |surface| Some(Target { surface, model: None, stream: false });
    match *segments.as_slice() {
        [.., "deployments", model, "chat", "completions"] => {
            Some(Target { surface: Surface::OpenaiChat, model: Some(model), stream: false })
        }
        [.., "chat", "completions"] => plain(Surface::OpenaiChat),
        [.., "completions"] => plain(Surface::OpenaiCompletions),
        [.., "embeddings"] => plain(Surface::OpenaiEmbeddings),
        [.., "responses"] => plain(Surface::OpenaiResponses),
        // Threads of OpenAI's assistants have messages of another kind.
        [.., "threads", _, "messages"] => None,
        [.., "messages"] => plain(Surface::AnthropicMessages),
        [.., "model", model, action @ ("invoke" | "invoke-with-response-stream")] => {
            let (surface, stream) = (Surface::AnthropicMessages, action != "invoke");
            Some(Target { surface, model: Some(model), stream })
        }
        [.., last] => {
            let (model, action) = last.rsplit_once(':')?;
            let (surface, stream) = match action {
                "generateContent" => (Surface::GeminiGenerate, false),
                "streamGenerateContent" => (Surface::GeminiGenerate, true),
                "embedContent" | "batchEmbedContents" => (Surface::GeminiEmbed, false),
                "rawPredict" => (Surface::AnthropicMessages, false),
                "streamRawPredict" => (Surface::AnthropicMessages, true),
                _ => return None,
            };
            Some(Target { surface, model: Some(model), stream })
        }
        [] => None,
    }
}

/// A `POST` beside generation that changes nothing: counting, checking, and what a model makes that is
/// not text. It costs money at most.
pub(super) fn is_harmless_post(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match *segments.as_slice() {
        [.., "messages", "count_tokens"]
        | [.., "responses", "input_tokens" | "compact"]
        | [.., "moderations" | "rerank" | "complete"]
        | [.., "images", "generations" | "edits" | "variations"]
        | [.., "audio", "speech" | "transcriptions" | "translations"] => true,
        [.., last] => last.ends_with(":countTokens"),
        [] => false,
    }
}

/// What sending the request twice would do: nothing but cost money, unless the provider itself may run
/// tools that act. Tools that the agent runs come through as calls of their own.
pub(super) fn class(surface: Surface, body: Value<'_>) -> EffectClass {
    let acts = match surface {
        Surface::AnthropicMessages => anthropic_acts(body),
        Surface::GeminiGenerate => gemini_acts(body),
        Surface::OpenaiChat | Surface::OpenaiCompletions | Surface::OpenaiResponses => openai_acts(body),
        Surface::GeminiEmbed | Surface::Http | Surface::Mcp | Surface::OpenaiEmbeddings => false,
    };
    if acts { EffectClass::Effect } else { EffectClass::Read }
}

fn tools(body: Value<'_>) -> impl Iterator<Item = Value<'_>> {
    body.get("tools").into_iter().flat_map(Value::elements)
}

fn anthropic_acts(body: Value<'_>) -> bool {
    let servers = body.get("mcp_servers").is_some_and(|servers| servers.elements().next().is_some());
    let runs_code = |tool: Value<'_>| {
        let kind = tool.get("type").and_then(Value::string).unwrap_or_default();
        // `computer_`, `bash_` and `text_editor_` tools are run by the agent.
        kind.starts_with("code_execution") || kind.starts_with("mcp_toolset")
    };
    servers || tools(body).any(runs_code)
}

fn openai_acts(body: Value<'_>) -> bool {
    tools(body).any(|tool| {
        let kind = tool.get("type").and_then(Value::string).unwrap_or_default();
        matches!(kind.as_ref(), "code_interpreter" | "mcp" | "shell") || kind.starts_with("computer")
    })
}

fn gemini_acts(body: Value<'_>) -> bool {
    let acting = ["codeExecution", "code_execution", "mcpServers", "mcp_servers"];
    // A single tool may stand without its array.
    let lone = body.get("tools").filter(|tools| tools.kind() == Kind::Object);
    tools(body).chain(lone).any(|tool| acting.iter().any(|name| tool.given(name).is_some()))
}

/// The parts of a generation request that the next one repeats, in the order of the text, none inside
/// another: instructions, tools, and each message.
pub(super) fn parts(surface: Surface, body: Value<'_>) -> Vec<Range<usize>> {
    let (whole, lists): (&[&str], &[&str]) = match surface {
        Surface::AnthropicMessages => (&["system", "tools"], &["messages"]),
        Surface::GeminiGenerate => (&["systemInstruction", "system_instruction", "tools"], &["contents"]),
        Surface::OpenaiChat => (&["tools"], &["messages"]),
        Surface::OpenaiResponses => (&["instructions", "tools"], &["input"]),
        Surface::GeminiEmbed
        | Surface::Http
        | Surface::Mcp
        | Surface::OpenaiCompletions
        | Surface::OpenaiEmbeddings => (&[], &[]),
    };
    let mut parts = Vec::new();
    for (key, value) in body.members() {
        let named = |names: &[&str]| names.iter().any(|name| key.is_str(name));
        if named(lists) && value.kind() == Kind::Array {
            parts.extend(value.elements().map(Value::span));
        } else if named(whole) || named(lists) {
            parts.push(value.span());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    #[track_caller]
    fn check(path: &str, expected: Option<(Surface, Option<&str>, bool)>) {
        let found = target(path).map(|target| (target.surface, target.model, target.stream));
        assert_eq!(found, expected, "path: {path}");
    }

    #[test]
    fn a_surface_is_known_by_the_end_of_its_path() {
        for (end, surface) in [
            ("/chat/completions", Surface::OpenaiChat),
            ("/completions", Surface::OpenaiCompletions),
            ("/embeddings", Surface::OpenaiEmbeddings),
            ("/responses", Surface::OpenaiResponses),
            ("/messages", Surface::AnthropicMessages),
        ] {
            for prefix in ["", "/v1", "/openai/v1", "/v1beta/openai", "/some/gateway/v1", "//v1"] {
                check(&format!("{prefix}{end}"), Some((surface, None, false)));
            }
            check(&format!("/v1{end}/"), Some((surface, None, false)));
        }
        let azure = "/openai/deployments/my-gpt/chat/completions";
        check(azure, Some((Surface::OpenaiChat, Some("my-gpt"), false)));
        let gemini = Surface::GeminiGenerate;
        check("/v1beta/models/g-2.5:generateContent", Some((gemini, Some("g-2.5"), false)));
        check("/v1beta/models/g-2.5:streamGenerateContent", Some((gemini, Some("g-2.5"), true)));
        check("/v1/models/e:batchEmbedContents", Some((Surface::GeminiEmbed, Some("e"), false)));
        let claude = Surface::AnthropicMessages;
        check("/publishers/anthropic/models/c@1:streamRawPredict", Some((claude, Some("c@1"), true)));
        check("/model/anthropic.c-v1:0/invoke", Some((claude, Some("anthropic.c-v1:0"), false)));
        for other in [
            "/",
            "/v1/models",
            "/v1/messages/batches",
            "/v1/messages/count_tokens",
            "/v1/responses/resp_1/cancel",
            "/v1/threads/t1/messages",
            "/v1beta/models/g:countTokens",
            "/api/hello",
        ] {
            check(other, None);
        }
    }

    #[track_caller]
    fn check_class(surface: Surface, body: &str, expected: EffectClass) {
        let tape = Tape::parse(body.as_bytes()).unwrap();
        assert_eq!(class(surface, tape.root(body.as_bytes())), expected, "body: {body}");
    }

    #[test]
    fn generation_is_a_read_unless_the_provider_runs_acting_tools() {
        use EffectClass::{Effect, Read};
        for (kind, expected) in [
            ("function", Read),
            ("web_search", Read),
            ("web_search_preview", Read),
            ("file_search", Read),
            ("image_generation", Read),
            ("local_shell", Read),
            ("mcp", Effect),
            ("code_interpreter", Effect),
            ("computer_use_preview", Effect),
            ("shell", Effect),
        ] {
            let body =
                format!(r#"{{"background":true,"tools":[{{"type":"function"}},{{"type":"{kind}"}}]}}"#);
            check_class(Surface::OpenaiResponses, &body, expected);
        }
        for (body, expected) in [
            (r#"{"tools":[{"name":"bash_20250124"},{"type":"bash_20250124"}]}"#, Read),
            (r#"{"tools":[{"type":"computer_20250124"},{"type":"web_search_20250305"}]}"#, Read),
            (r#"{"tools":[{"type":"code_execution_20250825"}]}"#, Effect),
            (r#"{"mcp_servers":[]}"#, Read),
            (r#"{"mcp_servers":[{"type":"url","url":"https://x"}]}"#, Effect),
            (r#"{"mcp_servers":null,"tools":null}"#, Read),
        ] {
            check_class(Surface::AnthropicMessages, body, expected);
        }
        for (body, expected) in [
            (r#"{"tools":[{"functionDeclarations":[]},{"googleSearch":{}}]}"#, Read),
            (r#"{"tools":[{"codeExecution":{}}]}"#, Effect),
            (r#"{"tools":{"code_execution":{}}}"#, Effect),
        ] {
            check_class(Surface::GeminiGenerate, body, expected);
        }
        check_class(Surface::OpenaiEmbeddings, r#"{"tools":[{"type":"mcp"}]}"#, Read);
    }

    #[track_caller]
    fn check_parts(surface: Surface, body: &str, expected: &[&str]) {
        let tape = Tape::parse(body.as_bytes()).unwrap();
        let found: Vec<&str> =
            parts(surface, tape.root(body.as_bytes())).into_iter().map(|part| &body[part]).collect();
        assert_eq!(found, expected, "body: {body}");
    }

    #[test]
    fn parts_are_what_the_next_request_repeats() {
        let chat = r#"{"model":"m","messages":[{"a":1}, "b"],"tools":[{"t":1}]}"#;
        check_parts(Surface::OpenaiChat, chat, &[r#"{"a":1}"#, r#""b""#, r#"[{"t":1}]"#]);
        check_parts(Surface::OpenaiResponses, r#"{"input":"hi","instructions":"do"}"#, &["\"hi\"", "\"do\""]);
        check_parts(Surface::AnthropicMessages, r#"{"system":"s","messages":[1,2]}"#, &["\"s\"", "1", "2"]);
        check_parts(
            Surface::GeminiGenerate,
            r#"{"contents":[{}],"systemInstruction":{"x":1}}"#,
            &["{}", r#"{"x":1}"#],
        );
        check_parts(Surface::Http, chat, &[]);
    }
}
