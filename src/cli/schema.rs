//! `outrigger schema`: the JSON Schema of the config file.

use std::process::ExitCode;

use super::failure::Failure;
use super::out;

/// Print the JSON Schema of the config file, for editors
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run() -> Result<ExitCode, Failure> {
    out::text(&crate::config::schema_text());
    Ok(ExitCode::SUCCESS)
}
