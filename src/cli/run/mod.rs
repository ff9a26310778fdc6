//! `outrigger run`: a command under the care of a sidecar. Opens an attempt before every start, points the
//! command's base URLs at it, starts it again when it dies, and closes the workflow when it succeeds.

pub(super) mod child;
pub(super) mod command;
mod host;
mod restarts;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{self, BadEnvArgument, EnvBinding, EnvName, ProcessEnv, Settings};
use crate::diag::Code;
use crate::model::{AttemptId, WorkflowId};
use crate::timeline;

use super::admin::{Admin, Error};
use super::failure::{Exit, Failure};
use super::signals::{Asked, Signals};
use super::{log, out, place};

use command::Ended;
use host::Host;
use restarts::Restarts;

/// What the journal says about who closed the workflow.
const REASON: &str = "outrigger run: exit code 0";

/// Run a command, and start it again after a crash where it left off
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Sets OPENAI_BASE_URL, OPENAI_API_BASE, ANTHROPIC_BASE_URL and GOOGLE_GEMINI_BASE_URL to the upstreams of \
these dialects, and the variables that the config's `env:` and `--env` name. The workflow is closed when \
the command ends with exit code 0. SIGINT and SIGTERM are handed on to the command, which is killed at the \
second one. Exit codes 126 and 127 (it cannot be started) are not tried again.")]
pub(super) struct Args {
    /// The workflow's id; the same id again goes on where it stopped [default: what OUTRIGGER_WORKFLOW or the
    /// config names, else a new one]
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// The config file [default: what OUTRIGGER_CONFIG names, else the built-in config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a variable to an upstream's base URL; may be given more than once
    #[arg(long, value_name = "NAME=UPSTREAM[/PATH]")]
    env: Vec<String>,
    /// Give up after so many restarts in a row without a new step between
    #[arg(long, value_name = "N", default_value_t = 5)]
    max_restarts: u32,
    /// Use the running sidecar with this admin address instead of starting one
    #[arg(long, value_name = "URL")]
    sidecar: Option<Admin>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What does not change from one start of the command to the next.
#[derive(Debug)]
struct Job {
    workflow: WorkflowId,
    command: Vec<OsString>,
    bindings: BTreeMap<EnvName, EnvBinding>,
    max_restarts: u32,
    /// How long the command may take to end once it was told to.
    grace: Duration,
}

/// How the job ended.
#[derive(Debug)]
struct Done {
    code: u8,
    /// The first attempt of this run.
    since: u32,
    succeeded: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = config::load(args.config.as_deref(), &ProcessEnv)?;
    let bindings = bindings(&settings, &args.env)?;
    let is_fresh = args.workflow.is_none() && settings.default_workflow.is_none();
    let workflow = workflow(&args, &settings)?;
    log::start(settings.log, log::Stderr::Shared);
    // From here on a signal ends the run in order, not in the middle of a step.
    let mut signals =
        Signals::new().map_err(|error| Failure::new(format!("signals cannot be handled: {error}")))?;
    let job = Job {
        workflow,
        command: args.command,
        bindings,
        max_restarts: args.max_restarts,
        grace: settings.shutdown,
    };
    let host = match args.sidecar {
        Some(admin) => Host::there(admin).await?,
        None => Host::here(settings).await?,
    };
    if is_fresh {
        let id = &job.workflow;
        out::note(&format!(
            "workflow {id}; to go on after an end, add `--workflow {id}` to the same command"
        ));
    }
    let done = supervise(&job, &host, &mut signals).await;
    if let Ok(done) = &done {
        conclude(&job, &host, done).await;
    }
    let stopped = host.stop().await;
    let done = done?;
    if let Err(failure) = stopped {
        // The command's own end matters more to whoever waits for it.
        out::failure(&failure);
    }
    Ok(done.code.into())
}

/// The variables of the config and of `--env`.
pub(super) fn bindings(
    settings: &Settings,
    arguments: &[String],
) -> Result<BTreeMap<EnvName, EnvBinding>, Failure> {
    let mut bindings = config::env_bindings(settings);
    for argument in arguments {
        let (name, binding) = config::parse_env_argument(argument, settings)
            .map_err(|error| Failure::usage(BadEnvArgument::CODE, error.to_string()))?;
        bindings.insert(name, binding);
    }
    Ok(bindings)
}

fn workflow(args: &Args, settings: &Settings) -> Result<WorkflowId, Failure> {
    if let Some(id) = &args.workflow {
        return Ok(place::key(id)?.workflow);
    }
    if let Some(id) = &settings.default_workflow {
        return Ok(id.clone());
    }
    Ok(place::key(&format!("run-{}", uuid::Uuid::now_v7()))?.workflow)
}

/// Starts the command again and again until it succeeds, is told to end, or has died too often.
async fn supervise(job: &Job, host: &Host, signals: &mut Signals) -> Result<Done, Failure> {
    let mut restarts = Restarts::new(job.max_restarts);
    let mut since = None;
    loop {
        let before = host.completed(&job.workflow).await;
        let attempt = host.open_attempt(&job.workflow, since.is_some()).await;
        let attempt = attempt.map_err(|error| no_attempt(error, &job.workflow))?;
        let since = *since.get_or_insert(attempt);
        let ended = start(job, host, attempt, signals).await?;
        let done = |code| Done { code, since, succeeded: code == 0 && ended.asked.is_none() };
        if ended.asked.is_some() || matches!(ended.code(), 0 | child::NOT_FOUND | child::NOT_EXECUTABLE) {
            return Ok(done(ended.code()));
        }
        let progressed = host.completed(&job.workflow).await > before;
        let Some(pause) = restarts.died(progressed) else {
            out::failure(
                &Failure::new(format!(
                    "the command died again ({}) after {} restarts without a new step",
                    ended.shown(),
                    job.max_restarts
                ))
                .code(Code::RestartsExhausted),
            );
            return Ok(done(ended.code()));
        };
        out::note(&format!(
            "attempt {attempt} died ({}); next start in {} ms",
            ended.shown(),
            pause.as_millis()
        ));
        if let Some(asked) = pause_or_signal(pause, signals).await {
            return Ok(done(asked.exit_code()));
        }
    }
}

/// One attempt, from start to end. Not spawned: the command is tied to the thread that starts it, and
/// only the main thread surely lives as long as the process.
async fn start(job: &Job, host: &Host, attempt: u32, signals: &mut Signals) -> Result<Ended, Failure> {
    let id = AttemptId::new(attempt);
    let variables = config::env_for_children(&job.bindings, &host.base, &job.workflow, id);
    command::run(&job.command, &variables, signals, job.grace).await.map_err(|error| {
        Failure::new(format!("the command cannot be run: {error}")).code(Code::CommandNotStarted)
    })
}

fn no_attempt(error: Error, workflow: &WorkflowId) -> Failure {
    let closed = matches!(&error, Error::Refused { code: Some(Code::WorkflowClosed), .. });
    let failure = Failure::from(error);
    if !closed {
        return failure;
    }
    Failure::new(format!(
        "workflow {workflow} is closed: it has come to its end, and nothing more is done for it"
    ))
    .code(Code::WorkflowClosed)
    .help(format!("a new run needs a new id; `outrigger timeline {workflow}` shows what this one did"))
    .exit_with(Exit::Usage)
}

async fn pause_or_signal(pause: Duration, signals: &mut Signals) -> Option<Asked> {
    tokio::select! {
        asked = signals.next() => Some(asked),
        () = tokio::time::sleep(pause) => None,
    }
}

/// Closes the workflow after a success, and says what the run came to.
async fn conclude(job: &Job, host: &Host, done: &Done) {
    if done.succeeded
        && let Err(error) = host.close(&job.workflow, REASON).await
    {
        out::note(&format!("workflow {} stays open: {error}", job.workflow));
    }
    match host.timeline(&job.workflow).await {
        Ok(timeline) => out::note(&timeline::summary(&timeline, done.since).to_string()),
        Err(error) => out::note(&format!("no summary: {error}")),
    }
}
