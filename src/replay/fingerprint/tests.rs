//! What tells calls apart, and what does not.

use proptest::prelude::*;

use super::*;
use crate::json::testing::documents;
use crate::replay::scrub::Scrub;

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
    of(&asked, &Matching::default())
}

fn under(body: &str, matching: &Matching) -> Fingerprints {
    let json = Tape::parse(body.as_bytes()).ok();
    of(&llm(body, &json), matching)
}

fn mcp(body: &str) -> Fingerprint {
    with(body, |asked| (asked.channel, asked.surface) = (Channel::Step(CallKind::Mcp), Surface::Mcp)).exact
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
fn the_normalised_fingerprint_leaves_out_what_the_config_says() {
    let base = r#"{"model":"m","messages":[{"content":"on 2026-01-02"}]}"#;
    let mut matching = Matching::default();
    matching.normalise.members = vec!["store"];
    matching.normalise.cache_control = true;
    matching.normalise.scrubs = vec![Scrub::new("/messages/*/content", r"\d{4}-\d{2}-\d{2}").unwrap()];
    let (found, plain) = (under(base, &matching), under(base, &Matching::default()));
    assert_eq!(found.exact, plain.exact, "only the normalised one is another");
    assert_ne!(found.normalised, plain.normalised);
    for same in [
        r#"{"model":"m","messages":[{"content":"on 2027-11-30"}]}"#,
        r#"{"model":"m","store":true,"messages":[{"content":"on 2026-01-02","cache_control":{}}]}"#,
        r#"{"model":"m","cache_control":1,"messages":[{"content":"on 2026-01-02"}]}"#,
    ] {
        assert_eq!(under(same, &matching).normalised, found.normalised, "body: {same}");
        assert_ne!(under(same, &matching).exact, found.exact, "body: {same}");
    }
    for other in [
        r#"{"model":"m","user":"u","messages":[{"content":"on 2026-01-02"}]}"#,
        r#"{"model":"m","messages":[{"content":"at 2026-01-02"}]}"#,
        r#"{"model":"2026-01-02","messages":[{"content":"on 2026-01-02"}]}"#,
    ] {
        assert_ne!(under(other, &matching).normalised, found.normalised, "body: {other}");
    }
    let http = |body: &str| {
        let json = Tape::parse(body.as_bytes()).ok();
        of(&Asked { channel: Channel::Step(CallKind::Http), ..llm(body, &json) }, &matching)
    };
    assert_eq!(http(base).normalised, None, "only model calls are normalised");
}

#[test]
fn the_headers_that_the_config_names_count() {
    let matching = Matching { headers: vec!["x-tenant".to_owned()], ..Matching::default() };
    let of = |headers: &[(&str, &[u8])], matching| {
        let asked = Asked { headers, ..llm("{}", &None) };
        (of(&asked, matching), without_body(&asked, matching))
    };
    let one: &[(&str, &[u8])] = &[("x-tenant", b"a")];
    let other: &[(&str, &[u8])] = &[("x-tenant", b"b")];
    assert_ne!(of(one, &matching), of(other, &matching));
    assert_ne!(of(&[], &matching), of(other, &matching));
    assert_eq!(of(one, &Matching::default()), of(other, &Matching::default()));
}

#[test]
fn an_mcp_call_is_known_without_its_id_its_meta_and_the_later_inputs_of_its_chain() {
    let first =
        mcp(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1}}}"#);
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
