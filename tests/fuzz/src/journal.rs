//! Of the journal only what turns bytes into records and frames; neither engines nor files.

#[path = "../../../src/journal/codec.rs"]
pub mod codec;
pub mod embedded;
#[path = "../../../src/journal/name.rs"]
mod name;
#[path = "../../../src/journal/record.rs"]
pub mod record;
#[path = "../../../src/journal/via.rs"]
mod via;
