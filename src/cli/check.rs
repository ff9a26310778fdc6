//! `outrigger check`: is the config right? Opens no socket and no journal.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::app;
use crate::config::{self, ProcessEnv};

use super::failure::Failure;
use super::out;

/// Check the config file, and the policies it names, and say everything that is wrong
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file [default: what OUTRIGGER_CONFIG names, else the built-in config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let settings = config::load(args.config.as_deref(), &ProcessEnv)?;
    app::policies_of(&settings).map_err(Failure::Reports)?;
    let name = settings
        .source
        .as_ref()
        .map_or_else(|| "the built-in config".into(), |path| path.display().to_string());
    let upstreams: Vec<&str> = settings.upstreams.keys().map(crate::model::UpstreamName::as_str).collect();
    out::line(&format!("{name} is right: upstreams {}", upstreams.join(", ")));
    Ok(ExitCode::SUCCESS)
}
