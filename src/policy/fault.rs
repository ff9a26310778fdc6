//! What is wrong with a set of policies: problems in the files that people wrote. Gathers; decides nothing.

use std::collections::BTreeMap;

use crate::diag::{Code, Problem, Report, Span};

/// A file of a set, as its user knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// `guards/payments.cedar`.
    pub name: String,
    pub text: String,
}

/// The problems of a set, by file.
#[derive(Debug, Default)]
pub(super) struct Faults {
    by_file: BTreeMap<String, Vec<Problem>>,
    /// With the text that the place is found by.
    sought: BTreeMap<String, Vec<(String, Problem)>>,
}

impl Faults {
    pub(super) fn add(&mut self, file: &str, problem: Problem) {
        self.by_file.entry(file.to_owned()).or_default().push(problem);
    }

    /// Adds a problem whose place is where `needle` stands in the file.
    pub(super) fn add_where(&mut self, file: &str, needle: String, problem: Problem) {
        self.sought.entry(file.to_owned()).or_default().push((needle, problem));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_file.is_empty() && self.sought.is_empty()
    }

    /// A report for each file, in the order of their names.
    pub(super) fn reports<'a>(mut self, files: impl Iterator<Item = &'a File> + Clone) -> Vec<Report> {
        let text =
            |name: &str| files.clone().find(|file| file.name == name).map_or("", |file| file.text.as_str());
        for (name, problems) in std::mem::take(&mut self.sought) {
            for (needle, problem) in problems {
                let span = place(text(&name), &needle);
                self.add(&name, problem.at(span, "here"));
            }
        }
        self.by_file
            .into_iter()
            .map(|(name, problems)| Report::new(name.clone(), text(&name), problems))
            .collect()
    }
}

/// A diagnostic of the Cedar library, with its places and its advice.
pub(super) fn of_cedar(code: Code, diagnostic: &dyn miette::Diagnostic) -> Problem {
    let message = without_policy(&diagnostic.to_string()).to_owned();
    let mut problem = Problem::new(code, &message);
    for label in diagnostic.labels().into_iter().flatten() {
        let start = label.offset();
        problem = problem.at(start..start + label.len(), label.label().unwrap_or("here"));
    }
    match diagnostic.help() {
        Some(help) => problem.help(without_policy(&help.to_string())),
        None if message.contains("Long") && message.contains("decimal") => {
            problem.help("amounts are compared as decimals: `.greaterThan(decimal(\"500.00\"))`")
        }
        None => problem,
    }
}

/// Without the words in front that say which policy it is about: the place says it too.
fn without_policy(text: &str) -> &str {
    let Some(rest) = text.strip_prefix("for policy `") else { return text };
    rest.split_once("`, ").or_else(|| rest.split_once("`: ")).map_or(text, |(_, rest)| rest)
}

/// Where `needle` stands in `text`, or its first byte.
pub(super) fn place(text: &str, needle: &str) -> Span {
    text.find(needle).map_or(0..0, |start| start..start + needle.len())
}

/// A set that cannot even be looked at.
pub fn unreadable(message: &str) -> Report {
    Report::without_text("policies", Problem::new(Code::PolicyUnreadable, message))
}
