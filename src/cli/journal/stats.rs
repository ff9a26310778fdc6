//! `outrigger journal stats`: what a journal holds, in figures.

use std::process::ExitCode;

use serde_json::json;

use crate::journal::embedded::{Stats, stats};

use super::super::failure::Failure;
use super::super::out;
use super::super::place::Files;
use super::not_opened;

/// Show what a journal holds: segments, workflows, records, bodies
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    files: Files,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let stats = stats(&args.files.options()?).map_err(not_opened)?;
    if args.json {
        out::line(&as_json(&stats).to_string());
    } else {
        out::text(&as_text(&stats));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(stats: &Stats) -> serde_json::Value {
    json!({
        "segments": stats.segments,
        "segments_sealed": stats.segments_sealed,
        "log_bytes": stats.log_bytes,
        "index_bytes": stats.index_bytes,
        "workflows": stats.workflows,
        "workflows_open": stats.workflows_open,
        "workflows_closed": stats.workflows_closed,
        "workflows_damaged": stats.workflows_damaged,
        "workflows_removed": stats.workflows_removed,
        "steps": stats.steps,
        "records": stats.records,
        "bodies": stats.bodies,
        "bodies_expired": stats.bodies_expired,
        "bodies_stored_bytes": stats.bodies_stored_bytes,
        "bodies_raw_bytes": stats.bodies_raw_bytes,
        "oldest": stats.oldest.map(|at| at.to_string()),
        "newest": stats.newest.map(|at| at.to_string()),
    })
}

fn as_text(stats: &Stats) -> String {
    let Stats { workflows, workflows_open, workflows_closed, workflows_damaged, .. } = stats;
    let at = |at: Option<crate::model::Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let rows = [
        ("segments", format!("{}, {} sealed", stats.segments, stats.segments_sealed)),
        ("on disk", format!("{} bytes, index {} bytes", stats.log_bytes, stats.index_bytes)),
        (
            "workflows",
            format!(
                "{workflows}: {workflows_open} open, {workflows_closed} closed, {workflows_damaged} damaged"
            ),
        ),
        ("tombstones", stats.workflows_removed.to_string()),
        ("steps", stats.steps.to_string()),
        ("records", stats.records.to_string()),
        (
            "bodies",
            format!(
                "{}, {} bytes stored, {} bytes raw; {} expired",
                stats.bodies, stats.bodies_stored_bytes, stats.bodies_raw_bytes, stats.bodies_expired
            ),
        ),
        ("oldest", at(stats.oldest)),
        ("newest", at(stats.newest)),
    ];
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use crate::model::Timestamp;

    use super::*;

    #[test]
    fn figures_are_told_one_per_line() {
        let stats = Stats {
            segments: 3,
            segments_sealed: 1,
            workflows: 2,
            workflows_open: 1,
            workflows_damaged: 1,
            bodies_expired: 3,
            newest: Some(Timestamp(1_795_140_000_000)),
            ..Stats::default()
        };
        let text = as_text(&stats);
        assert!(text.contains("segments   3, 1 sealed\n"), "{text}");
        assert!(text.contains("workflows  2: 1 open, 0 closed, 1 damaged\ntombstones 0\n"), "{text}");
        assert!(text.contains("oldest     -\n"), "{text}");
        assert_eq!(as_json(&stats)["newest"], Timestamp(1_795_140_000_000).to_string());
    }
}
