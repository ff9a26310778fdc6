//! `outrigger policy`: what people who write policies need. Reads the folder, and for `pin` asks an upstream; needs no
//! sidecar and no journal.

mod check;
mod fmt;
mod pin;
mod schema;
mod test;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::app;
use crate::config;
use crate::policy::{Engine, Server, Sources, Surroundings};

use super::failure::Failure;

/// Check, test and format policies, and pin the tools that they are about
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Fmt(fmt::Args),
    Pin(pin::Args),
    Schema(schema::Args),
    Test(test::Args),
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::Fmt(args) => fmt::run(args),
        Command::Pin(args) => pin::run(args).await,
        Command::Schema(args) => schema::run(args),
        Command::Test(args) => test::run(args),
    }
}

/// Which policies.
#[derive(Debug, clap::Args)]
struct Folder {
    /// The folder of policies
    #[arg(long, value_name = "DIR", default_value = "policies")]
    policies: PathBuf,
    /// The teams that can approve, with commas between [default: whichever the policies name]
    #[arg(long, value_name = "TEAMS", value_delimiter = ',')]
    teams: Option<Vec<String>>,
}

impl Folder {
    fn sources(&self) -> Result<Sources, Failure> {
        config::read_policies(&self.policies).map_err(Failure::Reports)
    }

    fn surroundings(&self, sources: &Sources) -> Surroundings {
        let name = |name: &str| name.strip_prefix("tools/")?.strip_suffix(".lock.json").map(str::to_owned);
        let servers = sources.pins.iter().filter_map(|file| name(&file.name));
        Surroundings {
            servers: servers.map(|name| (name, Server::default())).collect(),
            teams: self.teams.as_ref().map(|teams| teams.iter().cloned().collect::<BTreeSet<_>>()),
        }
    }

    fn engine(&self, sources: &Sources) -> Result<Engine, Failure> {
        app::load_policies(sources, &self.surroundings(sources)).map_err(Failure::Reports)
    }
}
