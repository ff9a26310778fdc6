//! `outrigger accept`: the way that a restarted agent has gone is right, although the recorded run went another.

use std::process::ExitCode;

use crate::app::SystemClock;
use crate::journal::Urgency;
use crate::model::Clock;
use crate::proxy::fork;

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// What the journal says about who accepted.
const BY: &str = "outrigger accept";

/// Accept that a restarted agent goes another way
#[derive(Debug, clap::Args)]
#[command(after_help = "Its new effects are then sent. What the recorded run did stays recorded: an effect \
                        that is asked for again is still answered from the journal.")]
pub(super) struct Args {
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let key = place::key(&args.workflow)?;
    let steps = match args.place.find()? {
        Source::Asked(admin) => admin.accept(&key.workflow, BY).await?,
        Source::Nobody(settings) => {
            place::change(&settings, async |journal| {
                let (steps, batch) = fork::accept(journal, &key, BY, SystemClock.now())?;
                journal.commit(&key, journal.epoch(), batch, Urgency::Now)?.await?;
                Ok(steps)
            })
            .await?
        }
    };
    let shown: Vec<String> = steps.iter().map(u64::to_string).collect();
    out::line(&format!("workflow {} goes on without step {}", key.workflow, shown.join(", ")));
    Ok(ExitCode::SUCCESS)
}
