//! `outrigger close`: the workflow is done, whatever its agent says from now on.

use std::process::ExitCode;

use crate::app::SystemClock;
use crate::model::Clock;
use crate::proxy::operations;

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// What the journal says about who closed it.
const REASON: &str = "outrigger close";

/// Close a workflow: from now on its calls are refused
#[derive(Debug, clap::Args)]
#[command(after_help = "Refused while a step of it runs, and while an effect of it is in doubt.")]
pub(super) struct Args {
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let key = place::key(&args.workflow)?;
    match args.place.find()? {
        Source::Asked(admin) => admin.close(&key.workflow, REASON).await?,
        Source::Nobody(settings) => {
            place::change(&settings, async |journal| {
                match operations::close(journal, &key, REASON, SystemClock.now())? {
                    Some(ticket) => Ok(ticket.await?),
                    None => Ok(()),
                }
            })
            .await?;
        }
    }
    out::line(&format!("workflow {} is closed", key.workflow));
    Ok(ExitCode::SUCCESS)
}
