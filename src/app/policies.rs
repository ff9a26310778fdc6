//! Sets of policies, made on a thread of their own: the Cedar parser needs stack for every level of nesting.

use std::sync::Arc;
use std::thread;

use crate::config::{self, Settings};
use crate::diag::Report;
use crate::model::Dialect;
use crate::policy::{self, Engine, Server, Side, Sources, Surroundings};

/// Stack of the thread, in bytes. The parser takes about 10 KiB a level, and 64 levels are the most.
const STACK_BYTES: usize = 64 << 20;

/// The policies that a config puts in force; `None`: everything is allowed.
///
/// # Errors
/// A report for each file with problems.
pub fn policies_of(settings: &Settings) -> Result<Option<Arc<Engine>>, Vec<Report>> {
    let Some(folder) = &settings.policies else { return Ok(None) };
    let sources = config::read_policies(folder)?;
    let servers = settings.upstreams.values().map(|upstream| {
        let server = Server { env: upstream.environment.clone(), is_http: upstream.dialect == Dialect::Http };
        (upstream.name.as_str().to_owned(), server)
    });
    let around = Surroundings { servers: servers.collect(), teams: None };
    let engine = load_policies(&sources, &around)?;
    tracing::info!(
        folder = %folder.display(), set = engine.hash(), guards = engine.guards().count(), "policies are in force"
    );
    for warning in engine.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(Some(Arc::new(engine)))
}

/// Makes an engine of a set.
///
/// # Errors
/// A report for each file with problems.
pub fn load_policies(sources: &Sources, around: &Surroundings) -> Result<Engine, Vec<Report>> {
    deep(|| policy::load(sources, around))
}

/// The schema that policies of one side are checked against.
///
/// # Errors
/// A report for each file with problems.
pub fn policy_schema(sources: &Sources, around: &Surroundings, side: Side) -> Result<String, Vec<Report>> {
    deep(|| policy::schema_text(sources, around, side))
}

fn deep<T: Send>(work: impl FnOnce() -> Result<T, Vec<Report>> + Send) -> Result<T, Vec<Report>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("policies".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, work).map(thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(vec![policy::unreadable(&format!("no thread can be started to read them: {error}"))])
            }
        }
    })
}
