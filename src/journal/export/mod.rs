//! Workflows as lines of JSON, with everything that another journal needs to take them in bit for bit
//! (docs/journal-export.md). Knows no engine and no file: writes to a writer, reads from a reader.

mod fields;
mod import;
mod line;
mod plan;
mod write;

use std::io;

use aws_lc_rs::digest;

use crate::model::WorkflowKey;

pub use import::{Imported, Standing, import, import_unclosed, standing};
pub use plan::{Plan, Planned, plan};
pub use write::Writer;

/// What the first line says that the file is.
pub const FORMAT: &str = "outrigger-journal";

/// The version that is written, and the newest that is read. A later version of the program writes members
/// that this one passes over; what this one must not pass over gets a new version.
pub const VERSION: u64 = 1;

/// What a file holds, as its last line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub workflows: u64,
    pub records: u64,
    pub bodies: u64,
}

/// Why workflows are not exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not what was exported. Lines are counted from 1.
    #[error("line {line}: {what}")]
    Bad { line: u64, what: String },
    /// The workflow was taken in and is not what it was. A defect of ours.
    #[error("workflow {0} was imported and is not what was exported; do not use it, and report this")]
    Differs(WorkflowKey),
    #[error("the file cannot be {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error(transparent)]
    Journal(#[from] super::Error),
    #[error("line {line}: this was exported by a newer version ({what}); import it with that version")]
    Newer { line: u64, what: String },
}

impl Error {
    fn bad(line: u64, what: impl Into<String>) -> Self {
        Self::Bad { line, what: what.into() }
    }

    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// SHA-256 over the lines so far.
#[derive(Clone)]
struct Sum(digest::Context);

impl Sum {
    fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    fn add(&mut self, line: &[u8]) {
        self.0.update(line);
    }

    fn value(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.clone().finish().as_ref());
        hash
    }
}

#[cfg(test)]
mod tests;
