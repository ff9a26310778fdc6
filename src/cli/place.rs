//! Where a command finds the workflows: it asks the process that has the journal, or reads the journal
//! itself when nobody has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::app::{self, SystemClock};
use crate::config::{self, ProcessEnv, Settings};
use crate::diag::Code;
use crate::journal::Journal;
use crate::journal::embedded::{Embedded, Options};
use crate::journal::lease::Lock;
use crate::model::{Owner, WorkflowId, WorkflowKey};

use super::admin::Admin;
use super::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Place {
    /// The sidecar's config, which says where the journal is [default: what OUTRIGGER_CONFIG names, else the
    /// built-in config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// The admin address of a running sidecar
    #[arg(long, value_name = "URL")]
    admin: Option<Admin>,
}

/// A journal's files, for what no running sidecar can be asked.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Files {
    /// The sidecar's config, which says where the journal is [default: what OUTRIGGER_CONFIG names, else the
    /// built-in config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The journal's directory
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
}

impl Files {
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        settings(self.config.as_deref(), self.journal.as_deref())
    }

    /// How the journal is opened by whoever does not serve with it.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let settings = self.settings()?;
        let mut options = Options::new(settings.journal.path, Arc::new(SystemClock));
        options.segment_bytes = u64::from(settings.journal.segment_mib) << 20;
        Ok(options)
    }
}

fn settings(config: Option<&Path>, journal: Option<&Path>) -> Result<Settings, Failure> {
    let mut settings = match journal {
        Some(_) => config::load_text("the built-in config", "", &ProcessEnv)?,
        None => config::load(config, &ProcessEnv)?,
    };
    if let Some(path) = journal {
        path.clone_into(&mut settings.journal.path);
    }
    Ok(settings)
}

/// Who can tell.
#[derive(Debug)]
pub(super) enum Source {
    Asked(Admin),
    /// Nobody has the journal that these settings name.
    Nobody(Box<Settings>),
}

impl Place {
    pub(super) fn find(&self) -> Result<Source, Failure> {
        if let Some(admin) = &self.admin {
            return Ok(Source::Asked(admin.clone()));
        }
        let settings = settings(self.config.as_deref(), self.journal.as_deref())?;
        let path = &settings.journal.path;
        let holder = Lock::read(path).map_err(|error| {
            Failure::new(format!("cannot read the journal's lock in {}: {error}", path.display()))
        })?;
        let Some(holder) = holder else { return Ok(Source::Nobody(Box::new(settings))) };
        match holder.admin.as_deref().map(str::parse::<Admin>) {
            Some(Ok(admin)) => Ok(Source::Asked(admin)),
            Some(Err(_)) | None => Err(Failure::new(format!(
                "process {} has the journal in {} and does not say where it can be asked",
                holder.pid,
                path.display()
            ))
            .code(Code::JournalLocked)
            .help("it may be just starting; try again in a moment")),
        }
    }
}

/// The workflow that an argument names.
pub(super) fn key(workflow: &str) -> Result<WorkflowKey, Failure> {
    let workflow = WorkflowId::parse(workflow)
        .map_err(|why| Failure::usage(Code::BadWorkflowId, format!("the workflow id is not valid: {why}")))?;
    Ok(WorkflowKey { owner: Owner::local(), workflow })
}

/// Opens a journal that nobody has, for reading. Changes no file.
pub(super) fn read(settings: &Settings) -> Result<Arc<dyn Journal>, Failure> {
    let path = &settings.journal.path;
    if !path.exists() {
        return Err(Failure::new(format!("there is no journal at {}", path.display()))
            .help("name it with `--journal DIR`, or the running sidecar with `--admin URL`")
            .exit_with(Exit::Workflow));
    }
    let (journal, _) = Embedded::open_read_only(Options::new(path.clone(), Arc::new(SystemClock)))
        .map_err(|error| Failure::from(app::StartError::Journal(error)))?;
    Ok(Arc::new(journal))
}

/// Changes a workflow in a journal that nobody has.
pub(super) async fn change<T>(
    settings: &Settings,
    change: impl AsyncFnOnce(&dyn Journal) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // Looked up first: opening to write would make a journal where there is none.
    drop(read(settings)?);
    write(settings, change).await
}

/// Opens a journal that nobody has, for writing, and makes it where there is none; lets go of it afterwards,
/// whatever became of the change.
pub(super) async fn write<T>(
    settings: &Settings,
    change: impl AsyncFnOnce(&dyn Journal) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let journal = app::open_journal(settings, settings.admin)?;
    let done = change(journal.as_ref()).await;
    let stopped = journal.close();
    let value = done?;
    stopped?;
    Ok(value)
}
