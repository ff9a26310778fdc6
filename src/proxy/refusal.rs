//! Every "no" of the sidecar, in one place: status, code, words, and whether asking again is safe. How it
//! looks in the caller's dialect is `wire::refusal`'s business.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;

use crate::diag::Code;
use crate::journal;
use crate::model::{AttemptId, BadId, Dialect, FailureClass, StepIndex, Surface, UpstreamName, WorkflowId};
use crate::upstream;
use crate::wire::detect::{BadRequest, Inspected};
use crate::wire::mcp::McpCall;
use crate::wire::refusal::{self as rendering, Again, Listener, McpForm, Refusal};

use super::body::{AtEnd, WholeBody};
use super::call::Call;
use super::recording::Recording;
use super::sidecar::Snapshot;
use super::stage::respond::Departure;

/// Most names in one message.
const NAMES_MAX: usize = 20;

/// What is known of the caller's language when a call is refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asker {
    dialect: Option<Dialect>,
    surface: Option<Surface>,
    rpc_id: Option<String>,
    is_tool_call: bool,
}

impl Asker {
    pub(crate) fn unknown() -> Self {
        Self::default()
    }

    pub(crate) fn of(call: &Call) -> Self {
        let mut asker = Self::unknown();
        asker.upstream(call.upstream.dialect);
        asker.call(&call.inspected);
        asker
    }

    pub(crate) fn upstream(&mut self, dialect: Dialect) {
        self.dialect = Some(dialect);
    }

    pub(crate) fn call(&mut self, inspected: &Inspected) {
        self.surface = Some(inspected.operation.surface);
        self.rpc_id = inspected.mcp.as_ref().and_then(|mcp| mcp.id.clone());
        self.is_tool_call = inspected.mcp.as_ref().is_some_and(McpCall::is_tool_call);
    }

    pub(crate) fn listener(&self) -> Listener<'_> {
        Listener {
            dialect: self.dialect.unwrap_or(Dialect::Http),
            surface: self.surface,
            rpc_id: self.rpc_id.as_deref(),
            is_tool_call: self.is_tool_call,
        }
    }
}

/// Renders a refusal for its caller. `at_end`: what to do when its end has been handed over.
pub(crate) fn depart(refusal: &Refusal, asker: &Asker, at_end: Option<AtEnd>) -> Departure {
    let rendered = rendering::render(refusal, &asker.listener());
    let mut departure = Response::new(WholeBody::new(rendered.body, at_end).boxed_unsync());
    *departure.status_mut() =
        StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = departure.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(rendered.content_type));
    for (name, value) in rendered.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    departure
}

/// Ends a stream that has begun: the dialect's own error event, where it has one.
pub(crate) fn last_words(refusal: &Refusal, inspected: &Inspected, dialect: Dialect) -> Bytes {
    let mut asker = Asker::unknown();
    asker.upstream(dialect);
    asker.call(inspected);
    rendering::stream_error_event(refusal, &asker.listener()).unwrap_or_default()
}

fn refuse(status: u16, code: Code, again: Again, message: impl Into<String>) -> Refusal {
    Refusal {
        status,
        code: code.as_str().into(),
        message: message.into(),
        again,
        retry_after_s: None,
        mcp: McpForm::Result,
    }
}

/// `words`: what the policies say.
pub(crate) fn denied(words: &str) -> Refusal {
    refuse(403, Code::PolicyDenied, Again::Pointless, format!("not allowed: {words}"))
}

pub(crate) fn bad_workflow(why: BadId) -> Refusal {
    refuse(400, Code::BadWorkflowId, Again::Pointless, format!("the workflow id is not valid: {why}"))
}

pub(crate) fn bad_attempt(why: BadId) -> Refusal {
    refuse(400, Code::BadAttempt, Again::Pointless, format!("the attempt is not valid: {why}"))
}

pub(crate) fn workflows_disagree() -> Refusal {
    let message = "path and headers name different workflows or attempts; they must agree";
    refuse(400, Code::WorkflowSourcesDisagree, Again::Pointless, message)
}

pub(crate) fn bad_path(snapshot: &Snapshot) -> Refusal {
    let message = format!(
        "a path begins with `/<upstream>/` or `/w/<workflow>/<upstream>/`; upstreams here: {}",
        names(snapshot)
    );
    refuse(404, Code::BadPath, Again::Pointless, message)
}

pub(crate) fn unknown_upstream(snapshot: &Snapshot, name: &str) -> Refusal {
    let known: Vec<&str> = snapshot.upstreams.keys().map(UpstreamName::as_str).collect();
    let nearest = crate::diag::nearest(name, &known).map(|name| format!(" did you mean `{name}`?"));
    let message = format!(
        "no upstream has the name that the path begins with;{} upstreams here: {}",
        nearest.unwrap_or_default(),
        names(snapshot)
    );
    refuse(404, Code::UnknownUpstream, Again::Pointless, message)
}

fn names(snapshot: &Snapshot) -> String {
    let mut names: Vec<&str> = snapshot.upstreams.keys().map(UpstreamName::as_str).collect();
    names.sort_unstable();
    names.join(", ")
}

pub(crate) fn tunnel() -> Refusal {
    let message = "CONNECT and Upgrade (WebSocket) are not supported: what passes through a tunnel can be \
                   neither recorded nor replayed; use plain HTTP requests";
    refuse(501, Code::UpgradeRefused, Again::Pointless, message)
}

pub(crate) fn body_too_large(bytes_max: usize) -> Refusal {
    let message = format!("the request body is larger than {} MiB (limits.body_mib_max)", bytes_max >> 20);
    refuse(413, Code::BodyTooLarge, Again::Pointless, message)
}

pub(crate) fn body_timeout(idle: Duration) -> Refusal {
    let message = format!("no byte of the request body came for {} s", idle.as_secs());
    refuse(408, Code::BodyTimeout, Again::Pointless, message)
}

/// The client broke its own request off; nobody will read this.
pub(crate) fn body_cut() -> Refusal {
    refuse(400, Code::BodyTimeout, Again::Pointless, "the request body ended before its end")
}

pub(crate) fn unsupported_encoding() -> Refusal {
    let message = "the request body may have one Content-Encoding: gzip, deflate, br or zstd";
    refuse(415, Code::UnsupportedEncoding, Again::Pointless, message)
}

pub(crate) fn damaged_encoding() -> Refusal {
    let message = "the request body is not what its Content-Encoding says";
    refuse(400, Code::DamagedEncoding, Again::Pointless, message)
}

pub(crate) fn unknown_method(method: &str) -> Refusal {
    let method: String = method.chars().take(64).collect();
    let refusal =
        refuse(404, Code::UnknownMcpMethod, Again::Pointless, format!("unknown MCP method `{method}`"));
    Refusal { mcp: McpForm::Specified(-32601), ..refusal }
}

pub(crate) fn bad_message(bad: &BadRequest) -> Refusal {
    let refusal = refuse(400, Code::BadMcpMessage, Again::Pointless, bad.message.clone());
    Refusal { mcp: McpForm::Specified(bad.rpc_code), ..refusal }
}

pub(crate) fn fenced(named: AttemptId, current: AttemptId) -> Refusal {
    let message = format!("attempt {named} of this workflow is over: attempt {current} has taken its place");
    refuse(422, Code::AttemptFenced, Again::Pointless, message)
}

pub(crate) fn unrelated_process(pid: u32) -> Refusal {
    let message = format!(
        "another process is at work on this workflow, and process {pid} is neither it nor its relative; \
         stop the other one, or give this one a workflow of its own"
    );
    refuse(422, Code::UnrelatedProcess, Again::Pointless, message)
}

pub(crate) fn attempt_unknown(operation: &str, upstream: &str) -> Refusal {
    let message = format!(
        "`{operation}` at {upstream} was used before in this workflow, and the agent, which cannot be seen from \
         here, was not connected for a moment: this may be a restarted agent doing the same again. It is not \
         sent. Name the attempt (`/w/<id>/a/<n>/...`), or start the agent with `outrigger run`"
    );
    refuse(422, Code::AttemptUnknown, Again::Pointless, message)
}

/// `left_out`: the recorded steps that the agent did not ask for; `difference`: where its request differs.
pub(crate) fn diverged(operation: &str, upstream: &str, left_out: &[u64], difference: &str) -> Refusal {
    let steps: Vec<String> = left_out.iter().map(u64::to_string).collect();
    let message = format!(
        "the restarted agent has gone another way than the recorded run: it calls `{operation}` at {upstream} and \
         has left out step {}{difference}. The call acts and was not sent. If the new way is right, somebody \
         accepts it with `outrigger accept`.",
        steps.join(", ")
    );
    refuse(422, Code::Diverged, Again::Pointless, message)
}

/// `what`: the call, and what the recorded run has in its place.
pub(crate) fn not_in_run(what: &str) -> Refusal {
    let message =
        format!("{what}. This is a strict replay: only what is recorded is answered, nothing was sent");
    refuse(422, Code::NotInRun, Again::Pointless, message)
}

pub(crate) fn no_such_run(recording: &Recording) -> Refusal {
    let runs: Vec<&str> = recording.workflows().map(WorkflowId::as_str).take(NAMES_MAX).collect();
    not_in_run(&format!(
        "the call names no recorded workflow (`/w/<workflow>/<upstream>/...`); recorded are {}",
        runs.join(", ")
    ))
}

pub(crate) fn unknown_workflow() -> Refusal {
    let message = "no such workflow has been issued; workflows are opened through the admin API or `outrigger run` \
                   (workflow_ids: issued)";
    refuse(403, Code::UnknownWorkflow, Again::Pointless, message)
}

pub(crate) fn workflow_closed() -> Refusal {
    let message = "this workflow is closed; a new run needs a new workflow id";
    refuse(422, Code::WorkflowClosed, Again::Pointless, message)
}

pub(crate) fn workflow_removed() -> Refusal {
    let message =
        "this workflow was closed so long ago that its records are gone; a new task needs a new workflow id";
    refuse(422, Code::WorkflowRemoved, Again::Pointless, message)
}

pub(crate) fn body_expired(step: StepIndex) -> Refusal {
    let message = format!(
        "step {step} of this closed workflow was completed, and its recorded answer has expired; the call is not \
         sent again"
    );
    refuse(422, Code::BodyExpired, Again::Harmful, message)
}

pub(crate) fn journal_full(bytes_max: u64) -> Refusal {
    let message = format!(
        "the journal is as large as it may be ({} MiB, journal.size_mib_max); new steps are refused, and nothing \
         was sent",
        bytes_max >> 20
    );
    refuse(503, Code::JournalFull, Again::Pointless, message)
}

pub(crate) fn in_doubt(step: StepIndex, operation: &str, upstream: &str) -> Refusal {
    let message = format!(
        "step {step} (`{operation}` at {upstream}) is in doubt: the call may have been carried out, and its \
         answer was lost. It is not sent again. Check at {upstream} whether it happened."
    );
    refuse(422, Code::InDoubt, Again::Harmful, message)
}

pub(crate) fn abandoned(step: StepIndex, operation: &str, upstream: &str) -> Refusal {
    let message = format!(
        "step {step} (`{operation}` at {upstream}) was in doubt and has been given up: nobody knows whether the \
         call was carried out, and it is not sent again. Go on without it."
    );
    refuse(422, Code::StepAbandoned, Again::Harmful, message)
}

pub(crate) fn not_recorded(step: StepIndex) -> Refusal {
    let message = format!(
        "the answer of step {step} is larger than what is recorded (limits.recorded_mib_max), so it cannot be \
         given a second time; the call is not sent again"
    );
    refuse(422, Code::BodyNotRecorded, Again::Harmful, message)
}

pub(crate) fn journal(error: &journal::Error) -> Refusal {
    tracing::error!(%error, "the journal said no");
    match error {
        journal::Error::Damaged { .. } | journal::Error::Body { .. } => {
            let message = "the records of this workflow are damaged; nothing is sent for it any more";
            refuse(422, Code::WorkflowDamaged, Again::Pointless, message)
        }
        journal::Error::Compaction { .. }
        | journal::Error::Fenced { .. }
        | journal::Error::Poisoned { .. }
        | journal::Error::Read { .. } => {
            let message =
                "the journal cannot be used, so nothing can be promised about this call; it was not sent";
            refuse(503, Code::JournalUnavailable, Again::Pointless, message)
        }
        // Only two requests of one step could meet here, and the step's lock keeps them apart; a workflow
        // that was closed in between ends here as well.
        journal::Error::OutOfOrder(_) => workflow_closed(),
    }
}

pub(crate) fn is_journal_unavailable(refusal: &Refusal) -> bool {
    [Code::JournalUnavailable.as_str(), Code::JournalFull.as_str()].contains(&refusal.code.as_ref())
}

pub(crate) fn shutting_down() -> Refusal {
    let message = "this sidecar is shutting down; nothing was sent";
    let refusal = refuse(503, Code::ShuttingDown, Again::Useful, message);
    Refusal { retry_after_s: Some(1), mcp: McpForm::Error, ..refusal }
}

/// The sidecar stopped while the call was under way.
pub(crate) fn stopping() -> Refusal {
    refuse(502, Code::UpstreamCut, Again::Useful, "the sidecar stopped before the answer was complete")
}

pub(crate) fn cut(upstream: &UpstreamName, detail: &str) -> Refusal {
    refuse(502, Code::UpstreamCut, Again::Useful, format!("upstream `{upstream}` broke off: {detail}"))
}

/// No answer, or no whole one. Whether the call may be repeated is the step's business: an effect that
/// may have happened is refused as in doubt instead.
pub(crate) fn upstream_failed(upstream: &UpstreamName, error: &upstream::Error) -> Refusal {
    let nothing = match (error.not_sent, error.class) {
        (true, FailureClass::Connect) => "; nothing was sent",
        (true, _) => "; nothing was done",
        (false, _) => "",
    };
    let (status, code) = match error.class {
        FailureClass::Connect if error.tls => (502, Code::UpstreamTls),
        FailureClass::Connect => (502, Code::UpstreamUnreachable),
        FailureClass::Timeout => (504, Code::UpstreamTimeout),
        FailureClass::Cut | FailureClass::Reset | FailureClass::Status => (502, Code::UpstreamCut),
    };
    refuse(status, code, Again::Useful, format!("upstream `{upstream}`: {}{nothing}", error.detail))
}

/// A defect of ours. The caller learns nothing of it but that.
pub(crate) fn internal() -> Refusal {
    refuse(
        500,
        Code::JournalUnavailable,
        Again::Pointless,
        "the sidecar met a defect of its own; see its log",
    )
}
