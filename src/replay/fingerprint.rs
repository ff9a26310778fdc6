//! Step fingerprints: which recorded call an incoming call *is* (durability.md, section 4). Never reads a
//! clock, a socket or the journal.
//!
//! What goes in is fed with its length in front, so that no two different calls can run together into
//! the same bytes. Of a JSON object each member's canonical spelling is hashed by itself and the hashes
//! are fed: both fingerprints then cost one walk over the body.

use blake3::Hasher;

use crate::json::canonical::{self, Exclude};
use crate::json::{Kind, Tape, Value};
use crate::model::{CallKind, Channel, Fingerprint, Surface};

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

/// Members of a model call that differ between two runs of the same task: whom it is for, not what.
const WHO_ASKS: [&str; 4] = ["metadata", "prompt_cache_key", "safety_identifier", "user"];

/// Members of a JSON-RPC message that belong to one exchange. The inputs of a later leg of an
/// `input_required` chain are left out because the chain is one step, keyed by its first leg.
const RPC_MEMBERS: [&str; 1] = ["id"];
const RPC_PARAMS: [&str; 3] = ["/_meta", "/inputResponses", "/requestState"];

/// The fingerprints of a call.
pub fn of(asked: &Asked<'_>) -> Fingerprints {
    let mut exact = Hasher::new();
    head(&mut exact, asked);
    let root = asked.json.map(|tape| tape.root(asked.body));
    let Some(root) = root.filter(|root| root.kind() == Kind::Object) else {
        feed_body(&mut exact, asked.body, root);
        return Fingerprints { exact: finish(exact, b"exact"), normalised: None };
    };
    let is_llm = asked.channel == Channel::Step(CallKind::Llm);
    let is_rpc = asked.surface == Surface::Mcp;
    let mut normalised = is_llm.then(|| exact.clone());
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
            && !WHO_ASKS.iter().any(|member| key.is_str(member))
        {
            normalised.update(name.as_bytes()).update(said.as_bytes());
        }
    }
    Fingerprints {
        exact: finish(exact, b"exact/object"),
        normalised: normalised.map(|normalised| finish(normalised, b"normalised/object")),
    }
}

/// Pointers to what of a body does not say which call it is: two calls that differ only there are one.
pub fn passed_over(kind: CallKind) -> Vec<String> {
    match kind {
        CallKind::Http => Vec::new(),
        CallKind::Llm => WHO_ASKS.iter().map(|member| format!("/{member}")).collect(),
        CallKind::Mcp => {
            let params = RPC_PARAMS.iter().map(|pointer| format!("/params{pointer}"));
            RPC_MEMBERS.iter().map(|member| format!("/{member}")).chain(params).collect()
        }
    }
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

fn head(hasher: &mut Hasher, asked: &Asked<'_>) {
    let channel = match asked.channel {
        Channel::Step(kind) => kind.as_str(),
        Channel::List => "list",
        Channel::Live => "live",
    };
    for field in [channel, asked.route, asked.method, asked.path] {
        feed(hasher, field.as_bytes());
    }
    feed_query(hasher, asked);
    for name in ["anthropic-beta", "openai-beta"] {
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
    // BLAKE3 is several times faster on long runs than on the short pieces that JSON is made of.
    const RUN_BYTES: usize = 64 * 1024;
    buffer.clear();
    let mut hasher: Option<Hasher> = None;
    let exclude = Exclude { members: &[], pointers: without };
    canonical::write(value, &exclude, &mut |piece| {
        buffer.extend_from_slice(piece);
        if buffer.len() >= RUN_BYTES {
            hasher.get_or_insert_default().update(buffer);
            buffer.clear();
        }
    });
    match hasher {
        Some(mut hasher) => hasher.update(buffer).finalize(),
        None => blake3::hash(buffer),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::testing::documents;

    const JSON: &[(&str, &[u8])] = &[("content-type", b"application/json")];

    fn llm<'a>(body: &'a str, json: &'a Option<Tape>) -> Asked<'a> {
        Asked {
            channel: Channel::Step(CallKind::Llm),
            surface: Surface::OpenaiChat,
            route: "openai",
            method: "POST",
            path: "/v1/chat/completions",
            query: None,
            headers: JSON,
            body: body.as_bytes(),
            json: json.as_ref(),
        }
    }

    fn with(body: &str, change: impl FnOnce(&mut Asked<'_>)) -> Fingerprints {
        let json = Tape::parse(body.as_bytes()).ok();
        let mut asked = llm(body, &json);
        change(&mut asked);
        of(&asked)
    }

    fn mcp(body: &str) -> Fingerprint {
        with(body, |asked| (asked.channel, asked.surface) = (Channel::Step(CallKind::Mcp), Surface::Mcp))
            .exact
    }

    #[test]
    fn every_part_of_a_call_counts() {
        let body = r#"{"model":"m","stream":true}"#;
        let base = with(body, |_| ());
        let headers: &[(&str, &[u8])] = &[("content-type", b"application/json"), ("openai-beta", b"x")];
        let claude: &[(&str, &[u8])] = &[("content-type", b"application/json"), ("anthropic-beta", b"x")];
        let different = [
            with(r#"{"model":"m","stream":false}"#, |_| ()),
            with(r#"{"model":"m"}"#, |_| ()),
            with("not json", |_| ()),
            with("", |_| ()),
            with(body, |asked| asked.channel = Channel::Step(CallKind::Http)),
            with(body, |asked| asked.route = "openai2"),
            with(body, |asked| asked.method = "PUT"),
            with(body, |asked| asked.path = "/chat/completions"),
            with(body, |asked| asked.query = Some("a=1")),
            with(body, |asked| asked.query = Some("a=1&b=2")),
            with(body, |asked| asked.query = Some("b=2&a=1")),
            with(body, |asked| asked.headers = headers),
            with(body, |asked| asked.headers = claude),
            with(body, |asked| asked.headers = &[]),
            with(body, |asked| asked.json = None),
        ];
        let mut seen = vec![base.exact];
        for fingerprints in different {
            assert!(!seen.contains(&fingerprints.exact), "the {}th equals another", seen.len());
            seen.push(fingerprints.exact);
        }
    }

    #[test]
    fn fields_do_not_run_together() {
        let one = with("{}", |asked| (asked.route, asked.method) = ("ab", "c"));
        let other = with("{}", |asked| (asked.route, asked.method) = ("a", "bc"));
        assert_ne!(one, other);
        assert_ne!(with(r#"{"a":1,"b":2}"#, |_| ()), with(r#"{"a":"1,\"b\":2"}"#, |_| ()));
    }

    #[test]
    fn what_says_nothing_about_the_call_does_not_count() {
        let body = r#"{"model":"m"}"#;
        let base = with(body, |_| ());
        let headers: &[(&str, &[u8])] = &[
            ("Content-Type", b"Application/JSON; charset=utf-8"),
            ("authorization", b"Bearer x"),
            ("x-stainless-retry-count", b"1"),
            ("traceparent", b"00-1-2-01"),
        ];
        assert_eq!(with(body, |asked| asked.headers = headers), base);
        assert_eq!(with(body, |asked| asked.query = Some("key=secret")), base);
        let sse = with(body, |asked| asked.query = Some("alt=sse"));
        assert_eq!(with(body, |asked| asked.query = Some("key=secret&alt=sse")), sse);
        assert_ne!(with(body, |asked| asked.query = Some("keys=secret&alt=sse")), sse);
        let tool = |query| {
            with(body, |asked| (asked.channel, asked.query) = (Channel::Step(CallKind::Http), Some(query)))
        };
        assert_ne!(tool("key=7"), tool("key=8"), "a tool's key is what it is asked for");
        assert_eq!(with("{ \"\\u006dodel\" : \"m\" }", |_| ()), base);
    }

    #[test]
    fn the_normalised_fingerprint_leaves_out_who_asks_and_nothing_else() {
        let base = with(r#"{"model":"m","messages":[]}"#, |_| ());
        for who in [
            r#"{"model":"m","messages":[],"metadata":{"user_id":"a"}}"#,
            r#"{"user":"u","model":"m","safety_identifier":"s","messages":[],"prompt_cache_key":"k"}"#,
        ] {
            let other = with(who, |_| ());
            assert_ne!(other.exact, base.exact, "body: {who}");
            assert_eq!(other.normalised, base.normalised, "body: {who}");
        }
        for what in [
            r#"{"model":"m","messages":[{"metadata":1}]}"#,
            r#"{"model":"m","messages":[],"store":true}"#,
            r#"{"model":"m","messages":[],"service_tier":"flex"}"#,
        ] {
            assert_ne!(with(what, |_| ()).normalised, base.normalised, "body: {what}");
        }
        assert!(base.normalised.is_some_and(|normalised| normalised != base.exact));
        assert_eq!(with("{}", |asked| asked.channel = Channel::Step(CallKind::Http)).normalised, None);
        assert_eq!(with("[]", |_| ()).normalised, None);
    }

    #[test]
    fn an_mcp_call_is_known_without_its_id_its_meta_and_the_later_inputs_of_its_chain() {
        let first = mcp(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1}}}"#,
        );
        for same in [
            r#"{"id":"x","jsonrpc":"2.0","params":{"arguments":{"a":1},"name":"t"},"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","arguments":{"a":1},"_meta":{"progressToken":2}}}"#,
            r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t","arguments":{"a":1},"inputResponses":{"x":{}},"requestState":"s"}}"#,
        ] {
            assert_eq!(mcp(same), first, "body: {same}");
        }
        for other in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":2}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"id":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"_meta":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"t","arguments":{"a":1}}}"#,
        ] {
            assert_ne!(mcp(other), first, "body: {other}");
        }
        // In a body that is no JSON-RPC these are members like any other.
        assert_ne!(with(r#"{"id":1}"#, |_| ()).exact, with(r#"{"id":2}"#, |_| ()).exact);
    }

    #[test]
    fn an_identity_is_its_values_of_this_tool_and_nothing_else() {
        let of = |route: &str, tool: &str, body: &str| {
            let tape = Tape::parse(body.as_bytes()).unwrap();
            let root = tape.root(body.as_bytes());
            identity(route, tool, ["/invoice", "/part"].iter().map(|pointer| root.pointer(pointer)))
        };
        let base = of("pay", "charge", r#"{"invoice":7,"memo":"a"}"#);
        assert!(base.is_some());
        assert_eq!(of("pay", "charge", r#"{ "memo" : "other words", "invoice" : 7 }"#), base);
        for (route, tool, body) in [
            ("pay", "charge", r#"{"invoice":8}"#),
            ("pay", "charge", r#"{"invoice":"7"}"#),
            ("pay", "charge", r#"{"invoice":7,"part":1}"#),
            ("pay", "charge", r#"{"part":7}"#),
            ("pay", "refund", r#"{"invoice":7}"#),
            ("pay2", "charge", r#"{"invoice":7}"#),
        ] {
            assert_ne!(of(route, tool, body), base, "{route} {tool} {body}");
        }
        assert_eq!(of("pay", "charge", r#"{"memo":"a"}"#), None);
    }

    #[test]
    fn lists_are_keyed_by_route_path_method_version_and_page() {
        let base = ListAsked {
            route: "crm",
            path: "/mcp",
            method: "tools/list",
            protocol_version: Some("2025-11-25"),
            cursor: None,
        };
        let mut seen = vec![list(&base)];
        for other in [
            ListAsked { route: "crm2", ..base },
            ListAsked { path: "/mcp2", ..base },
            ListAsked { method: "prompts/list", ..base },
            ListAsked { protocol_version: Some("2026-07-28"), ..base },
            ListAsked { protocol_version: None, ..base },
            ListAsked { cursor: Some("2"), ..base },
            ListAsked { cursor: Some(""), ..base },
            ListAsked { protocol_version: None, cursor: Some("2025-11-25"), ..base },
        ] {
            assert!(!seen.contains(&list(&other)), "{other:?}");
            seen.push(list(&other));
        }
    }

    #[test]
    fn fingerprints_stay_the_same_from_version_to_version() {
        // A journal written by an older version is matched by this one: these bytes may not change.
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"user":"u"}"#;
        let fingerprints = with(body, |asked| asked.query = Some("a=1"));
        assert_eq!(
            fingerprints.exact.to_string(),
            "4917f2ab61e6ac1909040a524ae87ce12d9e35416b449d5816dd91038b936c4e"
        );
        assert_eq!(
            fingerprints.normalised.unwrap().to_string(),
            "99c3fdd2e9d58a9e18be99a2f86c11de9c1c315a1cdf46e6285a4890ed1b9551"
        );
    }

    #[test]
    fn a_member_longer_than_a_run_is_hashed_as_a_whole() {
        let long = "x".repeat(200_000);
        let body = |end: &str| format!(r#"{{"messages":["{long}","{long}{end}"]}}"#);
        assert_eq!(with(&body("a"), |_| ()), with(&body("\\u0061"), |_| ()));
        assert_ne!(with(&body("a"), |_| ()), with(&body("b"), |_| ()));
    }

    proptest! {
        #[test]
        fn spelling_makes_no_difference(doc in documents()) {
            prop_assert_eq!(with(&doc.text, |_| ()), with(&doc.respelled, |_| ()));
        }
    }
}
