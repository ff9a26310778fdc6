//! Sets of policies, made on a thread of their own: the Cedar parser needs stack for every level of nesting.

use std::thread;

use crate::diag::Report;
use crate::policy::{self, Engine, Side, Sources, Surroundings};

/// Stack of the thread, in bytes. The parser takes about 10 KiB a level, and 64 levels are the most.
const STACK_BYTES: usize = 64 << 20;

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
