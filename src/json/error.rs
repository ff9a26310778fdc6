//! Why a text is not JSON, and where.

/// A text that is not JSON, or is more of it than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {fault}")]
pub struct JsonError {
    /// Bytes before the place that shows the fault.
    pub offset: usize,
    pub fault: Fault,
}

/// What is wrong at the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a control character inside a string")]
    ControlCharacter,
    #[error("more than {} levels of nesting", super::Tape::DEPTH_MAX)]
    Depth,
    /// The text so far could be the beginning of a JSON text.
    #[error("the text ends too early")]
    EndOfText,
    #[error("a bad escape sequence")]
    Escape,
    #[error("{0} is missing")]
    Expected(&'static str),
    #[error("not a number")]
    Number,
    #[error("more than {} values", super::Tape::VALUES_MAX)]
    TooMany,
    #[error("the text is longer than 4 GiB")]
    TooLong,
    #[error("something follows the end of the value")]
    Trailing,
    #[error("not UTF-8")]
    Utf8,
}
