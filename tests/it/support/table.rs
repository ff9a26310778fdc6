//! What a test found, as a table of the durability report: written where `tests/proof/run` looks for it, and
//! nowhere in any other run.
#![allow(clippy::disallowed_methods, reason = "a test's own environment is no setting")]

use std::fmt::Write;
use std::path::PathBuf;

/// Names the folder for tables.
const FOLDER: &str = "OUTRIGGER_PROOF_TABLES";

/// A table in Markdown.
#[derive(Debug)]
pub(crate) struct Table {
    text: String,
    columns: usize,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut table = Self { text: String::new(), columns: columns.len() };
        table.row(columns);
        table.row(vec!["---"; columns.len()]);
        table
    }

    pub(crate) fn row<'a>(&mut self, cells: impl AsRef<[&'a str]>) {
        let cells = cells.as_ref();
        assert_eq!(cells.len(), self.columns, "{cells:?}");
        writeln!(self.text, "| {} |", cells.join(" | ")).unwrap();
    }

    /// Hands it to whoever writes the report, if anybody does.
    pub(crate) fn write(&self, name: &str) {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.md")), &self.text).unwrap();
    }
}

/// A number from the environment.
pub(crate) fn number(variable: &str, otherwise: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")),
        Err(_) => otherwise,
    }
}
