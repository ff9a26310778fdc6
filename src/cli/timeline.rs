//! `outrigger timeline`: what happened in a workflow.

use std::process::ExitCode;

use crate::timeline;

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// Show what happened in a workflow, one line per step
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let key = place::key(&args.workflow)?;
    let found = match args.place.find()? {
        Source::Asked(admin) => admin.timeline(&key.workflow).await?,
        Source::Nobody(settings) => {
            let journal = place::read(&settings)?;
            timeline::of(journal.as_ref(), &key, timeline::NOBODY)?
        }
    };
    if args.json {
        let text = serde_json::to_string(&found)
            .map_err(|error| Failure::new(format!("the timeline cannot be written as JSON: {error}")))?;
        out::line(&text);
    } else {
        out::text(&found.text());
    }
    Ok(ExitCode::SUCCESS)
}
