//! `outrigger demo`: an agent of fifty steps is killed with SIGKILL and started again, first straight at its
//! upstreams, then through Outrigger, and the upstreams' own counters tell the difference. Owns the command
//! and the hidden roles its child processes play. Needs no key, no network and no interpreter; never takes a
//! number from the sidecar or from its own book-keeping.

mod agent;
mod client;
mod errand;
mod error;
mod process;
mod progress;
mod stage;
mod table;
mod upstream;

use std::ffi::OsString;
use std::process::ExitCode;

use super::failure::Failure;
use super::out;
use super::signals::Signals;
use error::Error;
use progress::Progress;
use stage::Played;

/// How the demo ends when its numbers are not those of an undisturbed run.
const DIFFERS: u8 = 1;

/// Kill an agent at step 47, start it again, and count what the restart cost
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct Args {
    /// The step at which the agent is killed, once its request has reached the upstream
    #[arg(long, value_name = "STEP", default_value_t = 47,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(errand::STEPS)))]
    kill_at: u32,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a child process of the demo is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// The agent.
    #[command(name = "__agent", hide = true)]
    Agent(agent::Args),
    /// Any other role, tied to the life of the demo.
    #[command(name = "__leash", hide = true)]
    Leash {
        #[arg(long)]
        parent: u32,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// The model and the MCP server.
    #[command(name = "__upstream", hide = true)]
    Upstream(upstream::Args),
}

/// Runs the demo, or the role a demo gave this process.
pub(super) async fn run(args: Args) -> ExitCode {
    let done = match args.role {
        Some(Role::Agent(agent)) => agent::run(agent).await,
        Some(Role::Leash { parent, command }) => Err(process::leash(parent, &command)),
        Some(Role::Upstream(upstream)) => upstream::run(upstream).await,
        None => return perform(args.kill_at, args.json).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn perform(kill_at: u32, json: bool) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(source) => return fail(&Error::Signals(source)),
    };
    let mut progress = Progress::new();
    let played = tokio::select! {
        played = Box::pin(stage::play(kill_at, &mut progress)) => played,
        asked = signals.next() => {
            // The children are gone with the play that was dropped.
            progress.clear();
            return asked.exit_code().into();
        }
    };
    progress.clear();
    match played.and_then(|played| report(&played, json)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn report(played: &Played, json: bool) -> Result<ExitCode, Error> {
    out::text(&if json { table::json(played)? } else { table::text(played) });
    Ok(if played.is_exact() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

fn fail(error: &Error) -> ExitCode {
    let failure = Failure::new(chain(error));
    out::failure(&failure);
    failure.exit().into()
}

/// What happened, and why, down to the first cause.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}
