//! The upstream: models and tools in one, which knows every call by its key, counts what it carries out, honours
//! idempotency keys where it says so, and hears only the sidecar that is alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::life::Life;
use crate::support::client::{Answer, Ask};
use crate::support::gate::Gate;
use crate::support::llm::{Api, Usage, chat};
use crate::support::mcp::Caller;
use crate::support::random::Random;
use crate::support::upstream::{Act, Request, Script, Upstream};

/// How often the half of an answer is looked for.
const POLL: Duration = Duration::from_millis(1);

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A GET whose first try is answered with 503.
    Flaky,
    /// A POST under an idempotency key, which the upstream honours.
    Keyed,
    /// A streamed model answer.
    Model,
    /// The same GET again and again, with another answer each time.
    Poll,
    /// A POST.
    Post,
    Put,
    Read,
    /// A POST whose first try is turned away with 429.
    Shaky,
    /// An MCP tool.
    Tool,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Flaky,
        Self::Keyed,
        Self::Model,
        Self::Poll,
        Self::Post,
        Self::Put,
        Self::Read,
        Self::Shaky,
        Self::Tool,
    ];

    /// May be carried out once at most.
    pub(crate) fn is_effect(self) -> bool {
        matches!(self, Self::Keyed | Self::Post | Self::Shaky | Self::Tool)
    }

    /// May end in doubt.
    pub(crate) fn may_be_in_doubt(self) -> bool {
        matches!(self, Self::Post | Self::Shaky | Self::Tool)
    }

    /// The status its first try gets in the place of an answer.
    pub(crate) fn turned_away(self) -> Option<u16> {
        match self {
            Self::Flaky => Some(503),
            Self::Shaky => Some(429),
            Self::Keyed | Self::Model | Self::Poll | Self::Post | Self::Put | Self::Read | Self::Tool => None,
        }
    }
}

/// One call of an agent, known by its key.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    workflow: String,
    pub(crate) key: String,
    pub(crate) kind: Kind,
}

impl Call {
    pub(crate) fn new(workflow: &str, at: usize, kind: Kind) -> Self {
        let key = if kind == Kind::Poll {
            format!("key-{workflow}-poll.")
        } else {
            format!("key-{workflow}-{at}.")
        };
        Self { workflow: workflow.to_owned(), key, kind }
    }

    pub(crate) fn ask(&self, attempt: usize) -> Ask {
        let base = format!("/w/{}/a/{attempt}", self.workflow);
        let body = format!(r#"{{"key":"{}"}}"#, self.key);
        match self.kind {
            Kind::Flaky => Ask::get(format!("{base}/crm/flaky?id={}", self.key)),
            Kind::Keyed => Ask::post(format!("{base}/crm/keyed"), body),
            Kind::Model => {
                Ask::post(format!("{base}/openai/v1/chat/completions"), Api::OpenaiChat.ask(&self.key, true))
            }
            Kind::Poll => Ask::get(format!("{base}/crm/polls?id={}", self.key)),
            Kind::Post => Ask::post(format!("{base}/crm/notes"), body),
            Kind::Put => Ask { body: body.into(), ..Ask::new("PUT", format!("{base}/crm/state")) },
            Kind::Read => Ask::get(format!("{base}/crm/customers?id={}", self.key)),
            Kind::Shaky => Ask::post(format!("{base}/crm/shaky"), body),
            Kind::Tool => {
                Caller::stateless(format!("{base}/tools"), 7).tool("charge", &json!({"key": self.key}))
            }
        }
    }

    pub(crate) fn is_in_doubt(&self, answer: &Answer) -> bool {
        let refused = if self.kind == Kind::Tool { answer.status == 200 } else { answer.status == 422 };
        refused && answer.text().contains("OG3001")
    }
}

#[derive(Default)]
struct State {
    life: Option<Arc<Life>>,
    requests: HashMap<String, usize>,
    executed: HashMap<String, usize>,
    /// What was carried out under a key, by call and key.
    keyed: HashMap<(String, String), String>,
    /// Every text that was answered, by call.
    answers: HashMap<String, Vec<String>>,
}

/// The upstream, for all lives.
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    upstream: Upstream,
}

impl World {
    pub(crate) fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let upstream = Upstream::start(move |request| hear(&shared, request));
        Self { state, upstream }
    }

    /// Where the sidecar of a life finds it.
    pub(crate) fn url(&self, life: usize) -> String {
        format!("{}/l{life}", self.upstream.url())
    }

    /// Hears this life's sidecar from now on, and no other's.
    pub(crate) fn hear(&self, life: &Arc<Life>) {
        self.state.lock().life = Some(Arc::clone(life));
    }

    /// How often a call was carried out.
    pub(crate) fn executed(&self, call: &Call) -> usize {
        self.state.lock().executed.get(&call.key).copied().unwrap_or(0)
    }

    /// Whether the call was ever answered with this text.
    pub(crate) fn has_said(&self, call: &Call, text: &str) -> bool {
        let state = self.state.lock();
        // A replayed MCP answer and the upstream's own have the same id here, so texts are compared whole.
        state.answers.get(&call.key).is_some_and(|said| said.iter().any(|said| said == text))
    }

    /// Forgets the calls of workflows that are over.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        *state = State { life: state.life.take(), ..State::default() };
    }
}

fn key_of(request: &Request) -> String {
    let text = format!("{} {}", request.target, request.text());
    let from = text.find("key-").expect("every call has a key");
    let len = text[from..].find('.').expect("a key ends in a dot");
    text[from..=from + len].to_owned()
}

fn nobody() -> Script {
    Script(vec![Act::Reset])
}

fn hear(state: &Arc<Mutex<State>>, request: &Request) -> Script {
    let Some(life) = state.lock().life.clone() else { return nobody() };
    if !request.target.starts_with(&format!("/l{}/", life.number)) {
        return nobody();
    }
    let Some(script) = life.received(|| answer(&mut state.lock(), request)) else { return nobody() };
    if !life.watches_halves() {
        return script;
    }
    let gate = Gate::new();
    let len = script.len() / 2;
    let (seen, life) = (gate.clone(), Arc::clone(&life));
    std::thread::spawn(move || {
        while seen.times_reached() == 0 && !life.is_dead() {
            std::thread::sleep(POLL);
        }
        if seen.times_reached() > 0 {
            life.half_answered();
        }
        seen.open();
    });
    script.held_after(len, &gate)
}

fn answer(state: &mut State, request: &Request) -> Script {
    let key = key_of(request);
    let nth = {
        let count = state.requests.entry(key.clone()).or_default();
        *count += 1;
        *count
    };
    let turned_away = [("/flaky", 503), ("/shaky", 429)]
        .into_iter()
        .find(|(path, _)| request.target.contains(path) && nth == 1);
    if let Some((_, status)) = turned_away {
        return Script::status(status);
    }
    let under = request.header("idempotency-key").map(|under| (key.clone(), under.to_owned()));
    if let Some(known) = under.as_ref().and_then(|under| state.keyed.get(under)) {
        return Script::json(known);
    }
    *state.executed.entry(key.clone()).or_default() += 1;
    let (script, text) = content(request, &key, nth);
    if let Some(under) = under {
        state.keyed.insert(under, text.clone());
    }
    state.answers.entry(key).or_default().push(text);
    script
}

/// An answer that is another one every time, of any length, and its body as an agent gets it.
fn content(request: &Request, key: &str, nth: usize) -> (Script, String) {
    let mut random = Random::new(key.bytes().map(u64::from).sum::<u64>() * 31 + nth as u64);
    let len = if random.chance(12) { 30_000 } else { random.below(3_000) };
    let text = format!("{key} answered, number {nth} {}", "x".repeat(len));
    if request.target.contains("chat/completions") {
        let events = chat(&[&text, " and", " more"], Usage::Asked);
        return (Script::events(&events), events.concat());
    }
    if request.target.contains("/mcp") {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let result = json!({"content": [{"type": "text", "text": text}], "isError": false});
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, message["id"]);
        return (Script::json(&body), body);
    }
    let body = json!({ "text": text }).to_string();
    (Script::json(&body), body)
}
