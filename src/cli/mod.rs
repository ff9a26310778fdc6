//! The command line: one file per command. Reads arguments, calls the layers below, prints, and turns what
//! happened into an exit code. Holds no logic that another program could need.

mod accept;
mod admin;
mod check;
mod close;
mod demo;
mod doctor;
mod explain;
mod failure;
mod gc;
mod journal;
mod log;
mod out;
mod place;
mod policy;
mod replay;
mod resolve;
mod run;
mod schema;
mod serve;
mod signals;
mod timeline;
mod workflows;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use failure::Failure;

/// How long what still runs in the background may take once the command is done.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(1);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it could not be done
  2  the arguments or the config are wrong, or `run` names a closed workflow
  3  the workflow or the journal does not allow it: unknown, closed, damaged, in doubt, still
     running, no journal there, or not what was asked for in a replay
  `run` and `replay` return the command's own exit code, 128 + the signal that killed it, 126 when it
  may not be executed and 127 when there is no such command.

`outrigger explain CODE` prints the page of an OG code.";

/// A sidecar that makes AI agents durable: it journals their LLM, MCP and HTTP tool calls per workflow and
/// answers from the journal what was already done
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Becomes the command of `run`, tied to the life of the wrapper.
    #[command(name = "__child", hide = true)]
    Child(run::child::Args),
    Accept(accept::Args),
    Check(check::Args),
    Close(close::Args),
    Demo(demo::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Gc(gc::Args),
    Journal(journal::Args),
    Policy(policy::Args),
    Replay(replay::Args),
    Resolve(resolve::Args),
    Run(run::Args),
    Schema(schema::Args),
    Serve(serve::Args),
    Timeline(timeline::Args),
    Workflows(workflows::Args),
}

/// The whole program, from the arguments to the exit code.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::Child(args) = command {
        // No runtime: no thread of ours may be left where the command will be.
        return run::child::become_command(&args);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Failure::new(format!("no threads can be started: {error}")))),
    };
    let code = runtime.block_on(perform(command));
    runtime.shutdown_timeout(LEFTOVERS_GRACE);
    code
}

/// Polled on the main thread, which `run` relies on.
async fn perform(command: Command) -> ExitCode {
    match command {
        Command::Accept(args) => ended(Box::pin(accept::run(args)).await),
        Command::Check(args) => ended(check::run(&args)),
        Command::Child(args) => run::child::become_command(&args),
        Command::Close(args) => ended(Box::pin(close::run(args)).await),
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Doctor(args) => ended(Box::pin(doctor::run(args)).await),
        Command::Explain(args) => ended(explain::run(&args)),
        Command::Gc(args) => ended(Box::pin(gc::run(args)).await),
        Command::Journal(args) => ended(Box::pin(journal::run(args)).await),
        Command::Policy(args) => ended(Box::pin(policy::run(args)).await),
        Command::Replay(args) => ended(Box::pin(replay::run(args)).await),
        Command::Resolve(args) => ended(Box::pin(resolve::run(args)).await),
        Command::Run(args) => ended(Box::pin(run::run(args)).await),
        Command::Schema(_) => ended(schema::run()),
        Command::Serve(args) => ended(Box::pin(serve::run(args)).await),
        Command::Timeline(args) => ended(Box::pin(timeline::run(args)).await),
        Command::Workflows(args) => ended(Box::pin(workflows::run(args)).await),
    }
}

fn ended(done: Result<ExitCode, Failure>) -> ExitCode {
    done.unwrap_or_else(|failure| {
        out::failure(&failure);
        failure.exit().into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_in_one_line() {
        let commands = Cli::command();
        for command in commands.get_subcommands().filter(|command| !command.is_hide_set()) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && about.len() <= 90, "{}: {about:?}", command.get_name());
        }
    }

    #[test]
    fn one_place_is_asked_not_two() {
        let both = ["outrigger", "timeline", "x", "--journal", "a", "--admin", "http://127.0.0.1:1"];
        assert!(Cli::try_parse_from(both).is_err());
        assert!(Cli::try_parse_from(["outrigger", "run", "--workflow", "x"]).is_err(), "a command is needed");
    }
}
