//! The stages of a call, one file each. `pipeline` knows their order; they do not know each other's.

pub(crate) mod announced;
pub(crate) mod authorize;
pub(crate) mod divergence;
pub(crate) mod doubt;
mod dress;
pub(crate) mod enroll;
pub(crate) mod fetch;
pub(crate) mod idempotency;
pub(crate) mod list;
pub(crate) mod listen;
pub(crate) mod look;
pub(crate) mod open;
pub(crate) mod order;
pub(crate) mod pass;
pub(crate) mod recall;
pub(crate) mod record;
mod renew;
pub(crate) mod repetition;
pub(crate) mod respond;
pub(crate) mod resume;
pub(crate) mod route;
pub(crate) mod session;
pub(crate) mod setback;
pub(crate) mod strict;
