//! The config file as it is written: its keys, their types, and what each means. The text of the comments
//! is the text of the JSON Schema. Decides nothing: whether a value can be used is said in `resolve`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounds;
use super::de::{Field, Key};

/// Outrigger: a sidecar that journals an agent's LLM, MCP and HTTP tool calls and replays the recorded
/// answers after a crash. Every key is optional but an upstream's `dialect` and `url`. In any value
/// `${NAME}` stands for an environment variable, `${NAME:-text}` gives it a default, `$${` is `${` itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Outrigger config")]
pub(super) struct File {
    /// Where agents connect. Default: one listener at 127.0.0.1:4747.
    #[schemars(length(min = 1))]
    pub(super) listen: Field<Vec<Field<Listener>>>,
    /// Where people, probes and the command line connect: /healthz, /readyz, /metrics and the workflows.
    /// Default: 127.0.0.1:4748.
    pub(super) admin: Field<Listen>,
    /// The record of every workflow, on disk.
    pub(super) journal: Field<Journal>,
    /// How long what is recorded is kept.
    pub(super) retention: Field<Retention>,
    /// What agents call, by name. A request to /NAME/rest goes to the URL of NAME with /rest behind it.
    /// Names are lower-case letters, digits and `-`, at most 32, and neither `w` nor `a`. Default: openai,
    /// anthropic and gemini at their public addresses.
    #[schemars(extend("minProperties" = 1, "propertyNames" = { "pattern": "^[a-z][a-z0-9-]{0,31}$", "not": { "enum": ["w", "a"] } }))]
    pub(super) upstreams: Field<BTreeMap<Key, Field<Upstream>>>,
    /// How much agents may send, and how long they may take.
    pub(super) limits: Field<Limits>,
    /// The workflow of calls that name none. Without it such calls pass through and are not journaled. The
    /// environment variable OUTRIGGER_WORKFLOW takes precedence.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$"))]
    pub(super) default_workflow: Field<String>,
    /// Which workflows there can be: `open` ones come into being with the first call that names them, `issued`
    /// ones only through the admin API or `outrigger run`; a call that names another is refused.
    #[schemars(extend("default" = "open"))]
    pub(super) workflow_ids: Field<WorkflowIds>,
    /// Processes of one workflow at a time: `exclusive` refuses a process that is no relative of the one at
    /// work, since two agents at the same task would act twice; `shared` takes them for workers of one attempt.
    #[schemars(extend("default" = "exclusive"))]
    pub(super) workers: Field<Workers>,
    /// What becomes of a new effect when a restarted agent has gone another way than the recorded run: `refuse`
    /// refuses it until `outrigger accept`, `live` sends it. Model calls and reads are sent in either case.
    #[schemars(extend("default" = "refuse"))]
    pub(super) on_divergence: Field<OnDivergence>,
    /// A call that names a closed workflow: `refuse` refuses it, `new_run` begins a run that knows nothing of the old
    /// one (its effects may then happen again), `replay` gives what is recorded and sends nothing.
    #[schemars(extend("default" = "refuse"))]
    pub(super) reuse: Field<Reuse>,
    /// What agents may do. Without it everything is allowed.
    pub(super) policies: Field<Policies>,
    /// How many seconds running steps may go on after SIGTERM.
    #[schemars(range(min = bounds::SHUTDOWN_S.min, max = bounds::SHUTDOWN_S.max))]
    #[schemars(extend("default" = bounds::SHUTDOWN_S.default))]
    pub(super) shutdown_s: Field<u64>,
    /// What the sidecar tells of itself on stderr.
    pub(super) log: Field<Log>,
}

/// A call that names a closed workflow.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Reuse {
    NewRun,
    Refuse,
    Replay,
}

/// Which workflows there can be.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum WorkflowIds {
    Issued,
    Open,
}

/// What becomes of new effects of an agent that went another way.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum OnDivergence {
    Live,
    Refuse,
}

/// Processes of one workflow at a time.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Workers {
    Exclusive,
    Shared,
}

/// Where agents connect: an address, or a Unix socket.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{ "required": ["address"] }, { "required": ["socket"] }]))]
pub(super) struct Listener {
    /// IP address and port, such as `127.0.0.1:4747` or `[::1]:4747`. Port 0 means any free port.
    pub(super) address: Field<String>,
    /// Must be true for an address that other machines can reach. Whoever reaches a listener can call every
    /// upstream with the agent's keys, and read and continue every workflow: there is no other check.
    #[schemars(extend("default" = false))]
    pub(super) expose: Field<bool>,
    /// Path of a Unix socket, in the place of an address; at most 100 bytes. A relative path is relative to
    /// the working directory of the process. What a dead process left there is replaced.
    pub(super) socket: Field<String>,
    /// Who may connect to the socket, as octal permissions in quotes: 0660 lets its group in as well.
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"), extend("default" = "0600"))]
    pub(super) mode: Field<String>,
}

/// One address to listen at.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["address"]))]
pub(super) struct Listen {
    /// IP address and port, such as `127.0.0.1:4747` or `[::1]:4747`. Port 0 means any free port.
    pub(super) address: Field<String>,
    /// Must be true for an address that other machines can reach. Whoever reaches a listener can call every
    /// upstream with the agent's keys, and read and continue every workflow: there is no other check.
    #[schemars(extend("default" = false))]
    pub(super) expose: Field<bool>,
}

/// The record of every workflow, on disk.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Journal {
    /// Directory of the journal, on a local file system. A relative path is relative to the working
    /// directory of the process, not to this file.
    #[schemars(extend("default" = "./outrigger-data"))]
    pub(super) path: Field<String>,
    /// Size in MiB of one file of the log.
    #[schemars(range(min = bounds::SEGMENT_MIB.min, max = bounds::SEGMENT_MIB.max))]
    #[schemars(extend("default" = bounds::SEGMENT_MIB.default))]
    pub(super) segment_mib: Field<u64>,
    /// Size in MiB that the journal may have on disk; when it has it, new steps are refused (503). The log and
    /// the metrics warn at 80 percent. 0: as much as the disk has.
    #[schemars(range(min = bounds::SIZE_MIB_MAX.min, max = bounds::SIZE_MIB_MAX.max))]
    #[schemars(extend("default" = bounds::SIZE_MIB_MAX.default))]
    pub(super) size_mib_max: Field<u64>,
    /// LLM calls and reads while the journal cannot be written: `fail` refuses them (503), `passthrough`
    /// lets them through unrecorded. Effects are refused in either case.
    #[schemars(extend("default" = "fail"))]
    pub(super) unavailable: Field<Unavailable>,
}

/// How long what is recorded is kept. Workflows that are not closed are kept whole, and so are those with a step
/// in doubt.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retention {
    /// Hours without a record after which a workflow is closed. 0: only somebody closes it.
    #[schemars(range(min = bounds::CLOSE_AFTER_IDLE_H.min, max = bounds::CLOSE_AFTER_IDLE_H.max))]
    #[schemars(extend("default" = bounds::CLOSE_AFTER_IDLE_H.default))]
    pub(super) close_after_idle_h: Field<u64>,
    /// Hours for which requests and answers of a closed workflow are kept. 0: not at all.
    #[schemars(range(min = bounds::BODIES_H.min, max = bounds::BODIES_H.max))]
    #[schemars(extend("default" = bounds::BODIES_H.default))]
    pub(super) bodies_h: Field<u64>,
    /// Hours for which the records of a closed workflow are kept: what its timeline is told from. Afterwards only
    /// its name is known. At least `bodies_h`.
    #[schemars(range(min = bounds::RECORDS_H.min, max = bounds::RECORDS_H.max))]
    #[schemars(extend("default" = bounds::RECORDS_H.default))]
    pub(super) records_h: Field<u64>,
    /// Seconds from one sweep to the next: it closes, lets go, and gives space back. `outrigger gc` is one.
    #[schemars(range(min = bounds::SWEEP_S.min, max = bounds::SWEEP_S.max))]
    #[schemars(extend("default" = bounds::SWEEP_S.default))]
    pub(super) sweep_s: Field<u64>,
}

/// LLM calls and reads while the journal cannot be written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Unavailable {
    Fail,
    Passthrough,
}

/// Something that agents call.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["dialect", "url"]))]
pub(super) struct Upstream {
    /// The protocol it speaks: `anthropic`, `gemini` and `openai` are the LLM APIs of that form, `mcp` is the
    /// Model Context Protocol over HTTP, `http` is any other HTTP API.
    pub(super) dialect: Field<Dialect>,
    /// Where it is: http or https, host, port, and a path if all its paths begin with one. No query, user or
    /// fragment; for `openai` and `anthropic` no /v1 at its end, which is part of what agents send.
    pub(super) url: Field<String>,
    /// Variables that `outrigger run` sets for the agent, each with the path behind this upstream's base URL
    /// (such as /mcp, or / for none).
    #[schemars(extend("propertyNames" = { "pattern": "^[A-Z_][A-Z0-9_]*$" }))]
    pub(super) env: Field<BTreeMap<Key, Field<String>>>,
    /// What policies see as `resource.env`, such as `prod`.
    pub(super) environment: Field<String>,
    /// PEM file with further root certificates for this upstream, beside the machine's and the bundled ones.
    pub(super) ca_file: Field<String>,
    /// Token usage of OpenAI streams: `ask` asks for it and hides it again from an agent that did not,
    /// `observe` changes no request.
    #[schemars(extend("default" = "ask"))]
    pub(super) usage: Field<Usage>,
    /// Seconds that a connection may take, TLS included.
    #[schemars(range(min = bounds::CONNECT_TIMEOUT_S.min, max = bounds::CONNECT_TIMEOUT_S.max))]
    #[schemars(extend("default" = bounds::CONNECT_TIMEOUT_S.default))]
    pub(super) connect_timeout_s: Field<u64>,
    /// Seconds that the upstream may be silent, before its answer and between the answer's bytes.
    #[schemars(range(min = bounds::UPSTREAM_IDLE_TIMEOUT_S.min, max = bounds::UPSTREAM_IDLE_TIMEOUT_S.max))]
    #[schemars(extend("default" = bounds::UPSTREAM_IDLE_TIMEOUT_S.default))]
    pub(super) idle_timeout_s: Field<u64>,
    /// Seconds for which an answer is read on after the agent left, so that its restart finds it recorded.
    #[schemars(range(min = bounds::DRAIN_S.min, max = bounds::DRAIN_S.max))]
    #[schemars(extend("default" = bounds::DRAIN_S.default))]
    pub(super) drain_s: Field<u64>,
    /// How calls are matched with recorded ones after a restart of the agent.
    #[serde(rename = "match")]
    pub(super) matching: Field<Match>,
    /// What is known of this upstream's tools, by name: for `mcp` the names its server gives them, for `http`
    /// names of your own, each with its `method` and `path`. Tools that are not here are judged by the
    /// protocol alone: a tool call and a POST are effects.
    pub(super) tools: Field<BTreeMap<Key, Field<Tool>>>,
}

/// What agents may do.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policies {
    /// The folder of policies: `guards/*.cedar`, `evidence/*.cedar` and `tools/*.lock.json` in it.
    pub(super) path: Field<String>,
}

/// How calls are matched with recorded ones. A call whose recorded one is equal to the byte always finds it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Match {
    /// Headers that tell calls apart, beside `anthropic-beta`, `openai-beta` and the content type, which always
    /// do: calls with other values in them are other calls. Changing this makes recorded calls unknown.
    #[schemars(length(max = bounds::MATCH_HEADERS_MAX))]
    pub(super) headers: Field<Vec<Field<String>>>,
    /// Only for LLM APIs: members that say nothing about which call it is. True: left out when no equal call is
    /// recorded.
    pub(super) normalise: Field<Normalise>,
    /// Only for LLM APIs: places in the request where something differs from run to run, and what. Left out when
    /// no equal call is recorded; what is sent is never changed. `outrigger doctor` proposes them.
    #[schemars(length(max = bounds::SCRUBS_MAX))]
    pub(super) scrubs: Field<Vec<Field<Scrub>>>,
}

/// Members of a model request that may be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Normalise {
    /// Every `cache_control` of the request, at any depth but in the arguments and descriptions of tools.
    #[schemars(extend("default" = false))]
    pub(super) cache_control: Field<bool>,
    /// Where clients name the user or the run, such as Claude Code's `user_id`.
    #[schemars(extend("default" = true))]
    pub(super) metadata: Field<bool>,
    /// Which calls share a provider's cache.
    #[schemars(extend("default" = true))]
    pub(super) prompt_cache_key: Field<bool>,
    /// Whom the provider may hold responsible.
    #[schemars(extend("default" = true))]
    pub(super) safety_identifier: Field<bool>,
    /// How fast and at what price the answer is made.
    #[schemars(extend("default" = false))]
    pub(super) service_tier: Field<bool>,
    /// Whether the provider keeps the answer.
    #[schemars(extend("default" = false))]
    pub(super) store: Field<bool>,
    /// For whom the call is made.
    #[schemars(extend("default" = true))]
    pub(super) user: Field<bool>,
}

/// A place in model requests, and what differs there from run to run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["pointer", "regex"]))]
pub(super) struct Scrub {
    /// JSON pointer into the request, in which `*` stands for every element of a list: /messages/*/content. Of a
    /// list of parts it means their texts. The arguments of tool calls are out of reach.
    pub(super) pointer: Field<String>,
    /// Regular expression (without look-around and back-references) of what counts as one constant there.
    pub(super) regex: Field<String>,
}

/// What is known of one tool.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tool {
    /// Only for `http`: the method of its calls.
    pub(super) method: Field<Method>,
    /// Only for `http`: the path of its calls below the upstream, in which `{name}` stands for one segment.
    pub(super) path: Field<String>,
    /// What calling it twice would do: `read` nothing, `idempotent` nothing more than calling it once,
    /// `effect` the same thing again. Default: as the protocol says.
    pub(super) effect: Field<Class>,
    /// JSON pointers into its arguments. An effect is then known by these values, whatever the other
    /// arguments say: a model that words a memo differently after a restart finds what it has done.
    pub(super) identity: Field<Vec<Field<String>>>,
    /// The tool honours idempotency keys, and takes them here. Calls that may have happened are then sent
    /// again under the same key instead of being refused. A key that the agent sends itself is kept.
    pub(super) idempotency_key: Field<IdempotencyKey>,
    /// HTTP statuses by which it says that it has not carried the call out. Default: 401, 403, 407 and 429.
    pub(super) not_executed: Field<Vec<Field<u64>>>,
    /// A call of another tool that tells whether a call of this one, whose outcome is unknown, has happened.
    pub(super) probe: Field<Probe>,
    /// What happens to a call that may have happened when it is asked for again: `refuse` refuses it until
    /// somebody resolves it, `hold` lets it wait for that for `hold_s`, `retry` sends it again. Default: refuse.
    #[schemars(extend("default" = "refuse"))]
    pub(super) in_doubt: Field<InDoubt>,
    /// Seconds for which `in_doubt: hold` keeps a call waiting before it is refused.
    #[schemars(range(min = bounds::HOLD_S.min, max = bounds::HOLD_S.max))]
    #[schemars(extend("default" = bounds::HOLD_S.default))]
    pub(super) hold_s: Field<u64>,
    /// Where a restart of the agent cannot be seen, a second equal kind of effect is refused, since it may be
    /// the first one asked for again. `allow` lets it pass. Default: refuse.
    #[schemars(extend("default" = "refuse"))]
    pub(super) repeat: Field<Repeat>,
}

/// Where a tool takes its idempotency key; exactly one of the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IdempotencyKey {
    /// JSON pointer into its arguments.
    pub(super) argument: Field<String>,
    /// Name of a header, such as Idempotency-Key.
    pub(super) header: Field<String>,
}

/// A call that tells whether another one has happened, and does nothing itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Probe {
    /// The tool that is called, of the same upstream. Of an `http` upstream it is one of `tools` with method GET:
    /// its arguments fill its path first, and its query with the rest.
    pub(super) tool: Field<String>,
    /// What it is called with: `$.invoice_id` for an argument of the call in question, any other text for
    /// itself.
    pub(super) arguments: Field<BTreeMap<Key, Field<String>>>,
    /// JSON pointer into its answer. There `true`, a number but 0, a text, a list or an object that is not empty
    /// say that it has happened; `false`, `null`, 0 and what is empty say that it has not. Anything else says
    /// nothing.
    pub(super) happened: Field<String>,
    /// JSON pointer to the part of its answer that the agent gets in place of the answer that was lost. Default:
    /// all of it.
    pub(super) answer: Field<String>,
    /// Seconds after the call was sent before which its not having happened is not believed: it may be on its
    /// way.
    #[schemars(range(min = bounds::SETTLE_S.min, max = bounds::SETTLE_S.max))]
    #[schemars(extend("default" = bounds::SETTLE_S.default))]
    pub(super) settle_s: Field<u64>,
}

/// The method of an HTTP tool's calls.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub(super) enum Method {
    Delete,
    Get,
    Patch,
    Post,
    Put,
}

/// What calling a tool twice would do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Class {
    Effect,
    Idempotent,
    Read,
}

/// What happens to a call that may have happened when it is asked for again.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum InDoubt {
    Hold,
    Refuse,
    Retry,
}

/// Whether a second equal kind of effect passes where a restart cannot be seen.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Repeat {
    Allow,
    Refuse,
}

/// The protocol that an upstream speaks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Dialect {
    Anthropic,
    Gemini,
    Http,
    Mcp,
    Openai,
}

/// Token usage of OpenAI streams.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Usage {
    Ask,
    Observe,
}

/// How much agents may send, and how long they may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Largest request body in MiB, as sent and as decoded; a larger one is answered with 413.
    #[schemars(range(min = bounds::BODY_MIB_MAX.min, max = bounds::BODY_MIB_MAX.max))]
    #[schemars(extend("default" = bounds::BODY_MIB_MAX.default))]
    pub(super) body_mib_max: Field<u64>,
    /// Seconds for which a request body may stop coming.
    #[schemars(range(min = bounds::BODY_IDLE_TIMEOUT_S.min, max = bounds::BODY_IDLE_TIMEOUT_S.max))]
    #[schemars(extend("default" = bounds::BODY_IDLE_TIMEOUT_S.default))]
    pub(super) body_idle_timeout_s: Field<u64>,
    /// Largest request head in KiB.
    #[schemars(range(min = bounds::HEADER_KIB_MAX.min, max = bounds::HEADER_KIB_MAX.max))]
    #[schemars(extend("default" = bounds::HEADER_KIB_MAX.default))]
    pub(super) header_kib_max: Field<u64>,
    /// Seconds that a request head may take.
    #[schemars(range(min = bounds::HEADER_TIMEOUT_S.min, max = bounds::HEADER_TIMEOUT_S.max))]
    #[schemars(extend("default" = bounds::HEADER_TIMEOUT_S.default))]
    pub(super) header_timeout_s: Field<u64>,
    /// Connections of agents open at once; further ones wait.
    #[schemars(range(min = bounds::CONNECTIONS_MAX.min, max = bounds::CONNECTIONS_MAX.max))]
    #[schemars(extend("default" = bounds::CONNECTIONS_MAX.default))]
    pub(super) connections_max: Field<u64>,
    /// Seconds for which an agent's connection may stay open without a request.
    #[schemars(range(min = bounds::IDLE_TIMEOUT_S.min, max = bounds::IDLE_TIMEOUT_S.max))]
    #[schemars(extend("default" = bounds::IDLE_TIMEOUT_S.default))]
    pub(super) idle_timeout_s: Field<u64>,
    /// Largest answer in MiB that is recorded. A longer one reaches the agent whole, but cannot be replayed.
    #[schemars(range(min = bounds::RECORDED_MIB_MAX.min, max = bounds::RECORDED_MIB_MAX.max))]
    #[schemars(extend("default" = bounds::RECORDED_MIB_MAX.default))]
    pub(super) recorded_mib_max: Field<u64>,
}

/// What the sidecar tells of itself on stderr.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// The least serious kind of line that is written.
    #[schemars(extend("default" = "info"))]
    pub(super) level: Field<Level>,
    /// `text` for people, `json` for machines: one object per line.
    #[schemars(extend("default" = "text"))]
    pub(super) format: Field<Format>,
}

/// How serious a line of the log is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Level {
    Debug,
    Error,
    Info,
    Trace,
    Warn,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Format {
    Json,
    Text,
}
