//! The life of a step and of an attempt, in the words the journal and the timeline share.

use std::fmt;

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepState {
    /// An effect that may have happened, given up by somebody: it is neither sent nor asked about again.
    Abandoned,
    /// Answered, and the answer is recorded.
    Completed,
    /// The last try failed in a way that is not a result (429, 5xx, a cut stream); an equal request tries again.
    Failed,
    /// An effect that may have happened; nobody knows.
    InDoubt,
    /// Begun (its intent is recorded), no outcome yet.
    Open,
    /// Refused by the sidecar before anything was sent.
    Refused,
}

impl StepState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::InDoubt => "in_doubt",
            Self::Open => "open",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody, or the operator's config, has decided of a step in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Given up: whatever has happened, it is not sent again.
    Abandoned,
    /// It has happened; its answer is recorded with this.
    Completed,
    /// It has not happened: an equal call is sent.
    NotExecuted,
    /// Nobody knows, and it may be repeated.
    Repeat,
}

impl Resolution {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Completed => "completed",
            Self::NotExecuted => "not_executed",
            Self::Repeat => "repeat",
        }
    }
}

/// By which of its names a recorded step was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// The request is the recorded one, but for how it is spelled.
    Exact,
    /// It is another call of a tool with the same identity.
    Identity,
    /// It differs only in what says nothing about a model call.
    Normalised,
}

impl FoundBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Identity => "identity",
            Self::Normalised => "normalised",
        }
    }
}

/// Where an answer came from: the value of `x-outrigger-source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Join,
    Live,
    Replay,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Live => "live",
            Self::Replay => "replay",
        }
    }
}

/// Why an attempt was opened: the reason in `x-outrigger-attempt: 2; reason=process`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptReason {
    /// Named by path, header or wrapper.
    Explicit,
    /// The first request of the workflow.
    First,
    /// Another process, and the last attempt's is gone.
    Process,
    /// The agent asked again for what an attempt asks first, and nobody was connected.
    Rewind,
}

impl AttemptReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::First => "first",
            Self::Process => "process",
            Self::Rewind => "rewind",
        }
    }
}

/// Why a try is not a result (durability.md, section 4, "Errors").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The answer ended before its dialect's end, or in its dialect's error event.
    Cut,
    /// No connection: refused, unreachable, TLS or name resolution failed. Nothing was sent.
    Connect,
    /// The connection broke after the request may have left, before a complete answer.
    Reset,
    /// A status that asks for another try: 401, 403, 407, 408, 425, 429, 5xx.
    Status,
    /// A deadline passed.
    Timeout,
}

impl FailureClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Status => "status",
            Self::Timeout => "timeout",
        }
    }
}
