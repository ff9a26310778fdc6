//! MCP over HTTP, both eras: what a JSON-RPC message asks for, and which message is the response to it.

pub mod listing;
mod served;

use std::borrow::Cow;

use bytes::Bytes;

use crate::json::canonical::{self, Exclude};
use crate::json::{Kind, Tape, Value};
use crate::model::{CallKind, Channel, EffectClass, Operation, Surface};

use super::detect::{self, BadRequest, Inspected, RequestView};
use super::headers;

pub use served::{Served, event, is_message, replay, response_in};

/// What kind of message was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum McpMessage {
    /// Several in an array (2025-03-26 only).
    Batch,
    Notification,
    /// No JSON-RPC: a GET for the event stream, a DELETE of the session, metadata, OAuth.
    Other,
    Request,
    /// The client's answer to a request of the server.
    Response,
}

/// What an MCP upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpCall {
    pub message: McpMessage,
    pub method: Option<String>,
    /// The request's id as it is spelled: `7`, `"a-1"`.
    pub id: Option<String>,
    /// As the message names it: for `initialize` the version asked for, else the header's, else `_meta`'s.
    pub protocol_version: Option<String>,
    /// The tool, prompt or resource.
    pub name: Option<String>,
    /// Which page of a list is asked for.
    pub cursor: Option<String>,
    /// The method is one this proxy knows. A request that is not is answered with -32601 in a workflow.
    pub known: bool,
    /// A later leg of an `input_required` chain: it carries `inputResponses` or `requestState`.
    pub continues: bool,
    /// The request that a `notifications/cancelled` takes back, by its id as it is spelled.
    pub cancels: Option<String>,
}

impl McpCall {
    fn other() -> Self {
        Self {
            message: McpMessage::Other,
            method: None,
            id: None,
            protocol_version: None,
            name: None,
            cursor: None,
            known: true,
            continues: false,
            cancels: None,
        }
    }

    /// A call whose refusal is best told as a tool's result.
    pub fn is_tool_call(&self) -> bool {
        self.message == McpMessage::Request && self.method.as_deref() == Some("tools/call")
    }
}

/// How a request's method takes part in the workflow; `None` for an unknown one.
fn place(method: &str) -> Option<(Channel, EffectClass)> {
    let step = Channel::Step(CallKind::Mcp);
    Some(match method {
        "tools/call" | "tasks/update" | "tasks/cancel" => (step, EffectClass::Effect),
        "resources/read" | "prompts/get" | "tasks/result" => (step, EffectClass::Read),
        "ping"
        | "completion/complete"
        | "logging/setLevel"
        | "resources/subscribe"
        | "resources/unsubscribe"
        | "subscriptions/listen"
        | "tasks/list" => (Channel::Live, EffectClass::Read),
        // What has become of a task is asked again and again; once it has ended, that is final.
        "initialize" | "server/discover" | "tasks/get" => (Channel::List, EffectClass::Read),
        list if list.ends_with("/list") => (Channel::List, EffectClass::Read),
        _ => return None,
    })
}

/// The typed content of a tool's result, as JSON, in a JSON-RPC response.
pub fn structured(response: &Bytes) -> Option<Bytes> {
    let tape = Tape::parse(response).ok()?;
    let span = tape.root(response).pointer("/result/structuredContent")?.span();
    Some(response.slice(span))
}

/// What keeps a session and its lists going, and does nothing by itself.
pub fn is_housekeeping(method: &str) -> bool {
    matches!(method, "initialize" | "ping" | "server/discover")
        || method.starts_with("notifications/")
        || method.ends_with("/list")
}

pub(super) fn inspect(request: &RequestView<'_>) -> Result<Inspected, BadRequest> {
    let is_json = headers::first(request.headers, "content-type").is_none_or(headers::is_json);
    let tape = match Tape::parse(request.body) {
        _ if request.method != "POST" => return Ok(live(request, McpCall::other(), None)),
        Ok(tape) => tape,
        Err(_) if !is_json => return Ok(live(request, McpCall::other(), None)),
        Err(error) => {
            return Err(BadRequest {
                rpc_code: -32700,
                message: format!("the message is not JSON: {error}"),
            });
        }
    };
    let root = tape.root(request.body);
    let call = match root.kind() {
        Kind::Array if root.elements().any(must_stand_alone) => {
            return Err(invalid("a batch may hold no request that is recorded; send each by itself"));
        }
        Kind::Array => McpCall { message: McpMessage::Batch, ..McpCall::other() },
        Kind::Object if is_rpc(root) => message(request, root)?,
        Kind::Object => McpCall::other(),
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {
            return Err(invalid("the message is neither an object nor an array"));
        }
    };
    let place = call.method.as_deref().filter(|_| call.message == McpMessage::Request).and_then(place);
    let Some((channel, class)) = place else {
        return Ok(live(request, call, Some(tape)));
    };
    let shown = call.name.as_deref().or(call.method.as_deref()).unwrap_or_default();
    let stream = call.method.as_deref() == Some("subscriptions/listen");
    let operation = Operation { channel, surface: Surface::Mcp, class, name: detect::name(shown), stream };
    Ok(Inspected { operation, json: Some(tape), usage_edit: None, parts: Vec::new(), mcp: Some(call) })
}

/// Whether a message becomes a step, which it cannot inside a batch, or is refused.
fn must_stand_alone(message: Value<'_>) -> bool {
    let method = message.get("method").and_then(Value::string);
    method.is_some_and(|method| match place(&method) {
        Some((channel, _)) => matches!(channel, Channel::Step(_)),
        None => message.get("id").is_some(),
    })
}

fn invalid(message: &str) -> BadRequest {
    BadRequest { rpc_code: -32600, message: message.to_owned() }
}

/// Whether an object means to be JSON-RPC. An OAuth client registration, for one, does not.
fn is_rpc(root: Value<'_>) -> bool {
    ["jsonrpc", "method", "result", "error"].iter().any(|key| root.get(key).is_some())
}

/// Whatever is neither recorded nor replayed.
fn live(request: &RequestView<'_>, call: McpCall, json: Option<Tape>) -> Inspected {
    let shown = match (call.message, &call.method) {
        (_, Some(method)) => detect::name(method),
        (McpMessage::Batch, None) => "batch".into(),
        (McpMessage::Response, None) => "response".into(),
        (McpMessage::Notification | McpMessage::Other | McpMessage::Request, None) => {
            detect::name(&format!("{} {}", request.method, request.path))
        }
    };
    let operation = Operation {
        channel: Channel::Live,
        surface: Surface::Mcp,
        // What is not known may do anything.
        class: if call.known { EffectClass::Read } else { EffectClass::Effect },
        name: shown,
        stream: request.method == "GET",
    };
    Inspected { operation, json, usage_edit: None, parts: Vec::new(), mcp: Some(call) }
}

fn message(request: &RequestView<'_>, root: Value<'_>) -> Result<McpCall, BadRequest> {
    let method = match root.get("method") {
        None if root.get("result").is_some() || root.get("error").is_some() => {
            return Ok(McpCall { message: McpMessage::Response, ..McpCall::other() });
        }
        method => method.and_then(Value::string).ok_or_else(|| invalid("the message names no method"))?,
    };
    let id = root.get("id");
    if id.is_some_and(|id| !matches!(id.kind(), Kind::Number | Kind::String)) {
        return Err(invalid("the id is neither a string nor a number"));
    }
    if id.is_none() && place(&method).is_some_and(|(channel, _)| matches!(channel, Channel::Step(_))) {
        return Err(invalid("a request that is recorded needs an id"));
    }
    let params = root.get("params");
    let param = |key: &str| params.and_then(|params| params.get(key));
    let text = |value: Option<Value<'_>>| value.and_then(Value::string).map(Cow::into_owned);
    let name = match method.as_ref() {
        "tools/call" | "prompts/get" => text(param("name")),
        "resources/read" => text(param("uri")),
        "tasks/update" | "tasks/cancel" | "tasks/get" | "tasks/result" => {
            text(param("taskId")).map(|task| format!("{method} {task}"))
        }
        _ => None,
    };
    let cancels = param("requestId").filter(|_| method == "notifications/cancelled");
    let meta = || {
        let meta = param("_meta")?;
        let named =
            meta.get("io.modelcontextprotocol/protocolVersion").or_else(|| meta.get("protocolVersion"));
        text(named)
    };
    let asked = if method == "initialize" { text(param("protocolVersion")) } else { None };
    let header = || headers::first(request.headers, "mcp-protocol-version").map(str::to_owned);
    Ok(McpCall {
        message: if id.is_some() { McpMessage::Request } else { McpMessage::Notification },
        id: id.map(|id| id.raw_str().to_owned()),
        protocol_version: asked.or_else(header).or_else(meta),
        name,
        cursor: text(param("cursor")),
        known: id.is_none() || place(&method).is_some(),
        continues: ["inputResponses", "requestState"].iter().any(|key| param(key).is_some()),
        cancels: cancels.map(|id| id.raw_str().to_owned()),
        method: Some(method.into_owned()),
    })
}

/// Whether the answer to a `tasks/get` says that the task has ended: what it says then is final.
pub fn is_ended_task(response: &[u8]) -> bool {
    let Ok(tape) = Tape::parse_shallow(response, 3) else { return false };
    let result = tape.root(response).get("result");
    let status = result.and_then(|result| result.get("status")?.string());
    matches!(status.as_deref(), Some("cancelled" | "completed" | "failed"))
}

/// Whether two answers to a list are results that say different things. A refusal says nothing of the list.
pub fn is_other_list(recorded: &[u8], now: &[u8]) -> bool {
    let said = |text: &[u8]| {
        let tape = Tape::parse(text).ok()?;
        let mut said = Vec::new();
        let exclude = Exclude { members: &["_meta"], pointers: &[] };
        let result = tape.root(text).get("result")?;
        canonical::write(result, &exclude, &mut |piece| said.extend_from_slice(piece));
        Some(said)
    };
    matches!((said(recorded), said(now)), (Some(recorded), Some(now)) if recorded != now)
}

/// Whether two ids are the same; each as it is spelled. A server may spell an id in its own way.
fn is_same_id(id: Value<'_>, wanted: &str) -> bool {
    let Ok(tape) = Tape::parse(wanted.as_bytes()) else { return false };
    let wanted = tape.root(wanted.as_bytes());
    match (id.kind(), wanted.kind()) {
        (Kind::String, Kind::String) => id.string() == wanted.string(),
        (Kind::Number, Kind::Number) => {
            let number = |value: Value<'_>| value.raw_str().parse::<f64>().ok();
            id.raw() == wanted.raw()
                || (id.count().is_none() && number(id) == number(wanted))
                || id.count().is_some() && id.count() == wanted.count()
        }
        _ => false,
    }
}

/// What a JSON-RPC response says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    /// A JSON-RPC error, or a tool's result that says `isError`.
    pub(super) is_error: bool,
    /// No result yet: the server wants the same call again, with what it asks for (2026-07-28).
    pub(super) asks_input: bool,
}

/// Reads `message` as the response to the request `id`; `None` if it is none, or another's.
pub(super) fn response(message: Value<'_>, id: &str) -> Option<Response> {
    if message.get("method").is_some() {
        return None;
    }
    let error = message.given("error");
    let result = message.get("result");
    if error.is_none() && result.is_none() {
        return None;
    }
    // An error that could not be tied to a request has no id; the only request here is ours.
    let untied = error.is_some() && message.given("id").is_none();
    if !untied && !message.get("id").is_some_and(|found| is_same_id(found, id)) {
        return None;
    }
    let said = result.and_then(|result| result.get("isError")?.bool()).unwrap_or(false);
    let kind = result.and_then(|result| result.get("resultType")?.string());
    let asks_input = error.is_none() && kind.as_deref() == Some("input_required");
    Some(Response { is_error: error.is_some() || said, asks_input })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dialect;

    fn inspected(method: &str, headers: &headers::Headers<'_>, body: &str) -> Result<Inspected, BadRequest> {
        let request =
            RequestView { dialect: Dialect::Mcp, method, path: "/mcp", headers, body: body.as_bytes() };
        detect::inspect(&request)
    }

    fn posted(body: &str) -> Inspected {
        inspected("POST", &[("content-type", b"application/json")], body).unwrap()
    }

    #[track_caller]
    fn check(method: &str, params: &str, expected: (Channel, EffectClass, &str, bool)) {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let found = posted(&body);
        let operation = found.operation;
        let call = found.mcp.unwrap();
        let (channel, class, name, known) = expected;
        assert_eq!((operation.channel, operation.class), (channel, class), "method: {method}");
        assert_eq!((operation.name.as_ref(), call.known), (name, known), "method: {method}");
        assert_eq!((operation.surface, call.message), (Surface::Mcp, McpMessage::Request));
        assert_eq!((call.method.as_deref(), call.id.as_deref()), (Some(method), Some("1")));
    }

    #[test]
    fn every_method_has_its_place() {
        use EffectClass::{Effect, Read};
        let step = Channel::Step(CallKind::Mcp);
        check("tools/call", r#"{"name":"charge","arguments":{}}"#, (step, Effect, "charge", true));
        check("resources/read", r#"{"uri":"file:///a"}"#, (step, Read, "file:///a", true));
        check("prompts/get", r#"{"name":"p"}"#, (step, Read, "p", true));
        check("tasks/cancel", r#"{"taskId":"t1"}"#, (step, Effect, "tasks/cancel t1", true));
        check("tasks/update", "{}", (step, Effect, "tasks/update", true));
        check("tasks/result", r#"{"taskId":"t1"}"#, (step, Read, "tasks/result t1", true));
        check("tasks/get", r#"{"taskId":"t1"}"#, (Channel::List, Read, "tasks/get t1", true));
        for list in [
            "initialize",
            "server/discover",
            "tools/list",
            "prompts/list",
            "resources/list",
            "resources/templates/list",
        ] {
            check(list, "{}", (Channel::List, Read, list, true));
        }
        for live in [
            "ping",
            "completion/complete",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
            "subscriptions/listen",
            "tasks/list",
        ] {
            check(live, "{}", (Channel::Live, Read, live, true));
        }
        check("tools/delete", "{}", (Channel::Live, Effect, "tools/delete", false));
    }

    #[test]
    fn notifications_responses_batches_and_other_requests_are_live() {
        let live = |inspected: Inspected| {
            let call = inspected.mcp.unwrap();
            assert_eq!((inspected.operation.channel, call.known), (Channel::Live, true));
            (call.message, inspected.operation.name.to_string())
        };
        let named = |message, name: &str| (message, name.to_owned());
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;
        assert_eq!(live(posted(cancelled)), named(McpMessage::Notification, "notifications/cancelled"));
        let response = r#"{"jsonrpc":"2.0","id":3,"result":{}}"#;
        assert_eq!(live(posted(response)), named(McpMessage::Response, "response"));
        let batch = r#"[{"jsonrpc":"2.0","id":3,"method":"ping"},{"jsonrpc":"2.0","id":3,"result":{}}]"#;
        assert_eq!(live(posted(batch)), named(McpMessage::Batch, "batch"));
        let registration = r#"{"client_name":"x","redirect_uris":[]}"#;
        assert_eq!(live(posted(registration)), named(McpMessage::Other, "POST /mcp"));
        assert_eq!(live(inspected("GET", &[], "").unwrap()), named(McpMessage::Other, "GET /mcp"));
        assert_eq!(live(inspected("DELETE", &[], "").unwrap()), named(McpMessage::Other, "DELETE /mcp"));
        let form = inspected("POST", &[("content-type", b"application/x-www-form-urlencoded")], "a=b");
        assert_eq!(live(form.unwrap()), named(McpMessage::Other, "POST /mcp"));
    }

    #[test]
    fn what_is_no_json_rpc_is_named_with_the_code_of_the_specification() {
        let code = |body: &str| inspected("POST", &[], body).map(drop).unwrap_err().rpc_code;
        assert_eq!(code("{"), -32700);
        assert_eq!(code(""), -32700);
        assert_eq!(code("7"), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"method":7}"#), -32600);
        for unrecordable in ["tools/call", "prompts/get", "tools/destroy"] {
            let batch = format!(r#"[{{"jsonrpc":"2.0","id":1,"method":"{unrecordable}"}}]"#);
            assert_eq!(code(&batch), -32600, "{unrecordable} in a batch would be recorded by nobody");
        }
        assert_eq!(code(r#"{"jsonrpc":"2.0","method":"tools/call"}"#), -32600, "no id to answer to");
    }

    #[test]
    fn a_message_is_one_whatever_its_content_type_says() {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"charge"}}"#;
        let plain: &headers::Headers<'_> = &[("content-type", b"text/plain")];
        let call = inspected("POST", plain, body).unwrap();
        assert_eq!(call.operation.channel, Channel::Step(CallKind::Mcp));
    }

    #[test]
    fn version_page_and_chain_are_read_where_each_era_says_them() {
        let header: &headers::Headers<'_> = &[("mcp-protocol-version", b"2025-11-25")];
        let call = |body: &str| inspected("POST", header, body).unwrap().mcp.unwrap();
        let initialize = call(
            r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
        );
        assert_eq!(initialize.protocol_version.as_deref(), Some("2025-06-18"));
        assert_eq!(initialize.id.as_deref(), Some("\"i\""));
        let page = call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"p2"}}"#);
        assert_eq!(
            (page.protocol_version.as_deref(), page.cursor.as_deref()),
            (Some("2025-11-25"), Some("p2"))
        );
        let new = posted(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","requestState":"s",
                "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
        );
        let new = new.mcp.unwrap();
        assert_eq!(new.protocol_version.as_deref(), Some("2026-07-28"));
        assert!(new.continues && new.is_tool_call());
        assert!(!page.continues && !page.is_tool_call());
    }

    #[test]
    fn a_cancellation_names_the_request_it_takes_back() {
        let cancels = |body: &str| posted(body).mcp.unwrap().cancels;
        let named = |id: &str| {
            cancels(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            ))
        };
        assert_eq!(named("7").as_deref(), Some("7"));
        assert_eq!(named("\"a-1\"").as_deref(), Some("\"a-1\""));
        assert_eq!(cancels(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#), None);
    }

    #[test]
    fn a_task_has_ended_when_its_status_is_final() {
        let ended = |status: &str| {
            let response = format!(r#"{{"id":1,"result":{{"taskId":"t","status":"{status}"}}}}"#);
            is_ended_task(response.as_bytes())
        };
        assert!(["cancelled", "completed", "failed"].into_iter().all(ended));
        assert!(!["input_required", "working", ""].into_iter().any(ended));
        assert!(!is_ended_task(br#"{"id":1,"error":{"code":-32602,"message":"completed"}}"#));
    }

    #[test]
    fn lists_differ_when_their_results_say_something_else() {
        let list = br#"{"id":1,"result":{"tools":[{"name":"charge"}]}}"#;
        assert!(!is_other_list(
            list,
            br#"{"result":{"tools":[{"name":"charge"}],"_meta":{"at":2}},"id":"b"}"#
        ));
        assert!(is_other_list(list, br#"{"id":1,"result":{"tools":[{"name":"refund"}]}}"#));
        assert!(!is_other_list(list, br#"{"id":1,"error":{"code":-32600,"message":"no"}}"#));
        assert!(!is_other_list(list, b"not json"));
    }

    #[track_caller]
    fn check_id(found: &str, wanted: &str, same: bool) {
        let tape = Tape::parse(found.as_bytes()).unwrap();
        assert_eq!(is_same_id(tape.root(found.as_bytes()), wanted), same, "{found} and {wanted}");
    }

    #[test]
    fn ids_are_the_same_however_a_server_spells_them() {
        check_id("7", "7", true);
        check_id("7.0", "7", true);
        check_id("1e2", "100", true);
        check_id("9007199254740993", "9007199254740993", true);
        check_id("9007199254740993", "9007199254740992", false);
        check_id("-1", "-1.0", true);
        check_id("\"a\"", "\"\\u0061\"", true);
        check_id("\"7\"", "7", false);
        check_id("null", "7", false);
        check_id("7", "8", false);
    }
}
