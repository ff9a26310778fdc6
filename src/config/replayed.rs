//! The settings under which recorded runs are replayed, and what a command finds in its environment then. The
//! upstreams are known by name and dialect, and lead nowhere.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use http::uri::{Authority, Scheme};

use super::child_env::EnvBinding;
use super::load::Env;
use super::resolve;
use super::settings::{EnvName, JournalUnavailable, Listen, Settings, UpstreamUrl, WorkflowIds};
use crate::model::{Dialect, UpstreamName, WorkflowId};

/// The variable with the replaying sidecar's own URL, for tests that name a workflow or an attempt themselves.
pub const REPLAY_URL_VARIABLE: &str = "OUTRIGGER_REPLAY_URL";

/// Where SDKs look for a key, without which most do not even start; the first is set where none is.
const KEYS: [(Dialect, &[&str]); 3] = [
    (Dialect::Anthropic, &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]),
    (Dialect::Gemini, &["GEMINI_API_KEY", "GOOGLE_API_KEY"]),
    (Dialect::Openai, &["OPENAI_API_KEY"]),
];

/// What stands in the place of a key.
const NO_KEY: &str = "replayed";

/// These settings for a replay of runs with these upstreams. What is configured of an upstream stays, but where it
/// is; built-in upstreams give way to recorded ones of their dialect.
#[must_use]
pub fn replayed(mut settings: Settings, recorded: &BTreeMap<UpstreamName, Dialect>) -> Settings {
    if settings.source.is_none() {
        settings
            .upstreams
            .retain(|_, built_in| !recorded.values().any(|dialect| *dialect == built_in.dialect));
    }
    for (name, dialect) in recorded {
        let plain = || resolve::plain_upstream(name.clone(), *dialect, nowhere());
        settings.upstreams.entry(name.clone()).or_insert_with(plain);
    }
    for upstream in settings.upstreams.values_mut() {
        upstream.url = nowhere();
        upstream.ca_file = None;
    }
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    settings.listen = vec![Listen::Tcp(free)];
    settings.admin = free;
    settings.workflow_ids = WorkflowIds::Open;
    settings.journal.unavailable = JournalUnavailable::Fail;
    settings
}

/// Nobody listens at port 0, and no name has to be looked up to find that out.
fn nowhere() -> UpstreamUrl {
    let authority = Authority::from_static("127.0.0.1:0");
    UpstreamUrl { scheme: Scheme::HTTP, authority, base_path: String::new() }
}

/// The variables for a command whose calls are answered at `base`: base URLs, the keys that `env` has not, and
/// [`REPLAY_URL_VARIABLE`]. Without `workflow` the URLs name none.
pub fn env_for_replay(
    settings: &Settings,
    bindings: &BTreeMap<EnvName, EnvBinding>,
    base: &str,
    workflow: Option<&WorkflowId>,
    env: &dyn Env,
) -> BTreeMap<String, String> {
    let below = workflow.map(|workflow| format!("/w/{workflow}")).unwrap_or_default();
    let urls = bindings
        .iter()
        .map(|(name, to)| (name.as_str().to_owned(), format!("{base}{below}/{}{}", to.upstream, to.path)));
    let is_set = |name: &&str| env.var(name).is_ok_and(|value| !value.is_empty());
    let keys = KEYS.iter().filter_map(|(dialect, names)| {
        let is_spoken = settings.upstreams.values().any(|upstream| upstream.dialect == *dialect);
        let first = names.first().filter(|_| is_spoken && !names.iter().any(is_set))?;
        Some(((*first).to_owned(), NO_KEY.to_owned()))
    });
    let own = [(REPLAY_URL_VARIABLE.to_owned(), base.to_owned())];
    urls.chain(keys).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use std::env::VarError;

    use super::super::{env_bindings, load_text};
    use super::*;

    #[derive(Debug)]
    struct Having(&'static str);

    impl Env for Having {
        fn var(&self, name: &str) -> Result<String, VarError> {
            if name == self.0 { Ok("x".to_owned()) } else { Err(VarError::NotPresent) }
        }
    }

    fn name(text: &str) -> UpstreamName {
        UpstreamName::parse(text).unwrap()
    }

    #[test]
    fn no_upstream_leads_anywhere_and_recorded_ones_win_over_built_in_ones() {
        let recorded = BTreeMap::from([(name("llm"), Dialect::Openai), (name("crm"), Dialect::Http)]);
        let settings = replayed(load_text("none", "", &Having("")).unwrap(), &recorded);
        let names: Vec<&str> = settings.upstreams.keys().map(UpstreamName::as_str).collect();
        assert_eq!(names, ["anthropic", "crm", "gemini", "llm"]);
        assert!(settings.upstreams.values().all(|upstream| upstream.url == nowhere()));
        let bindings = env_bindings(&settings);
        let workflow = WorkflowId::parse("order-7").unwrap();
        let env =
            env_for_replay(&settings, &bindings, "http://h", Some(&workflow), &Having("GOOGLE_API_KEY"));
        for (name, value) in [
            ("OPENAI_BASE_URL", Some("http://h/w/order-7/llm/v1")),
            ("ANTHROPIC_BASE_URL", Some("http://h/w/order-7/anthropic")),
            ("OPENAI_API_KEY", Some("replayed")),
            ("GEMINI_API_KEY", None),
            ("OUTRIGGER_REPLAY_URL", Some("http://h")),
        ] {
            assert_eq!(env.get(name).map(String::as_str), value, "{name}");
        }
        let env = env_for_replay(&settings, &bindings, "http://h", None, &Having("OPENAI_API_KEY"));
        assert_eq!(env["OPENAI_BASE_URL"], "http://h/llm/v1");
        assert!(!env.contains_key("OPENAI_API_KEY"));
    }

    #[test]
    fn what_is_configured_of_an_upstream_stays() {
        let yaml = "upstreams:\n  pay:\n    dialect: mcp\n    url: https://pay.example\n    env: { MCP_URL: /mcp }\n    \
                    tools: { charge: { effect: effect, identity: [/id] } }\n";
        let configured = load_text("file", yaml, &Having("")).unwrap();
        let configured = Settings { source: Some("file".into()), ..configured };
        let recorded = BTreeMap::from([(name("pay"), Dialect::Mcp), (name("crm"), Dialect::Http)]);
        let settings = replayed(configured.clone(), &recorded);
        let (before, after) = (&configured.upstreams[&name("pay")], &settings.upstreams[&name("pay")]);
        assert_eq!((&before.tools, &before.env), (&after.tools, &after.env));
        assert_eq!(after.url, nowhere());
        assert_eq!(settings.upstreams.len(), 2);
    }
}
