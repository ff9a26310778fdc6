//! `outrigger workflows`: what is in the journal.

use std::process::ExitCode;

use serde_json::json;

use crate::model::Owner;
use crate::timeline;

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// List the workflows: state, attempts, steps, last change
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let rows = match args.place.find()? {
        Source::Asked(admin) => admin.workflows().await?,
        Source::Nobody(settings) => {
            let journal = place::read(&settings)?;
            timeline::rows(journal.as_ref(), &Owner::local(), timeline::NOBODY)?
        }
    };
    if args.json {
        out::line(&json!({ "workflows": rows }).to_string());
    } else if rows.is_empty() {
        out::note("no workflow has been opened yet");
    } else {
        out::text(&timeline::rows_text(&rows));
    }
    Ok(ExitCode::SUCCESS)
}
