//! `outrigger policy check`: is a set of policies right?

use std::process::ExitCode;

use crate::cli::failure::Failure;
use crate::cli::out;

use super::Folder;

/// Check policies and say everything that is wrong with them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// A warning is an error
    #[arg(long)]
    deny_warnings: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let sources = args.folder.sources()?;
    let engine = args.folder.engine(&sources)?;
    let warnings = engine.warnings();
    if args.deny_warnings && !warnings.is_empty() {
        return Err(Failure::Reports(warnings.to_vec()));
    }
    for warning in warnings {
        out::note(&warning.to_string());
    }
    let (guards, evidence) = (engine.guards().count(), engine.evidence().count());
    let hash = engine.hash().get(..12).unwrap_or_default();
    let folder = args.folder.policies.display();
    out::line(&format!("{folder} is right: {guards} guards, {evidence} evidence policies, set {hash}"));
    Ok(ExitCode::SUCCESS)
}
