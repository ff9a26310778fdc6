//! Saying no in the caller's own protocol, so that its SDK raises the right error and does not try again
//! where that is no use (durability.md, section 8).

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::model::{Dialect, Surface};

use super::mcp;

/// Whether to send the same call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It may already have had its effect.
    Harmful,
    /// Nothing was done, and the same answer will come until something is changed.
    Pointless,
    /// Nothing was done, and it may work next time.
    Useful,
}

/// How an MCP request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum McpForm {
    /// A JSON-RPC error with our own code: most agents stop.
    Error,
    /// For `tools/call` a result that says `isError`, so that the model reads why and goes on. Other
    /// requests get the error.
    Result,
    /// A case that the specification defines, with its code and the refusal's own HTTP status.
    Specified(i32),
}

/// One refusal, not yet in anybody's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `OG3001`; `outrigger explain` has a page on it.
    pub code: Cow<'static, str>,
    /// A sentence for the person who reads the agent's log: what happened and what to do.
    pub message: String,
    pub again: Again,
    /// Sent as `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    pub mcp: McpForm,
}

/// Who is told, and what they asked.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    pub dialect: Dialect,
    /// `None` when the request was refused before anybody read it.
    pub surface: Option<Surface>,
    /// The id of an MCP request, as it is spelled.
    pub rpc_id: Option<&'a str>,
    /// The MCP request is a `tools/call`.
    pub is_tool_call: bool,
}

/// A refusal as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub status: u16,
    pub content_type: &'static str,
    /// Further headers, lower case.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// JSON-RPC code of refusals that the MCP specification has none for.
pub const RPC_CODE: i32 = 4001;

/// Whose words to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Anthropic,
    Gemini,
    Mcp,
    Openai,
    Problem,
    Responses,
}

impl Listener<'_> {
    fn voice(&self) -> Voice {
        match self.surface {
            Some(Surface::AnthropicMessages) => Voice::Anthropic,
            Some(Surface::GeminiEmbed | Surface::GeminiGenerate) => Voice::Gemini,
            Some(Surface::Mcp) => Voice::Mcp,
            Some(Surface::OpenaiResponses) => Voice::Responses,
            Some(Surface::OpenaiChat | Surface::OpenaiCompletions | Surface::OpenaiEmbeddings) => {
                Voice::Openai
            }
            // A provider's SDK reads its own errors on every path.
            Some(Surface::Http) | None => match self.dialect {
                Dialect::Anthropic => Voice::Anthropic,
                Dialect::Gemini => Voice::Gemini,
                Dialect::Http => Voice::Problem,
                Dialect::Mcp => Voice::Mcp,
                Dialect::Openai => Voice::Openai,
            },
        }
    }
}

impl Refusal {
    /// Whether sending the same call again can do no harm.
    pub fn is_safe_to_retry(&self) -> bool {
        self.again != Again::Harmful
    }

    /// The message with its code and the answer to "is it safe to send again?".
    fn told(&self) -> String {
        let again = match self.again {
            Again::Harmful => "not safe to send again",
            Again::Pointless => "safe to send again, but the answer will be the same",
            Again::Useful => "safe to send again",
        };
        let message = self.message.trim_end_matches('.');
        format!("{message}. ({}; {again})", self.code)
    }

    fn openai_error(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            402 => "insufficient_quota",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "message": self.told(), "type": kind, "param": null, "code": self.code })
    }

    fn anthropic_body(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.told(), "code": self.code } })
    }

    fn gemini_body(&self) -> Value {
        let status = match self.status {
            401 => "UNAUTHENTICATED",
            402 | 429 => "RESOURCE_EXHAUSTED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            422 => "FAILED_PRECONDITION",
            500 => "INTERNAL",
            504 => "DEADLINE_EXCEEDED",
            501.. => "UNAVAILABLE",
            _ => "INVALID_ARGUMENT",
        };
        let info = json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": self.code,
            "domain": "outrigger",
            "metadata": { "safe_to_retry": self.is_safe_to_retry().to_string() },
        });
        json!({ "error": { "code": self.status, "message": self.told(), "status": status, "details": [info] } })
    }

    fn problem_body(&self) -> Value {
        json!({
            "type": format!("urn:outrigger:{}", self.code),
            "title": self.message,
            "status": self.status,
            "detail": self.told(),
            "code": self.code,
            "safe_to_retry": self.is_safe_to_retry(),
        })
    }

    /// The JSON-RPC message for `listener`. The id is put in as it was spelled.
    fn rpc_body(&self, listener: &Listener<'_>) -> Vec<u8> {
        let as_result = self.mcp == McpForm::Result && listener.is_tool_call && listener.rpc_id.is_some();
        let (key, value) = if as_result {
            let text = json!([{ "type": "text", "text": self.told() }]);
            ("result", json!({ "content": text, "isError": true, "resultType": "complete" }))
        } else {
            let code = match self.mcp {
                McpForm::Specified(code) => code,
                McpForm::Error | McpForm::Result => RPC_CODE,
            };
            let about = json!({ "code": self.code, "safe_to_retry": self.is_safe_to_retry() });
            ("error", json!({ "code": code, "message": self.told(), "data": about }))
        };
        let id = listener.rpc_id.unwrap_or("null");
        format!(r#"{{"jsonrpc":"2.0","id":{id},"{key}":{value}}}"#).into_bytes()
    }

    /// A client of 2026-07-28 takes a 400, 404 or 405 that it does not know for an older server, and other
    /// clients wait for ever behind a status that is no success. So whoever waits for a response gets one.
    fn mcp_status(&self, listener: &Listener<'_>) -> u16 {
        match (self.mcp, listener.rpc_id, self.status) {
            (McpForm::Specified(_), ..) => self.status,
            (McpForm::Error | McpForm::Result, Some(_), _) => 200,
            (McpForm::Error | McpForm::Result, None, 400 | 404 | 405) => 422,
            (McpForm::Error | McpForm::Result, None, status) => status,
        }
    }
}

/// The refusal as a whole answer.
pub fn render(refusal: &Refusal, listener: &Listener<'_>) -> Rendered {
    let voice = listener.voice();
    let body = match voice {
        Voice::Anthropic => refusal.anthropic_body().to_string().into(),
        Voice::Gemini => refusal.gemini_body().to_string().into(),
        Voice::Mcp => refusal.rpc_body(listener),
        Voice::Openai | Voice::Responses => json!({ "error": refusal.openai_error() }).to_string().into(),
        Voice::Problem => refusal.problem_body().to_string().into_bytes(),
    };
    let mut headers = vec![("x-should-retry", (refusal.again == Again::Useful).to_string())];
    headers.extend(refusal.retry_after_s.map(|seconds| ("retry-after", seconds.to_string())));
    Rendered {
        status: if voice == Voice::Mcp { refusal.mcp_status(listener) } else { refusal.status },
        content_type: if voice == Voice::Problem { "application/problem+json" } else { "application/json" },
        headers,
        body: body.into(),
    }
}

/// The refusal as the last event of a stream that has begun; `None` where the protocol has no such event
/// and only a reset says that the stream broke. It is to be followed by a reset.
pub fn stream_error_event(refusal: &Refusal, listener: &Listener<'_>) -> Option<Bytes> {
    let text = match listener.voice() {
        Voice::Anthropic => format!("event: error\ndata: {}\n\n", refusal.anthropic_body()),
        Voice::Openai => format!("data: {}\n\n", json!({ "error": refusal.openai_error() })),
        Voice::Responses => {
            let mut error = refusal.openai_error();
            if let Value::Object(members) = &mut error {
                members.insert("type".to_owned(), "error".into());
                members.insert("sequence_number".to_owned(), 0.into());
            }
            format!("event: error\ndata: {error}\n\n")
        }
        Voice::Mcp if listener.rpc_id.is_some() => return Some(mcp::event(&refusal.rpc_body(listener))),
        Voice::Gemini | Voice::Mcp | Voice::Problem => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    fn in_doubt() -> Refusal {
        Refusal {
            status: 422,
            code: "OG3001".into(),
            message: "step 7 (`charge`) may have happened; \"check\" it.".to_owned(),
            again: Again::Harmful,
            retry_after_s: None,
            mcp: McpForm::Result,
        }
    }

    fn listener(surface: Surface) -> Listener<'static> {
        Listener { dialect: Dialect::Http, surface: Some(surface), rpc_id: None, is_tool_call: false }
    }

    fn mcp(rpc_id: Option<&'static str>, is_tool_call: bool) -> Listener<'static> {
        Listener { dialect: Dialect::Mcp, surface: Some(Surface::Mcp), rpc_id, is_tool_call }
    }

    /// The message every dialect carries.
    const TOLD: &str =
        r#"step 7 (`charge`) may have happened; \"check\" it. (OG3001; not safe to send again)"#;

    #[track_caller]
    fn check(listener: &Listener<'_>, status: u16, content_type: &str, body: &str) {
        let rendered = render(&in_doubt(), listener);
        // Readers go by the names of members, in whatever order they stand.
        let told: Value = serde_json::from_slice(&rendered.body).unwrap();
        let expected: Value = serde_json::from_str(&body.replace("TOLD", TOLD)).unwrap();
        assert_eq!(told, expected);
        assert_eq!((rendered.status, rendered.content_type), (status, content_type));
        assert_eq!(rendered.headers, [("x-should-retry", "false".to_owned())]);
    }

    #[test]
    fn each_dialect_gets_its_own_error() {
        let json = "application/json";
        for surface in [Surface::OpenaiChat, Surface::OpenaiResponses, Surface::OpenaiEmbeddings] {
            check(
                &listener(surface),
                422,
                json,
                r#"{"error":{"code":"OG3001","message":"TOLD","param":null,"type":"invalid_request_error"}}"#,
            );
        }
        check(
            &listener(Surface::AnthropicMessages),
            422,
            json,
            r#"{"error":{"code":"OG3001","message":"TOLD","type":"invalid_request_error"},"type":"error"}"#,
        );
        check(
            &listener(Surface::GeminiGenerate),
            422,
            json,
            r#"{"error":{"code":422,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"outrigger","metadata":{"safe_to_retry":"false"},"reason":"OG3001"}],"message":"TOLD","status":"FAILED_PRECONDITION"}}"#,
        );
        check(
            &listener(Surface::Http),
            422,
            "application/problem+json",
            r#"{"code":"OG3001","detail":"TOLD","safe_to_retry":false,"status":422,"title":"step 7 (`charge`) may have happened; \"check\" it.","type":"urn:outrigger:OG3001"}"#,
        );
        // Beside generation a provider's SDK still reads its own errors.
        let models = Listener { dialect: Dialect::Anthropic, ..listener(Surface::Http) };
        assert_eq!(
            render(&in_doubt(), &models).body,
            render(&in_doubt(), &listener(Surface::AnthropicMessages)).body
        );
    }

    #[test]
    fn an_mcp_tool_call_gets_a_result_and_every_other_request_an_error() {
        let result = r#"{"jsonrpc":"2.0","id":"a-1","result":{"content":[{"text":"TOLD","type":"text"}],"isError":true,"resultType":"complete"}}"#;
        let error = r#"{"jsonrpc":"2.0","id":ID,"error":{"code":4001,"data":{"code":"OG3001","safe_to_retry":false},"message":"TOLD"}}"#;
        let json = "application/json";
        check(&mcp(Some("\"a-1\""), true), 200, json, result);
        check(&mcp(Some("\"a-1\""), false), 200, json, &error.replace("ID", "\"a-1\""));
        check(&mcp(None, false), 422, json, &error.replace("ID", "null"));
    }

    #[test]
    fn mcp_keeps_the_specifications_codes_and_avoids_the_statuses_that_mean_an_older_server() {
        let status = |refusal: &Refusal, id| render(refusal, &mcp(id, false)).status;
        for code in [400, 404, 405] {
            let refusal = Refusal { status: code, ..in_doubt() };
            assert_eq!((status(&refusal, Some("1")), status(&refusal, None)), (200, 422));
            let specified = Refusal { mcp: McpForm::Specified(-32601), ..refusal };
            assert_eq!((status(&specified, Some("1")), status(&specified, None)), (code, code));
        }
        let specified = Refusal { status: 404, mcp: McpForm::Specified(-32601), ..in_doubt() };
        let body = render(&specified, &mcp(Some("1"), true)).body;
        assert!(memchr::memmem::find(&body, br#""error":{"code":-32601"#).is_some());
        assert_eq!(status(&Refusal { status: 503, ..in_doubt() }, None), 503);
    }

    #[test]
    fn whether_to_try_again_is_said_in_headers_and_words() {
        let refusal = Refusal { status: 503, again: Again::Useful, retry_after_s: Some(1), ..in_doubt() };
        let rendered = render(&refusal, &listener(Surface::OpenaiChat));
        assert_eq!(
            rendered.headers,
            [("x-should-retry", "true".to_owned()), ("retry-after", "1".to_owned())]
        );
        assert!(refusal.is_safe_to_retry());
        let pointless = Refusal { again: Again::Pointless, ..in_doubt() };
        assert!(pointless.is_safe_to_retry());
        let rendered = render(&pointless, &listener(Surface::OpenaiChat));
        assert_eq!(rendered.headers, [("x-should-retry", "false".to_owned())]);
    }

    #[test]
    fn a_begun_stream_ends_in_the_error_event_that_its_own_reader_knows() {
        for (surface, name) in [
            (Surface::OpenaiChat, None),
            (Surface::OpenaiResponses, Some("error")),
            (Surface::AnthropicMessages, Some("error")),
        ] {
            let event = stream_error_event(&in_doubt(), &listener(surface)).unwrap();
            let fields = super::super::sse::Fields::of(&event);
            assert_eq!(fields.event_in(&event), name);
            let mut fold = super::super::fold::Fold::new(surface).unwrap();
            fold.event(name, &fields.data_in(&event));
            let failed = fold.finish().failed.unwrap();
            assert!(failed.message.contains("OG3001"), "{failed:?}");
        }
        assert_eq!(stream_error_event(&in_doubt(), &listener(Surface::GeminiGenerate)), None);
        assert_eq!(stream_error_event(&in_doubt(), &listener(Surface::Http)), None);
        assert_eq!(stream_error_event(&in_doubt(), &mcp(None, false)), None);
        let event = stream_error_event(&in_doubt(), &mcp(Some("7"), true)).unwrap();
        assert!(mcp_result(&event), "the model is told");
    }

    fn mcp_result(event: &Bytes) -> bool {
        let data = mcp::response_in(event, mcp::Served::Sse, "7").unwrap();
        let tape = Tape::parse(&data).unwrap();
        tape.root(&data).pointer("/result/isError").and_then(|value| value.bool()) == Some(true)
    }
}
