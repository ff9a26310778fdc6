//! The spine: what happens to a call between the agent's socket and the upstream's. `pipeline` first.

mod answer_body;
mod body;
mod call;
mod connection;
mod dialogue;
mod facts;
mod feed;
pub mod fork;
mod handed;
mod headers;
mod leaving;
pub mod listener;
mod notes;
pub mod operations;
mod pieces;
mod pipeline;
pub mod recording;
mod refusal;
pub mod resolve;
pub mod retention;
mod run;
mod setbacks;
pub mod sidecar;
mod socket;
mod stage;
pub mod sweep;
mod tasks;

pub use tasks::Tasks;
