//! Every id is a type that can only be built valid. Parsed once at the edge; below it nothing re-checks.

use std::fmt;
use std::sync::Arc;

/// Why a text is not an id. Safe to show to whoever sent it: it never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    #[error("it is empty")]
    Empty,
    #[error("it has {len} characters; at most {len_max} are allowed")]
    TooLong { len: usize, len_max: usize },
    #[error("character {position} is not allowed; {allowed}")]
    Character { position: usize, allowed: &'static str },
    #[error("`{0}` is reserved")]
    Reserved(&'static str),
    #[error("it is not a whole number from 1 to 4294967295")]
    NotANumber,
}

/// Names one run of an agent's task; every attempt after a crash shares it.
/// Form: `[A-Za-z0-9][A-Za-z0-9._~-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkflowId(Arc<str>);

impl WorkflowId {
    /// Longest id, in characters (all of them ASCII).
    pub const LEN_MAX: usize = 128;
    const ALLOWED: &str =
        "a workflow id is letters, digits, `.`, `_`, `~` and `-`, and starts with a letter or digit";

    /// # Errors
    /// [`BadId`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if text.is_empty() {
            return Err(BadId::Empty);
        }
        let bad = text.char_indices().position(|(at, c)| {
            !(c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '~' | '-')))
        });
        if let Some(position) = bad {
            return Err(BadId::Character { position: position + 1, allowed: Self::ALLOWED });
        }
        if text.len() > Self::LEN_MAX {
            return Err(BadId::TooLong { len: text.len(), len_max: Self::LEN_MAX });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkflowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a workflow belongs to. Unverified callers of a listener share [`Owner::local`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The owner of everything that unverified callers open.
    pub fn local() -> Self {
        Self("local".into())
    }

    /// An owner as the journal recorded it.
    pub fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a workflow in the journal: another owner's same id is another workflow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkflowKey {
    pub owner: Owner,
    pub workflow: WorkflowId,
}

impl fmt::Display for WorkflowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.workflow)
    }
}

/// One life of the agent process for a workflow, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(u32);

impl AttemptId {
    pub const FIRST: Self = Self(1);

    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// # Errors
    /// [`BadId::NotANumber`] unless the text is a whole number from 1 without sign or leading zero.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if text.is_empty() || text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadId::NotANumber);
        }
        text.parse().map(Self).map_err(|_| BadId::NotANumber)
    }

    pub fn number(self) -> u32 {
        self.0
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One call to an LLM, an MCP tool or an HTTP tool within a workflow, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepIndex(u64);

impl StepIndex {
    pub const FIRST: Self = Self(1);

    pub fn new(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    pub fn number(self) -> u64 {
        self.0
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for StepIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Durable count of how often this journal was opened for writing; a store refuses an append that
/// carries an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Name of an upstream as the config gives it: `[a-z][a-z0-9-]{0,31}`, not `w` and not `a`
/// (those two are path words in front of it).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

impl UpstreamName {
    /// Longest name, in characters.
    pub const LEN_MAX: usize = 32;
    const ALLOWED: &str = "an upstream name is lower-case letters, digits and `-`, and starts with a letter";

    /// # Errors
    /// [`BadId`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if text.is_empty() {
            return Err(BadId::Empty);
        }
        let bad = text
            .char_indices()
            .position(|(at, c)| !(c.is_ascii_lowercase() || (at > 0 && (c.is_ascii_digit() || c == '-'))));
        if let Some(position) = bad {
            return Err(BadId::Character { position: position + 1, allowed: Self::ALLOWED });
        }
        if text.len() > Self::LEN_MAX {
            return Err(BadId::TooLong { len: text.len(), len_max: Self::LEN_MAX });
        }
        match text {
            "w" => Err(BadId::Reserved("w")),
            "a" => Err(BadId::Reserved("a")),
            _ => Ok(Self(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

digest! {
    /// The BLAKE3 hash that says which recorded step an incoming request *is* (`replay::fingerprint`).
    Fingerprint, 32
}
digest! {
    /// The BLAKE3 hash of a body as it was sent or served.
    BodyHash, 32
}
digest! {
    /// Random bytes drawn when a workflow is opened, so that keys derived for it never repeat those of
    /// an older workflow with the same id.
    RunNonce, 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), BadId>) {
        assert_eq!(WorkflowId::parse(text).map(drop), expected, "input: {text:?}");
    }

    #[test]
    fn workflow_id_takes_the_documented_form_and_nothing_else() {
        let bad = |position| Err(BadId::Character { position, allowed: WorkflowId::ALLOWED });
        check("order-7", Ok(()));
        check("7.a_b~c-D", Ok(()));
        check(&"x".repeat(128), Ok(()));
        check("", Err(BadId::Empty));
        check(&"x".repeat(129), Err(BadId::TooLong { len: 129, len_max: 128 }));
        check("-a", bad(1));
        check(".a", bad(1));
        check("a/b", bad(2));
        check("a b", bad(2));
        check("a\r\nb", bad(2));
        check("aé", bad(2));
    }

    #[test]
    fn upstream_names_leave_the_path_words_free() {
        assert!(UpstreamName::parse("openai").is_ok());
        assert!(UpstreamName::parse("crm-2").is_ok());
        assert_eq!(UpstreamName::parse("w"), Err(BadId::Reserved("w")));
        assert_eq!(UpstreamName::parse("a"), Err(BadId::Reserved("a")));
        for text in ["", "2a", "-a", "A", "a_b", "a.b", &"a".repeat(33)] {
            assert!(UpstreamName::parse(text).is_err(), "input: {text:?}");
        }
    }

    #[test]
    fn attempt_numbers_have_one_spelling() {
        assert_eq!(AttemptId::parse("2").map(AttemptId::number), Ok(2));
        for text in ["", "0", "02", "+2", "-1", "4294967296", "2a", "\u{0662}"] {
            assert_eq!(AttemptId::parse(text), Err(BadId::NotANumber), "input: {text:?}");
        }
    }
}
