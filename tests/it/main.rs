//! The one integration binary: whole features through their public faces, a module per feature.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what must be so, and fails where it is not"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests watch the program from outside, with their own clock, environment and tasks"
)]

mod admin;
mod attempts;
mod bytes;
mod cli;
mod config_examples;
mod crash;
mod demo;
mod durability;
mod mcp;
mod parts;
mod policy;
mod report;
mod shutdown;
mod streaming;
mod support;
mod tidy;
mod tls;
mod unix_socket;
