//! `outrigger replay`: recorded runs as a test fixture. Serves an export from memory, or runs a command against it,
//! and says at the end whether everything was as it is recorded. Sends nothing.

mod report;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::app::{self, Running, SystemClock};
use crate::config::{self, Listen, ProcessEnv, Settings};
use crate::diag::Code;
use crate::journal::export;
use crate::journal::memory::Memory;
use crate::model::{Clock, WorkflowId};
use crate::proxy::recording::Recording;

use super::failure::{Exit, Failure};
use super::run::{self, command};
use super::signals::Signals;
use super::{log, out, place};

/// Serve recorded runs to tests: what is recorded is answered, everything else refused
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is sent anywhere, and no provider's key is needed. With a COMMAND it is run against the recorded runs, and \
finds OPENAI_BASE_URL and the other variables of `outrigger run`, OUTRIGGER_REPLAY_URL, and a key that is none \
where it has none. Without one, a line of JSON on standard output says where the sidecar listens and what these \
variables would be, and SIGTERM or SIGINT ends it.

A call that names no workflow is of the one in the export, if there is one alone, or of `--workflow`. Every attempt \
(`/w/<workflow>/a/<n>/...`) begins the recorded run anew, whatever the others do.

The exit code is the command's if that is not 0, 3 if a call was refused or `--complete` is not fulfilled, else 0.")]
pub(super) struct Args {
    /// Refuse what is not recorded; required
    #[arg(long, required = true)]
    strict: bool,
    /// What `outrigger journal export` wrote
    #[arg(long, value_name = "EXPORT")]
    journal: PathBuf,
    /// Fail also when recorded answers were not asked for
    #[arg(long)]
    complete: bool,
    /// The config under which the runs were recorded, for what it says of tools and upstreams [default: their
    /// names and dialects in the export]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The workflow of calls that name none [default: the only one in the export]
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// Set a variable to an upstream's base URL; may be given more than once
    #[arg(long, value_name = "NAME=UPSTREAM[/PATH]")]
    env: Vec<String>,
    /// Listen here [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let (journal, recording) = open(&args.journal).await?;
    let mut settings = settings(&args, &recording)?;
    settings.default_workflow = workflow(args.workflow.as_deref(), &recording)?;
    let bindings = run::bindings(&settings, &args.env)?;
    log::start(settings.log, log::Stderr::Shared);
    let mut signals =
        Signals::new().map_err(|error| Failure::new(format!("signals cannot be handled: {error}")))?;
    let (default_workflow, grace) = (settings.default_workflow.clone(), settings.shutdown);
    let running =
        Box::pin(app::start_replay(settings.clone(), Arc::new(journal.clone()), Arc::clone(&recording)))
            .await?;
    let mut addresses = running.listen().iter().filter_map(Listen::tcp);
    let address = addresses.next().ok_or_else(|| Failure::new("the sidecar listens nowhere"))?;
    let base = format!("http://{address}");
    let variables =
        config::env_for_replay(&settings, &bindings, &base, default_workflow.as_ref(), &ProcessEnv);
    let code = if args.command.is_empty() {
        out::line(&ready(&running, &recording, default_workflow.as_ref(), (&base, &variables)));
        signals.next().await;
        Ok(0)
    } else {
        perform(&args.command, variables, &mut signals, grace).await
    };
    let stopped = running.stop().await;
    let code = code?;
    stopped?;
    let report = recording.report(&journal)?;
    report::tell(&report);
    if code != 0 {
        return Ok(code.into());
    }
    report::judge(&report, args.complete).map(|()| ExitCode::SUCCESS)
}

/// Reads an export, all of which is checked, into memory.
async fn open(path: &Path) -> Result<(Memory, Arc<Recording>), Failure> {
    if path.is_dir() {
        return Err(Failure::new(format!("{} is a directory, and no exported file", path.display()))
            .code(Code::BadExport)
            .help(
                "of a journal, write an export first: `outrigger journal export --output FILE --journal DIR`",
            )
            .exit_with(Exit::Workflow));
    }
    let file = || {
        let file = File::open(path);
        file.map(BufReader::new)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
    };
    let wrong = |error: export::Error| match error {
        export::Error::Bad { .. } => {
            Failure::new(format!("{} is not what was exported: {error}", path.display()))
                .code(Code::BadExport)
                .exit_with(Exit::Workflow)
        }
        export::Error::Differs(_)
        | export::Error::Io { .. }
        | export::Error::Journal(_)
        | export::Error::Newer { .. } => error.into(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let plan = export::plan(file()?, &clock).map_err(wrong)?;
    let journal = Memory::new(clock);
    export::import_unclosed(&journal, &mut file()?, &plan).await.map_err(wrong)?;
    let recording = Recording::of(&journal)?;
    if recording.workflows().next().is_none() {
        return Err(Failure::new(format!("{} holds no workflow", path.display()))
            .code(Code::NoSuchWorkflow)
            .exit_with(Exit::Workflow));
    }
    Ok((journal, Arc::new(recording)))
}

fn settings(args: &Args, recording: &Recording) -> Result<Settings, Failure> {
    let settings = match &args.config {
        Some(path) => config::load(Some(path), &ProcessEnv)?,
        // Not what OUTRIGGER_CONFIG names: a test does not depend on whose machine it runs on.
        None => config::load_text("the built-in config", "", &ProcessEnv)?,
    };
    let mut settings = config::replayed(settings, recording.upstreams());
    if let Some(listen) = args.listen {
        if !listen.ip().to_canonical().is_loopback() {
            let message =
                format!("other machines can reach {listen}, and whoever reaches it can read the runs");
            return Err(Failure::usage(Code::ExposedListener, message).help("listen on 127.0.0.1"));
        }
        settings.listen = vec![Listen::Tcp(listen)];
    }
    Ok(settings)
}

fn workflow(named: Option<&str>, recording: &Recording) -> Result<Option<WorkflowId>, Failure> {
    let Some(named) = named else { return Ok(recording.only().cloned()) };
    let workflow = place::key(named)?.workflow;
    if recording.run(&workflow).is_none() {
        let recorded: Vec<&str> = recording.workflows().map(WorkflowId::as_str).collect();
        let message = format!("the export has no workflow {workflow}; it has {}", recorded.join(", "));
        return Err(Failure::new(message).code(Code::NoSuchWorkflow).exit_with(Exit::Workflow));
    }
    Ok(Some(workflow))
}

/// What a test reads to find the sidecar.
fn ready(
    running: &Running,
    recording: &Recording,
    workflow: Option<&WorkflowId>,
    (base, variables): (&str, &BTreeMap<String, String>),
) -> String {
    let workflows: Vec<&str> = recording.workflows().map(WorkflowId::as_str).collect();
    let ready = json!({
        "ready": true,
        "pid": std::process::id(),
        "listen": running.listen(),
        "admin": format!("http://{}", running.admin()),
        "base_url": base,
        "workflow": workflow.map(WorkflowId::as_str),
        "workflows": workflows,
        "env": variables,
    });
    ready.to_string()
}

/// Runs the command once: a test that dies is not started again.
async fn perform(
    words: &[OsString],
    variables: BTreeMap<String, String>,
    signals: &mut Signals,
    grace: Duration,
) -> Result<u8, Failure> {
    let variables: Vec<(String, String)> = variables.into_iter().collect();
    let ended = command::run(words, &variables, signals, grace).await.map_err(|error| {
        Failure::new(format!("the command cannot be run: {error}")).code(Code::CommandNotStarted)
    })?;
    Ok(match (ended.code(), ended.asked) {
        // It was told to end and did so in order; that is no success of what was to be tested.
        (0, Some(asked)) => asked.exit_code(),
        (code, _) => code,
    })
}
