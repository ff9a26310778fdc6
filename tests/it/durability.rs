//! What a workflow may rely on when its agent, its sidecar or its upstreams die: the cases of the
//! project's durability design, numbered as there, over real sockets. Effects are counted by the upstream.

mod below;
mod delivery;
mod diverged;
mod doubt;
mod joins;
mod matching;
mod order;
mod owners;
mod probes;
mod resolved;
mod retention;
mod scrubs;
mod setbacks;
mod tools;
mod unwritten;

use crate::support::llm::Api;
use crate::support::sidecar::Setup;
use crate::support::upstream::{Request, Script, Upstream};

/// An upstream whose every answer is another one, so that a replay can be told from a second call.
fn counting() -> Upstream {
    Upstream::start(counted)
}

/// `{"call":N,...}` for the N-th call of the upstream.
fn counted(request: &Request) -> Script {
    Script::json(format!(r#"{{"call":{},"path":"{}"}}"#, request.count, request.target))
}

/// A chat completion that names the count of the call.
fn completion(request: &Request) -> Script {
    Script::json(Api::OpenaiChat.answer(&format!("answer {}", request.count)))
}

/// A sidecar's setup with one plain HTTP upstream `crm`.
fn crm(upstream: &Upstream) -> Setup {
    Setup::new().upstream("crm", "http", &upstream.url())
}

/// A sidecar's setup with one OpenAI upstream.
fn openai(upstream: &Upstream) -> Setup {
    Setup::new().upstream("openai", "openai", &upstream.url())
}

/// A chat completion's path in an attempt of workflow `w`.
fn chat_path(attempt: usize) -> String {
    format!("/w/w/a/{attempt}/openai/v1/chat/completions")
}
