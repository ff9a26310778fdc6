//! What a person is told when something is refused or cannot start: a stable code `OGnnnn` with a page
//! each, and suggestions for misspelt names. Pure: reads no file; the pages are part of the program.
//!
//! A code is never given a second meaning and never removed. The thousands say who can do something about
//! it: 1 whoever sends the request, 2 whoever writes the config, 3 whoever owns the workflow or the
//! journal, 4 whoever runs the upstream, 5 whoever runs the sidecar.

mod code;
mod nearest;
mod report;

pub use code::{BadCode, Code};
pub use nearest::nearest;
pub use report::{Problem, Report, Span};
