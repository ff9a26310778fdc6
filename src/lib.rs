//! Outrigger: a sidecar between AI agents and what they call. It journals every call of a workflow and,
//! after a crash, answers from the journal what was already done.
//!
//! The layers, top to bottom; a module uses only lower ones (see `ARCHITECTURE.md`, enforced by a test):
//! `cli`, `app`, `admin`, then `proxy`, `timeline` and `config`, then `identity` and `upstream`, then
//! `journal`, then `failpoint` and `telemetry`, then the pure `wire`, `replay` and `route`, then the pure `model`, `diag` and `json`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod diag;
pub mod failpoint;
pub mod identity;
pub mod journal;
pub mod json;
pub mod model;
pub mod policy;
pub mod proxy;
pub mod replay;
pub mod route;
pub mod telemetry;
pub mod timeline;
pub mod upstream;
pub mod wire;
