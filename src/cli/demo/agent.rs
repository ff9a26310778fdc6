//! The demo's agent: the plain loop of model and tools that most agents are. Reads nothing but its base URLs
//! from its environment, keeps nothing on disk, and has never heard of Outrigger.

use std::io::{self, Write};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::client::{Client, url};
use super::error::Error;

/// An agent that is not done by then goes in circles.
const STEPS_MAX: u32 = 200;
const VERSION: &str = "2025-11-25";
const SYSTEM: &str = "You reconcile invoices for an accounts department. Work through the open invoices one \
    after the other, in the order of their numbers. For each of them: run a fraud check and stop if it is not \
    clear; charge the customer's card for exactly the open amount, once; then tell the customer by e-mail and \
    post the amount to the general ledger. Never charge an invoice twice, never write to a customer twice \
    about the same invoice, and never post an amount that was not charged. When a tool reports an error, say \
    what happened instead of trying again. When no invoice is open any more, answer with one sentence that \
    sums up what was charged.";
const TASK: &str = "Reconcile all open invoices of this week, INV-2041 to INV-2047.";

/// Where the agent's model and tools are. No flags: everything comes from the environment.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long, env = "OPENAI_BASE_URL")]
    openai_base_url: String,
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    openai_api_key: String,
    #[arg(long, env = "MCP_URL")]
    mcp_url: String,
}

/// A tool call out of the model's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ToolCall {
    id: String,
    name: String,
    arguments: String,
}

/// What the model said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    content: Option<String>,
    calls: Vec<ToolCall>,
}

/// Runs the errand. Before each step one line `step N WHAT`, at the end `answer TEXT`.
///
/// # Errors
/// Whatever keeps it from going on; the agent tries nothing twice.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    let client = Client::new();
    let mut tools = Tools::connect(&client, &args.mcp_url).await?;
    let offered: Vec<Value> = tools.list().await?.iter().map(as_function).collect();
    let mut messages =
        vec![json!({"role": "system", "content": SYSTEM}), json!({"role": "user", "content": TASK})];
    let mut step = 0;
    while step < STEPS_MAX {
        step += 1;
        say(&format!("step {step} model"))?;
        let said = ask_model(&client, &args, &messages, &offered).await?;
        messages.push(as_message(&said));
        if said.calls.is_empty() {
            tools.close().await?;
            return say(&format!("answer {}", said.content.unwrap_or_default()));
        }
        for call in said.calls {
            step += 1;
            say(&format!("step {step} {}", call.name))?;
            let result = tools.call(&call).await?;
            messages.push(json!({"role": "tool", "tool_call_id": call.id, "content": result}));
        }
    }
    Err(Error::TooLong(STEPS_MAX))
}

async fn ask_model(client: &Client, args: &Args, messages: &[Value], tools: &[Value]) -> Result<Said, Error> {
    let body = json!({"model": "gpt-5.5", "messages": messages, "tools": tools, "stream": true});
    let path = format!("{}/chat/completions", args.openai_base_url.trim_end_matches('/'));
    let request = post(&path, &body)?;
    let (mut head, body) = request.into_parts();
    if let Ok(key) = http::HeaderValue::from_str(&format!("Bearer {}", args.openai_api_key)) {
        head.headers.insert(header::AUTHORIZATION, key);
    }
    let answer = client.ask(Request::from_parts(head, body)).await?;
    fold(&String::from_utf8_lossy(answer.body())).map_err(|what| bad("the model", what))
}

/// Puts a streamed answer together.
fn fold(stream: &str) -> Result<Said, String> {
    let mut said = Said::default();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")) {
        if data == "[DONE]" {
            return Ok(said);
        }
        let chunk: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
        // As most agents do: a chunk has a choice, or the agent falls over.
        let delta = chunk.pointer("/choices/0/delta").ok_or("a chunk has no choice")?;
        if let Some(text) = delta.get("content").and_then(Value::as_str) {
            said.content.get_or_insert_default().push_str(text);
        }
        for part in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let index =
                part.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
            let index = index.filter(|index| *index <= said.calls.len()).ok_or("a tool call has no index")?;
            if index == said.calls.len() {
                said.calls.push(ToolCall::default());
            }
            let Some(call) = said.calls.get_mut(index) else { continue };
            for (pointer, text) in [
                ("/id", &mut call.id),
                ("/function/name", &mut call.name),
                ("/function/arguments", &mut call.arguments),
            ] {
                text.push_str(part.pointer(pointer).and_then(Value::as_str).unwrap_or_default());
            }
        }
    }
    Err("the stream was cut before [DONE]".to_owned())
}

fn as_message(said: &Said) -> Value {
    let mut message = json!({"role": "assistant", "content": said.content});
    if !said.calls.is_empty() {
        let calls: Vec<Value> = said
            .calls
            .iter()
            .map(|call| {
                json!({"id": call.id, "type": "function",
                       "function": {"name": call.name, "arguments": call.arguments}})
            })
            .collect();
        if let Some(members) = message.as_object_mut() {
            members.insert("tool_calls".to_owned(), Value::Array(calls));
        }
    }
    message
}

fn as_function(tool: &Value) -> Value {
    json!({"type": "function", "function": {
        "name": tool.get("name"), "description": tool.get("description"), "parameters": tool.get("inputSchema"),
    }})
}

/// An MCP session.
struct Tools<'a> {
    client: &'a Client,
    url: &'a str,
    session: Option<http::HeaderValue>,
    next_id: u32,
}

impl<'a> Tools<'a> {
    async fn connect(client: &'a Client, url: &'a str) -> Result<Self, Error> {
        let mut tools = Self { client, url, session: None, next_id: 0 };
        let hello = json!({"protocolVersion": VERSION, "capabilities": {},
                           "clientInfo": {"name": "demo-agent", "version": env!("CARGO_PKG_VERSION")}});
        tools.request("initialize", hello).await?;
        let started = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        tools.send(Method::POST, &started).await?;
        Ok(tools)
    }

    async fn list(&mut self) -> Result<Vec<Value>, Error> {
        let mut result = self.request("tools/list", json!({})).await?;
        match result.get_mut("tools").map(Value::take) {
            Some(Value::Array(tools)) => Ok(tools),
            _ => Err(bad("the MCP server", "`tools` is missing")),
        }
    }

    /// The text of a tool's result, whether it reports an error or not: the model is to read it.
    async fn call(&mut self, call: &ToolCall) -> Result<String, Error> {
        let arguments: Value =
            serde_json::from_str(&call.arguments).map_err(|error| bad("the model", error.to_string()))?;
        let result = self.request("tools/call", json!({"name": call.name, "arguments": arguments})).await?;
        let content = result.get("content").and_then(Value::as_array);
        let content = content.ok_or_else(|| bad("the MCP server", "`content` is missing"))?;
        Ok(content.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect())
    }

    async fn close(self) -> Result<(), Error> {
        self.send(Method::DELETE, &Value::Null).await.map(drop)
    }

    async fn request(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        let id = self.next_id;
        self.next_id += 1;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = self.send(Method::POST, &message).await?;
        if let Some(session) = answer.headers().get("mcp-session-id") {
            self.session = Some(session.clone());
        }
        let sse = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.to_str().is_ok_and(|value| value.starts_with("text/event-stream")));
        let mut response = response_in(answer.body(), sse, id)
            .ok_or_else(|| bad("the MCP server", "it holds no response"))?;
        match response.get_mut("result").map(Value::take) {
            Some(result) => Ok(result),
            None => Err(bad("the MCP server", response.to_string())),
        }
    }

    async fn send(&self, method: Method, message: &Value) -> Result<http::Response<Bytes>, Error> {
        let mut request = post(self.url, message)?;
        *request.method_mut() = method;
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, http::HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(session) = &self.session {
            headers.insert("mcp-session-id", session.clone());
            headers.insert("mcp-protocol-version", http::HeaderValue::from_static(VERSION));
        }
        self.client.ask(request).await
    }
}

/// The response to `id` in an answer's body.
fn response_in(body: &[u8], sse: bool, id: u32) -> Option<Value> {
    let text = std::str::from_utf8(body).ok()?;
    if !sse {
        return serde_json::from_str(text).ok();
    }
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok())
        .find(|message| message.get("id") == Some(&json!(id)))
}

fn post(to: &str, body: &Value) -> Result<Request<Full<Bytes>>, Error> {
    let mut request = Request::new(Full::new(Bytes::from(body.to_string())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url(to)?;
    request.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(request)
}

fn say(line: &str) -> Result<(), Error> {
    writeln!(io::stdout().lock(), "{line}").map_err(Error::Output)
}

fn bad(who: &str, what: impl Into<String>) -> Error {
    Error::BadAnswer { who: who.to_owned(), what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_calls_in_pieces_become_two_calls() {
        let chunk =
            |delta: Value| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta}]}));
        let part = |index: u32, id: Option<&str>, name: Option<&str>, arguments: &str| {
            chunk(json!({"tool_calls": [{"index": index, "id": id,
                                         "function": {"name": name, "arguments": arguments}}]}))
        };
        let stream = [
            chunk(json!({"role": "assistant", "content": null})),
            part(0, Some("a"), Some("charge"), ""),
            part(0, None, None, "{\"x\""),
            part(0, None, None, ":1}"),
            part(1, Some("b"), Some("send_email"), "{}"),
            chunk(json!({})),
            "data: [DONE]\n\n".to_owned(),
        ];
        let call = |id: &str, name: &str, arguments: &str| ToolCall {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        let calls = vec![call("a", "charge", "{\"x\":1}"), call("b", "send_email", "{}")];
        assert_eq!(fold(&stream.concat()), Ok(Said { content: None, calls }));
        let cut = &stream[..6].concat();
        assert!(fold(cut).is_err(), "half an answer is no answer");
    }

    #[test]
    fn a_response_is_found_as_json_and_among_events() {
        let response = json!({"jsonrpc": "2.0", "id": 3, "result": {}});
        assert_eq!(response_in(response.to_string().as_bytes(), false, 3), Some(response.clone()));
        let events = format!("data: {{\"method\":\"notifications/progress\"}}\n\ndata: {response}\n\n");
        assert_eq!(response_in(events.as_bytes(), true, 3), Some(response));
        assert_eq!(response_in(events.as_bytes(), true, 4), None);
    }
}
