//! `outrigger journal rebuild-index`: the index beside the log, made anew.

use std::process::ExitCode;

use crate::journal::embedded::{Rebuilt, rebuild_index};

use super::super::failure::{Exit, Failure};
use super::super::out;
use super::super::place::Files;
use super::{count, not_opened};

/// Set the index beside the log aside and make it anew
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A sidecar does this by itself when it does not trust its index. Nothing recorded is in \
                        the index alone."
)]
pub(super) struct Args {
    #[command(flatten)]
    files: Files,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let rebuilt = rebuild_index(args.files.options()?).map_err(not_opened)?;
    out::text(&as_text(&rebuilt));
    Ok(if rebuilt.report.damage.is_empty() { ExitCode::SUCCESS } else { Exit::Workflow.into() })
}

fn as_text(rebuilt: &Rebuilt) -> String {
    let mut text = String::new();
    for damage in &rebuilt.report.damage {
        let workflows = damage.workflows.iter().map(ToString::to_string).collect::<Vec<_>>();
        text.push_str(&format!(
            "{}, offset {}: {} [{}]\n",
            damage.file,
            damage.offset,
            damage.what,
            workflows.join(", ")
        ));
    }
    for torn in &rebuilt.report.torn {
        let kept = torn.kept.display();
        text.push_str(&format!(
            "{}, offset {}: an unfinished end, which nobody was told is written; it is in {kept} now\n",
            torn.file, torn.offset
        ));
    }
    match &rebuilt.set_aside {
        Some(aside) => text.push_str(&format!("the index that was there is in {} now\n", aside.display())),
        None => text.push_str("there was no index\n"),
    }
    let segments = count(rebuilt.segments as u64, "sealed segment", "sealed segments");
    let entries = count(rebuilt.entries as u64, "entry", "entries");
    text.push_str(&format!("the index has {segments} and {entries} of workflows in them\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told() {
        let text = as_text(&Rebuilt { segments: 1, entries: 4, ..Rebuilt::default() });
        assert_eq!(
            text,
            "there was no index\nthe index has 1 sealed segment and 4 entries of workflows in them\n"
        );
        let text = as_text(&Rebuilt { set_aside: Some("index.broken".into()), ..Rebuilt::default() });
        assert!(text.starts_with("the index that was there is in index.broken now\n"), "{text}");
    }
}
