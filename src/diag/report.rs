//! Everything that is wrong with a file that a person wrote, told at once: what, where, and the way out. Renders;
//! decides nothing.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use super::Code;

/// Bytes of a file.
pub type Span = Range<usize>;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// What is wrong, in a sentence without its full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Bytes of the file, and what to say of them; the first is the place itself.
    labels: Vec<(Span, String)>,
}

impl Problem {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, labels: Vec::new() }
    }

    #[must_use]
    pub(crate) fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    /// For a problem that was found where its place is not known.
    #[must_use]
    pub(crate) fn at_if_nowhere(self, span: &Span) -> Self {
        if self.labels.is_empty() { self.at(span.clone(), "here") } else { self }
    }

    #[must_use]
    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// "did you mean" when there is something to mean, else `otherwise`.
    #[must_use]
    pub(crate) fn help_nearest(self, nearest: Option<&str>, otherwise: impl Into<String>) -> Self {
        match nearest {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self.help(otherwise),
        }
    }

    fn start(&self) -> usize {
        self.labels.first().map_or(0, |(span, _)| span.start)
    }
}

/// Everything that is wrong with a file, in the order of the file.
#[derive(Clone, Debug)]
pub struct Report {
    /// How the user knows the file.
    name: String,
    text: Arc<str>,
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(name: impl Into<String>, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::start);
        Self { name: name.into(), text: text.into(), problems }
    }

    /// A file that cannot even be read.
    pub(crate) fn without_text(name: impl Into<String>, problem: Problem) -> Self {
        Self::new(name, "", vec![problem])
    }

    /// In the order of the file; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All problems with line, column and the lines around them. `colour`: with terminal colours.
    pub fn render(&self, colour: bool) -> String {
        /// Columns; narrow enough for a terminal beside an editor.
        const WIDTH: usize = 100;
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(WIDTH);
        let source = NamedSource::new(&self.name, Arc::clone(&self.text));
        let mut text = String::new();
        for problem in &self.problems {
            let shown = Shown { problem, source: (!self.text.is_empty()).then_some(&source) };
            // Writing to a String cannot fail.
            _ = handler.render_report(&mut text, &shown);
            text.push('\n');
        }
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        text.push_str(&format!("{count} problem{plural} in {}.", self.name));
        if let Some(first) = self.problems.first() {
            text.push_str(&format!(" `outrigger explain {}` tells more.", first.code));
        }
        text.push('\n');
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// A problem beside the file it is in.
struct Shown<'a> {
    problem: &'a Problem,
    source: Option<&'a NamedSource<Arc<str>>>,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(self.problem.code))
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source?;
        Some(Box::new(self.problem.labels.iter().map(|(span, label)| {
            let len = span.len().max(1);
            LabeledSpan::new(Some(label.clone()), span.start, len)
        })))
    }
}
