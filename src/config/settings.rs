//! What the config says once it has been checked. Every value here is valid; nothing below re-checks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::model::{Dialect, ToolRule, UpstreamName, WorkflowId};
use crate::replay::normalise::Matching;
use crate::route::PathTemplate;

/// The whole config, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file it came from; `None` for the built-in defaults.
    pub source: Option<PathBuf>,
    /// Where agents connect: at least one.
    pub listen: Vec<Listen>,
    /// Where people, probes and the command line connect.
    pub admin: SocketAddr,
    pub journal: Journal,
    /// How long what is recorded is kept.
    pub retention: Retention,
    /// At least one.
    pub upstreams: BTreeMap<UpstreamName, Upstream>,
    pub limits: Limits,
    /// The workflow of calls that name none (`default_workflow`, or `OUTRIGGER_WORKFLOW`, which wins).
    pub default_workflow: Option<WorkflowId>,
    /// Which workflows there can be.
    pub workflow_ids: WorkflowIds,
    /// Whether unrelated processes may be at work on one workflow.
    pub workers: Workers,
    /// What becomes of new effects of an agent that went another way than the recorded run.
    pub on_divergence: OnDivergence,
    /// What becomes of a call that names a closed workflow.
    pub reuse: Reuse,
    /// The folder of policies; `None`: everything is allowed.
    pub policies: Option<PathBuf>,
    /// How long running steps may go on after SIGTERM.
    pub shutdown: Duration,
    pub log: Log,
}

impl Settings {
    /// The parts that people look for first, a line each: what `outrigger check` prints of a right config.
    pub fn summary(&self) -> String {
        let listen: Vec<String> = self.listen.iter().map(Listen::to_string).collect();
        let head = [
            format!("listen    {}", listen.join(", ")),
            format!("admin     {}", self.admin),
            format!("journal   {}", self.journal.path.display()),
        ];
        let workflow =
            self.default_workflow.iter().map(|id| format!("workflow  {id}, for calls that name none"));
        let upstreams = self
            .upstreams
            .values()
            .map(|upstream| format!("upstream  {}: {} at {}", upstream.name, upstream.dialect, upstream.url));
        let lines: Vec<String> = head.into_iter().chain(workflow).chain(upstreams).collect();
        format!("{}\n", lines.join("\n"))
    }
}

/// Where a listener is. Written `127.0.0.1:4747` or `unix:/run/outrigger.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Port 0 means any free port.
    Tcp(SocketAddr),
    Unix(UnixSocket),
}

/// A socket in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// A relative path is relative to the working directory.
    pub path: PathBuf,
    /// Permissions, such as `0o660`.
    pub mode: u32,
}

impl Listen {
    /// The address, where it has one that a URL can name.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(socket) => write!(f, "unix:{}", socket.path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkflowIds {
    /// Only those that the admin API or the wrapper has opened.
    Issued,
    /// Any; a call that names a new one opens it.
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDivergence {
    /// They are sent.
    Live,
    /// They are refused until somebody accepts the other way.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// A process that is no relative of the one at work is refused.
    Exclusive,
    /// Processes that are at work at the same time belong to one attempt.
    Shared,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// The journal's directory. A relative path is relative to the working directory.
    pub path: PathBuf,
    /// Size of one file of the log.
    pub segment_mib: u32,
    /// What it may take on disk; `None`: as much as there is.
    pub bytes_max: Option<u64>,
    /// What to do with LLM calls and reads when the journal cannot be written.
    pub unavailable: JournalUnavailable,
}

/// How long what is recorded is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// An idle workflow is closed after this time; `None`: only somebody closes it.
    pub close_after_idle: Option<Duration>,
    /// Of closed workflows.
    pub bodies: Duration,
    /// Of closed workflows; at least as long as bodies.
    pub records: Duration,
    /// From one sweep to the next.
    pub sweep: Duration,
}

/// What becomes of a call that names a closed workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It begins a new run, which knows nothing of the old one.
    NewRun,
    Refuse,
    /// It is given what is recorded, and nothing else.
    Replay,
}

/// What becomes of LLM calls and reads while the journal cannot be written. Effects are always refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalUnavailable {
    Fail,
    Passthrough,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: UpstreamName,
    pub dialect: Dialect,
    pub url: UpstreamUrl,
    /// What policies see as `resource.env`.
    pub environment: String,
    /// PEM file with further root certificates; only with https.
    pub ca_file: Option<PathBuf>,
    /// Whether OpenAI streams are asked for their token usage.
    pub usage: UsageMode,
    /// From the first packet to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// Longest silence of the upstream, before its answer and between the answer's bytes.
    pub idle_timeout: Duration,
    /// How long an answer is read on for the journal after the agent left.
    pub drain: Duration,
    /// Variables that `outrigger run` sets, each to this upstream's base URL with a path (`/mcp`, or empty)
    /// behind it.
    pub env: BTreeMap<EnvName, String>,
    /// How its calls are matched with recorded ones.
    pub matching: Matching,
    /// What is known of its tools, by name.
    pub tools: BTreeMap<String, Tool>,
}

/// What is known of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Method and path of an HTTP tool; `None` for MCP.
    pub route: Option<(String, PathTemplate)>,
    pub rule: ToolRule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageMode {
    /// Ask an OpenAI stream for its usage, and hide it from an agent that did not ask.
    Ask,
    /// Read what comes by itself.
    Observe,
}

/// Where an upstream is: scheme, host and port, and the path in front of every call's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// `http` or `https`.
    pub scheme: http::uri::Scheme,
    /// Host and, where it was given, port. Never user information.
    pub authority: http::uri::Authority,
    /// Empty, or `/` and more without a `/` at its end.
    pub base_path: String,
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.base_path)
    }
}

/// Name of an environment variable: `[A-Z_][A-Z0-9_]*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvName(Arc<str>);

impl EnvName {
    /// `None` when the text breaks the form.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text
            .bytes()
            .enumerate()
            .all(|(at, byte)| byte.is_ascii_uppercase() || byte == b'_' || (at > 0 && byte.is_ascii_digit()));
        (valid && !text.is_empty()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Limits on what agents may send and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body in bytes, as sent and as decoded.
    pub body_bytes_max: usize,
    /// Longest silence while a request body arrives.
    pub body_idle_timeout: Duration,
    /// Largest request head in bytes.
    pub header_bytes_max: usize,
    /// Longest time a request head may take.
    pub header_timeout: Duration,
    /// Connections open at once, over all listeners.
    pub connections_max: usize,
    /// How long an agent's connection may stay open without a request.
    pub idle_timeout: Duration,
    /// Largest answer in bytes that is recorded; a longer one passes, and cannot be replayed.
    pub recorded_bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Error,
    Info,
    Trace,
    Warn,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Error => "error",
            Self::Info => "info",
            Self::Trace => "trace",
            Self::Warn => "warn",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}
