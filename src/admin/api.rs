//! The API: questions, and the answers. A foreign workflow and an unknown one are the same 404.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::{Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::Listen;
use crate::diag::Code;
use crate::journal::{self, Batch, Journal, Urgency};
use crate::model::{AttemptId, AttemptReason, Owner, StepIndex, WorkflowId, WorkflowKey};
use crate::proxy::operations::OperationError;
use crate::proxy::resolve::{self, Outcome};
use crate::proxy::sidecar::Sidecar;
use crate::telemetry::metrics::Gauges;
use crate::timeline;
use crate::timeline::doctor::{self, Question, Routes};

use super::answer::{json as answer_json, not_allowed, problem, text};
use super::route::Route;
use super::{Answer, Parts};

/// Longest reason for closing that is recorded, in characters.
const REASON_LEN_MAX: usize = 200;

#[derive(Debug)]
pub(super) struct Api {
    sidecar: Arc<Sidecar>,
    listen: Vec<Listen>,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    draining: bool,
    journal: JournalHealth,
}

#[derive(Serialize)]
struct JournalHealth {
    durability: &'static str,
    /// What it takes on disk, and what it may take; null: as much as the disk has.
    bytes: u64,
    bytes_max: Option<u64>,
    /// The journal was poisoned by a failed write, or another owner has it.
    poisoned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Closing {
    reason: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sweeping {
    dry_run: bool,
}

/// What has become of a step in doubt.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolving {
    outcome: Said,
    /// Of a completed one.
    status: Option<u16>,
    content_type: Option<String>,
    body_base64: Option<String>,
    by: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Said {
    Abandoned,
    Completed,
    NotExecuted,
}

impl Resolving {
    fn outcome(self) -> Result<Outcome, String> {
        let answered = self.status.is_some() || self.content_type.is_some() || self.body_base64.is_some();
        match self.outcome {
            Said::Abandoned | Said::NotExecuted if answered => {
                Err("only a completed step has an answer".to_owned())
            }
            Said::Abandoned => Ok(Outcome::Abandoned),
            Said::NotExecuted => Ok(Outcome::NotExecuted),
            Said::Completed => {
                let body = self.body_base64.unwrap_or_default();
                let body = BASE64_STANDARD.decode(body).map_err(|error| format!("body_base64: {error}"))?;
                let status = self.status.unwrap_or(200);
                Ok(Outcome::Completed(resolve::Answer {
                    status,
                    content_type: self.content_type,
                    body: body.into(),
                }))
            }
        }
    }
}

impl Api {
    pub(super) fn new(parts: Parts) -> Self {
        Self { sidecar: parts.sidecar, listen: parts.listen }
    }

    pub(super) async fn answer(&self, method: &Method, uri: &Uri, body: &[u8]) -> Answer {
        let Some(route) = Route::parse(uri.path()) else { return not_found() };
        match (route.is_write(), method) {
            (true, &Method::POST) | (false, &Method::GET | &Method::HEAD) => {}
            (true, _) => return not_allowed("POST"),
            (false, _) => return not_allowed("GET, HEAD"),
        }
        match route {
            Route::Accept(id) => self.accept(id, body).await,
            Route::Attempts(id) => self.open_attempt(id).await,
            Route::Close(id) => self.close(id, body).await,
            Route::Doctor(id) => self.doctor(id, uri.query().unwrap_or_default()).await,
            Route::Gc => self.gc(body).await,
            Route::Health => text("text/plain; charset=utf-8", "ok\n"),
            Route::Metrics => self.metrics(),
            Route::Ready => self.ready_answer(),
            Route::Resolve(id, step) => self.resolve(id, step, body).await,
            Route::Timeline(id) => self.timeline(id).await,
            Route::Version => answer_json(
                StatusCode::OK,
                &json!({
                    "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "listen": self.listen,
                }),
            ),
            Route::Workflow(id) => self.workflow(id).await,
            Route::Workflows => self.workflows().await,
        }
    }

    fn ready(&self) -> Ready {
        let draining = self.sidecar.is_draining();
        let journal = self.sidecar.journal();
        let fault = fault(journal.as_ref());
        let (bytes, bytes_max) = self.sidecar.journal_bytes();
        Ready {
            ready: !draining && fault.is_none(),
            draining,
            journal: JournalHealth {
                durability: journal.durability().as_str(),
                bytes,
                bytes_max: (bytes_max > 0).then_some(bytes_max),
                poisoned: fault.is_some(),
                error: fault.map(|error| error.to_string()),
            },
        }
    }

    fn ready_answer(&self) -> Answer {
        let ready = self.ready();
        let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer_json(status, &ready)
    }

    fn metrics(&self) -> Answer {
        let (bytes, bytes_max) = self.sidecar.journal_bytes();
        let now = Gauges {
            journal_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            journal_bytes_max: i64::try_from(bytes_max).unwrap_or(i64::MAX),
            oldest_open_s: i64::try_from(self.sidecar.oldest_open().as_secs()).unwrap_or(i64::MAX),
            running: i64::try_from(self.sidecar.tasks().running()).unwrap_or(i64::MAX),
            live_workflows: i64::try_from(self.sidecar.live_workflows()).unwrap_or(i64::MAX),
            ready: self.ready().ready,
        };
        match self.sidecar.metrics().render(now) {
            Ok(rendered) => text("text/plain; version=0.0.4; charset=utf-8", rendered),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, None, &error.to_string()),
        }
    }

    async fn workflows(&self) -> Answer {
        let sidecar = Arc::clone(&self.sidecar);
        let read = move |journal: &dyn Journal| {
            timeline::rows(journal, &Owner::local(), &|key, step| sidecar.is_at_work(key, step))
        };
        match self.read(read).await {
            Ok(Ok(rows)) => answer_json(StatusCode::OK, &json!({ "workflows": rows })),
            Ok(Err(error)) => journal_problem(&error),
            Err(answer) => answer,
        }
    }

    async fn workflow(&self, id: &str) -> Answer {
        let Some(key) = key(id) else { return not_found() };
        let sidecar = Arc::clone(&self.sidecar);
        let read = move |journal: &dyn Journal| {
            timeline::row(journal, &key, &|key, step| sidecar.is_at_work(key, step))
        };
        match self.read(read).await {
            Ok(Ok(Some(row))) => answer_json(StatusCode::OK, &row),
            Ok(Ok(None)) => not_found(),
            Ok(Err(error)) => journal_problem(&error),
            Err(answer) => answer,
        }
    }

    async fn timeline(&self, id: &str) -> Answer {
        let Some(key) = key(id) else { return not_found() };
        let sidecar = Arc::clone(&self.sidecar);
        let read = move |journal: &dyn Journal| {
            timeline::of(journal, &key, &|key, step| sidecar.is_at_work(key, step))
        };
        match self.read(read).await {
            Ok(Ok(timeline)) => answer_json(StatusCode::OK, &timeline),
            Ok(Err(error)) => timeline_problem(&error),
            Err(answer) => answer,
        }
    }

    async fn doctor(&self, id: &str, query: &str) -> Answer {
        let Some(key) = key(id) else { return not_found() };
        let question = match question(query) {
            Ok(question) => question,
            Err(why) => return problem(StatusCode::BAD_REQUEST, None, &why),
        };
        let snapshot = self.sidecar.snapshot();
        let routes = snapshot.upstreams.values().map(|upstream| {
            let tools = upstream.tools.names().map(ToOwned::to_owned).collect();
            (upstream.name.clone(), doctor::Route { matching: upstream.matching.clone(), tools })
        });
        let routes: Routes = routes.collect();
        match self.read(move |journal| doctor::doctor(journal, &key, &routes, question)).await {
            Ok(Ok(report)) => answer_json(StatusCode::OK, &report),
            Ok(Err(error)) => timeline_problem(&error),
            Err(answer) => answer,
        }
    }

    async fn open_attempt(&self, id: &str) -> Answer {
        let workflow = match WorkflowId::parse(id) {
            Ok(workflow) => workflow,
            Err(why) => {
                let why = format!("the workflow id is not valid: {why}");
                return problem(StatusCode::BAD_REQUEST, Some(Code::BadWorkflowId), &why);
            }
        };
        let key = WorkflowKey { owner: Owner::local(), workflow };
        match self.sidecar.open_attempt(&key, AttemptReason::Explicit).await {
            Ok(attempt) => {
                let opened = json!({ "workflow": key.workflow.as_str(), "attempt": attempt.number() });
                answer_json(StatusCode::CREATED, &opened)
            }
            Err(error) => refused(&error),
        }
    }

    async fn close(&self, id: &str, body: &[u8]) -> Answer {
        let Some(key) = key(id) else { return not_found() };
        let reason = match reason(body, "admin API") {
            Ok(reason) => reason,
            Err(why) => return problem(StatusCode::BAD_REQUEST, None, &why),
        };
        match self.sidecar.close_workflow(&key, &reason).await {
            Ok(_) => answer_json(
                StatusCode::OK,
                &json!({ "workflow": key.workflow.as_str(), "state": timeline::State::Closed }),
            ),
            Err(error) => refused(&error),
        }
    }

    async fn gc(&self, body: &[u8]) -> Answer {
        let sweeping = if body.is_empty() { Ok(Sweeping::default()) } else { serde_json::from_slice(body) };
        let sweeping = match sweeping {
            Ok(sweeping) => sweeping,
            Err(error) => {
                let why = format!("the body is empty or {{\"dry_run\": true}}: {error}");
                return problem(StatusCode::BAD_REQUEST, None, &why);
            }
        };
        match self.sidecar.sweep(sweeping.dry_run).await {
            Ok(swept) => answer_json(StatusCode::OK, &swept),
            Err(error) => refused(&error),
        }
    }

    async fn accept(&self, id: &str, body: &[u8]) -> Answer {
        let Some(key) = key(id) else { return not_found() };
        let by = match reason(body, "admin API") {
            Ok(by) => by,
            Err(why) => return problem(StatusCode::BAD_REQUEST, None, &why),
        };
        match self.sidecar.accept_fork(&key, &by).await {
            Ok(steps) => {
                answer_json(StatusCode::OK, &json!({ "workflow": key.workflow.as_str(), "accepted": steps }))
            }
            Err(error) => refused(&error),
        }
    }

    async fn resolve(&self, id: &str, step: StepIndex, body: &[u8]) -> Answer {
        let Some(key) = key(id) else { return not_found() };
        let resolving: Resolving = match serde_json::from_slice(body) {
            Ok(resolving) => resolving,
            Err(error) => {
                let why = format!(
                    "the body is {{\"outcome\": \"completed\", \"body_base64\": \"...\"}}, or the outcome is \
                     `not_executed` or `abandoned`: {error}"
                );
                return problem(StatusCode::BAD_REQUEST, None, &why);
            }
        };
        let by = resolving.by.as_deref().unwrap_or("admin API").chars().take(REASON_LEN_MAX);
        let by = by.collect::<String>();
        let outcome = match resolving.outcome() {
            Ok(outcome) => outcome,
            Err(why) => return problem(StatusCode::BAD_REQUEST, None, &why),
        };
        match self.sidecar.resolve_step(&key, step, outcome, &by).await {
            Ok(()) => answer_json(
                StatusCode::OK,
                &json!({ "workflow": key.workflow.as_str(), "step": step.number() }),
            ),
            Err(error) => refused(&error),
        }
    }

    /// Reads the journal where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Journal) -> T + Send + 'static,
    ) -> Result<T, Answer> {
        let journal = Arc::clone(self.sidecar.journal());
        tokio::task::spawn_blocking(move || question(journal.as_ref())).await.map_err(|error| {
            tracing::error!(%error, "reading the journal met a defect");
            problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                None,
                "the sidecar met a defect of its own; see its log",
            )
        })
    }
}

/// What a body says of who asks and why; without one, `by_itself`.
fn reason(body: &[u8], by_itself: &str) -> Result<String, String> {
    if body.is_empty() {
        return Ok(by_itself.to_owned());
    }
    let closing: Closing = serde_json::from_slice(body)
        .map_err(|error| format!("the body is empty or {{\"reason\": \"...\"}}: {error}"))?;
    Ok(closing.reason.chars().take(REASON_LEN_MAX).collect())
}

fn key(id: &str) -> Option<WorkflowKey> {
    Some(WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse(id).ok()? })
}

/// What stops the journal from being written. A commit without records changes nothing and is refused
/// like any other once the journal is poisoned or another owner has it.
fn fault(journal: &dyn Journal) -> Option<journal::Error> {
    let nobody = key("readiness")?;
    journal.commit(&nobody, journal.epoch(), Batch::default(), Urgency::Ride).err()
}

/// `attempts=1,2&values=true`, both of which may be left away.
fn question(query: &str) -> Result<Question, String> {
    let mut question = Question::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("attempts", both)) => {
                let both = both.split_once(',').and_then(|(one, other)| {
                    Some((AttemptId::parse(one).ok()?, AttemptId::parse(other).ok()?))
                });
                question.attempts = Some(both.ok_or("`attempts` is two numbers from 1, such as 1,2")?);
            }
            Some(("values", "false")) => question.with_values = false,
            Some(("values", "true")) => question.with_values = true,
            Some(_) | None => {
                return Err(format!("`{pair}` is not known; `attempts=1,2` and `values=true` are"));
            }
        }
    }
    Ok(question)
}

fn timeline_problem(error: &timeline::Error) -> Answer {
    match error {
        timeline::Error::Journal(error) => journal_problem(error),
        timeline::Error::NoAttempt(_) | timeline::Error::SameAttempt(_) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, Some(Code::NothingToCompare), &error.to_string())
        }
        timeline::Error::Unknown(_) => not_found(),
    }
}

fn not_found() -> Answer {
    problem(StatusCode::NOT_FOUND, None, "there is nothing here")
}

fn journal_problem(error: &journal::Error) -> Answer {
    let (status, code) = match error {
        journal::Error::Damaged { .. } | journal::Error::Body { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, Code::WorkflowDamaged)
        }
        journal::Error::Compaction { .. }
        | journal::Error::Fenced { .. }
        | journal::Error::OutOfOrder(_)
        | journal::Error::Poisoned { .. }
        | journal::Error::Read { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::JournalUnavailable),
    };
    problem(status, Some(code), &error.to_string())
}

fn refused(error: &OperationError) -> Answer {
    let (status, code) = match error {
        OperationError::Attended => (StatusCode::CONFLICT, None),
        OperationError::Defect(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
        OperationError::BadAnswer(_) => (StatusCode::BAD_REQUEST, None),
        OperationError::NothingLeftOut => (StatusCode::UNPROCESSABLE_ENTITY, None),
        OperationError::NotInDoubt { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::NotInDoubt)),
        OperationError::Closed => (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::WorkflowClosed)),
        OperationError::Damaged(_) => (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::WorkflowDamaged)),
        OperationError::Draining => (StatusCode::SERVICE_UNAVAILABLE, Some(Code::ShuttingDown)),
        OperationError::InDoubt(_) => (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::InDoubt)),
        OperationError::Journal(error) => return journal_problem(error),
        // Only a matter of time: nothing here has a page of its own.
        OperationError::Running { .. } => (StatusCode::CONFLICT, None),
        OperationError::Unknown => return not_found(),
    };
    problem(status, code, &error.to_string())
}
