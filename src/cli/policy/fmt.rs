//! `outrigger policy fmt`: every policy file in the layout that the Cedar formatter gives it.

use std::fs;
use std::process::ExitCode;

use cedar_policy_formatter::{Config, policies_str_to_pretty};

use crate::cli::failure::Failure;
use crate::cli::out;
use crate::diag::Code;

use super::Folder;

/// Columns of a policy file.
const WIDTH: usize = 100;
const INDENT: isize = 2;

/// Lay policy files out
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// Change nothing, and fail where a file would change
    #[arg(long)]
    check: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let sources = args.folder.sources()?;
    // Only files that are right are laid out: the formatter's parser has no bound for nesting.
    args.folder.engine(&sources)?;
    let config = Config { line_width: WIDTH, indent_width: INDENT };
    let mut changed = Vec::new();
    for file in sources.guards.iter().chain(&sources.evidence) {
        let pretty = policies_str_to_pretty(&file.text, &config)
            .map_err(|error| Failure::usage(Code::PolicyNotCedar, format!("{}: {error}", file.name)))?;
        if pretty == file.text {
            continue;
        }
        if !args.check {
            let path = args.folder.policies.join(&file.name);
            fs::write(&path, pretty)
                .map_err(|error| Failure::new(format!("{} cannot be written: {error}", path.display())))?;
        }
        changed.push(file.name.as_str());
    }
    if args.check && !changed.is_empty() {
        return Err(
            Failure::new(format!("{} would change", changed.join(", "))).help("`outrigger policy fmt`")
        );
    }
    out::line(&format!("{} files changed", changed.len()));
    Ok(ExitCode::SUCCESS)
}
