//! `outrigger journal export`: workflows as lines of JSON.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::journal::export::{self, Totals, Writer};
use crate::journal::{self, Journal};
use crate::model::WorkflowKey;

use super::super::failure::{self, Exit, Failure};
use super::super::out;
use super::super::place::{self, Files};
use super::{count, not_opened};

/// Write workflows with all their recorded answers as JSON Lines
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file holds everything the agents and their tools said, in plain text. Its format \
                        is in docs/journal-export.md."
)]
pub(super) struct Args {
    /// The workflows to write [default: all]
    #[arg(value_name = "WORKFLOW")]
    workflows: Vec<String>,
    /// Where to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let named = args.workflows.iter().map(|workflow| place::key(workflow)).collect::<Result<Vec<_>, _>>()?;
    let options = args.files.options()?;
    let (journal, _) = journal::embedded::Embedded::open_read_only(options).map_err(not_opened)?;
    for key in &named {
        if journal.attach(key)?.is_none() {
            return Err(failure::unknown(key));
        }
    }
    let keys = if named.is_empty() { all(&journal)? } else { named };
    let Exported { totals, left_out } = match &args.output {
        None => write(BufWriter::new(io::stdout().lock()), &journal, &keys)?.1,
        Some(path) => to_file(path, &journal, &keys)?,
    };
    let workflows = count(totals.workflows, "workflow", "workflows");
    let records = count(totals.records, "record", "records");
    out::note(&format!("exported {workflows}, {records}, {}", count(totals.bodies, "body", "bodies")));
    Ok(if left_out { Exit::Workflow.into() } else { ExitCode::SUCCESS })
}

struct Exported {
    totals: Totals,
    /// A workflow is damaged, and was not written.
    left_out: bool,
}

/// Every workflow, the oldest first.
fn all(journal: &dyn Journal) -> Result<Vec<WorkflowKey>, Failure> {
    Ok(journal.workflows()?.into_iter().rev().map(|row| row.key).collect())
}

fn write<W: Write>(out: W, journal: &dyn Journal, keys: &[WorkflowKey]) -> Result<(W, Exported), Failure> {
    let mut writer = Writer::new(out)?;
    let mut left_out = false;
    for key in keys {
        match writer.workflow(journal, key) {
            Ok(true) => {}
            Ok(false) => return Err(failure::unknown(key)),
            Err(export::Error::Journal(error)) => {
                out::note(&format!("workflow {key} is left out: {error}"));
                left_out = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let (out, totals) = writer.finish()?;
    Ok((out, Exported { totals, left_out }))
}

/// Writes beside `path` first: an export that was interrupted never has the name of a whole one.
fn to_file(path: &Path, journal: &dyn Journal, keys: &[WorkflowKey]) -> Result<Exported, Failure> {
    let wrong = |error: io::Error| Failure::new(format!("cannot write to {}: {error}", path.display()));
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let file = File::create(&unfinished).map_err(wrong)?;
    let written = write(BufWriter::new(file), journal, keys).and_then(|(file, exported)| {
        let file = file.into_inner().map_err(|error| wrong(error.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&unfinished, path)).map_err(wrong)?;
        Ok(exported)
    });
    if written.is_err() {
        // What went wrong is told; that this is left over would only be beside it.
        _ = fs::remove_file(&unfinished);
    }
    written
}
