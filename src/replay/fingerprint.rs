//! Step fingerprints: which recorded call an incoming call *is* (durability.md, section 4). Never reads a
//! clock, a socket or the journal.
//!
//! What goes in is fed with its length in front, so that no two different calls can run together into
//! the same bytes. Of a JSON object each member's canonical spelling is hashed by itself and the hashes
//! are fed: both fingerprints then cost one walk over the body.

use blake3::Hasher;

use crate::json::canonical::{self, Changes, Exclude};
use crate::json::{Kind, Tape, Value};
use crate::model::{CallKind, Channel, Fingerprint, Surface};

use super::normalise::Matching;

/// A call, as far as it says which call it is.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub channel: Channel,
    pub surface: Surface,
    /// The upstream's name.
    pub route: &'a str,
    pub method: &'a str,
    /// Below the route, as it was sent, without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// All headers, lower-case names; what counts is picked here.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body, content encoding removed.
    pub body: &'a [u8],
    /// Where the values of `body` lie, if it is JSON.
    pub json: Option<&'a Tape>,
}

/// The two names of a call. A recorded step is looked for by the exact one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    pub exact: Fingerprint,
    /// Without the members that only say who asks; for model calls with a JSON object as their body.
    pub normalised: Option<Fingerprint>,
}

/// Members of a JSON-RPC message that belong to one exchange. The inputs of a later leg of an
/// `input_required` chain are left out because the chain is one step, keyed by its first leg.
const RPC_MEMBERS: [&str; 1] = ["id"];
const RPC_PARAMS: [&str; 3] = ["/_meta", "/inputResponses", "/requestState"];

/// The fingerprints of a call.
pub fn of(asked: &Asked<'_>, matching: &Matching) -> Fingerprints {
    let mut exact = Hasher::new();
    head(&mut exact, asked, matching);
    let root = asked.json.map(|tape| tape.root(asked.body));
    let Some(root) = root.filter(|root| root.kind() == Kind::Object) else {
        feed_body(&mut exact, asked.body, root);
        return Fingerprints { exact: finish(exact, b"exact"), normalised: None };
    };
    let is_llm = asked.channel == Channel::Step(CallKind::Llm);
    let is_rpc = asked.surface == Surface::Mcp;
    let mut normalised = is_llm.then(|| exact.clone());
    let changes = if is_llm { matching.normalise.changes(root) } else { Changes::default() };
    let mut buffer = Vec::new();
    for (key, value) in canonical::sorted_members(root) {
        if is_rpc && RPC_MEMBERS.iter().any(|name| key.is_str(name)) {
            continue;
        }
        let pointers: &[&str] = if is_rpc && key.is_str("params") { &RPC_PARAMS } else { &[] };
        let name = digest(key, &[], &mut buffer);
        let said = digest(value, pointers, &mut buffer);
        exact.update(name.as_bytes()).update(said.as_bytes());
        if let Some(normalised) = &mut normalised
            && !matching.normalise.leaves_out(key)
            && !changes.leaves_out(value)
        {
            let is_touched = changes.touches(value);
            let said = if is_touched { digest_changed(value, &changes, &mut buffer) } else { said };
            normalised.update(name.as_bytes()).update(said.as_bytes());
        }
    }
    Fingerprints {
        exact: finish(exact, b"exact/object"),
        normalised: normalised.map(|normalised| finish(normalised, b"normalised/object")),
    }
}

/// Pointers to what of a body does not say which call it is: two calls that differ only there are one.
pub fn passed_over(kind: CallKind, matching: &Matching) -> Vec<String> {
    match kind {
        CallKind::Http => Vec::new(),
        CallKind::Llm => matching.normalise.members.iter().map(|member| format!("/{member}")).collect(),
        CallKind::Mcp => {
            let params = RPC_PARAMS.iter().map(|pointer| format!("/params{pointer}"));
            RPC_MEMBERS.iter().map(|member| format!("/{member}")).chain(params).collect()
        }
    }
}

/// The name of everything that counts of a call but its body: calls that differ in it are never the same.
pub fn without_body(asked: &Asked<'_>, matching: &Matching) -> Fingerprint {
    let mut hasher = Hasher::new();
    head(&mut hasher, asked, matching);
    finish(hasher, b"head")
}

/// What an effect is known by, whatever its other arguments say: the upstream, the tool, and the values that
/// its identity names, in order. `None` when none of them is there.
pub fn identity<'a>(
    route: &str,
    tool: &str,
    values: impl Iterator<Item = Option<Value<'a>>>,
) -> Option<Fingerprint> {
    let mut hasher = Hasher::new();
    feed(&mut hasher, route.as_bytes());
    feed(&mut hasher, tool.as_bytes());
    let (mut buffer, mut any) = (Vec::new(), false);
    for value in values {
        any |= value.is_some();
        hasher.update(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            hasher.update(digest(value, &[], &mut buffer).as_bytes());
        }
    }
    any.then(|| finish(hasher, b"identity"))
}

/// What an MCP server offers, as it is recorded: by route, path, method, protocol version and page.
#[derive(Clone, Copy, Debug)]
pub struct ListAsked<'a> {
    /// The upstream's name.
    pub route: &'a str,
    /// Below the route: an upstream may have several endpoints.
    pub path: &'a str,
    /// The JSON-RPC method.
    pub method: &'a str,
    /// As header, `_meta` or (for `initialize`) `params` say it.
    pub protocol_version: Option<&'a str>,
    pub cursor: Option<&'a str>,
}

/// The key under which a list is recorded.
pub fn list(asked: &ListAsked<'_>) -> Fingerprint {
    let mut hasher = Hasher::new();
    for field in [Some("list"), Some(asked.route), Some(asked.path), Some(asked.method)] {
        feed_optional(&mut hasher, field);
    }
    feed_optional(&mut hasher, asked.protocol_version);
    feed_optional(&mut hasher, asked.cursor);
    finish(hasher, b"list")
}

fn feed(hasher: &mut Hasher, field: &[u8]) {
    hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
}

fn feed_optional(hasher: &mut Hasher, field: Option<&str>) {
    match field {
        Some(field) => {
            hasher.update(&[1]);
            feed(hasher, field.as_bytes());
        }
        None => _ = hasher.update(&[0]),
    }
}

/// The last word keeps kinds of fingerprints apart.
fn finish(mut hasher: Hasher, kind: &[u8]) -> Fingerprint {
    feed(&mut hasher, kind);
    Fingerprint(*hasher.finalize().as_bytes())
}

fn head(hasher: &mut Hasher, asked: &Asked<'_>, matching: &Matching) {
    let channel = match asked.channel {
        Channel::Step(kind) => kind.as_str(),
        Channel::List => "list",
        Channel::Live => "live",
    };
    for field in [channel, asked.route, asked.method, asked.path] {
        feed(hasher, field.as_bytes());
    }
    feed_query(hasher, asked);
    for name in
        ["anthropic-beta", "openai-beta"].into_iter().chain(matching.headers.iter().map(String::as_str))
    {
        let values = || asked.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        hasher.update(&(values().count() as u64).to_le_bytes());
        values().for_each(|(_, value)| feed(hasher, value.trim_ascii()));
    }
    let content_type = asked.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case("content-type"));
    let essence = content_type.and_then(|(_, value)| value.split(|byte| *byte == b';').next());
    feed(hasher, &essence.unwrap_or_default().trim_ascii().to_ascii_lowercase());
}

/// The query's pairs in their order, without the API key that Gemini allows there. Elsewhere `key` may be
/// what is asked for.
fn feed_query(hasher: &mut Hasher, asked: &Asked<'_>) {
    let is_model = matches!(asked.channel, Channel::Step(CallKind::Llm));
    let Some(query) = asked.query.filter(|_| is_model) else { return feed_optional(hasher, asked.query) };
    let name = |pair: &&str| pair.split_once('=').map_or(*pair, |(name, _)| name) != "key";
    let pairs: Vec<&str> = query.split('&').filter(name).collect();
    // No query, and one of nothing but a key, are the same to the call.
    feed_optional(hasher, if pairs.is_empty() { None } else { Some(pairs.join("&")) }.as_deref());
}

/// A body that is no JSON object.
fn feed_body(hasher: &mut Hasher, body: &[u8], root: Option<Value<'_>>) {
    match root {
        Some(value) => {
            hasher.update(b"j").update(digest(value, &[], &mut Vec::new()).as_bytes());
        }
        None => {
            hasher.update(b"r").update(blake3::hash(body).as_bytes());
        }
    }
}

/// The hash of a value's canonical spelling.
fn digest(value: Value<'_>, without: &[&str], buffer: &mut Vec<u8>) -> blake3::Hash {
    let exclude = Exclude { members: &[], pointers: without };
    let mut runs = Runs::new(buffer);
    canonical::write(value, &exclude, &mut |piece| runs.feed(piece));
    runs.finish()
}

/// The same with changes.
fn digest_changed(value: Value<'_>, changes: &Changes, buffer: &mut Vec<u8>) -> blake3::Hash {
    let mut runs = Runs::new(buffer);
    canonical::write_changed(value, changes, &mut |piece| runs.feed(piece));
    runs.finish()
}

/// Hashes pieces in long runs: BLAKE3 is several times faster on them than on the short pieces that JSON is made
/// of.
struct Runs<'a> {
    buffer: &'a mut Vec<u8>,
    hasher: Option<Hasher>,
}

impl<'a> Runs<'a> {
    const RUN_BYTES: usize = 64 * 1024;

    fn new(buffer: &'a mut Vec<u8>) -> Self {
        buffer.clear();
        Self { buffer, hasher: None }
    }

    fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= Self::RUN_BYTES {
            self.hasher.get_or_insert_default().update(self.buffer);
            self.buffer.clear();
        }
    }

    fn finish(self) -> blake3::Hash {
        match self.hasher {
            Some(mut hasher) => hasher.update(self.buffer).finalize(),
            None => blake3::hash(self.buffer),
        }
    }
}

#[cfg(test)]
mod tests;
