//! What an agent asks for: which protocol, which kind of call, which model or tool, and how careful one
//! must be about asking twice.

use std::fmt;
use std::sync::Arc;

/// The protocol an upstream speaks, as the config names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Anthropic,
    Gemini,
    Http,
    Mcp,
    Openai,
}

impl Dialect {
    pub const ALL: [Self; 5] = [Self::Anthropic, Self::Gemini, Self::Http, Self::Mcp, Self::Openai];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::Openai => "openai",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which message format a request and its answer have. Finer than [`Dialect`]: one provider has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `POST .../messages`
    AnthropicMessages,
    /// `:generateContent`, `:streamGenerateContent`
    GeminiGenerate,
    /// `:embedContent`, `:batchEmbedContents`
    GeminiEmbed,
    /// Anything on an `http` upstream, and whatever an LLM upstream offers besides generation.
    Http,
    /// A JSON-RPC message to an MCP endpoint.
    Mcp,
    /// `POST .../chat/completions`
    OpenaiChat,
    /// `POST .../completions`
    OpenaiCompletions,
    /// `POST .../embeddings`
    OpenaiEmbeddings,
    /// `POST .../responses`
    OpenaiResponses,
}

/// What a call is to the workflow. The words are those of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// A request to an HTTP tool, or to an LLM provider's API beside generation.
    Http,
    /// Generation or embedding by a model.
    Llm,
    /// `tools/call`, `resources/read`, `prompts/get`, `tasks/update`, `tasks/cancel`.
    Mcp,
}

impl CallKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Llm => "llm",
            Self::Mcp => "mcp",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Llm, Self::Mcp].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How a call takes part in its workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// A numbered step: journaled, replayed by fingerprint and occurrence.
    Step(CallKind),
    /// What an MCP server offers (`initialize`, `server/discover`, `*/list`): the last answer is recorded
    /// and served again while recorded steps lie ahead. Not a step.
    List,
    /// Neither recorded nor replayed: notifications, pings, event streams, session ends.
    Live,
}

/// What asking twice would do (durability.md, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EffectClass {
    /// Must not be repeated.
    Effect,
    /// May be repeated under the same key.
    Idempotent,
    /// May be repeated; costs at most money.
    Read,
}

impl EffectClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Effect => "effect",
            Self::Idempotent => "idempotent",
            Self::Read => "read",
        }
    }

    /// The one of both under which less may be repeated.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Effect, _) | (_, Self::Effect) => Self::Effect,
            (Self::Idempotent, _) | (_, Self::Idempotent) => Self::Idempotent,
            (Self::Read, Self::Read) => Self::Read,
        }
    }
}

/// What one request asks for, read from its path and body without changing a byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub channel: Channel,
    pub surface: Surface,
    pub class: EffectClass,
    /// The model (`gpt-5`), the tool (`charge`), the MCP method (`initialize`) or method and path
    /// (`GET /customers/7`); shown in the timeline, at most [`Operation::NAME_LEN_MAX`] bytes.
    pub name: Arc<str>,
    /// The client asked for a streamed answer.
    pub stream: bool,
}

impl Operation {
    /// Longest name kept, in bytes; a longer one is cut at a character and ends in `…`.
    pub const NAME_LEN_MAX: usize = 200;
}
