//! An MCP server over streamable HTTP, in both eras, that counts what it does; and the agent's side of
//! talking to one.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::client::{Answer, Ask};
use super::sidecar::Sidecar;
use super::upstream::{Request, Script, Upstream, head};

/// Which protocol it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2025-06-18: `initialize`, sessions.
    Sessions,
    /// 2026-07-28: no sessions.
    Stateless,
}

/// How results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Events,
    Json,
}

/// A `tools/call` as the server got it.
#[derive(Clone, Debug)]
pub(crate) struct ToolCall {
    /// The request's id, as it is spelled.
    pub(crate) id: String,
    pub(crate) tool: String,
    pub(crate) arguments: Value,
    pub(crate) params: Value,
    /// The how-many-th call of this tool, from 1.
    pub(crate) nth: usize,
    /// What the server would answer.
    pub(crate) reply: Script,
}

type Rule = dyn Fn(ToolCall) -> Script + Send + Sync;
/// A method and its params to the result; `None`: as always.
type OtherRule = dyn Fn(&str, &Value) -> Option<Value> + Send + Sync;
type GetRule = dyn Fn(&Request) -> Script + Send + Sync;

#[derive(Default)]
struct State {
    sessions: HashSet<String>,
    sessions_given: usize,
    /// By method, and by `tools/call NAME`.
    counts: BTreeMap<String, usize>,
    tools: Vec<String>,
    rule: Option<Arc<Rule>>,
    /// What a tool answers in place of the usual text.
    results: BTreeMap<String, Value>,
    other_rule: Option<Arc<OtherRule>>,
    get_rule: Option<Arc<GetRule>>,
}

/// The server's memory. Clones are the same server.
#[derive(Clone)]
pub(crate) struct Server {
    era: Era,
    form: Form,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn new(era: Era, form: Form) -> Self {
        let tools = ["charge", "send_email"].map(str::to_owned).to_vec();
        Self { era, form, state: Arc::new(Mutex::new(State { tools, ..State::default() })) }
    }

    /// Starts listening.
    pub(crate) fn start(&self) -> Upstream {
        let server = self.clone();
        Upstream::start(move |request| server.handle(request))
    }

    /// How often a method was called, `tools/call` by tool: `tools/call charge`.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.state.lock().unwrap().counts.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn charges(&self) -> usize {
        self.count("tools/call charge")
    }

    /// Offers other tools from now on.
    pub(crate) fn offer(&self, tools: &[&str]) {
        self.state.lock().unwrap().tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
    }

    /// Forgets every session, as a restart does.
    pub(crate) fn forget_sessions(&self) {
        self.state.lock().unwrap().sessions.clear();
    }

    /// Decides what tool calls are answered. The call has been counted: it has happened.
    pub(crate) fn tool_calls(&self, rule: impl Fn(ToolCall) -> Script + Send + Sync + 'static) {
        self.state.lock().unwrap().rule = Some(Arc::new(rule));
    }

    /// From now on the tool answers this `result`.
    pub(crate) fn answers_with(&self, tool: &str, result: Value) {
        self.state.lock().unwrap().results.insert(tool.to_owned(), result);
    }

    /// Decides what lists of tools and other methods are answered; with `None` as always.
    pub(crate) fn methods(&self, rule: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) {
        self.state.lock().unwrap().other_rule = Some(Arc::new(rule));
    }

    /// Decides what a GET is answered.
    pub(crate) fn streams(&self, rule: impl Fn(&Request) -> Script + Send + Sync + 'static) {
        self.state.lock().unwrap().get_rule = Some(Arc::new(rule));
    }

    /// Answers one request.
    pub(crate) fn handle(&self, request: &Request) -> Script {
        match request.method.as_str() {
            "POST" => self.post(request),
            "GET" => self.get(request),
            "DELETE" => Script::raw(head(200, &[], Some(0))),
            _ => Script::raw(head(405, &[], Some(0))),
        }
    }

    fn get(&self, request: &Request) -> Script {
        let mut state = self.state.lock().unwrap();
        if let Some(refused) = self.refused(&mut state, request) {
            return refused;
        }
        *state.counts.entry("GET".to_owned()).or_default() += 1;
        let rule = state.get_rule.clone();
        drop(state);
        rule.map_or_else(|| Script::raw(head(405, &[], Some(0))), |rule| rule(request))
    }

    /// What a request gets whose session is not there.
    fn refused(&self, state: &mut State, request: &Request) -> Option<Script> {
        let session = request.header("mcp-session-id").unwrap_or_default();
        if self.era != Era::Sessions || state.sessions.contains(session) {
            return None;
        }
        let status = if session.is_empty() { 400 } else { 404 };
        let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
        *state.counts.entry(format!("refused {status}")).or_default() += 1;
        Some(Script::answer(status, "application/json", body))
    }

    fn post(&self, request: &Request) -> Script {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let mut state = self.state.lock().unwrap();
        if method != "initialize"
            && let Some(refused) = self.refused(&mut state, request)
        {
            return refused;
        }
        let tool = message["params"]["name"].as_str().unwrap_or_default().to_owned();
        let counted = if method == "tools/call" { format!("{method} {tool}") } else { method.clone() };
        let nth = {
            let count = state.counts.entry(counted).or_default();
            *count += 1;
            *count
        };
        // The client's answer to a question of ours is told apart by its missing method.
        let id = message.get("id").cloned().filter(|_| !method.is_empty());
        match (method.as_str(), id) {
            (_, None) => Script::raw(head(202, &[], Some(0))),
            ("initialize", Some(id)) => {
                state.sessions_given += 1;
                let session = format!("session-{}", state.sessions_given);
                state.sessions.insert(session.clone());
                let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "scripted", "version": "1"}});
                self.reply(&id, &result, Some(&session))
            }
            ("tools/list", Some(id)) => {
                let tools: Vec<Value> =
                    state.tools.iter().map(|tool| json!({"name": tool, "inputSchema": {}})).collect();
                let rule = state.other_rule.clone();
                drop(state);
                let result = rule.and_then(|rule| rule(&method, &message["params"]));
                self.reply(&id, &result.unwrap_or_else(|| json!({"tools": tools})), None)
            }
            ("tools/call", Some(id)) => {
                let text = format!("{tool} done, number {nth}");
                let result = json!({"content": [{"type": "text", "text": text}], "isError": false});
                let reply = self.reply(&id, state.results.get(&tool).unwrap_or(&result), None);
                let rule = state.rule.clone();
                drop(state);
                let (id, params) = (id.to_string(), message["params"].clone());
                let arguments = params["arguments"].clone();
                let call = ToolCall { id, tool, arguments, params, nth, reply };
                rule.map_or_else(|| call.reply.clone(), |rule| rule(call.clone()))
            }
            (_, Some(id)) => {
                let rule = state.other_rule.clone();
                drop(state);
                let result = rule.and_then(|rule| rule(&method, &message["params"]));
                self.reply(&id, &result.unwrap_or_else(|| json!({})), None)
            }
        }
    }

    fn reply(&self, id: &Value, result: &Value, session: Option<&str>) -> Script {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
        let mut headers = Vec::new();
        headers.extend(session.map(|session| ("mcp-session-id", session)));
        match self.form {
            Form::Json => {
                headers.push(("content-type", "application/json"));
                let mut bytes = head(200, &headers, Some(body.len()));
                bytes.extend_from_slice(body.as_bytes());
                Script::raw(bytes)
            }
            Form::Events => {
                headers.extend([("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]);
                Script::raw(head(200, &headers, None))
                    .chunk(format!("event: message\nid: {}\ndata: {body}\n\n", "e-1"))
                    .end()
            }
        }
    }
}

/// An agent that talks MCP below one base path (`/w/x/a/1/tools`).
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    base: String,
    pub(crate) session: Option<String>,
    next_id: u64,
    version: Option<&'static str>,
}

impl Caller {
    pub(crate) fn new(base: impl Into<String>, first_id: u64) -> Self {
        Self { base: base.into(), session: None, next_id: first_id, version: None }
    }

    /// A caller of the newer protocol.
    pub(crate) fn stateless(base: impl Into<String>, first_id: u64) -> Self {
        Self { version: Some("2026-07-28"), ..Self::new(base, first_id) }
    }

    /// The request for a method; the id counts up.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Ask {
        let id = self.next_id;
        self.next_id += 1;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let mut ask = self.message(body);
        if let Some(version) = self.version {
            ask = ask.header("mcp-protocol-version", version).header("mcp-method", method);
            if let Some(name) = params["name"].as_str() {
                ask = ask.header("mcp-name", name);
            }
        }
        ask
    }

    /// The request for what comes behind an event.
    pub(crate) fn rest(&self, event_id: &str) -> Ask {
        let ask = Ask::get(format!("{}/mcp", self.base))
            .header("accept", "text/event-stream")
            .header("last-event-id", event_id);
        self.session.iter().fold(ask, |ask, session| ask.header("mcp-session-id", session))
    }

    pub(crate) fn message(&self, body: String) -> Ask {
        let ask = Ask::post(format!("{}/mcp", self.base), body)
            .header("accept", "application/json, text/event-stream");
        match &self.session {
            Some(session) => {
                ask.header("mcp-session-id", session).header("mcp-protocol-version", "2025-06-18")
            }
            None => ask,
        }
    }

    /// The id that the last request carried.
    pub(crate) fn last_id(&self) -> u64 {
        self.next_id - 1
    }

    pub(crate) fn tool(&mut self, tool: &str, arguments: &Value) -> Ask {
        self.ask("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// `initialize` and `notifications/initialized`.
    #[track_caller]
    pub(crate) fn initialize(&mut self, sidecar: &Sidecar) -> Answer {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "agent", "version": "1"}});
        let answer = sidecar.call(&self.ask("initialize", &params));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(response(&answer)["id"], self.last_id(), "{answer:?}");
        self.session = answer.header("mcp-session-id").map(ToOwned::to_owned);
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let accepted = sidecar.call(&self.message(initialized.to_owned()));
        assert_eq!(accepted.status, 202, "{accepted:?}");
        answer
    }

    #[track_caller]
    pub(crate) fn list(&mut self, sidecar: &Sidecar) -> Answer {
        let answer = sidecar.call(&self.ask("tools/list", &json!({})));
        assert_eq!(response(&answer)["id"], self.last_id(), "{answer:?}");
        answer
    }

    /// Calls a tool; the response must carry the request's id.
    #[track_caller]
    pub(crate) fn call(&mut self, sidecar: &Sidecar, tool: &str, arguments: &Value) -> Answer {
        let answer = sidecar.call(&self.tool(tool, arguments));
        assert_eq!(response(&answer)["id"], self.last_id(), "{answer:?}");
        answer
    }
}

/// The JSON-RPC response in an answer, whichever way it came.
#[track_caller]
pub(crate) fn response(answer: &Answer) -> Value {
    let is_stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    if !is_stream {
        return answer.json();
    }
    let messages = messages(&answer.body);
    let response = messages.into_iter().find(|message| message.get("method").is_none());
    response.unwrap_or_else(|| panic!("no response: {answer:?}"))
}

/// The messages of an event stream, in order.
pub(crate) fn messages(stream: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stream).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| !data.is_empty());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The text of a tool's result, and whether it is an error.
#[track_caller]
pub(crate) fn result(answer: &Answer) -> (String, bool) {
    let response = response(answer);
    let result = &response["result"];
    let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no result: {answer:?}"));
    (text.to_owned(), result["isError"].as_bool().unwrap_or(false))
}
