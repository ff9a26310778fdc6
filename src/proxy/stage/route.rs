//! Where a request goes and what it asks: path and headers to a target, a bounded read of the body, a
//! look at what it says.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};
use http::request::Parts;
use http::{Method, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::json::Tape;
use crate::model::{
    AttemptId, Channel, Dialect, EffectClass, Fingerprint, Operation, Surface, ToolRule, UpstreamName,
    WorkflowId,
};
use crate::proxy::call::{Call, Target};
use crate::proxy::connection::Connection;
use crate::proxy::headers;
use crate::proxy::refusal;
use crate::proxy::sidecar::Snapshot;
use crate::replay::fingerprint::{self, Fingerprints};
use crate::wire::detect::{self, Inspected, RequestView};
use crate::wire::refusal::Refusal;
use crate::wire::tool_key;

/// A compressed body may grow by at most this factor; more is an attack.
const DECODED_RATIO_MAX: usize = 100;
/// What is allowed in any case, so that a tiny, well compressed body is not taken for one.
const DECODED_ALWAYS_BYTES: usize = 1 << 20;

/// Reads path and headers: `/<upstream>/<rest>` or `/w/<workflow>[/a/<attempt>]/<upstream>/<rest>`.
pub(crate) fn target(snapshot: &Snapshot, uri: &Uri, arrived: &HeaderMap) -> Result<Target, Refusal> {
    let mut path = uri.path();
    let by_path = take_word(&mut path, "w").map(WorkflowId::parse).transpose();
    let by_path = by_path.map_err(refusal::bad_workflow)?;
    let attempt = match &by_path {
        Some(_) => {
            take_word(&mut path, "a").map(AttemptId::parse).transpose().map_err(refusal::bad_attempt)?
        }
        None => None,
    };
    let (name, rest) = split(path).ok_or_else(|| refusal::bad_path(snapshot))?;
    let upstream = UpstreamName::parse(name)
        .ok()
        .and_then(|name| snapshot.upstreams.get(&name))
        .ok_or_else(|| refusal::unknown_upstream(snapshot, name))?;
    let by_header = header(arrived, &headers::WORKFLOW)?;
    let by_header = by_header.map(WorkflowId::parse).transpose().map_err(refusal::bad_workflow)?;
    if let (Some(path), Some(header)) = (&by_path, &by_header)
        && path != header
    {
        return Err(refusal::workflows_disagree());
    }
    let named = header(arrived, &headers::ATTEMPT)?;
    let named = named.map(AttemptId::parse).transpose().map_err(refusal::bad_attempt)?;
    if let (Some(path), Some(header)) = (attempt, named)
        && path != header
    {
        return Err(refusal::workflows_disagree());
    }
    let workflow = by_path.or(by_header).or_else(|| snapshot.default_workflow.clone());
    Ok(Target {
        rest: below(upstream.dialect, rest),
        upstream: Arc::clone(upstream),
        attempt: attempt.or(named).filter(|_| workflow.is_some()),
        workflow,
        query: uri.query().map(ToOwned::to_owned),
    })
}

/// The dialect of the upstream that a path names, as far as it can be told: whatever else is wrong with a
/// request is said in its caller's words.
pub(crate) fn dialect(snapshot: &Snapshot, uri: &Uri) -> Option<Dialect> {
    let mut path = uri.path();
    if take_word(&mut path, "w").is_some() {
        _ = take_word(&mut path, "a");
    }
    let name = UpstreamName::parse(split(path)?.0).ok()?;
    snapshot.upstreams.get(&name).map(|upstream| upstream.dialect)
}

/// `/word/value/...`: takes both words off the path.
fn take_word<'a>(path: &mut &'a str, word: &str) -> Option<&'a str> {
    let rest = path.strip_prefix('/')?.strip_prefix(word)?.strip_prefix('/')?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (value, left) = rest.split_at_checked(end)?;
    *path = left;
    Some(value)
}

/// `/name/rest` to `name` and `/rest`.
fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    let end = path.find('/').unwrap_or(path.len());
    path.split_at_checked(end).filter(|(name, _)| !name.is_empty())
}

/// Anthropic's SDKs put `/v1` behind a base URL that by habit often ends in it already.
fn below(dialect: Dialect, rest: &str) -> String {
    match dialect {
        Dialect::Anthropic => {
            rest.strip_prefix("/v1").filter(|rest| rest.starts_with("/v1/")).unwrap_or(rest)
        }
        Dialect::Gemini | Dialect::Http | Dialect::Mcp | Dialect::Openai => rest,
    }
    .to_owned()
}

fn header<'a>(arrived: &'a HeaderMap, name: &http::HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = arrived.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| refusal::workflows_disagree()),
        (Some(_), Some(_)) => Err(refusal::workflows_disagree()),
    }
}

/// Whether the body is read whole: everything of a workflow is, and whatever a dialect is spoken in.
pub(crate) fn is_inspected(target: &Target) -> bool {
    target.workflow.is_some() || target.upstream.dialect != Dialect::Http
}

/// Reads the body and looks at it.
pub(crate) async fn call(
    snapshot: &Snapshot,
    target: Target,
    connection: Arc<Connection>,
    parts: Parts,
    body: Incoming,
) -> Result<Call, Refusal> {
    let mut headers = parts.headers;
    let limits = snapshot.limits;
    let sent = read(body, &headers, limits.body_bytes_max, limits.body_idle).await?;
    let body = decode(sent, &mut headers, limits.body_bytes_max)?;
    let mut inspected = {
        let plain = headers::plain(&headers);
        let view = RequestView {
            dialect: target.upstream.dialect,
            method: parts.method.as_str(),
            path: &target.rest,
            headers: &plain,
            body: &body,
        };
        match (detect::inspect(&view), &target.workflow) {
            (Ok(inspected), _) => inspected,
            (Err(bad), Some(_)) => return Err(refusal::bad_message(&bad)),
            // Not ours to judge: the upstream will say the same.
            (Err(_), None) => unread(target.upstream.dialect),
        }
    };
    let rule = rule(&target, parts.method.as_str(), &mut inspected);
    // Large, and of no use once the call is understood.
    let json = inspected.json.take();
    let mut call = Call {
        rule,
        identity: None,
        connection,
        workflow: target.workflow,
        attempt: target.attempt,
        upstream: target.upstream,
        method: parts.method,
        rest: target.rest,
        query: target.query,
        headers,
        body,
        inspected: Arc::new(inspected),
        fingerprints: None,
    };
    if call.workflow.is_some() && call.inspected.operation.channel != Channel::Live {
        call.fingerprints = Some(fingerprints(&call, json.as_ref()));
        call.identity = json.as_ref().and_then(|json| identity(&call, json));
    }
    Ok(call)
}

/// What the operator has said of the tool that is called. It decides what calling it twice would do, and
/// names HTTP tools.
fn rule(target: &Target, method: &str, inspected: &mut Inspected) -> Option<Arc<ToolRule>> {
    let tools = &target.upstream.tools;
    let rule = match target.upstream.dialect {
        Dialect::Mcp => {
            let call = inspected.mcp.as_ref().filter(|mcp| mcp.is_tool_call())?;
            tools.named(call.name.as_deref()?)?
        }
        Dialect::Http => {
            let tool = tools.routed(method, &target.rest)?;
            inspected.operation.name = Arc::clone(&tool.name);
            &tool.rule
        }
        Dialect::Anthropic | Dialect::Gemini | Dialect::Openai => return None,
    };
    if let Some(class) = rule.class {
        inspected.operation.class = class;
    }
    Some(Arc::clone(rule))
}

fn identity(call: &Call, json: &Tape) -> Option<Fingerprint> {
    let rule = call.rule.as_ref().filter(|rule| !rule.identity.is_empty())?;
    let arguments = tool_key::arguments(call.inspected.operation.surface, json.root(&call.body))?;
    let values = rule.identity.iter().map(|pointer| arguments.pointer(pointer.as_str()));
    fingerprint::identity(call.upstream.name.as_str(), &call.inspected.operation.name, values)
}

/// A message that could not be read, for a caller whose calls are only forwarded.
fn unread(dialect: Dialect) -> Inspected {
    let surface = if dialect == Dialect::Mcp { Surface::Mcp } else { Surface::Http };
    let class = EffectClass::Effect;
    let operation = Operation { channel: Channel::Live, surface, class, name: "".into(), stream: false };
    Inspected { operation, json: None, usage_edit: None, parts: Vec::new(), mcp: None }
}

/// A call's fingerprints. `json`: where the values of its body lie, if it is JSON.
pub(super) fn fingerprints(call: &Call, json: Option<&Tape>) -> Fingerprints {
    if call.inspected.operation.channel == Channel::List {
        let mcp = call.inspected.mcp.as_ref();
        let exact = fingerprint::list(&fingerprint::ListAsked {
            route: call.upstream.name.as_str(),
            path: &call.rest,
            // Each task is a list of its own.
            method: mcp.and_then(|mcp| mcp.name.as_deref()).or(call.rpc_method()).unwrap_or_default(),
            protocol_version: mcp.and_then(|mcp| mcp.protocol_version.as_deref()),
            cursor: mcp.and_then(|mcp| mcp.cursor.as_deref()),
        });
        return Fingerprints { exact, normalised: None };
    }
    fingerprint::of(&asked(call, &headers::plain(&call.headers), json), &call.upstream.matching)
}

/// What counts of a call beside its body.
pub(super) fn without_body(call: &Call) -> Fingerprint {
    fingerprint::without_body(&asked(call, &headers::plain(&call.headers), None), &call.upstream.matching)
}

fn asked<'a>(
    call: &'a Call,
    headers: &'a [(&'a str, &'a [u8])],
    json: Option<&'a Tape>,
) -> fingerprint::Asked<'a> {
    fingerprint::Asked {
        channel: call.inspected.operation.channel,
        surface: call.inspected.operation.surface,
        route: call.upstream.name.as_str(),
        method: call.method.as_str(),
        path: &call.rest,
        query: call.query.as_deref(),
        headers,
        body: &call.body,
        json,
    }
}

async fn read(
    mut body: Incoming,
    headers: &HeaderMap,
    bytes_max: usize,
    idle: Duration,
) -> Result<Bytes, Refusal> {
    let announced = headers::content_length(headers);
    if announced.is_some_and(|len| len > bytes_max) {
        return Err(refusal::body_too_large(bytes_max));
    }
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        let frame =
            tokio::time::timeout(idle, body.frame()).await.map_err(|_| refusal::body_timeout(idle))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| refusal::body_cut())?.into_data() else { continue };
        if joined.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > bytes_max {
            return Err(refusal::body_too_large(bytes_max));
        }
        match first.take() {
            None if joined.is_empty() => first = Some(data),
            None => joined.extend_from_slice(&data),
            Some(earlier) => {
                joined.reserve(announced.unwrap_or(0).max(earlier.len() + data.len()));
                joined.extend_from_slice(&earlier);
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

/// Undoes one `Content-Encoding`, and takes the header away with it: what is judged is what is sent.
fn decode(sent: Bytes, headers: &mut HeaderMap, bytes_max: usize) -> Result<Bytes, Refusal> {
    let encodings: Vec<String> = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase())
        .filter(|encoding| encoding != "identity")
        .collect();
    let [encoding] = encodings.as_slice() else {
        return if encodings.is_empty() { Ok(sent) } else { Err(refusal::unsupported_encoding()) };
    };
    let limit = bytes_max.min(sent.len().saturating_mul(DECODED_RATIO_MAX).max(DECODED_ALWAYS_BYTES));
    let source = sent.as_ref();
    let decoded = match encoding.as_str() {
        "gzip" | "x-gzip" => bounded(flate2::read::MultiGzDecoder::new(source), limit),
        "deflate" => bounded(flate2::read::ZlibDecoder::new(source), limit),
        "br" => bounded(brotli::Decompressor::new(source, 16 * 1024), limit),
        "zstd" => match zstd::stream::read::Decoder::new(source) {
            Ok(decoder) => bounded(decoder, limit),
            Err(_) => Err(refusal::damaged_encoding()),
        },
        _ => Err(refusal::unsupported_encoding()),
    }?;
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    Ok(decoded.into())
}

fn bounded(decoder: impl Read, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut decoded = Vec::new();
    let read =
        decoder.take(limit as u64 + 1).read_to_end(&mut decoded).map_err(|_| refusal::damaged_encoding())?;
    if read > limit { Err(refusal::body_too_large(limit)) } else { Ok(decoded) }
}

/// `CONNECT` and `Upgrade` ask for a tunnel, whose bytes could be neither recorded nor judged. An offer
/// to go on in HTTP/2 (`h2c`) may be ignored instead (RFC 9110, section 7.8).
pub(crate) fn wants_tunnel(method: &Method, headers: &HeaderMap) -> bool {
    let upgrades = headers.get_all(http::header::UPGRADE).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|name| !name.trim().eq_ignore_ascii_case("h2c")))
    });
    *method == Method::CONNECT || upgrades
}
