//! `outrigger journal`: what is to be done with a journal's files. One file per command. Each needs a journal
//! that nobody owns.

mod export;
mod import;
mod rebuild_index;
mod stats;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

use crate::app;
use crate::journal::embedded::OpenError;

use super::failure::Failure;

/// Verify, measure, export, import a journal, or make its index anew
#[derive(Debug, clap::Args)]
#[command(after_help = "These work on the files, so no sidecar may run on them. `outrigger workflows` and \
                        `outrigger timeline` ask a running one.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Export(export::Args),
    Import(import::Args),
    RebuildIndex(rebuild_index::Args),
    Stats(stats::Args),
    Verify(verify::Args),
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Export(args) => export::run(&args),
        Command::Import(args) => Box::pin(import::run(args)).await,
        Command::RebuildIndex(args) => rebuild_index::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Verify(args) => verify::run(&args),
    }
}

fn not_opened(error: OpenError) -> Failure {
    Failure::from(app::StartError::Journal(error))
}

/// A number with its noun: `1 record`, `2 bodies`.
fn count(number: impl Into<u64>, one: &str, more: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { more })
}
