//! `outrigger journal import`: the workflows of an exported file, into a journal.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::app::SystemClock;
use crate::diag::Code;
use crate::journal::Journal;
use crate::journal::embedded::{Embedded, OpenError};
use crate::journal::export::{self, Plan, Standing};
use crate::model::Clock;

use super::super::failure::{Exit, Failure};
use super::super::out;
use super::super::place::{self, Files};
use super::{count, not_opened};

/// Take the workflows of an exported file into a journal
#[derive(Debug, clap::Args)]
#[command(after_help = "The whole file is checked first; nothing is written unless all of it is as it was \
                        exported. Go on with a workflow in one journal only: no journal knows what another \
                        one's agents did since.")]
pub(super) struct Args {
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    files: Files,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = args.files.settings()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wrong = |error| refused(&args.file, error);
    let plan = export::plan(BufReader::new(open(&args.file)?), &clock).map_err(wrong)?;
    // Looked up first: opening to write changes a journal, and makes one where there is none.
    match Embedded::open_read_only(args.files.options()?) {
        Ok((journal, _)) => none_differs(&journal, &plan)?,
        Err(OpenError::Missing { .. }) => {}
        Err(error) => return Err(not_opened(error)),
    }
    let imported = place::write(&settings, async |journal| {
        let mut file = BufReader::new(open(&args.file)?);
        none_differs(journal, &plan)?;
        export::import(journal, &mut file, &plan).await.map_err(wrong)
    })
    .await?;
    let workflows = count(imported.workflows, "workflow", "workflows");
    let records = count(imported.records, "record", "records");
    let bodies = count(imported.bodies, "body", "bodies");
    out::line(&format!("imported {workflows}, {records}, {bodies}; {} there already", imported.identical));
    Ok(ExitCode::SUCCESS)
}

fn open(file: &Path) -> Result<File, Failure> {
    File::open(file).map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))
}

fn none_differs(journal: &dyn Journal, plan: &Plan) -> Result<(), Failure> {
    let mut names = Vec::new();
    for planned in &plan.workflows {
        if export::standing(journal, planned)? == Standing::Different {
            names.push(planned.key.to_string());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let message = format!("the journal has other records of {}; nothing was imported", names.join(", "));
    Err(Failure::new(message).code(Code::WorkflowThere).exit_with(Exit::Workflow))
}

/// What is wrong with the file is told with its name.
fn refused(file: &Path, error: export::Error) -> Failure {
    match error {
        export::Error::Bad { .. } => Failure::new(format!(
            "{} is not what was exported; nothing was imported: {error}",
            file.display()
        ))
        .code(Code::BadExport)
        .exit_with(Exit::Workflow),
        export::Error::Differs(_)
        | export::Error::Io { .. }
        | export::Error::Journal(_)
        | export::Error::Newer { .. } => error.into(),
    }
}
