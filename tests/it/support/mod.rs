//! What whole-sidecar tests stand on: the sidecar as a process of its own, upstreams that do exactly what
//! a test tells them, agents that are really other processes, and waits that end. Knows nothing of any
//! one feature.
#![allow(dead_code, reason = "what one feature does not need now, the next does")]

pub(crate) mod agent;
pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod gate;
pub(crate) mod h2;
pub(crate) mod llm;
pub(crate) mod mcp;
pub(crate) mod namespace;
pub(crate) mod ports;
pub(crate) mod random;
pub(crate) mod sidecar;
pub(crate) mod table;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod wait;
