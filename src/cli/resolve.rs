//! `outrigger resolve`: what has become of a call that may have happened.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::SystemClock;
use crate::diag::Code;
use crate::journal::Urgency;
use crate::model::{Clock, StepIndex};
use crate::proxy::resolve::{self, Answer, Outcome};

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// What the journal says about who resolved it.
const BY: &str = "outrigger resolve";

/// Say what has become of a call in doubt
#[derive(Debug, clap::Args)]
#[command(after_help = "Look at the other side first: a payment system or a mail server knows whether it \
                        was called. `outrigger timeline WORKFLOW` names the steps in doubt.")]
pub(super) struct Args {
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    /// Number of the step, as the timeline has it
    #[arg(value_name = "STEP")]
    step: u64,
    #[command(flatten)]
    said: Said,
    /// With --completed: the HTTP status of the answer
    #[arg(long, value_name = "STATUS", default_value_t = 200, requires = "completed")]
    status: u16,
    /// With --completed: the type of the answer [default: JSON where it is JSON, else plain text]
    #[arg(long, value_name = "TYPE", requires = "completed")]
    content_type: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Said {
    /// It happened; FILE holds its answer (for MCP the `result` object), which the agent will get. `-` reads
    /// standard input
    #[arg(long, value_name = "FILE")]
    completed: Option<PathBuf>,
    /// It did not happen; the agent's next equal call is sent
    #[arg(long)]
    not_executed: bool,
    /// Nobody can say: the call is not sent again, and no longer keeps its workflow open
    #[arg(long)]
    abandon: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let key = place::key(&args.workflow)?;
    let Some(step) = StepIndex::new(args.step) else {
        return Err(Failure::usage(Code::NotInDoubt, "steps are numbered from 1".to_owned()));
    };
    let outcome = outcome(&args)?;
    match args.place.find()? {
        Source::Asked(admin) => admin.resolve(&key.workflow, step, &outcome, BY).await?,
        Source::Nobody(settings) => {
            place::change(&settings, async |journal| {
                let batch = resolve::resolve(journal, &key, step, outcome, BY, SystemClock.now())?;
                Ok(journal.commit(&key, journal.epoch(), batch, Urgency::Now)?.await?)
            })
            .await?;
        }
    }
    let said = match &args.said {
        Said { completed: Some(_), .. } => "is completed; the agent gets the answer when it asks again",
        Said { abandon: true, .. } => "is given up and will not be sent again",
        Said { .. } => "was not carried out; it is sent when the agent asks again",
    };
    out::line(&format!("step {step} of workflow {} {said}", key.workflow));
    Ok(ExitCode::SUCCESS)
}

fn outcome(args: &Args) -> Result<Outcome, Failure> {
    match &args.said {
        Said { completed: Some(file), .. } => Ok(Outcome::Completed(Answer {
            status: args.status,
            content_type: args.content_type.clone(),
            body: read(file)?.into(),
        })),
        Said { abandon: true, .. } => Ok(Outcome::Abandoned),
        Said { .. } => Ok(Outcome::NotExecuted),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let read = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    read.map_err(|error| Failure::new(format!("cannot read the answer in {}: {error}", file.display())))
}
