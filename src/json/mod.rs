//! JSON as it was sent: where every value of a text lies, what it says, and how to change one member
//! without touching another byte. Never builds a tree of values and never writes a document anew.

pub mod canonical;
mod error;
mod parse;
pub mod splice;
mod tape;
mod text;

#[cfg(test)]
pub(crate) mod testing;

pub use error::{Fault, JsonError};
pub use splice::Edit;
pub use tape::{Kind, Tape, Value};
