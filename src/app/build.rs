//! Settings to parts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::{self, Settings, UsageMode};
use crate::journal::Journal;
use crate::journal::embedded::{Embedded, IndexReport, OpenReport, Options};
use crate::model::UpstreamName;
use crate::proxy::listener;
use crate::proxy::recording::Recording;
use crate::proxy::retention::Retention;
use crate::proxy::sidecar::{JournalUnavailable, Limits, Reuse, Sidecar, Snapshot, Upstream};
use crate::route::{HttpTool, Tools};
use crate::telemetry::metrics::Metrics;
use crate::upstream;

use super::clock::SystemClock;
use super::error::StartError;
use super::policies::policies_of;

pub(super) fn journal(
    settings: &Settings,
    clock: Arc<SystemClock>,
    admin: SocketAddr,
    change: impl FnOnce(Options) -> Options,
) -> Result<Arc<Embedded>, StartError> {
    let mut options = Options::new(settings.journal.path.clone(), clock);
    options.segment_bytes = u64::from(settings.journal.segment_mib) << 20;
    options.admin = Some(format!("http://{admin}"));
    let options = change(options);
    let (journal, report) = Embedded::open(options).map_err(StartError::Journal)?;
    tell(&report);
    tracing::info!(
        journal = %settings.journal.path.display(), durability = journal.durability().as_str(),
        epoch = journal.epoch().0, "journal open"
    );
    Ok(Arc::new(journal))
}

/// Says what was found that an operator should know.
fn tell(report: &OpenReport) {
    for torn in &report.torn {
        tracing::warn!(
            file = torn.file, offset = torn.offset, bytes = torn.len, kept = %torn.kept.display(),
            "the journal ended in an unfinished batch, which nobody was told is written; it was set aside"
        );
    }
    for damage in &report.damage {
        let workflows: Vec<String> = damage.workflows.iter().map(ToString::to_string).collect();
        tracing::error!(
            file = damage.file,
            offset = damage.offset,
            bytes = damage.len,
            what = damage.what,
            workflows = workflows.join(", "),
            "the journal is damaged; these workflows are closed for effects"
        );
    }
    if let IndexReport::Rebuilt { why } = &report.index {
        tracing::info!(why, "the journal's index is being made again");
    }
}

pub(super) fn sidecar(
    settings: &Settings,
    journal: Arc<dyn Journal>,
    clock: Arc<SystemClock>,
    recording: Option<Arc<Recording>>,
) -> Result<Arc<Sidecar>, StartError> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), journal.durability().as_str())?;
    let snapshot = Snapshot {
        upstreams: upstreams(settings)?,
        limits: Limits {
            body_bytes_max: settings.limits.body_bytes_max,
            body_idle: settings.limits.body_idle_timeout,
            recorded_bytes_max: settings.limits.recorded_bytes_max,
        },
        default_workflow: settings.default_workflow.clone(),
        is_issued_only: settings.workflow_ids == config::WorkflowIds::Issued,
        refuses_divergence: settings.on_divergence == config::OnDivergence::Refuse,
        reuse: match settings.reuse {
            config::Reuse::NewRun => Reuse::NewRun,
            config::Reuse::Refuse => Reuse::Refuse,
            config::Reuse::Replay => Reuse::Replay,
        },
        retention: retention(settings),
        journal_bytes_max: settings.journal.bytes_max,
        is_shared: settings.workers == config::Workers::Shared,
        journal_unavailable: match settings.journal.unavailable {
            config::JournalUnavailable::Fail => JournalUnavailable::Fail,
            config::JournalUnavailable::Passthrough => JournalUnavailable::Passthrough,
        },
        recording,
    };
    // A strict replay sends nothing: there is nothing to allow.
    let is_live = snapshot.recording.is_none();
    let policies = if is_live { policies_of(settings).map_err(StartError::Policies)? } else { None };
    Ok(Sidecar::new(snapshot, policies, journal, clock, Arc::new(metrics), fill_random))
}

/// How long what is kept.
pub(super) fn retention(settings: &Settings) -> Retention {
    let config::Retention { close_after_idle, bodies, records, .. } = settings.retention;
    Retention { close_after_idle, bodies, records }
}

fn upstreams(settings: &Settings) -> Result<HashMap<UpstreamName, Arc<Upstream>>, StartError> {
    // Upstreams that connect alike share one client: root certificates take time and memory to load.
    let mut clients: Vec<(upstream::Config, upstream::Client)> = Vec::new();
    settings
        .upstreams
        .values()
        .map(|settings| {
            let config = client(settings);
            let known = clients.iter().find(|(built, _)| *built == config).map(|(_, client)| client.clone());
            let client = match known {
                Some(client) => client,
                None => {
                    let client = upstream::Client::new(&config)
                        .map_err(|source| StartError::Upstream { name: settings.name.clone(), source })?;
                    clients.push((config, client.clone()));
                    client
                }
            };
            Ok((settings.name.clone(), Arc::new(upstream_of(settings, client))))
        })
        .collect()
}

/// What the client of an upstream is built from.
pub(super) fn client(settings: &config::Upstream) -> upstream::Config {
    upstream::Config {
        connect_timeout: settings.connect_timeout,
        https: settings.url.scheme == http::uri::Scheme::HTTPS,
        ca_file: settings.ca_file.clone(),
    }
}

fn upstream_of(settings: &config::Upstream, client: upstream::Client) -> Upstream {
    Upstream {
        name: settings.name.clone(),
        dialect: settings.dialect,
        scheme: settings.url.scheme.clone(),
        authority: settings.url.authority.clone(),
        base_path: settings.url.base_path.clone(),
        client,
        idle: settings.idle_timeout,
        drain: settings.drain,
        matching: settings.matching.clone(),
        tools: tools_of(settings),
        observe_only: AtomicBool::new(settings.usage == UsageMode::Observe),
    }
}

fn tools_of(settings: &config::Upstream) -> Tools {
    let (mut named, mut routed) = (HashMap::new(), Vec::new());
    for (name, tool) in &settings.tools {
        let rule = Arc::new(tool.rule.clone());
        match &tool.route {
            None => _ = named.insert(name.clone(), rule),
            Some((method, path)) => {
                let (method, path) = (method.clone(), path.clone());
                routed.push(HttpTool { name: name.as_str().into(), method, path, rule });
            }
        }
    }
    Tools::new(named, routed)
}

pub(super) fn listener_limits(settings: &Settings) -> listener::Limits {
    listener::Limits {
        connections_max: settings.limits.connections_max,
        header_bytes_max: settings.limits.header_bytes_max,
        idle_timeout: settings.limits.idle_timeout,
        header_timeout: settings.limits.header_timeout,
    }
}

#[expect(
    clippy::expect_used,
    reason = "a machine without randomness can keep no promise; starting fails first"
)]
fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system's random numbers are available");
}
