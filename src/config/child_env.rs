//! What `outrigger run` puts into an agent's environment so that its calls come to the sidecar: which
//! variable names which upstream. Pure: it reads no environment and sets none.

use std::collections::BTreeMap;

use super::settings::{EnvName, Settings, Upstream};
use crate::diag::{Code, nearest};
use crate::model::{AttemptId, Dialect, UpstreamName, WorkflowId};

/// One variable: set to the base URL of `upstream` with `path` behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvBinding {
    pub upstream: UpstreamName,
    /// Empty, or `/` and more.
    pub path: String,
}

/// An `--env` argument that cannot be used; `code` has the page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`--env {argument}`: {what}")]
pub struct BadEnvArgument {
    pub argument: String,
    pub what: String,
}

impl BadEnvArgument {
    pub const CODE: Code = Code::BadEnvArgument;
}

/// The variables that the common SDKs read: name, the upstream's name, its dialect, and what the SDK
/// expects behind the base URL.
const KNOWN: [(&str, &str, Dialect, &str); 4] = [
    ("ANTHROPIC_BASE_URL", "anthropic", Dialect::Anthropic, ""),
    ("GOOGLE_GEMINI_BASE_URL", "gemini", Dialect::Gemini, ""),
    ("OPENAI_API_BASE", "openai", Dialect::Openai, "/v1"),
    ("OPENAI_BASE_URL", "openai", Dialect::Openai, "/v1"),
];

/// The variables that the config asks for: those of the SDKs, each for the upstream of the default name or
/// else the only one of its dialect, and every upstream's own `env`, which wins.
pub fn env_bindings(settings: &Settings) -> BTreeMap<EnvName, EnvBinding> {
    let known = KNOWN.iter().filter_map(|(name, default, dialect, path)| {
        let upstream = default_upstream(settings, default, *dialect)?;
        let binding = EnvBinding { upstream: upstream.name.clone(), path: (*path).to_owned() };
        Some((EnvName::parse(name)?, binding))
    });
    let own = settings.upstreams.values().flat_map(|upstream| {
        let binding = |path: &String| EnvBinding { upstream: upstream.name.clone(), path: path.clone() };
        upstream.env.iter().map(move |(name, path)| (name.clone(), binding(path)))
    });
    known.chain(own).collect()
}

fn default_upstream<'a>(settings: &'a Settings, name: &str, dialect: Dialect) -> Option<&'a Upstream> {
    let mut speaking = settings.upstreams.values().filter(|upstream| upstream.dialect == dialect);
    let named = speaking.clone().find(|upstream| upstream.name.as_str() == name);
    named.or_else(|| match (speaking.next(), speaking.next()) {
        (only, None) => only,
        (_, Some(_)) => None,
    })
}

/// Reads `NAME=UPSTREAM[/PATH]`, the argument of `--env`.
///
/// # Errors
/// [`BadEnvArgument`] says what is wrong with it.
pub fn parse_env_argument(text: &str, settings: &Settings) -> Result<(EnvName, EnvBinding), BadEnvArgument> {
    let bad = |what: String| BadEnvArgument { argument: text.to_owned(), what };
    let (name, target) =
        text.split_once('=').ok_or_else(|| bad("write NAME=UPSTREAM or NAME=UPSTREAM/PATH".into()))?;
    let name = EnvName::parse(name)
        .ok_or_else(|| bad("the name is capital letters, digits and `_`, and starts with no digit".into()))?;
    let (upstream, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let known = settings.upstreams.values().find(|known| known.name.as_str() == upstream);
    let Some(known) = known else {
        let names = settings.upstreams.keys().map(UpstreamName::as_str);
        let way_out = match nearest(upstream, names.clone()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("the config has {}", names.collect::<Vec<_>>().join(", ")),
        };
        return Err(bad(format!("there is no upstream `{upstream}`; {way_out}")));
    };
    let path = path_behind(path).map_err(|what| bad(what.into()))?;
    Ok((name, EnvBinding { upstream: known.name.clone(), path }))
}

/// A path as it stands behind a base URL: empty for `/`, else without a `/` at its end.
pub(super) fn path_behind(text: &str) -> Result<String, &'static str> {
    if !(text.is_empty() || text.starts_with('/')) {
        return Err("the path starts with `/`");
    }
    if text.starts_with("//") {
        return Err("the path starts with one `/`");
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>?\\^`{|}".contains(&byte);
    if !text.bytes().all(plain) {
        return Err("the path has no spaces, `?`, `#` or other characters that URLs write differently");
    }
    Ok(text.strip_suffix('/').unwrap_or(text).to_owned())
}

/// The variables and their values for one attempt. `base` is the sidecar's own URL without a `/` at its
/// end; without `attempt` the base URLs name the workflow only.
pub fn env_for_children(
    bindings: &BTreeMap<EnvName, EnvBinding>,
    base: &str,
    workflow: &WorkflowId,
    attempt: Option<AttemptId>,
) -> Vec<(String, String)> {
    let attempt = attempt.map(|attempt| format!("/a/{attempt}")).unwrap_or_default();
    let url = |to: &EnvBinding| format!("{base}/w/{workflow}{attempt}/{}{}", to.upstream, to.path);
    bindings.iter().map(|(name, to)| (name.as_str().to_owned(), url(to))).collect()
}
