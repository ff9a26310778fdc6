//! `outrigger close`: the workflow is done, whatever its agent says from now on.

use std::process::ExitCode;

use crate::app::SystemClock;
use crate::journal::Journal;
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
            // Looked up first: opening to write would make a journal where there is none.
            drop(place::read(&settings)?);
            let journal = place::write(&settings)?;
            let ticket = operations::close(journal.as_ref(), &key, REASON, SystemClock.now());
            let done = match ticket {
                Ok(Some(ticket)) => ticket.await.map_err(Failure::from),
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            let stopped = journal.close().map_err(Failure::from);
            done.and(stopped)?;
        }
    }
    out::line(&format!("workflow {} is closed", key.workflow));
    Ok(ExitCode::SUCCESS)
}
