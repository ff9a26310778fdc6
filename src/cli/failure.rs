//! Why a command ends without having done what it was asked: what is shown, and the exit code.

use std::fmt;
use std::process::ExitCode;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use crate::app::{StartError, StopError};
use crate::config::Report;
use crate::diag::Code;
use crate::journal::{self, export};
use crate::model::WorkflowKey;
use crate::proxy::operations::OperationError;
use crate::timeline;

/// Columns of a rendered failure.
const WIDTH: usize = 100;

/// The exit codes that are ours; `outrigger --help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Failed,
    Usage,
    Workflow,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Workflow => 3,
        })
    }
}

/// A failure as a person is told it.
#[derive(Debug)]
pub(super) enum Failure {
    Config(Report),
    /// Files of policies.
    Reports(Vec<Report>),
    Told(Told),
}

/// One sentence, with the page and the way out when there are any.
#[derive(Debug)]
pub(super) struct Told {
    exit: Exit,
    code: Option<Code>,
    message: String,
    help: Option<String>,
}

impl Failure {
    /// A failure with exit code 1.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self::Told(Told { exit: Exit::Failed, code: None, message: message.into(), help: None })
    }

    pub(super) fn usage(code: Code, message: impl Into<String>) -> Self {
        Self::new(message).code(code).exit_with(Exit::Usage)
    }

    #[must_use]
    pub(super) fn code(self, code: impl Into<Option<Code>>) -> Self {
        self.changed(|told| told.code = code.into())
    }

    #[must_use]
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        self.changed(|told| told.help = Some(help.into()))
    }

    #[must_use]
    pub(super) fn exit_with(self, exit: Exit) -> Self {
        self.changed(|told| told.exit = exit)
    }

    fn changed(mut self, change: impl FnOnce(&mut Told)) -> Self {
        if let Self::Told(told) = &mut self {
            change(told);
        }
        self
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Reports(_) => Exit::Usage,
            Self::Told(told) => told.exit,
        }
    }

    pub(super) fn render(&self, colour: bool) -> String {
        match self {
            Self::Config(report) => report.render(colour),
            Self::Reports(reports) => {
                reports.iter().map(|report| report.render(colour)).collect::<Vec<_>>().join("\n")
            }
            Self::Told(told) => {
                let theme =
                    if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
                let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(WIDTH);
                let mut text = String::new();
                // Writing to a String cannot fail.
                _ = handler.render_report(&mut text, told);
                text
            }
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Told {}

impl Diagnostic for Told {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.code.map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match (&self.help, self.code) {
            (Some(help), _) => Some(Box::new(help)),
            (None, Some(code)) => Some(Box::new(format!("`outrigger explain {code}` says what to do"))),
            (None, None) => None,
        }
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::Config(report)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let (message, code) = (error.to_string(), error.code());
        if let StartError::Policies(reports) = error {
            return Self::Reports(reports);
        }
        Self::new(message).code(code)
    }
}

impl From<StopError> for Failure {
    fn from(error: StopError) -> Self {
        Self::new(error.to_string()).code(Code::JournalUnavailable)
    }
}

impl From<journal::Error> for Failure {
    fn from(error: journal::Error) -> Self {
        let told = Self::new(error.to_string());
        match error {
            journal::Error::Damaged { .. } | journal::Error::Body { .. } => {
                told.code(Code::WorkflowDamaged).exit_with(Exit::Workflow)
            }
            journal::Error::Compaction { .. }
            | journal::Error::Fenced { .. }
            | journal::Error::OutOfOrder(_)
            | journal::Error::Poisoned { .. }
            | journal::Error::Read { .. } => told.code(Code::JournalUnavailable),
        }
    }
}

impl From<export::Error> for Failure {
    fn from(error: export::Error) -> Self {
        match error {
            export::Error::Journal(error) => error.into(),
            export::Error::Bad { .. } => {
                Self::new(error.to_string()).code(Code::BadExport).exit_with(Exit::Workflow)
            }
            export::Error::Newer { .. } => Self::new(error.to_string()).code(Code::JournalNewer),
            export::Error::Differs(_) | export::Error::Io { .. } => Self::new(error.to_string()),
        }
    }
}

/// The journal has no workflow of this name.
pub(super) fn unknown(key: &WorkflowKey) -> Failure {
    timeline::Error::Unknown(key.workflow.clone()).into()
}

impl From<timeline::Error> for Failure {
    fn from(error: timeline::Error) -> Self {
        match error {
            timeline::Error::Journal(error) => error.into(),
            timeline::Error::NoAttempt(_) | timeline::Error::SameAttempt(_) => {
                Self::new(error.to_string()).code(Code::NothingToCompare).exit_with(Exit::Workflow)
            }
            timeline::Error::Unknown(_) => {
                Self::new(error.to_string()).code(Code::NoSuchWorkflow).exit_with(Exit::Workflow)
            }
        }
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        let code = match &error {
            OperationError::Attended => return Self::new(error.to_string()).exit_with(Exit::Workflow),
            OperationError::BadAnswer(_) => return Self::new(error.to_string()).exit_with(Exit::Usage),
            OperationError::Defect(_) => return Self::new(error.to_string()),
            OperationError::Closed => Code::WorkflowClosed,
            OperationError::Damaged(_) => Code::WorkflowDamaged,
            OperationError::Draining => Code::ShuttingDown,
            OperationError::InDoubt(_) => Code::InDoubt,
            OperationError::Journal(_) => Code::JournalUnavailable,
            OperationError::NotInDoubt { .. } => Code::NotInDoubt,
            OperationError::NothingLeftOut => return Self::new(error.to_string()).exit_with(Exit::Workflow),
            OperationError::Running { .. } => {
                return Self::new(error.to_string())
                    .help("try again when it has ended")
                    .exit_with(Exit::Workflow);
            }
            OperationError::Unknown => Code::NoSuchWorkflow,
        };
        let exit = match error {
            OperationError::Defect(_) | OperationError::Draining | OperationError::Journal(_) => Exit::Failed,
            OperationError::BadAnswer(_) => Exit::Usage,
            OperationError::Attended
            | OperationError::Closed
            | OperationError::Damaged(_)
            | OperationError::InDoubt(_)
            | OperationError::NotInDoubt { .. }
            | OperationError::NothingLeftOut
            | OperationError::Running { .. }
            | OperationError::Unknown => Exit::Workflow,
        };
        Self::new(error.to_string()).code(code).exit_with(exit)
    }
}
