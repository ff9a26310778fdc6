//! Which headers cross the sidecar. Everything does, byte for byte, but what belongs to one connection
//! (RFC 9110, section 7.6.1) and what is the sidecar's own.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::model::{AttemptId, AttemptReason, Source, StepIndex, WorkflowId};

pub(crate) const WORKFLOW: HeaderName = HeaderName::from_static("x-outrigger-workflow");
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("x-outrigger-attempt");
pub(crate) const MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const STEP: HeaderName = HeaderName::from_static("x-outrigger-step");
const SOURCE: HeaderName = HeaderName::from_static("x-outrigger-source");
const OWN_PREFIX: &str = "x-outrigger-";

/// Headers that describe one connection and end with it.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes what must not be forwarded: hop-by-hop headers, those that `Connection` names, our own.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
    for name in HOP_BY_HOP.iter().chain(&listed).chain(&own) {
        headers.remove(name);
    }
}

/// The headers of a request on its way out. The client sets `host` and the length of the body anew.
pub(crate) fn outbound(arrived: &HeaderMap, inspected: bool) -> HeaderMap {
    let mut headers = arrived.clone();
    strip(&mut headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT] {
        headers.remove(name);
    }
    if inspected {
        // What cannot be read cannot be metered, and a compressed stream is a buffered stream.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    headers
}

/// What the sidecar says of a step's answer.
#[derive(Clone, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) workflow: &'a WorkflowId,
    pub(crate) attempt: AttemptId,
    pub(crate) reason: AttemptReason,
    pub(crate) step: Option<StepIndex>,
    pub(crate) source: Source,
}

/// Adds the `x-outrigger-*` headers of an answer.
pub(crate) fn say(headers: &mut HeaderMap, said: &Said<'_>) {
    let attempt = format!("{}; reason={}", said.attempt, said.reason.as_str());
    let step = said.step.map(|step| step.to_string());
    let values =
        [(WORKFLOW, Some(said.workflow.as_str())), (ATTEMPT, Some(&attempt)), (STEP, step.as_deref())];
    for (name, value) in values {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(SOURCE, HeaderValue::from_static(said.source.as_str()));
}

/// Names and values as the pure layers read them.
pub(crate) fn plain(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// The headers of an answer as the journal keeps them.
pub(crate) fn recorded(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// The reverse of [`recorded`]. A header that is no longer valid is left out rather than refused.
pub(crate) fn restored(recorded: &[(String, Vec<u8>)]) -> HeaderMap {
    recorded
        .iter()
        .filter_map(|(name, value)| {
            Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::from_bytes(value).ok()?))
        })
        .collect()
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The length of the body, when the headers announce one.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<usize> {
    text(headers, &CONTENT_LENGTH).and_then(|text| text.parse().ok())
}

pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    text(headers, &CONTENT_TYPE)
}

pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let essence = content_type(headers).and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

pub(crate) fn content_encoding(headers: &HeaderMap) -> Option<&str> {
    text(headers, &CONTENT_ENCODING).filter(|value| !value.eq_ignore_ascii_case("identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_connection_stays_there_and_the_rest_crosses() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("x-outrigger-workflow", "w"),
            ("x-outrigger-anything", "w"),
            ("traceparent", "00-1-2-01"),
            ("idempotency-key", "k"),
            ("x-unknown", "  kept \u{e9}"),
        ] {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["idempotency-key", "traceparent", "x-unknown"]);
    }

    #[test]
    fn recorded_headers_come_back_in_order_with_repeats() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("x-raw", HeaderValue::from_bytes(b"\xff").unwrap());
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("12"));
        assert_eq!(restored(&recorded(&headers)), headers);
    }
}
