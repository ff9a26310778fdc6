//! Policies: whether a call may be sent, decided from plain files by what provably happened in its workflow. Cedar
//! behind one door. Pure: texts, values and times in, decisions and problems out.
//!
//! *Guards* judge a call before it is sent. *Evidence policies* look at a completed step and mint *facts* that guards
//! can demand. `docs/policies.md` is for those who write them.

mod arguments;
mod bind;
pub mod call;
pub mod datum;
mod engine;
pub mod facts;
pub mod fault;
mod lint;
mod load;
pub mod lock;
mod meta;
mod mint;
mod nesting;
mod number;
pub mod openapi;
pub mod pin;
pub mod projection;
mod question;
mod reading;
mod schema;
pub mod shape;
mod slices;
pub mod suite;

pub use arguments::strict;
pub use call::{HttpCall, McpCall, ModelCall, Moment, Run, Subject, ToolCall};
pub use engine::{Decision, Engine, Looked, Outcome, Reason, Servers, Shadowed};
pub use facts::{Fact, FactId, Found, Gone, Ledger};
pub use fault::{File, unreadable};
pub use load::{Server, Side, Sources, Surroundings, load, schema_text};
pub use meta::Kind;
pub use mint::Minted;
pub use number::{BadNumber, Decimal};

#[cfg(test)]
mod tests;
