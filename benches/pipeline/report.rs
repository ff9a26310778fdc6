//! Figures as tables, and figures against targets. Prints as it goes and, when asked, writes the same text into
//! `benches/REPORT.md`.

use std::fmt::Write;
use std::path::Path;

use crate::Effort;
use crate::process::Field;

/// Targets of `benches/`, in the units of each check, and what was found.
#[derive(Debug)]
struct Check {
    what: String,
    figure: f64,
    most: f64,
    unit: &'static str,
}

/// One row per kind of call, one column per proxy.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
    nginx: bool,
}

impl Table {
    pub(crate) fn new(title: &str, field: &Field) -> Self {
        let mut table =
            Self { rows: Vec::new(), columns: field.runners.len(), nginx: field.position("nginx").is_some() };
        table.row(title, |at| field.runners[at].name.to_owned());
        let head = table.rows.first_mut().filter(|_| !table.nginx);
        if let Some(cell) = head.and_then(|head| head.last_mut()) {
            *cell = "nginx".to_owned();
        }
        table
    }

    /// A row whose cells `cell` gives by the position of the runner.
    pub(crate) fn row(&mut self, name: impl Into<String>, cell: impl Fn(usize) -> String) {
        let mut row = vec![name.into()];
        row.extend((0..self.columns).map(cell));
        if !self.nginx {
            row.push("not installed".to_owned());
        }
        self.rows.push(row);
    }

    fn text(&self) -> String {
        aligned(&self.rows)
    }
}

/// Everything that was found.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
    checks: Vec<Check>,
    /// KB and milliseconds; judged once the flush is known.
    added: Vec<(usize, f64)>,
}

impl Report {
    pub(crate) fn new(effort: Effort) -> Self {
        let mut report = Self { text: String::new(), checks: Vec::new(), added: Vec::new() };
        report.line(format!(
            "Medians of {} interleaved rounds on {} CPUs. Compare ratios within this run only; the floor is a \
             minimal hyper reverse proxy, `passing` is Outrigger without a workflow, `journaling` with one per \
             connection.",
            effort.rounds,
            std::thread::available_parallelism().map_or(0, usize::from)
        ));
        report
    }

    /// A paragraph.
    pub(crate) fn line(&mut self, line: String) {
        self.add(&format!("{line}\n"));
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.add(&table.text());
    }

    /// A figure that is to be at most `most`.
    pub(crate) fn check(&mut self, what: String, figure: f64, most: f64, unit: &'static str) {
        self.checks.push(Check { what, figure, most, unit });
    }

    /// Milliseconds that journaling adds to a call of so many KB; the flush is part of them.
    pub(crate) fn added_by_journaling(&mut self, kilobytes: usize, milliseconds: f64) {
        self.added.push((kilobytes, milliseconds));
    }

    /// What a bare flush took in this run, in milliseconds.
    pub(crate) fn flush_is(&mut self, milliseconds: f64) {
        for (kilobytes, added) in std::mem::take(&mut self.added) {
            let what = format!("added p50 journaling, {kilobytes} KB, without the flush");
            self.check(what, added - milliseconds, 1.0, "ms");
        }
    }

    /// The targets, and the end.
    pub(crate) fn finish(mut self, write: bool) {
        let mut rows = vec![["Target", "found", "at most", "unit", ""].map(str::to_owned).to_vec()];
        for Check { what, figure, most, unit } in &self.checks {
            // Not `figure > most`: what is not a number misses too.
            let verdict = if figure <= most { "pass" } else { "MISS" };
            let (figure, most) = (format!("{figure:.2}"), most.to_string());
            rows.push(vec![what.clone(), figure, most, (*unit).to_owned(), verdict.to_owned()]);
        }
        self.add(&aligned(&rows));
        if write {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/REPORT.md");
            std::fs::write(path, format!("# The pipeline bench\n{}", self.text)).unwrap();
        }
    }

    fn add(&mut self, text: &str) {
        println!("\n{}", text.trim_end());
        _ = write!(self.text, "\n{text}");
    }
}

/// A Markdown table whose columns line up for readers of the plain text.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        _ = writeln!(text, "| {} |", cells.join(" | "));
        if at == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}
