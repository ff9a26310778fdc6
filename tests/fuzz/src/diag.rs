//! Of the diagnostics only the codes that refusals carry; not how reports are drawn.

#[path = "../../../src/diag/code.rs"]
mod code;

pub use code::{BadCode, Code};
