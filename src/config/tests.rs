//! The config as people meet it: what they write, and what they are told when it is wrong.

mod listen;
mod matching;
mod tools;

use std::collections::BTreeMap;
use std::env::VarError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::diag::Code;
use crate::model::{AttemptId, Dialect, WorkflowId};

#[derive(Debug, Default)]
struct TestEnv(BTreeMap<&'static str, &'static str>);

impl TestEnv {
    fn of<const N: usize>(variables: [(&'static str, &'static str); N]) -> Self {
        Self(variables.into())
    }
}

impl Env for TestEnv {
    fn var(&self, name: &str) -> Result<String, VarError> {
        self.0.get(name).map(|value| (*value).to_owned()).ok_or(VarError::NotPresent)
    }
}

fn settings(text: &str) -> Settings {
    load_text("outrigger.yaml", text, &TestEnv::default()).unwrap_or_else(|report| panic!("{report}"))
}

fn report(text: &str) -> Report {
    load_text("outrigger.yaml", text, &TestEnv::default()).expect_err("this config is wrong")
}

/// The codes of everything that is wrong, in order.
#[track_caller]
fn check_codes(text: &str, expected: &[Code]) {
    let codes: Vec<Code> = match load_text("outrigger.yaml", text, &TestEnv::default()) {
        Ok(_) => Vec::new(),
        Err(report) => report.problems().iter().map(|problem| problem.code).collect(),
    };
    assert_eq!(codes, expected, "config:\n{text}");
}

/// One problem that says `message`.
#[track_caller]
fn check_message(text: &str, code: Code, message: &str) {
    let report = report(text);
    let said: Vec<(Code, &str)> = report.problems().iter().map(|p| (p.code, p.message.as_str())).collect();
    assert_eq!(said, [(code, message)], "config:\n{text}");
}

#[test]
fn no_file_gives_the_documented_defaults() {
    let built_in = load(None, &TestEnv::default()).expect("the defaults are right");
    assert_eq!(built_in.listen, [Listen::Tcp("127.0.0.1:4747".parse().unwrap())]);
    assert_eq!(built_in.admin, "127.0.0.1:4748".parse().unwrap());
    assert_eq!(built_in.journal.path, Path::new("./outrigger-data"));
    let upstreams: Vec<(String, Dialect, String)> = built_in
        .upstreams
        .values()
        .map(|upstream| (upstream.name.to_string(), upstream.dialect, upstream.url.to_string()))
        .collect();
    let expected = [
        ("anthropic", Dialect::Anthropic, "https://api.anthropic.com"),
        ("gemini", Dialect::Gemini, "https://generativelanguage.googleapis.com"),
        ("openai", Dialect::Openai, "https://api.openai.com"),
    ];
    assert_eq!(upstreams, expected.map(|(name, dialect, url)| (name.to_owned(), dialect, url.to_owned())));
    assert_eq!(built_in.limits.body_bytes_max, 64 << 20);
    assert_eq!(built_in.default_workflow, None);
    for text in ["", "# nothing but this\n", "---\n", "log: {}\n", "limits:\n"] {
        assert_eq!(settings(text), built_in, "config: {text:?}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "\
lisen: [{ address: 127.0.0.1:4747 }]
admin: { address: 0.0.0.0:4748 }
journal:
  path: ./outrigger-data
  segment_mib: lots
upstreams:
  openai: { dialect: opnai, url: https://api.openai.com/v1 }
  W: { dialect: mcp, url: 'http://127.0.0.1:4747/' }
  crm:
    dialect: http
    ulr: http://127.0.0.1:9002
    connect_timeout_s: 5000
  mail: { dialect: mcp, url: http://127.0.0.1:9003?x=1, env: { mail: /mcp, MAIL: mcp } }
limits:
  body_mib_max: \"64\"
default_workflow: no/slash
";
    insta::assert_snapshot!(report(text).render(false));
}

#[test]
fn a_summary_shows_where_everything_is() {
    let text = "default_workflow: nightly\nupstreams: { crm: { dialect: http, url: 'http://127.0.0.1:9002/api/' } }\n";
    let expected = "\
listen    127.0.0.1:4747
admin     127.0.0.1:4748
journal   ./outrigger-data
workflow  nightly, for calls that name none
upstream  crm: http at http://127.0.0.1:9002/api
";
    assert_eq!(settings(text).summary(), expected);
}

#[test]
fn colours_are_there_only_when_asked_for() {
    let report = report("nonsense: 1\n");
    assert!(!report.render(false).contains('\u{1b}'));
    assert!(report.render(true).contains('\u{1b}'));
    assert_eq!(report.to_string(), report.render(false));
}

#[test]
fn what_is_no_yaml_is_said_with_its_place() {
    let cases = [
        "listen: [{ address: 127.0.0.1:4747 }\n",
        "admin:\n\taddress: 127.0.0.1:4748\n",
        "journal: { path: 'x }\n",
        "a: b: c\n",
        "admin: {}\n---\nadmin: {}\n",
        "log: *nowhere\n",
    ];
    let all: Vec<String> = cases.iter().map(|text| report(text).render(false)).collect();
    insta::assert_snapshot!(all.join("\n----------\n"));
}

#[test]
fn keys_that_are_there_twice_do_not_hide_what_else_is_wrong() {
    let text = "\
journal: { path: a }
journal: { path: b }
log: { level: info, level: loud, format: texd }
upstreams:
  one: { dialect: http, url: http://127.0.0.1:1 }
  one: { dialect: http, url: http://127.0.0.1:2 }
";
    use Code::{BadValue, ConfigNotYaml};
    check_codes(text, &[ConfigNotYaml, ConfigNotYaml, BadValue, ConfigNotYaml]);
}

#[test]
fn a_value_of_the_wrong_kind_says_what_it_must_be() {
    let check = |text: &str, message: &str| check_message(text, Code::BadValue, message);
    check("[1]\n", "expected a map, found a list");
    check("text\n", "expected a map, found the text `text`");
    check("upstreams: [a]\n", "expected a map, found a list");
    check("upstreams: { a-b: 3 }\n", "expected a map, found `3`");
    check("listen: 127.0.0.1:4747\n", "expected a list, found the text `127.0.0.1:4747`");
    check("listen:\n", "expected a list, found nothing");
    check("shutdown_s: soon\n", "expected a whole number, found the text `soon`");
    check("shutdown_s: 1.5\n", "expected a whole number, found `1.5`");
    check("shutdown_s: -1\n", "expected a whole number, found `-1`");
    check("shutdown_s: \"5\"\n", "expected a whole number, found the text `5`");
    check("shutdown_s: 99999999999999999999\n", "expected a whole number, found `99999999999999999999`");
    check("listen: [{ address: 127.0.0.1:1, expose: yes }]\n", "expected `true` or `false`, found `yes`");
    check("log: { level: [info] }\n", "expected text, found a list");
    check("log: { level: noisy }\n", "`noisy` is not a choice here");
    check("journal: { path: {} }\n", "expected text, found a map");
}

#[test]
fn texts_may_look_like_numbers() {
    assert_eq!(settings("default_workflow: 2026\n").default_workflow, WorkflowId::parse("2026").ok());
    assert_eq!(settings("journal: { path: 7 }\n").journal.path, PathBuf::from("7"));
    assert_eq!(settings("default_workflow: on\n").default_workflow, WorkflowId::parse("on").ok());
}

#[test]
fn numbers_are_kept_within_their_bounds() {
    let check = |text: &str, message: &str| check_message(text, Code::OutOfBounds, message);
    check("limits: { body_mib_max: 0 }\n", "`body_mib_max` is 0; it must be from 1 to 1024");
    check("limits: { body_mib_max: 1025 }\n", "`body_mib_max` is 1025; it must be from 1 to 1024");
    check("shutdown_s: 90000\n", "`shutdown_s` is 90000; it must be from 0 to 86400");
    assert_eq!(settings("limits: { body_mib_max: 1024 }\n").limits.body_bytes_max, 1 << 30);
    assert_eq!(settings("shutdown_s: 0\n").shutdown, Duration::ZERO);
}

#[test]
fn records_are_kept_at_least_as_long_as_the_bodies_they_name() {
    let check = |text: &str, expected: &[Code]| check_codes(&format!("retention: {{ {text} }}\n"), expected);
    check("bodies_h: 48, records_h: 48", &[]);
    check("bodies_h: 48, records_h: 47", &[Code::BadRetention]);
    check("bodies_h: 721", &[Code::BadRetention]);
    check("records_h: 23", &[Code::BadRetention]);
    let kept = settings("retention: { close_after_idle_h: 0, bodies_h: 0, records_h: 1 }\n").retention;
    assert_eq!((kept.close_after_idle, kept.bodies), (None, Duration::ZERO), "0 is never, and not at all");
    assert_eq!(kept.records, Duration::from_secs(3600));
    assert_eq!(settings("").journal.bytes_max, None);
    assert_eq!(settings("journal: { size_mib_max: 8 }\n").journal.bytes_max, Some(8 << 20));
}

#[test]
fn addresses_are_local_unless_exposed() {
    let check = |address: &str, expected: &[Code]| {
        check_codes(&format!("listen: [{{ address: '{address}' }}]\n"), expected);
    };
    check("127.0.0.1:4747", &[]);
    check("127.9.9.9:0", &[]);
    check("[::1]:4747", &[]);
    check("localhost:5000", &[]);
    check("0.0.0.0:4747", &[Code::ExposedListener]);
    check("[::]:4747", &[Code::ExposedListener]);
    check("10.0.0.1:80", &[Code::ExposedListener]);
    check("[::ffff:10.0.0.1]:80", &[Code::ExposedListener]);
    check("[::ffff:127.0.0.1]:80", &[]);
    check("127.0.0.1", &[Code::BadValue]);
    check("example.org:80", &[Code::BadValue]);
    check(":4747", &[Code::BadValue]);
    check_codes("listen: [{ address: '0.0.0.0:1', expose: true }]\n", &[]);
    check_codes("listen: [{ address: '0.0.0.0:1', expose: false }]\n", &[Code::ExposedListener]);
    check_codes("admin: { address: '0.0.0.0:1' }\n", &[Code::ExposedListener]);
    check_message("admin: {}\n", Code::MissingKey, "`admin` without an `address`");
    check_codes("listen: []\n", &[Code::MissingKey]);
    check_message("listen: [{}]\n", Code::MissingKey, "a listener without an `address` or a `socket`");
}

#[test]
fn addresses_do_not_get_in_each_others_way() {
    let check = |listen: &[&str], admin: &str, expected: &[Code]| {
        let listen: Vec<String> =
            listen.iter().map(|address| format!("{{ address: '{address}', expose: true }}")).collect();
        let listen = listen.join(", ");
        check_codes(
            &format!("listen: [{listen}]\nadmin: {{ address: '{admin}', expose: true }}\n"),
            expected,
        );
    };
    check(&["127.0.0.1:1", "127.0.0.1:2"], "127.0.0.1:3", &[]);
    check(&["127.0.0.1:1", "127.0.0.1:1"], "127.0.0.1:3", &[Code::AddressTwice]);
    check(&["127.0.0.1:1"], "127.0.0.1:1", &[Code::AddressTwice]);
    check(&["0.0.0.0:1"], "127.0.0.1:1", &[Code::AddressTwice]);
    check(&["127.0.0.1:1"], "[::1]:1", &[]);
    check(&["127.0.0.1:0", "127.0.0.1:0"], "127.0.0.1:0", &[]);
}

#[test]
fn the_admin_address_may_not_be_the_default_listener() {
    check_codes("admin: { address: 127.0.0.1:4747 }\n", &[Code::AddressTwice]);
}

#[test]
fn urls_name_a_server_and_nothing_of_a_single_call() {
    let check = |dialect: &str, url: &str, expected: Result<&str, &str>| {
        let text = format!("upstreams: {{ up: {{ dialect: {dialect}, url: '{url}' }} }}\n");
        let found = load_text("c", &text, &TestEnv::default())
            .map(|settings| settings.upstreams.values().next().unwrap().url.to_string())
            .map_err(|report| report.problems()[0].message.clone());
        let expected = expected.map(str::to_owned).map_err(|what| format!("this url cannot be used: {what}"));
        assert_eq!(found, expected, "url: {url}");
    };
    check("http", "https://api.openai.com", Ok("https://api.openai.com"));
    check("http", "https://api.openai.com/", Ok("https://api.openai.com"));
    check("http", "HTTP://Host:8080/a/b/", Ok("http://Host:8080/a/b"));
    check("http", "http://[::1]:9001", Ok("http://[::1]:9001"));
    check("http", "http://127.0.0.1:9001/v1", Ok("http://127.0.0.1:9001/v1"));
    check("openai", "https://openrouter.ai/api", Ok("https://openrouter.ai/api"));
    let versioned = Err("it ends in `/v1`, which is a part of what agents send");
    check("openai", "https://api.openai.com/v1/", versioned);
    check("anthropic", "https://api.anthropic.com/v1", versioned);
    check("http", "api.openai.com", Err("it does not begin with http:// or https://"));
    check("http", "ftp://host", Err("it is neither http nor https"));
    check("http", "http://", Err("it is no URL"));
    check("http", "http:///x", Err("it is no URL"));
    check("http", "", Err("it is no URL"));
    check("http", "http://user:secret@host", Err("it holds a user or password"));
    check("http", "http://host?key=1", Err("it has a query"));
    check("http", "http://host/#x", Err("it has a fragment"));
    check("http", "http://host:0", Err("its port is no number from 1 to 65535"));
    check("http", "http://host:99999", Err("its port is no number from 1 to 65535"));
    check("http", "http://host/a/../b", Err("its path has empty, `.` or `..` parts"));
}

#[test]
fn an_upstream_is_not_the_sidecar_itself() {
    let check = |url: &str, expected: &[Code]| {
        check_codes(&format!("upstreams: {{ up: {{ dialect: http, url: '{url}' }} }}\n"), expected);
    };
    check("http://127.0.0.1:4747/openai", &[Code::CallsItself]);
    check("http://localhost:4748", &[Code::CallsItself]);
    check("http://127.0.0.1:4749", &[]);
    check("http://127.0.0.2:4747", &[]);
    check_codes(
        "listen: [{ address: 0.0.0.0:80, expose: true }]\nupstreams: { up: { dialect: http, url: 'http://127.0.0.1' } }\n",
        &[Code::CallsItself],
    );
}

#[test]
fn upstreams_have_names_that_can_stand_in_a_path() {
    for name in ["w", "a", "Openai", "2nd", "x_y", "\"\""] {
        let text = format!("upstreams: {{ {name}: {{ dialect: http, url: http://127.0.0.1:1 }} }}\n");
        check_codes(&text, &[Code::BadUpstreamName]);
    }
    check_codes("upstreams: {}\n", &[Code::MissingKey]);
    check_codes("upstreams: { up: {} }\n", &[Code::MissingKey, Code::MissingKey]);
}

#[test]
fn two_upstreams_do_not_set_one_variable() {
    let text = "\
upstreams:
  a-1: { dialect: mcp, url: http://127.0.0.1:1, env: { MCP_URL: /mcp } }
  b-1: { dialect: mcp, url: http://127.0.0.1:2, env: { MCP_URL: /mcp } }
";
    insta::assert_snapshot!(report(text).render(false));
}

#[test]
fn a_ca_file_belongs_to_tls_and_can_be_read() {
    check_codes("upstreams: { up: { dialect: http, url: http://h, ca_file: x.pem } }\n", &[Code::BadCaFile]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    let config = format!(
        "upstreams: {{ up: {{ dialect: http, url: https://h, ca_file: {}/ca.pem }} }}\n",
        folder.path().display()
    );
    std::fs::write(&file, config).unwrap();
    let report = load(Some(&file), &TestEnv::default()).expect_err("there is no such file");
    assert_eq!(report.problems()[0].code, Code::BadCaFile);
    std::fs::write(folder.path().join("ca.pem"), "whatever").unwrap();
    let settings = load(Some(&file), &TestEnv::default()).expect("now there is");
    assert_eq!(settings.source, Some(file));
}

#[test]
fn variables_are_put_in_with_or_without_a_default() {
    let env = TestEnv::of([("HOST", "10.0.0.7"), ("MIB", "12"), ("EMPTY", ""), ("TRICK", "${HOST}")]);
    let load = |text: &str| load_text("c", text, &env);
    let url = |url: &str| {
        let text = format!("upstreams: {{ up: {{ dialect: http, url: \"{url}\" }} }}\n");
        load(&text).map(|settings| settings.upstreams.values().next().unwrap().url.to_string())
    };
    assert_eq!(url("http://${HOST}:1/${MISSING:-x}").unwrap(), "http://10.0.0.7:1/x");
    assert_eq!(url("http://${EMPTY:-host}").unwrap(), "http://host");
    assert_eq!(load("limits: { body_mib_max: \"${MIB}\" }\n").unwrap().limits.body_bytes_max, 12 << 20);
    assert_eq!(load("limits:\n  body_mib_max: ${MIB}\n").unwrap().limits.body_bytes_max, 12 << 20);
    let path = |text: &str| load(&format!("journal:\n  path: {text}\n")).unwrap().journal.path;
    assert_eq!(path("$${HOST}/$x"), PathBuf::from("${HOST}/$x"));
    assert_eq!(path("'${TRICK}'"), PathBuf::from("${HOST}"), "a value is not looked at again");
    let wrong = load(
        "journal: { path: \"${NO_SUCH_THING}\" }\nshutdown_s: ${2X}\nlog:\n  level: ${HOST\n  format: ${HOST}\n",
    );
    let codes: Vec<Code> = wrong.unwrap_err().problems().iter().map(|problem| problem.code).collect();
    assert_eq!(codes, [Code::VariableNotSet, Code::VariableNotSet, Code::VariableNotSet, Code::BadValue]);
}

#[test]
fn the_environment_names_the_file_and_the_workflow() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, "default_workflow: from-file\n").unwrap();
    let name: &'static str = Box::leak(file.display().to_string().into_boxed_str());
    let loaded = load(None, &TestEnv::of([("OUTRIGGER_CONFIG", name)])).unwrap();
    assert_eq!(loaded.default_workflow, WorkflowId::parse("from-file").ok());
    let env = TestEnv::of([("OUTRIGGER_CONFIG", name), ("OUTRIGGER_WORKFLOW", "from-env")]);
    assert_eq!(load(None, &env).unwrap().default_workflow, WorkflowId::parse("from-env").ok());
    let env = TestEnv::of([("OUTRIGGER_WORKFLOW", "not an id")]);
    assert_eq!(load(None, &env).unwrap_err().problems()[0].code, Code::BadDefaultWorkflow);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(Some(&folder.path().join("no.yaml")), &TestEnv::default()).unwrap_err().render(false);
    let shown = missing.replace(&folder.path().display().to_string(), "DIR");
    insta::assert_snapshot!(shown);
    let check = |name: &str, bytes: &[u8], message: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let report = load(Some(&file), &TestEnv::default()).unwrap_err();
        let problem = &report.problems()[0];
        assert_eq!(problem.code, Code::ConfigUnreadable);
        assert!(problem.message.ends_with(message), "{}", problem.message);
    };
    check("latin.yaml", b"log: { level: \xe9 }\n", "is not UTF-8 text");
    check("big.yaml", &vec![b'#'; (1 << 20) + 1], "is larger than 1 MiB");
    assert!(load(Some(folder.path()), &TestEnv::default()).is_err(), "a directory");
}

#[test]
fn a_hostile_file_is_refused_and_not_followed() {
    check_codes(&"[".repeat(5000), &[Code::ConfigNotYaml]);
    check_codes(&format!("a: {}\n", "{a: ".repeat(40)), &[Code::ConfigNotYaml]);
    let laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
    assert!(report(laughs).problems().iter().any(|problem| problem.code == Code::ConfigNotYaml));
}

fn bindings(text: &str) -> Vec<(String, String)> {
    let workflow = WorkflowId::parse("order-7").unwrap();
    env_for_children(&env_bindings(&settings(text)), "http://127.0.0.1:5", &workflow, AttemptId::new(2))
}

#[test]
fn children_get_the_variables_their_sdks_read() {
    let expected = [
        ("ANTHROPIC_BASE_URL", "http://127.0.0.1:5/w/order-7/a/2/anthropic"),
        ("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:5/w/order-7/a/2/gemini"),
        ("OPENAI_API_BASE", "http://127.0.0.1:5/w/order-7/a/2/openai/v1"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:5/w/order-7/a/2/openai/v1"),
    ];
    assert_eq!(bindings(""), expected.map(|(name, url)| (name.to_owned(), url.to_owned())));
}

#[test]
fn children_get_the_only_upstream_of_a_dialect_and_their_own_variables() {
    let text = "\
upstreams:
  local: { dialect: openai, url: http://127.0.0.1:1 }
  claude-1: { dialect: anthropic, url: http://127.0.0.1:2 }
  claude-2: { dialect: anthropic, url: http://127.0.0.1:3 }
  payments: { dialect: mcp, url: http://127.0.0.1:4, env: { MCP_URL: /mcp, OPENAI_API_BASE: / } }
";
    let expected = [
        ("MCP_URL", "http://127.0.0.1:5/w/order-7/a/2/payments/mcp"),
        ("OPENAI_API_BASE", "http://127.0.0.1:5/w/order-7/a/2/payments"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:5/w/order-7/a/2/local/v1"),
    ];
    assert_eq!(bindings(text), expected.map(|(name, url)| (name.to_owned(), url.to_owned())));
}

#[test]
fn env_arguments_name_a_variable_and_an_upstream() {
    let settings = settings("upstreams: { payments: { dialect: mcp, url: 'http://127.0.0.1:4' } }\n");
    let parse = |text: &str| {
        parse_env_argument(text, &settings)
            .map(|(name, to)| format!("{name}={}{}", to.upstream, to.path))
            .map_err(|bad| bad.to_string())
    };
    assert_eq!(parse("MCP_URL=payments/mcp").as_deref(), Ok("MCP_URL=payments/mcp"));
    assert_eq!(parse("MCP_URL=payments").as_deref(), Ok("MCP_URL=payments"));
    assert_eq!(parse("MCP_URL=payments/").as_deref(), Ok("MCP_URL=payments"));
    let wrong: Vec<String> =
        ["MCP_URL", "mcp=payments", "X=paymets/mcp", "X=bank", "X=payments/m cp", "X=payments//m"]
            .into_iter()
            .map(|text| parse(text).unwrap_err())
            .collect();
    insta::assert_snapshot!(wrong.join("\n"));
}

#[test]
fn the_schema_says_what_the_checks_enforce() {
    let schema = schema();
    let property = |path: &str| schema.pointer(path).unwrap_or_else(|| panic!("no {path} in {schema:#}"));
    assert_eq!(property("/$defs/Limits/properties/body_mib_max/maximum"), 1024);
    assert_eq!(property("/$defs/Limits/properties/body_mib_max/default"), 64);
    assert_eq!(property("/$defs/Upstream/required"), &serde_json::json!(["dialect", "url"]));
    assert_eq!(property("/additionalProperties"), false);
    assert_eq!(property("/$defs/Upstream/additionalProperties"), false);
}

#[test]
fn every_key_says_what_it_means() {
    let schema = schema();
    let sections = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    for section in sections {
        for (key, property) in section["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{key} has no description: {property}");
            let number = property["type"] == "integer";
            assert_eq!(number, property["default"].is_u64(), "{key} is a number with a default: {property}");
            let unit = key.rsplit('_').next().unwrap();
            let has_unit = ["h", "s", "max", "mib"].contains(&unit);
            assert_eq!(number, has_unit, "{key} ends in its unit");
        }
    }
}
