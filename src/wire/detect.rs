//! What a request asks for. Reads method, path and body; changes nothing and decides nothing.

use std::ops::Range;

use crate::json::{Edit, Tape};
use crate::model::{CallKind, Channel, Dialect, EffectClass, Operation, Surface};

use super::headers::{self, Headers};
use super::mcp::{self, McpCall};
use super::{llm, openai};

/// A request as it is to be understood.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The protocol of the upstream it goes to.
    pub dialect: Dialect,
    /// In capitals.
    pub method: &'a str,
    /// Below the upstream's name, with its leading `/`, without the query.
    pub path: &'a str,
    pub headers: &'a Headers<'a>,
    /// The whole body, content encoding removed.
    pub body: &'a [u8],
}

/// What [`inspect`] found.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub operation: Operation,
    /// Where the values of the body lie; `None` if it is not JSON, or not said to be.
    pub json: Option<Tape>,
    /// Makes an OpenAI stream that does not ask for usage ask for it. Made: the answer needs
    /// [`super::AnswerOptions::hide_usage`].
    pub usage_edit: Option<Edit>,
    /// Parts of the body that the next request of the conversation will repeat, in order, disjoint.
    pub parts: Vec<Range<usize>>,
    /// What an MCP upstream is asked.
    pub mcp: Option<McpCall>,
}

/// A body that its protocol does not allow. Whether that matters is the caller's decision: without a
/// workflow it may pass, and the upstream will say the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// The JSON-RPC code: -32700 or -32600.
    pub rpc_code: i32,
    pub message: String,
}

/// Reads what is asked.
///
/// # Errors
/// [`BadRequest`] for a message to an MCP upstream that is said to be JSON-RPC and is not.
pub fn inspect(request: &RequestView<'_>) -> Result<Inspected, BadRequest> {
    match request.dialect {
        Dialect::Http => Ok(http(request, by_method(request.method))),
        Dialect::Mcp => mcp::inspect(request),
        Dialect::Anthropic | Dialect::Gemini | Dialect::Openai => Ok(provider(request)),
    }
}

/// What HTTP promises about a method.
fn by_method(method: &str) -> EffectClass {
    match method {
        "GET" | "HEAD" | "OPTIONS" => EffectClass::Read,
        "PUT" | "DELETE" => EffectClass::Idempotent,
        _ => EffectClass::Effect,
    }
}

/// The body's tape, if it is JSON. A body that says it is something else is not looked at.
pub(super) fn json_of(request: &RequestView<'_>) -> Option<Tape> {
    let said = headers::first(request.headers, "content-type").is_none_or(headers::is_json);
    if said && !request.body.is_empty() { Tape::parse(request.body).ok() } else { None }
}

/// A call by method and path.
pub(super) fn http(request: &RequestView<'_>, class: EffectClass) -> Inspected {
    let operation = Operation {
        channel: Channel::Step(CallKind::Http),
        surface: Surface::Http,
        class,
        name: name(&format!("{} {}", request.method, request.path)),
        stream: false,
    };
    Inspected { operation, json: json_of(request), usage_edit: None, parts: Vec::new(), mcp: None }
}

fn provider(request: &RequestView<'_>) -> Inspected {
    let target = llm::target(request.path).filter(|_| request.method == "POST");
    // OpenAI's own `messages` end other paths, those of its assistants.
    let target = target.filter(|target| {
        let messages = target.surface == Surface::AnthropicMessages && target.model.is_none();
        !messages
            || request.dialect == Dialect::Anthropic
            || matches!(request.path, "/v1/messages" | "/messages")
    });
    let Some(target) = target else {
        let harmless = request.method == "POST" && llm::is_harmless_post(request.path);
        return http(request, if harmless { EffectClass::Read } else { by_method(request.method) });
    };
    // Generation is JSON whatever the content type says; some clients say nothing.
    let json = Tape::parse(request.body).ok();
    let root = json.as_ref().map(|tape| tape.root(request.body));
    let asked = root.and_then(|root| root.get("model")?.string());
    let model = asked.as_deref().filter(|model| !model.is_empty()).or(target.model);
    let streams = root.and_then(|root| root.get("stream")?.bool()).unwrap_or(false);
    let operation = Operation {
        channel: Channel::Step(CallKind::Llm),
        surface: target.surface,
        // What cannot be read here the provider refuses.
        class: root.map_or(EffectClass::Read, |root| llm::class(target.surface, root)),
        name: match model {
            Some(model) => name(model),
            None => name(&format!("{} {}", request.method, request.path)),
        },
        stream: target.stream || streams,
    };
    let usage_edit = json.as_ref().and_then(|tape| openai::usage_option(target.surface, tape, request.body));
    let parts = root.map(|root| llm::parts(target.surface, root)).unwrap_or_default();
    Inspected { operation, json, usage_edit, parts, mcp: None }
}

/// A name as the timeline shows it: on one line, cut at a character.
pub(super) fn name(text: &str) -> std::sync::Arc<str> {
    const ELLIPSIS: &str = "…";
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut out = String::new();
    for character in text.chars().map(visible) {
        if out.len() + character.len_utf8() > Operation::NAME_LEN_MAX {
            // Room for the ellipsis was kept by cutting back to a character boundary.
            while out.len() + ELLIPSIS.len() > Operation::NAME_LEN_MAX {
                out.pop();
            }
            out.push_str(ELLIPSIS);
            break;
        }
        out.push(character);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(dialect: Dialect, method: &'a str, path: &'a str, body: &'a str) -> RequestView<'a> {
        const HEADERS: &Headers<'static> = &[("content-type", b"application/json")];
        RequestView { dialect, method, path, headers: HEADERS, body: body.as_bytes() }
    }

    #[track_caller]
    fn check(
        (dialect, method, path, body): (Dialect, &str, &str, &str),
        (kind, surface, class, name, stream): (CallKind, Surface, EffectClass, &str, bool),
    ) {
        let found = inspect(&view(dialect, method, path, body)).unwrap().operation;
        let expected = Operation { channel: Channel::Step(kind), surface, class, name: name.into(), stream };
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn generation_is_named_by_its_model() {
        use CallKind::Llm;
        use EffectClass::Read;
        let body = r#"{"model":"m-1","stream":true}"#;
        check(
            (Dialect::Openai, "POST", "/v1/chat/completions", body),
            (Llm, Surface::OpenaiChat, Read, "m-1", true),
        );
        check(
            (Dialect::Openai, "POST", "/responses", body),
            (Llm, Surface::OpenaiResponses, Read, "m-1", true),
        );
        check(
            (Dialect::Anthropic, "POST", "/messages", body),
            (Llm, Surface::AnthropicMessages, Read, "m-1", true),
        );
        check(
            (Dialect::Gemini, "POST", "/v1beta/openai/chat/completions", body),
            (Llm, Surface::OpenaiChat, Read, "m-1", true),
        );
        check(
            (Dialect::Gemini, "POST", "/v1beta/models/g:streamGenerateContent", "{}"),
            (Llm, Surface::GeminiGenerate, Read, "g", true),
        );
        check(
            (Dialect::Openai, "POST", "/openai/deployments/dep/chat/completions", "{}"),
            (Llm, Surface::OpenaiChat, Read, "dep", false),
        );
        check(
            (Dialect::Openai, "POST", "/v1/embeddings", "not json"),
            (Llm, Surface::OpenaiEmbeddings, Read, "POST /v1/embeddings", false),
        );
    }

    #[test]
    fn the_rest_of_a_provider_is_plain_http() {
        use CallKind::Http;
        use EffectClass::{Effect, Idempotent, Read};
        for (dialect, method, path, class) in [
            (Dialect::Openai, "GET", "/v1/models", Read),
            (Dialect::Openai, "GET", "/v1/chat/completions", Read),
            (Dialect::Openai, "POST", "/v1/moderations", Read),
            (Dialect::Openai, "POST", "/v1/responses/input_tokens", Read),
            (Dialect::Openai, "POST", "/v1/responses/r1/cancel", Effect),
            (Dialect::Openai, "POST", "/v1/files", Effect),
            (Dialect::Openai, "POST", "/v1/threads/t1/messages", Effect),
            (Dialect::Openai, "DELETE", "/v1/files/f1", Idempotent),
            (Dialect::Anthropic, "POST", "/v1/messages/count_tokens", Read),
            (Dialect::Anthropic, "POST", "/v1/messages/batches", Effect),
            (Dialect::Anthropic, "HEAD", "/api/hello", Read),
            (Dialect::Gemini, "POST", "/v1beta/models/g:countTokens", Read),
            (Dialect::Http, "GET", "/customers/7", Read),
            (Dialect::Http, "POST", "/v1/chat/completions", Effect),
            (Dialect::Http, "PATCH", "/customers/7", Effect),
            (Dialect::Http, "PUT", "/customers/7", Idempotent),
        ] {
            let name = format!("{method} {path}");
            check((dialect, method, path, "{}"), (Http, Surface::Http, class, &name, false));
        }
    }

    #[test]
    fn a_body_is_json_if_it_says_so_or_says_nothing() {
        let json = |content_type: Option<&str>, body: &str| {
            let headers: Vec<(&str, &[u8])> =
                content_type.iter().map(|value| ("Content-Type", value.as_bytes())).collect();
            let request = RequestView {
                dialect: Dialect::Http,
                method: "POST",
                path: "/",
                headers: &headers,
                body: body.as_bytes(),
            };
            inspect(&request).unwrap().json.is_some()
        };
        assert!(json(Some("application/json; charset=utf-8"), "{}"));
        assert!(json(Some("application/vnd.api+JSON"), "{}"));
        assert!(json(None, "{}"));
        assert!(!json(Some("text/plain"), "{}"));
        assert!(!json(Some("application/json"), "{"));
        assert!(!json(None, ""));
    }

    #[test]
    fn names_are_cut_at_a_character_and_stay_on_one_line() {
        assert_eq!(name("a\nb").as_ref(), "a\u{fffd}b");
        assert_eq!(name(&"x".repeat(200)).as_ref(), "x".repeat(200));
        let cut = name(&"é".repeat(150));
        assert!(cut.len() <= Operation::NAME_LEN_MAX && cut.ends_with("é…"), "{cut}");
    }
}
