//! From the file to [`Settings`]: fills in the defaults and checks what types cannot say, all of it, going
//! on after every problem. Opens nothing and reads no environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::bounds::{self, Bound};
use super::child_env::path_behind;
use super::de::{Field, Key};
use super::file::{self, File};
use super::settings::{
    EnvName, Journal, JournalUnavailable, Limits, Listen, Log, LogFormat, LogLevel, OnDivergence, Retention,
    Reuse, Settings, Upstream, UpstreamUrl, UsageMode, Workers, WorkflowIds,
};
use super::tree::Span;
use super::{listen, matching, tools, url};
use crate::diag::{Code, Problem};
use crate::model::{Dialect, UpstreamName, WorkflowId};
use crate::replay::normalise::Matching;

/// The settings, of use only when there is no problem.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) settings: Settings,
    pub(super) problems: Vec<Problem>,
}

const JOURNAL_PATH: &str = "./outrigger-data";

/// The upstreams of a config that names none.
const UPSTREAMS: [(&str, Dialect, &str); 3] = [
    ("anthropic", Dialect::Anthropic, "https://api.anthropic.com"),
    ("gemini", Dialect::Gemini, "https://generativelanguage.googleapis.com"),
    ("openai", Dialect::Openai, "https://api.openai.com"),
];

pub(super) fn resolve(file: &File) -> Resolved {
    let mut problems = Vec::new();
    let (listeners, admin) = listen::addresses(file, &mut problems);
    let own: Vec<SocketAddr> = listeners.iter().filter_map(Listen::tcp).chain([admin]).collect();
    let upstreams = upstreams(file, &own, &mut problems);
    let default_workflow = file.default_workflow.get().and_then(|(id, span)| {
        workflow(id).map_err(|problem| problems.push(problem.at(span, "this is no workflow id"))).ok()
    });
    let settings = Settings {
        source: None,
        listen: listeners,
        admin,
        journal: journal(file, &mut problems),
        retention: retention(file, &mut problems),
        reuse: match file.reuse.value() {
            Some(file::Reuse::NewRun) => Reuse::NewRun,
            Some(file::Reuse::Refuse) | None => Reuse::Refuse,
            Some(file::Reuse::Replay) => Reuse::Replay,
        },
        upstreams,
        limits: limits(file, &mut problems),
        default_workflow,
        workflow_ids: match file.workflow_ids.value() {
            Some(file::WorkflowIds::Issued) => WorkflowIds::Issued,
            Some(file::WorkflowIds::Open) | None => WorkflowIds::Open,
        },
        on_divergence: match file.on_divergence.value() {
            Some(file::OnDivergence::Live) => OnDivergence::Live,
            Some(file::OnDivergence::Refuse) | None => OnDivergence::Refuse,
        },
        workers: match file.workers.value() {
            Some(file::Workers::Exclusive) | None => Workers::Exclusive,
            Some(file::Workers::Shared) => Workers::Shared,
        },
        policies: policies(file, &mut problems),
        shutdown: seconds("shutdown_s", &file.shutdown_s, bounds::SHUTDOWN_S, &mut problems),
        log: log(file),
    };
    Resolved { settings, problems }
}

/// A workflow id from the config or the environment.
pub(super) fn workflow(id: &str) -> Result<WorkflowId, Problem> {
    WorkflowId::parse(id).map_err(|bad| {
        Problem::new(Code::BadDefaultWorkflow, format!("the default workflow is no workflow id: {bad}"))
            .help("such as `nightly-report`: at most 128 letters, digits, `.`, `_`, `~` and `-`")
    })
}

fn bounded(key: &str, field: &Field<u64>, bound: Bound, problems: &mut Vec<Problem>) -> u64 {
    let Some((value, span)) = field.get() else { return bound.default };
    if (bound.min..=bound.max).contains(value) {
        return *value;
    }
    let what = format!("`{key}` is {value}; it must be from {} to {}", bound.min, bound.max);
    let problem =
        Problem::new(Code::OutOfBounds, what).at(span, format!("from {} to {}", bound.min, bound.max));
    problems.push(problem.help(format!("the default is {}", bound.default)));
    bound.default
}

pub(super) fn seconds(key: &str, field: &Field<u64>, bound: Bound, problems: &mut Vec<Problem>) -> Duration {
    Duration::from_secs(bounded(key, field, bound, problems))
}

fn size(key: &str, field: &Field<u64>, bound: Bound, unit: usize, problems: &mut Vec<Problem>) -> usize {
    usize::try_from(bounded(key, field, bound, problems))
        .map_or(usize::MAX, |count| count.saturating_mul(unit))
}

fn journal(file: &File, problems: &mut Vec<Problem>) -> Journal {
    let defaults = file::Journal::default();
    let journal = file.journal.value().unwrap_or(&defaults);
    let path = match journal.path.get() {
        Some((path, span)) if path.is_empty() => {
            let problem =
                Problem::new(Code::BadValue, "the journal's path is empty").at(span, "name a directory");
            problems.push(problem.help(format!("the default is {JOURNAL_PATH}")));
            JOURNAL_PATH
        }
        Some((path, _)) => path,
        None => JOURNAL_PATH,
    };
    let segment = bounded("segment_mib", &journal.segment_mib, bounds::SEGMENT_MIB, problems);
    let size_max = bounded("size_mib_max", &journal.size_mib_max, bounds::SIZE_MIB_MAX, problems);
    Journal {
        path: PathBuf::from(path),
        segment_mib: u32::try_from(segment).unwrap_or(u32::MAX),
        bytes_max: Some(size_max << 20).filter(|bytes_max| *bytes_max > 0),
        unavailable: match journal.unavailable.value() {
            Some(file::Unavailable::Fail) | None => JournalUnavailable::Fail,
            Some(file::Unavailable::Passthrough) => JournalUnavailable::Passthrough,
        },
    }
}

fn retention(file: &File, problems: &mut Vec<Problem>) -> Retention {
    let defaults = file::Retention::default();
    let given = file.retention.value().unwrap_or(&defaults);
    let mut hours = |key: &str, field: &Field<u64>, bound: Bound| {
        Duration::from_secs(bounded(key, field, bound, problems).saturating_mul(3600))
    };
    let idle = hours("close_after_idle_h", &given.close_after_idle_h, bounds::CLOSE_AFTER_IDLE_H);
    let bodies = hours("bodies_h", &given.bodies_h, bounds::BODIES_H);
    let records = hours("records_h", &given.records_h, bounds::RECORDS_H);
    let sweep = seconds("sweep_s", &given.sweep_s, bounds::SWEEP_S, problems);
    if records < bodies {
        let what = "`records_h` is less than `bodies_h`: records would go before the bodies that they name";
        let problem = Problem::new(Code::BadRetention, what);
        let at = [&given.records_h, &given.bodies_h].into_iter().find_map(Field::get);
        let problem = match at {
            Some((_, span)) => problem.at(span, "one of the two"),
            None => problem,
        };
        problems.push(problem.help("keep records at least as long as bodies"));
    }
    Retention { close_after_idle: Some(idle).filter(|idle| !idle.is_zero()), bodies, records, sweep }
}

fn limits(file: &File, problems: &mut Vec<Problem>) -> Limits {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let defaults = file::Limits::default();
    let limits = file.limits.value().unwrap_or(&defaults);
    let idle = bounds::BODY_IDLE_TIMEOUT_S;
    Limits {
        body_bytes_max: size("body_mib_max", &limits.body_mib_max, bounds::BODY_MIB_MAX, MIB, problems),
        body_idle_timeout: seconds("body_idle_timeout_s", &limits.body_idle_timeout_s, idle, problems),
        header_bytes_max: size(
            "header_kib_max",
            &limits.header_kib_max,
            bounds::HEADER_KIB_MAX,
            KIB,
            problems,
        ),
        header_timeout: seconds(
            "header_timeout_s",
            &limits.header_timeout_s,
            bounds::HEADER_TIMEOUT_S,
            problems,
        ),
        connections_max: size(
            "connections_max",
            &limits.connections_max,
            bounds::CONNECTIONS_MAX,
            1,
            problems,
        ),
        idle_timeout: seconds("idle_timeout_s", &limits.idle_timeout_s, bounds::IDLE_TIMEOUT_S, problems),
        recorded_bytes_max: size(
            "recorded_mib_max",
            &limits.recorded_mib_max,
            bounds::RECORDED_MIB_MAX,
            MIB,
            problems,
        ),
    }
}

fn log(file: &File) -> Log {
    let log = file.log.value();
    Log {
        level: match log.and_then(|log| log.level.value()) {
            Some(file::Level::Debug) => LogLevel::Debug,
            Some(file::Level::Error) => LogLevel::Error,
            Some(file::Level::Info) | None => LogLevel::Info,
            Some(file::Level::Trace) => LogLevel::Trace,
            Some(file::Level::Warn) => LogLevel::Warn,
        },
        format: match log.and_then(|log| log.format.value()) {
            Some(file::Format::Json) => LogFormat::Json,
            Some(file::Format::Text) | None => LogFormat::Text,
        },
    }
}

fn policies(file: &File, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let (given, span) = file.policies.get()?;
    let path = given.path.value().filter(|path| !path.is_empty());
    if path.is_none() && (given.path.is_missing() || given.path.value().is_some()) {
        let problem =
            Problem::new(Code::MissingKey, "`policies` without a `path`").at(span, "name the folder");
        problems.push(
            problem
                .help("such as `policies: { path: ./policies }`; without `policies` everything is allowed"),
        );
    }
    path.map(PathBuf::from)
}

fn upstreams(
    file: &File,
    own: &[SocketAddr],
    problems: &mut Vec<Problem>,
) -> BTreeMap<UpstreamName, Upstream> {
    let Some((given, span)) = file.upstreams.get() else {
        return if file.upstreams.is_missing() { default_upstreams() } else { BTreeMap::new() };
    };
    if given.is_empty() {
        let problem =
            Problem::new(Code::MissingKey, "there is no upstream").at(span, "name at least one here");
        problems.push(problem.help("leave `upstreams` away for openai, anthropic and gemini"));
    }
    let mut taken: BTreeMap<EnvName, Span> = BTreeMap::new();
    let mut upstreams = BTreeMap::new();
    for (key, given) in given {
        let name = upstream_name(key, problems);
        let Some(given) = given.value() else { continue };
        calls_itself(key, given, own, problems);
        let upstream = upstream(name.as_ref(), key, given, &mut taken, problems);
        upstreams.extend(name.zip(upstream));
    }
    upstreams
}

fn default_upstreams() -> BTreeMap<UpstreamName, Upstream> {
    let built = UPSTREAMS.into_iter().filter_map(|(name, dialect, url)| {
        let name = UpstreamName::parse(name).ok()?;
        let url = url::parse(url).ok()?;
        Some((name.clone(), plain_upstream(name, dialect, url)))
    });
    built.collect()
}

pub(super) fn plain_upstream(name: UpstreamName, dialect: Dialect, url: UpstreamUrl) -> Upstream {
    Upstream {
        name,
        dialect,
        url,
        environment: String::new(),
        ca_file: None,
        usage: UsageMode::Ask,
        connect_timeout: Duration::from_secs(bounds::CONNECT_TIMEOUT_S.default),
        idle_timeout: Duration::from_secs(bounds::UPSTREAM_IDLE_TIMEOUT_S.default),
        drain: Duration::from_secs(bounds::DRAIN_S.default),
        env: BTreeMap::new(),
        matching: Matching::default(),
        tools: BTreeMap::new(),
    }
}

fn upstream_name(key: &Key, problems: &mut Vec<Problem>) -> Option<UpstreamName> {
    let parsed = UpstreamName::parse(&key.text);
    parsed
        .map_err(|bad| {
            let what = format!("`{}` cannot be the name of an upstream: {bad}", key.text);
            let problem = Problem::new(Code::BadUpstreamName, what).at(key.span(), "this name");
            problems.push(problem.help("such as `openai` or `crm-2`; it is a part of the agents' base URLs"));
        })
        .ok()
}

/// Everything about one upstream; `None` when it lacks what it cannot do without.
fn upstream(
    name: Option<&UpstreamName>,
    key: &Key,
    given: &file::Upstream,
    taken: &mut BTreeMap<EnvName, Span>,
    problems: &mut Vec<Problem>,
) -> Option<Upstream> {
    for (what, missing) in [("dialect", given.dialect.is_missing()), ("url", given.url.is_missing())] {
        if missing {
            let problem =
                Problem::new(Code::MissingKey, format!("the upstream `{}` has no `{what}`", key.text));
            let help = match what {
                "dialect" => "one of `anthropic`, `gemini`, `http`, `mcp` and `openai`",
                _ => "such as https://api.openai.com or http://127.0.0.1:9001",
            };
            problems.push(problem.at(key.span(), "this upstream").help(help));
        }
    }
    let dialect = given.dialect.value().map(|dialect| match dialect {
        file::Dialect::Anthropic => Dialect::Anthropic,
        file::Dialect::Gemini => Dialect::Gemini,
        file::Dialect::Http => Dialect::Http,
        file::Dialect::Mcp => Dialect::Mcp,
        file::Dialect::Openai => Dialect::Openai,
    });
    let url = given.url.get().and_then(|(text, span)| url::check(text, span, dialect, problems));
    let ca_file = ca_file(given, url.as_ref(), problems);
    let env = env(given, taken, problems);
    let connect = seconds("connect_timeout_s", &given.connect_timeout_s, bounds::CONNECT_TIMEOUT_S, problems);
    let idle = seconds("idle_timeout_s", &given.idle_timeout_s, bounds::UPSTREAM_IDLE_TIMEOUT_S, problems);
    let drain = seconds("drain_s", &given.drain_s, bounds::DRAIN_S, problems);
    let usage = match given.usage.value() {
        Some(file::Usage::Ask) | None => UsageMode::Ask,
        Some(file::Usage::Observe) => UsageMode::Observe,
    };
    let tools = tools::tools(given, dialect, problems);
    let matching = matching::matching(given, dialect, problems);
    let plain = plain_upstream(name?.clone(), dialect?, url?);
    Some(Upstream {
        environment: given.environment.value().cloned().unwrap_or_default(),
        ca_file,
        env,
        connect_timeout: connect,
        idle_timeout: idle,
        drain,
        usage,
        matching,
        tools,
        ..plain
    })
}

fn ca_file(
    given: &file::Upstream,
    url: Option<&UpstreamUrl>,
    problems: &mut Vec<Problem>,
) -> Option<PathBuf> {
    let (path, span) = given.ca_file.get()?;
    if path.is_empty() {
        let problem = Problem::new(Code::BadCaFile, "`ca_file` is empty").at(span, "name a PEM file");
        problems.push(problem.help("leave the key away when the upstream has a public certificate"));
        return None;
    }
    if url.is_some_and(|url| url.scheme == http::uri::Scheme::HTTP) {
        let problem = Problem::new(Code::BadCaFile, "`ca_file` has no meaning for an upstream without TLS");
        problems.push(problem.at(span, "never used").help("make the url https, or leave the key away"));
    }
    Some(PathBuf::from(path))
}

fn env(
    given: &file::Upstream,
    taken: &mut BTreeMap<EnvName, Span>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<EnvName, String> {
    let mut env = BTreeMap::new();
    for (key, path) in given.env.value().into_iter().flatten() {
        let Some(name) = EnvName::parse(&key.text) else {
            let problem = Problem::new(Code::BadEnv, format!("`{}` is no name of a variable here", key.text));
            let help = "capital letters, digits and `_`, with no digit in front";
            problems.push(problem.at(key.span(), "this name").help(help));
            continue;
        };
        if let Some(first) = taken.insert(name.clone(), key.span()) {
            let problem = Problem::new(Code::BadEnv, format!("two upstreams set the variable {name}"));
            let problem = problem.at(key.span(), "again here").at(first, "here");
            problems.push(problem.help("a variable holds one URL; remove one"));
        }
        let Some((text, span)) = path.get() else { continue };
        match path_behind(text) {
            Ok(path) => {
                env.insert(name, path);
            }
            Err(bad) => {
                let problem =
                    Problem::new(Code::BadEnv, format!("`{text}` cannot be the path of {name}: {bad}"));
                let help = "the path behind the upstream's base URL, such as /mcp, or / for none";
                problems.push(problem.at(span, "this path").help(help));
            }
        }
    }
    env
}

/// An upstream at one of the sidecar's own addresses would call itself until the connections run out.
fn calls_itself(key: &Key, given: &file::Upstream, own: &[SocketAddr], problems: &mut Vec<Problem>) {
    let Some((text, span)) = given.url.get() else { return };
    let Ok(url) = url::parse(text) else { return };
    if let Some(same) = own.iter().find(|address| url::is_at(&url, address)) {
        let problem = Problem::new(Code::CallsItself, format!("the upstream `{}` is this sidecar", key.text));
        let problem = problem.at(span, format!("this is the sidecar's own address, {same}"));
        problems.push(problem.help("the url is where the real server listens, not where agents connect"));
    }
}
