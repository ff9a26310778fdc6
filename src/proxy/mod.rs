//! The spine: what happens to a call between the agent's socket and the upstream's. `pipeline` first.

mod body;
mod call;
mod connection;
mod feed;
mod handed;
mod headers;
pub mod listener;
pub mod operations;
mod pipeline;
mod refusal;
mod run;
pub mod sidecar;
mod stage;
mod tasks;

pub use tasks::Tasks;
