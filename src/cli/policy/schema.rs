//! `outrigger policy schema`: everything that policies can ask for, as a Cedar schema.

use std::process::ExitCode;

use crate::app;
use crate::cli::failure::Failure;
use crate::cli::out;
use crate::policy;

use super::Folder;

/// Print the Cedar schema that policies are checked against
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// Of which policies
    #[arg(long, value_enum, default_value = "guard")]
    side: Side,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Side {
    Guard,
    Evidence,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let sources = args.folder.sources()?;
    let side = match args.side {
        Side::Guard => policy::Side::Guard,
        Side::Evidence => policy::Side::Evidence,
    };
    let around = args.folder.surroundings(&sources);
    out::text(&app::policy_schema(&sources, &around, side).map_err(Failure::Reports)?);
    Ok(ExitCode::SUCCESS)
}
