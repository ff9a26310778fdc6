//! How answers look: JSON, and problem documents (RFC 9457) for every no. Nothing is cached.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::diag::Code;

use super::Answer;

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

pub(super) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    with(StatusCode::OK, content_type, body.into())
}

pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    match serde_json::to_vec(document) {
        Ok(body) => with(status, "application/json", body.into()),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            with(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Bytes::from_static(b"{}"))
        }
    }
}

pub(super) fn problem(status: StatusCode, code: Option<Code>, detail: &str) -> Answer {
    let title = code.map_or_else(|| status.canonical_reason().unwrap_or("error"), Code::title);
    let problem = Problem { title, status: status.as_u16(), detail, code: code.map(Code::as_str) };
    let mut answer = json(status, &problem);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

pub(super) fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer =
        problem(StatusCode::METHOD_NOT_ALLOWED, None, &format!("this path answers to {allowed} only"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn with(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
