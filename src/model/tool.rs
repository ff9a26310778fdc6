//! What an operator says of a tool: what asking it twice would do, what an effect of it is known by, and how
//! it can be asked twice safely. Says nothing about where the tool is.

use std::fmt;
use std::time::Duration;

use super::EffectClass;

/// Text that is no JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPointer {
    #[error("it is longer than {} bytes", Pointer::LEN_MAX)]
    TooLong,
    #[error("it does not begin with `/`")]
    NoSlash,
    #[error("`~` stands for nothing unless 0 or 1 follows")]
    Tilde,
}

/// A JSON pointer (RFC 6901) to a member, never to the whole document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer(String);

impl Pointer {
    pub const LEN_MAX: usize = 256;

    /// # Errors
    /// [`BadPointer`].
    pub fn parse(text: &str) -> Result<Self, BadPointer> {
        if text.len() > Self::LEN_MAX {
            return Err(BadPointer::TooLong);
        }
        if !text.starts_with('/') {
            return Err(BadPointer::NoSlash);
        }
        let escapes = text.split('~').skip(1);
        if !escapes.into_iter().all(|after| after.starts_with(['0', '1'])) {
            return Err(BadPointer::Tilde);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pointer to what holds the member, empty for the document, and the member's key or index.
    pub fn split_last(&self) -> (&str, String) {
        let (parent, token) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        (parent, token.replace("~1", "/").replace("~0", "~"))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a tool takes its idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// A member of its arguments.
    Argument(Pointer),
    /// A header, its name in lower case.
    Header(String),
}

/// As the journal keeps it: `argument /idempotency_key`, `header idempotency-key`.
impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(pointer) => write!(f, "argument {}", pointer.as_str()),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

/// A call that tells whether an effect of the tool has happened, and does nothing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// A tool of the same upstream.
    pub tool: String,
    /// What it is called with.
    pub arguments: Vec<(String, ProbeArgument)>,
    /// Where its answer says so.
    pub happened: Pointer,
    /// The part of its answer that the agent gets in place of the lost one; `None`: all of it.
    pub answer: Option<Pointer>,
    /// How long after the effect was sent a "no" may still be wrong: it may be on its way.
    pub settle: Duration,
}

/// One argument of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeArgument {
    /// The same as this argument of the effect.
    Of(Pointer),
    /// This text.
    Text(String),
}

/// What becomes of an effect that may have happened, when it is asked for again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InDoubt {
    /// The call waits so long for somebody to resolve it; then it is refused.
    Hold(Duration),
    /// It is refused until somebody resolves it.
    #[default]
    Refuse,
    /// It is sent again: the operator takes the second effect.
    Retry,
}

/// What an operator says of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolRule {
    /// What asking twice would do; `None`: as the protocol says.
    pub class: Option<EffectClass>,
    /// The arguments that an effect is known by, whatever the others say; empty: by all of them.
    pub identity: Vec<Pointer>,
    /// The tool honours idempotency keys, and takes them here.
    pub key: Option<KeyPlace>,
    /// Statuses that prove that a call was not carried out; `None`: 401, 403, 407, 429.
    pub not_executed: Option<Vec<u16>>,
    pub in_doubt: InDoubt,
    /// What is asked before an effect in doubt is refused or held.
    pub probe: Option<Probe>,
    /// The same effect twice in an attempt is meant, also where a restart of the agent would not be seen.
    pub repeats: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_names_a_member_and_has_valid_escapes() {
        for (text, parent, token) in [
            ("/a", "", "a"),
            ("/a/b", "/a", "b"),
            ("/", "", ""),
            ("/x/~1~0", "/x", "/~"),
            ("/a/0", "/a", "0"),
        ] {
            assert_eq!(Pointer::parse(text).unwrap().split_last(), (parent, token.to_owned()), "{text}");
        }
        assert_eq!(Pointer::parse(""), Err(BadPointer::NoSlash));
        assert_eq!(Pointer::parse("a/b"), Err(BadPointer::NoSlash));
        assert_eq!(Pointer::parse("/a~2"), Err(BadPointer::Tilde));
        assert_eq!(Pointer::parse("/a~"), Err(BadPointer::Tilde));
        assert_eq!(Pointer::parse(&format!("/{}", "a".repeat(256))), Err(BadPointer::TooLong));
    }
}
