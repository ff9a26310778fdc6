//! What the sidecar tells the outside about itself. Knows only the model.

pub mod event;
pub mod metrics;
