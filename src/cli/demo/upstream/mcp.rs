//! An MCP server over streamable HTTP with the initialize handshake and sessions (2025-03-26 to 2025-11-25),
//! answering in JSON. Its four tools do nothing but count; it opens no stream of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::counters::Tool;
use super::{Body, Upstream, fresh_id, json as json_response, plain};

/// How long a tool takes.
const WORKING: Duration = Duration::from_millis(5);
const SESSION: &str = "mcp-session-id";
/// Newest first: a client that asks for anything else is offered the first.
const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
/// Sessions open at once; the demo needs a handful.
const SESSIONS_MAX: usize = 1024;

const INVALID_PARAMS: i32 = -32602;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const PARSE_ERROR: i32 = -32700;

/// Open sessions by id.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeSet<String>>);

/// What is wrong with a request, as JSON-RPC says it.
struct RpcError {
    code: i32,
    message: String,
}

/// Answers one request to the endpoint.
pub(super) async fn answer(upstream: &Upstream, head: &Parts, body: &[u8]) -> Response<Body> {
    match head.method {
        Method::POST => post(upstream, head, body).await,
        Method::DELETE => match session_of(head).map(|id| upstream.sessions.0.lock().remove(id)) {
            Some(true) => plain(StatusCode::NO_CONTENT, ""),
            Some(false) => plain(StatusCode::NOT_FOUND, "no such session"),
            None => plain(StatusCode::BAD_REQUEST, "Mcp-Session-Id is missing"),
        },
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "POST a message, or DELETE the session"),
    }
}

async fn post(upstream: &Upstream, head: &Parts, body: &[u8]) -> Response<Body> {
    let Ok(message) = serde_json::from_slice::<Value>(body) else {
        return error(StatusCode::BAD_REQUEST, &Value::Null, rpc(PARSE_ERROR, "the body is not JSON"));
    };
    let Some(method) = message.get("method").and_then(Value::as_str) else {
        return error(StatusCode::BAD_REQUEST, &Value::Null, rpc(INVALID_REQUEST, "`method` is missing"));
    };
    let params = message.get("params").unwrap_or(&Value::Null);
    if method == "initialize" {
        return initialize(&upstream.sessions, message.get("id").unwrap_or(&Value::Null), params);
    }
    match session_of(head) {
        None => return plain(StatusCode::BAD_REQUEST, "Mcp-Session-Id is missing"),
        Some(id) if !upstream.sessions.0.lock().contains(id) => {
            return plain(StatusCode::NOT_FOUND, "no such session");
        }
        Some(_) => {}
    }
    let Some(id) = message.get("id") else { return plain(StatusCode::ACCEPTED, "") };
    let result = match method {
        "ping" => Ok(json!({})),
        "tools/call" => call(upstream, params).await,
        "tools/list" => Ok(json!({"tools": Tool::ALL.map(described)})),
        _ => Err(rpc(METHOD_NOT_FOUND, format!("no method `{method}`"))),
    };
    match result {
        Ok(result) => result_of(id, result),
        Err(failed) => error(StatusCode::OK, id, failed),
    }
}

fn initialize(sessions: &Sessions, id: &Value, params: &Value) -> Response<Body> {
    let asked = params.get("protocolVersion").and_then(Value::as_str);
    let [newest, ..] = VERSIONS;
    let version = VERSIONS.into_iter().find(|version| Some(*version) == asked).unwrap_or(newest);
    let session = fresh_id("demo-");
    {
        let mut open = sessions.0.lock();
        if open.len() >= SESSIONS_MAX {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many sessions");
        }
        open.insert(session.clone());
    }
    let mut response = result_of(
        id,
        json!({"protocolVersion": version, "capabilities": {"tools": {}},
               "serverInfo": {"name": "outrigger-demo", "version": env!("CARGO_PKG_VERSION")}}),
    );
    if let Ok(value) = HeaderValue::from_str(&session) {
        response.headers_mut().insert(SESSION, value);
    }
    response
}

async fn call(upstream: &Upstream, params: &Value) -> Result<Value, RpcError> {
    let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
    let tool = Tool::named(name).ok_or_else(|| rpc(INVALID_PARAMS, format!("no tool `{name}`")))?;
    let invoice = params.pointer("/arguments/invoice_id").and_then(Value::as_str);
    let invoice = invoice.ok_or_else(|| rpc(INVALID_PARAMS, "`invoice_id` is missing"))?;
    upstream.counters.tool_call(tool, invoice).await;
    tokio::time::sleep(WORKING).await;
    let done = match tool {
        Tool::Charge => {
            json!({"charge_id": fresh_id("ch_"), "invoice_id": invoice, "status": "succeeded"})
        }
        Tool::FraudCheck => {
            json!({"check_id": fresh_id("fc_"), "invoice_id": invoice, "verdict": "clear"})
        }
        Tool::LedgerPost => {
            json!({"entry_id": fresh_id("le_"), "invoice_id": invoice, "balanced": true})
        }
        Tool::SendEmail => {
            json!({"message_id": fresh_id("em_"), "invoice_id": invoice, "queued": true})
        }
    };
    let text = done.to_string();
    Ok(json!({"content": [{"type": "text", "text": text}], "structuredContent": done, "isError": false}))
}

fn described(tool: Tool) -> Value {
    let (description, properties, required) = match tool {
        Tool::Charge => (
            "Charges the customer's card for an invoice. Real money: call it once per invoice.",
            json!({"invoice_id": text("the invoice"), "amount_cents": number("what to charge, in cents"),
                   "currency": text("ISO 4217 code")}),
            json!(["invoice_id", "amount_cents", "currency"]),
        ),
        Tool::FraudCheck => (
            "Tells whether an invoice looks fraudulent. Call it before `charge`.",
            json!({"invoice_id": text("the invoice"), "customer": text("name of the customer"),
                   "amount_cents": number("amount of the invoice, in cents")}),
            json!(["invoice_id", "customer", "amount_cents"]),
        ),
        Tool::LedgerPost => (
            "Posts a settled invoice to the general ledger.",
            json!({"invoice_id": text("the invoice"), "account": text("the ledger's account"),
                   "amount_cents": number("amount to post, in cents")}),
            json!(["invoice_id", "account", "amount_cents"]),
        ),
        Tool::SendEmail => (
            "Sends an e-mail to a customer about an invoice.",
            json!({"invoice_id": text("the invoice"), "to": text("address of the customer"),
                   "text": text("what to write")}),
            json!(["invoice_id", "to", "text"]),
        ),
    };
    let read_only = tool == Tool::FraudCheck;
    json!({"name": tool.as_str(), "description": description,
           "inputSchema": {"type": "object", "properties": properties, "required": required},
           "annotations": {"readOnlyHint": read_only}})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn number(description: &str) -> Value {
    json!({"type": "integer", "description": description})
}

fn session_of(head: &Parts) -> Option<&str> {
    head.headers.get(SESSION)?.to_str().ok()
}

fn rpc(code: i32, message: impl Into<String>) -> RpcError {
    RpcError { code, message: message.into() }
}

fn result_of(id: &Value, result: Value) -> Response<Body> {
    json_response(StatusCode::OK, json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string())
}

fn error(status: StatusCode, id: &Value, failed: RpcError) -> Response<Body> {
    let error = json!({"code": failed.code, "message": failed.message});
    json_response(status, json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt;

    use super::super::counters::Counters;
    use super::*;

    async fn send(
        upstream: &Upstream,
        method: Method,
        session: Option<&str>,
        body: Value,
    ) -> (http::response::Parts, Value) {
        let mut request = Request::builder().method(method).uri("/mcp");
        if let Some(session) = session {
            request = request.header(SESSION, session);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (head, body) = answer(upstream, &head, body.to_string().as_bytes()).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn request(id: u32, method: &str, params: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    }

    #[tokio::test]
    async fn a_session_lives_from_initialize_to_delete_and_calls_are_counted_in_it() {
        let upstream = Upstream { counters: Counters::new(None), sessions: Sessions::default() };
        let hello = request(0, "initialize", json!({"protocolVersion": "2025-06-18"}));
        let (head, body) = send(&upstream, Method::POST, None, hello).await;
        assert_eq!(body["result"]["protocolVersion"], "2025-06-18");
        let session = head.headers[SESSION].to_str().unwrap().to_owned();
        let session = Some(session.as_str());
        let started = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(send(&upstream, Method::POST, session, started).await.0.status, StatusCode::ACCEPTED);
        let (_, body) = send(&upstream, Method::POST, session, request(1, "tools/list", json!({}))).await;
        assert_eq!(body["result"]["tools"].as_array().unwrap().len(), 4);
        let charge = request(7, "tools/call", json!({"name": "charge", "arguments": {"invoice_id": "a"}}));
        let (_, body) = send(&upstream, Method::POST, session, charge.clone()).await;
        assert_eq!((&body["id"], &body["result"]["isError"]), (&json!(7), &json!(false)));
        assert_eq!(upstream.counters.tally().charges, 1);
        assert_eq!(
            send(&upstream, Method::DELETE, session, json!({})).await.0.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(send(&upstream, Method::POST, session, charge).await.0.status, StatusCode::NOT_FOUND);
        assert_eq!(upstream.counters.tally().charges, 1);
    }

    #[tokio::test]
    async fn what_has_no_session_or_no_meaning_is_refused_and_not_counted() {
        let upstream = Upstream { counters: Counters::new(None), sessions: Sessions::default() };
        let charge = request(1, "tools/call", json!({"name": "charge", "arguments": {"invoice_id": "a"}}));
        assert_eq!(send(&upstream, Method::POST, None, charge).await.0.status, StatusCode::BAD_REQUEST);
        upstream.sessions.0.lock().insert("s".to_owned());
        for (method, params, code) in [
            ("tools/steal", json!({}), METHOD_NOT_FOUND),
            ("tools/call", json!({"name": "refund", "arguments": {}}), INVALID_PARAMS),
            ("tools/call", json!({"name": "charge", "arguments": {}}), INVALID_PARAMS),
        ] {
            let (_, body) = send(&upstream, Method::POST, Some("s"), request(2, method, params)).await;
            assert_eq!(body["error"]["code"], code, "{method}");
        }
        assert_eq!(upstream.counters.tally(), super::super::Tally::default());
    }
}
