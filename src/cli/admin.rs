//! A client of the admin API: one request per connection, every wait bounded.

use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::diag::Code;
use crate::model::{StepIndex, WorkflowId};
use crate::proxy::resolve::Outcome;
use crate::proxy::sweep::Swept;
use crate::timeline::doctor::{Question, Report};
use crate::timeline::{Row, Timeline};

use super::failure::{Exit, Failure};

/// Longest wait for one answer; the sidecar itself gives up on a request after 30 s.
const TIMEOUT: Duration = Duration::from_secs(35);
/// Largest answer that is read, in bytes: a timeline of a hundred thousand steps.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where a sidecar's admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admin(Authority);

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The sidecar says no.
    #[error("{detail}")]
    Refused { status: StatusCode, code: Option<Code>, detail: String },
    /// Nobody answers, or nobody that is a sidecar.
    #[error("no sidecar answers at {url}: {why}")]
    Unreachable { url: String, why: String },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let told = Self::new(error.to_string());
        match error {
            Error::Refused { status, code, .. } => {
                let workflow = matches!(
                    status,
                    StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY
                );
                let exit = match status {
                    StatusCode::BAD_REQUEST => Exit::Usage,
                    _ if workflow => Exit::Workflow,
                    _ => Exit::Failed,
                };
                told.code(code).exit_with(exit)
            }
            Error::Unreachable { .. } => told.code(Code::SidecarUnreachable),
        }
    }
}

/// What `/v1/version` says.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    /// Where agents connect: addresses, and Unix sockets as `unix:PATH`.
    pub(super) listen: Vec<String>,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
    code: Option<String>,
}

#[derive(Deserialize)]
struct Opened {
    attempt: u32,
}

#[derive(Deserialize)]
struct Rows {
    workflows: Vec<Row>,
}

#[derive(Deserialize)]
struct Accepted {
    accepted: Vec<u64>,
}

/// An answer that is only read as JSON.
type Anything = serde_json::Value;

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write http://ADDRESS:PORT, as the sidecar's ready line says";
        let uri: Uri = text.parse().map_err(|_| FORM.to_owned())?;
        let plain =
            uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        match uri.authority() {
            Some(authority) if plain && !authority.as_str().contains('@') => Ok(Self(authority.clone())),
            Some(_) | None => Err(FORM.to_owned()),
        }
    }
}

impl Admin {
    pub(super) fn at(address: std::net::SocketAddr) -> Result<Self, String> {
        format!("http://{address}").parse()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.0)
    }

    pub(super) async fn version(&self) -> Result<Version, Error> {
        self.ask(Method::GET, "/v1/version", Bytes::new()).await
    }

    pub(super) async fn workflows(&self) -> Result<Vec<Row>, Error> {
        let rows: Rows = self.ask(Method::GET, "/v1/workflows", Bytes::new()).await?;
        Ok(rows.workflows)
    }

    /// `None`: the workflow was never opened.
    pub(super) async fn workflow(&self, id: &WorkflowId) -> Result<Option<Row>, Error> {
        match self.ask(Method::GET, &format!("/v1/workflows/{id}"), Bytes::new()).await {
            Ok(row) => Ok(Some(row)),
            Err(Error::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn timeline(&self, id: &WorkflowId) -> Result<Timeline, Error> {
        let asked = self.ask(Method::GET, &format!("/v1/workflows/{id}/timeline"), Bytes::new()).await;
        asked.map_err(|error| unknown(error, id))
    }

    pub(super) async fn doctor(&self, id: &WorkflowId, question: Question) -> Result<Report, Error> {
        let values = question.with_values;
        let attempts = question.attempts.map(|(one, other)| format!("&attempts={one},{other}"));
        let path = format!("/v1/workflows/{id}/doctor?values={values}{}", attempts.unwrap_or_default());
        let asked = self.ask(Method::GET, &path, Bytes::new()).await;
        asked.map_err(|error| unknown(error, id))
    }

    /// Opens the next attempt.
    pub(super) async fn open_attempt(&self, id: &WorkflowId) -> Result<u32, Error> {
        let opened: Opened =
            self.ask(Method::POST, &format!("/v1/workflows/{id}/attempts"), Bytes::new()).await?;
        Ok(opened.attempt)
    }

    pub(super) async fn close(&self, id: &WorkflowId, reason: &str) -> Result<(), Error> {
        let body = serde_json::json!({ "reason": reason }).to_string();
        let asked = self.ask(Method::POST, &format!("/v1/workflows/{id}/close"), body.into()).await;
        asked.map(|_: Anything| ()).map_err(|error| unknown(error, id))
    }

    /// One sweep.
    pub(super) async fn gc(&self, dry_run: bool) -> Result<Swept, Error> {
        let body = serde_json::json!({ "dry_run": dry_run }).to_string();
        self.ask(Method::POST, "/v1/gc", body.into()).await
    }

    /// The steps that were left out.
    pub(super) async fn accept(&self, id: &WorkflowId, by: &str) -> Result<Vec<u64>, Error> {
        let body = serde_json::json!({ "reason": by }).to_string();
        let asked = self.ask(Method::POST, &format!("/v1/workflows/{id}/accept"), body.into()).await;
        asked.map(|accepted: Accepted| accepted.accepted).map_err(|error| unknown(error, id))
    }

    pub(super) async fn resolve(
        &self,
        id: &WorkflowId,
        step: StepIndex,
        outcome: &Outcome,
        by: &str,
    ) -> Result<(), Error> {
        let said = match outcome {
            Outcome::Abandoned => serde_json::json!({ "outcome": "abandoned", "by": by }),
            Outcome::NotExecuted => serde_json::json!({ "outcome": "not_executed", "by": by }),
            Outcome::Completed(answer) => serde_json::json!({
                "outcome": "completed", "by": by, "status": answer.status,
                "content_type": answer.content_type, "body_base64": BASE64_STANDARD.encode(&answer.body),
            }),
        };
        let path = format!("/v1/workflows/{id}/steps/{step}/resolve");
        let asked = self.ask(Method::POST, &path, said.to_string().into()).await;
        asked.map(|_: Anything| ()).map_err(|error| unknown(error, id))
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let asked = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await;
        let (status, body) = asked
            .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
            .map_err(|why| Error::Unreachable { url: self.url(), why })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| Error::Unreachable {
                url: self.url(),
                why: format!("its answer is not a sidecar's: {error}"),
            });
        }
        let problem = serde_json::from_slice::<Problem>(&body);
        let (detail, code) =
            problem.map_or_else(|_| (status.to_string(), None), |problem| (problem.detail, problem.code));
        Err(Error::Refused { status, code: code.and_then(|code| Code::parse(&code).ok()), detail })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let host = self.0.host().trim_start_matches('[').trim_end_matches(']');
        let port = self.0.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.0.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let mut exchange = pin!(async move {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        });
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // What came before the connection ended can still be read.
            _ = connection => exchange.await,
        }
    }
}

/// The API's 404 in the words of a command that named a workflow.
fn unknown(error: Error, id: &WorkflowId) -> Error {
    match &error {
        Error::Refused { status: StatusCode::NOT_FOUND, .. } => Error::Refused {
            status: StatusCode::NOT_FOUND,
            code: Some(Code::NoSuchWorkflow),
            detail: format!("there is no workflow `{id}` in this journal"),
        },
        Error::Refused { .. } | Error::Unreachable { .. } => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_url_is_an_address_and_nothing_else() {
        for url in ["http://127.0.0.1:4748", "http://localhost:4748/", "http://[::1]:4748"] {
            assert!(url.parse::<Admin>().is_ok(), "{url}");
        }
        for url in
            ["", "127.0.0.1:4748", "https://127.0.0.1:4748", "http://h:1/v1", "http://u@h:1", "http://h:1/?a"]
        {
            assert!(url.parse::<Admin>().is_err(), "{url}");
        }
    }
}
