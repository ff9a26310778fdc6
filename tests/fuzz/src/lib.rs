//! The readers that the targets fuzz: Outrigger's own files, included from where they lie. Holds no code of its own
//! but what reaches the journal's private readers.

pub mod diag;
pub mod journal;
#[path = "../../../src/json/mod.rs"]
pub mod json;
#[path = "../../../src/model/mod.rs"]
pub mod model;
#[path = "../../../src/wire/mod.rs"]
pub mod wire;
