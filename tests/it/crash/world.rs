//! The upstream of the crash tests: models and tools in one, that knows every call by its key, counts it,
//! and stops where it is told; and the calls themselves.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Answer, Ask, Broken};
use crate::support::gate::Gate;
use crate::support::llm::{Api, Usage, chat};
use crate::support::mcp;
use crate::support::sidecar::Sidecar;
use crate::support::upstream::{Act, Deaf, Request, Script, Upstream};

/// Larger than what the sockets between sidecar and agent can hold.
const LARGE_BYTES: usize = 6 << 20;
/// Between the pieces of an answer, so that an unsteered kill can fall there.
const PACE: Duration = Duration::from_millis(4);

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A POST to an upstream that may be deaf.
    Deaf,
    /// A streamed model answer.
    Model,
    /// A POST.
    Post,
    /// A GET.
    Read,
    /// An MCP tool.
    Tool,
}

impl Kind {
    /// Those any round may use.
    pub(super) const ALL: [Self; 4] = [Self::Model, Self::Post, Self::Read, Self::Tool];

    pub(super) fn is_effect(self) -> bool {
        matches!(self, Self::Deaf | Self::Post | Self::Tool)
    }

    /// The figure that counts its durable outcomes.
    pub(super) fn completed_metric(self) -> String {
        let kind = match self {
            Self::Deaf | Self::Post | Self::Read => "http",
            Self::Model => "llm",
            Self::Tool => "mcp",
        };
        format!("outrigger_steps_total{{kind=\"{kind}\",source=\"live\",state=\"completed\"}}")
    }
}

/// One call of an agent, known by its key.
#[derive(Clone, Debug)]
pub(super) struct Call {
    workflow: String,
    key: String,
    pub(super) kind: Kind,
}

impl Call {
    pub(super) fn new(workflow: &str, step: usize, kind: Kind) -> Self {
        Self { workflow: workflow.to_owned(), key: format!("key-{workflow}-{step}."), kind }
    }

    pub(super) fn ask(&self, attempt: usize) -> Ask {
        self.ask_below(&format!("/w/{}/a/{attempt}", self.workflow))
    }

    /// Without an attempt: the sidecar sees whose it is.
    pub(super) fn ask_unnamed(&self) -> Ask {
        self.ask_below(&format!("/w/{}", self.workflow))
    }

    fn ask_below(&self, base: &str) -> Ask {
        let body = format!(r#"{{"key":"{}"}}"#, self.key);
        match self.kind {
            Kind::Deaf => Ask::post(format!("{base}/deaf/notes"), body),
            Kind::Model => {
                Ask::post(format!("{base}/openai/v1/chat/completions"), Api::OpenaiChat.ask(&self.key, true))
            }
            Kind::Post => Ask::post(format!("{base}/crm/notes"), body),
            Kind::Read => Ask::get(format!("{base}/crm/customers?id={}", self.key)),
            Kind::Tool => {
                mcp::Caller::stateless(format!("{base}/tools"), 7).tool("charge", &json!({"key": self.key}))
            }
        }
    }

    pub(super) fn send(&self, sidecar: &Sidecar, attempt: usize) -> Result<Answer, Broken> {
        sidecar.try_call(&self.ask(attempt))
    }

    /// What the agent takes from an answer.
    pub(super) fn text(&self, answer: &Answer) -> String {
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        answer.text()
    }

    pub(super) fn is_in_doubt(&self, answer: &Answer) -> bool {
        let refused = if self.kind == Kind::Tool { answer.status == 200 } else { answer.status == 422 };
        refused && answer.body.len() < 10_000 && answer.text().contains("OG3001")
    }
}

/// What the upstream does about a call the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    HoldHalf,
    HoldHead,
    Large,
}

#[derive(Default)]
struct State {
    counts: HashMap<String, usize>,
    half: HashSet<String>,
    behaviours: HashMap<String, (Behaviour, Gate)>,
}

/// The upstream, for all rounds.
pub(super) struct World {
    state: Arc<Mutex<State>>,
    upstream: Upstream,
}

impl World {
    pub(super) fn start() -> Arc<Self> {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let upstream = Upstream::start(move |request| answer(&shared, request));
        Arc::new(Self { state, upstream })
    }

    pub(super) fn url(&self) -> String {
        self.upstream.url()
    }

    /// Answers for one that was deaf.
    pub(super) fn listen(&self, deaf: Deaf) -> Upstream {
        let shared = Arc::clone(&self.state);
        deaf.wake(move |request| answer(&shared, request))
    }

    /// How a call is to be treated; the gate tells when it is there.
    pub(super) fn behave(&self, call: &Call, behaviour: Behaviour) -> Gate {
        let gate = Gate::new();
        let mut state = self.state.lock().unwrap();
        state.behaviours.insert(call.key.clone(), (behaviour, gate.clone()));
        gate
    }

    /// Lets go of everything that is held.
    pub(super) fn open_all(&self) {
        for (_, gate) in self.state.lock().unwrap().behaviours.values() {
            gate.open();
        }
    }

    pub(super) fn count(&self, call: &Call) -> usize {
        self.state.lock().unwrap().counts.get(&call.key).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> usize {
        self.state.lock().unwrap().counts.values().sum()
    }

    pub(super) fn was_half_answered(&self, call: &Call) -> bool {
        self.state.lock().unwrap().half.contains(&call.key)
    }
}

fn key_of(request: &Request) -> String {
    let text = format!("{} {}", request.target, request.text());
    let from = text.find("key-").expect("every call has a key");
    let len = text[from..].find('.').expect("a key ends in a dot");
    text[from..=from + len].to_owned()
}

fn answer(state: &Arc<Mutex<State>>, request: &Request) -> Script {
    let key = key_of(request);
    let (count, behaviour) = {
        let mut state = state.lock().unwrap();
        let count = state.counts.entry(key.clone()).or_default();
        *count += 1;
        let count = *count;
        (count, state.behaviours.get(&key).cloned().filter(|_| count == 1))
    };
    let large = matches!(behaviour, Some((Behaviour::Large, _)));
    let script = content(request, &key, count, large);
    let half = mark_half(state, &key);
    match behaviour {
        Some((Behaviour::HoldHead, gate)) => script.held(&gate),
        Some((Behaviour::HoldHalf, gate)) => {
            half();
            let len = script.len() / 2;
            script.held_after(len, &gate)
        }
        Some((Behaviour::Large, _)) => {
            half();
            script
        }
        None => paced(script, half),
    }
}

/// Says that an answer begins to leave.
fn mark_half(state: &Arc<Mutex<State>>, key: &str) -> impl Fn() + Send + Sync + use<> {
    let (state, key) = (Arc::clone(state), key.to_owned());
    move || _ = state.lock().unwrap().half.insert(key.clone())
}

/// The same in pieces, slowly: before the head, and in the middle.
fn paced(script: Script, begun: impl Fn()) -> Script {
    std::thread::sleep(PACE);
    begun();
    let middle = script.len() / 2;
    let gate = Gate::new();
    gate.open();
    let mut slow = script.held_after(middle, &gate);
    let at = slow.0.iter().position(|act| matches!(act, Act::Hold(_))).expect("it was put there");
    slow.0[at] = Act::Pause(PACE);
    slow
}

/// An answer that is another one every time.
fn content(request: &Request, key: &str, count: usize, large: bool) -> Script {
    let mut text = format!("{key} answered, number {count}");
    if large {
        text.push_str(&"x".repeat(LARGE_BYTES));
    }
    if request.target.contains("chat/completions") {
        return Script::events(&chat(&[&text, " and", " more"], Usage::Asked));
    }
    if request.target.contains("/mcp") {
        let message: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let result = json!({"content": [{"type": "text", "text": text}], "isError": false});
        return Script::json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, message["id"]));
    }
    Script::json(json!({ "text": text }).to_string())
}
