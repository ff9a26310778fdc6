//! What the journal says, record by record (durability.md, section 5). How a record becomes bytes is
//! `codec`'s business.

#[path = "record/about.rs"]
mod about;
#[path = "record/decided.rs"]
mod decided;

use minicbor::{Decode, Encode};

pub use decided::{BoundValue, Decided, FactRef, MintedFact, Verdict};

use crate::model::{
    AttemptId, AttemptReason, BodyHash, CallKind, Dialect, EffectClass, Epoch, FailureClass, Fingerprint,
    FoundBy, Resolution, RunNonce, StepIndex, Timestamp, UpstreamName, Usage,
};

use super::via;
use crate::wire::refusal::{Again, McpForm};

/// The process at the other end of an agent's connection, told apart from every other process that this
/// or another boot of any PID namespace of the machine has had.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq, Hash)]
#[cbor(map)]
pub struct Peer {
    /// `/proc/sys/kernel/random/boot_id`.
    #[n(1)]
    pub boot_id: String,
    /// Inode of the PID namespace.
    #[n(2)]
    pub pid_namespace: u64,
    #[n(3)]
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    #[n(4)]
    pub start_ticks: u64,
    /// Process group at the time the attempt was opened.
    #[n(5)]
    pub process_group: u32,
}

/// A step begins: this request is about to be sent for the first time.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct Intent {
    #[cbor(n(1), with = "via")]
    pub step: StepIndex,
    #[cbor(n(2), with = "via")]
    pub attempt: AttemptId,
    #[cbor(n(3), with = "via")]
    pub epoch: Epoch,
    #[cbor(n(4), with = "via")]
    pub kind: CallKind,
    #[cbor(n(5), with = "via")]
    pub dialect: Dialect,
    #[cbor(n(6), with = "via")]
    pub upstream: UpstreamName,
    /// Model, tool, or method and path.
    #[n(7)]
    pub operation: String,
    #[cbor(n(8), with = "via")]
    pub class: EffectClass,
    #[cbor(n(9), with = "via")]
    pub exact: Fingerprint,
    /// Only for LLM bodies.
    #[cbor(n(10), with = "via", has_nil)]
    pub normalised: Option<Fingerprint>,
    /// The k-th step of this attempt with this exact fingerprint, from 1.
    #[n(11)]
    pub occurrence: u32,
    /// Sent upstream where the operator says that the tool honours one; the call may then be sent again
    /// under it.
    #[n(12)]
    pub idempotency_key: Option<String>,
    /// The request body as it was sent: the agent's own, with the idempotency key where it is an argument.
    #[cbor(n(13), with = "via")]
    pub request: BodyHash,
    #[n(14)]
    pub request_len: u64,
    #[cbor(n(15), with = "via")]
    pub at: Timestamp,
    /// Of an effect whose tool declares what it is known by: the same whatever else its arguments say.
    #[cbor(n(16), with = "via", has_nil)]
    pub identity: Option<Fingerprint>,
    /// Where the tool took the key, as [`KeyPlace`](crate::model::KeyPlace) is written; `None` without a key, and
    /// in records that are older than the field.
    #[n(17)]
    pub key_place: Option<String>,
}

/// A recorded answer: what a replay serves.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct Completed {
    #[cbor(n(1), with = "via")]
    pub step: StepIndex,
    /// HTTP status.
    #[n(2)]
    pub status: u16,
    /// End-to-end headers as served, lower-case names, in order; without `x-outrigger-*`.
    #[cbor(n(3), with = "via")]
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as served, without SSE comments; for MCP the JSON-RPC response alone.
    #[cbor(n(4), with = "via")]
    pub body: BodyHash,
    #[n(5)]
    pub body_len: u64,
    /// The body was longer than what is recorded; a replay refuses instead of serving a part.
    #[n(6)]
    pub body_dropped: bool,
    #[cbor(n(7), with = "via", has_nil)]
    pub usage: Option<Usage>,
    /// As the provider named it: `stop`, `tool_calls`, `end_turn`, `STOP`...
    #[n(8)]
    pub finish_reason: Option<String>,
    /// The tools the model's answer calls, in order (names only).
    #[n(9)]
    pub announced: Vec<String>,
    /// MCP: the result says `isError`, or the response is a JSON-RPC error.
    #[n(10)]
    pub is_error: bool,
    /// A try before this one may have been billed without being recorded.
    #[n(11)]
    pub possibly_billed: bool,
    /// Number of the try that was answered, from 1.
    #[n(12)]
    pub tried: u32,
    #[cbor(n(13), with = "via")]
    pub at: Timestamp,
}

/// The last answer of a list (`initialize`, `server/discover`, `*/list`) that the agent was shown.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct Listed {
    /// Keyed by route, method, protocol version and cursor.
    #[cbor(n(1), with = "via")]
    pub list: Fingerprint,
    #[cbor(n(2), with = "via")]
    pub attempt: AttemptId,
    #[cbor(n(3), with = "via")]
    pub upstream: UpstreamName,
    /// The MCP method.
    #[n(4)]
    pub method: String,
    /// The request body, so that a session can be opened again with it.
    #[cbor(n(5), with = "via")]
    pub request: BodyHash,
    #[n(6)]
    pub status: u16,
    #[cbor(n(7), with = "via")]
    pub headers: Vec<(String, Vec<u8>)>,
    #[cbor(n(8), with = "via")]
    pub body: BodyHash,
    #[cbor(n(9), with = "via")]
    pub at: Timestamp,
    /// It says something else than the one recorded before; `None`: it does not, or it is the first.
    #[n(10)]
    pub changed: Option<bool>,
}

/// How a restarted agent's call differs from the recorded run.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct Diverged {
    #[cbor(n(1), with = "via")]
    pub attempt: AttemptId,
    #[n(2)]
    pub operation: String,
    #[cbor(n(3), with = "via")]
    pub exact: Fingerprint,
    /// The recorded step that was most likely expected.
    #[cbor(n(4), with = "via", has_nil)]
    pub expected: Option<StepIndex>,
    /// JSON pointer to the first difference from its request; empty for the whole.
    #[n(5)]
    pub pointer: Option<String>,
    /// What is recorded there and what was asked, described without their text.
    #[n(6)]
    pub recorded: Option<String>,
    #[n(7)]
    pub asked: Option<String>,
    /// Numbers of the recorded steps that the agent has left out, at most [`Diverged::LEFT_OUT_MAX`] of them.
    #[n(8)]
    pub left_out: Vec<u64>,
    /// The call was refused and nothing was sent.
    #[n(9)]
    pub refused: bool,
    #[cbor(n(10), with = "via")]
    pub at: Timestamp,
}

impl Diverged {
    /// Most steps that one record names.
    pub const LEFT_OUT_MAX: usize = 64;
}

/// A refusal as the agent was told it, to be told again in the same words.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct Words {
    /// HTTP status.
    #[n(1)]
    pub status: u16,
    /// `OG3001`.
    #[n(2)]
    pub code: String,
    #[n(3)]
    pub message: String,
    #[cbor(n(4), with = "via")]
    pub again: Again,
    /// Seconds.
    #[n(5)]
    pub retry_after_s: Option<u32>,
    #[cbor(n(6), with = "via")]
    pub mcp: McpForm,
}

/// An upstream's answer that is no result, as the agent was given it.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct FailedAnswer {
    /// HTTP status: of a stream that ended in an error event one of success.
    #[n(1)]
    pub status: u16,
    /// As in [`Completed::headers`].
    #[cbor(n(2), with = "via")]
    pub headers: Vec<(String, Vec<u8>)>,
    #[cbor(n(3), with = "via")]
    pub body: BodyHash,
    #[n(4)]
    pub body_len: u64,
}

/// One entry of a workflow's journal.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub enum Record {
    #[n(1)]
    WorkflowOpened {
        #[cbor(n(1), with = "via")]
        nonce: RunNonce,
        #[n(2)]
        version: String,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
    #[n(2)]
    AttemptOpened {
        #[cbor(n(1), with = "via")]
        attempt: AttemptId,
        #[cbor(n(2), with = "via")]
        epoch: Epoch,
        #[cbor(n(3), with = "via")]
        reason: AttemptReason,
        #[n(4)]
        peer: Option<Peer>,
        #[cbor(n(5), with = "via")]
        at: Timestamp,
    },
    #[n(3)]
    Intent(#[n(1)] Intent),
    /// A try leaves. Its absence proves nothing.
    #[n(4)]
    Dispatched {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[n(2)]
        tried: u32,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
    #[n(5)]
    Completed(#[n(1)] Completed),
    /// A try that is not a result. `not_sent`: no byte of it left. Whether the agent was shown it, a later
    /// `Delivered` says: the failure is recorded before the end of its answer is released.
    #[n(6)]
    Failed {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[n(2)]
        tried: u32,
        #[cbor(n(3), with = "via")]
        class: FailureClass,
        #[n(4)]
        status: Option<u16>,
        #[n(5)]
        not_sent: bool,
        #[n(6)]
        detail: String,
        #[cbor(n(7), with = "via")]
        at: Timestamp,
        /// Whether the status says that the call was not carried out; `None`: as it does by default
        /// (401, 403, 407, 429).
        #[n(8)]
        not_executed: Option<bool>,
        /// What the agent was given: the upstream's answer, where there was one that could be kept ...
        #[n(9)]
        answer: Option<FailedAnswer>,
        /// ... or the sidecar's own words.
        #[n(10)]
        words: Option<Words>,
    },
    /// The sidecar said no. `step` when the call was known to be that step.
    #[n(7)]
    Refused {
        #[cbor(n(1), with = "via", has_nil)]
        step: Option<StepIndex>,
        #[cbor(n(2), with = "via")]
        attempt: AttemptId,
        #[cbor(n(3), with = "via")]
        exact: Fingerprint,
        #[n(4)]
        operation: String,
        #[n(5)]
        code: String,
        #[cbor(n(6), with = "via")]
        at: Timestamp,
        #[n(7)]
        words: Option<Words>,
    },
    /// An effect of this step may have happened.
    #[n(8)]
    InDoubt {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[n(2)]
        cause: String,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
    /// The recorded answer was served again in `attempt`.
    #[n(9)]
    Redelivered {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[cbor(n(2), with = "via")]
        attempt: AttemptId,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
        /// By which name it was found; older records do not say.
        #[cbor(n(4), with = "via", has_nil)]
        found_by: Option<FoundBy>,
    },
    /// The agent's side of `attempt` was handed the end of the answer. Tells, after a restart of the
    /// sidecar, a retry of an answer that never arrived from the next call of a polling loop.
    #[n(10)]
    Delivered {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[cbor(n(2), with = "via")]
        attempt: AttemptId,
    },
    #[n(11)]
    Listed(#[n(1)] Listed),
    #[n(12)]
    WorkflowClosed {
        #[n(1)]
        reason: String,
        #[cbor(n(2), with = "via")]
        at: Timestamp,
    },
    /// A step that may have happened is in doubt no more. With `Completed` its answer follows.
    #[n(13)]
    Resolved {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[cbor(n(2), with = "via")]
        resolution: Resolution,
        /// Who decided: the command line, the admin API, the tool's probe, or the config.
        #[n(3)]
        by: String,
        #[cbor(n(4), with = "via")]
        at: Timestamp,
    },
    /// A restarted agent asked for something else than the recorded run.
    #[n(14)]
    Diverged(#[n(1)] Diverged),
    /// Somebody has accepted that the agent left these steps out.
    #[n(15)]
    Accepted {
        /// Numbers of the steps.
        #[n(1)]
        steps: Vec<u64>,
        #[n(2)]
        by: String,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
    /// The agent's side of `attempt` was handed a refusal.
    #[n(18)]
    RefusalDelivered {
        #[cbor(n(1), with = "via", has_nil)]
        step: Option<StepIndex>,
        #[cbor(n(2), with = "via")]
        attempt: AttemptId,
        #[cbor(n(3), with = "via")]
        exact: Fingerprint,
    },
    /// A failure or a refusal that an earlier attempt went on from was told to `attempt` again.
    #[n(20)]
    ToldAgain {
        #[cbor(n(1), with = "via", has_nil)]
        step: Option<StepIndex>,
        #[cbor(n(2), with = "via")]
        attempt: AttemptId,
        #[cbor(n(3), with = "via")]
        exact: Fingerprint,
        #[cbor(n(4), with = "via")]
        at: Timestamp,
    },
    /// A try was answered with a request for input (MCP, `input_required`): the call has not been carried out,
    /// and what follows under its fingerprint is the next leg.
    #[n(19)]
    InputRequired {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[n(2)]
        tried: u32,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
    /// What policies decided of a call. Of one that is sent in the same commit as its intent or its next try.
    #[n(21)]
    Decided(#[n(1)] Decided),
    /// What a completed step proves. In the same commit as its outcome.
    #[n(22)]
    Minted {
        #[cbor(n(1), with = "via")]
        step: StepIndex,
        #[n(2)]
        facts: Vec<MintedFact>,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
    /// From now on the bodies of a closed workflow may be gone: what it was asked and what it was answered.
    #[n(16)]
    BodiesExpired {
        #[cbor(n(1), with = "via")]
        at: Timestamp,
    },
    /// The tombstone: from now on every record before this one may be gone. What stays is that there was
    /// such a workflow, and when.
    #[n(17)]
    Removed {
        #[cbor(n(1), with = "via")]
        opened_at: Timestamp,
        #[cbor(n(2), with = "via")]
        closed_at: Timestamp,
        #[cbor(n(3), with = "via")]
        at: Timestamp,
    },
}
