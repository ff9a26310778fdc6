//! The config file: read, expanded, checked as a whole, and turned into [`Settings`] that hold only valid
//! values. The only module that reads the environment ([`ProcessEnv`]). Opens no socket and no journal,
//! and knows nothing of the parts that are built from it.

mod bounds;
mod child_env;
mod de;
mod expand;
mod file;
mod listen;
mod load;
mod matching;
mod policies;
mod replayed;
mod resolve;
mod schema;
mod settings;
mod tools;
mod tree;
mod url;

pub use crate::diag::{Problem, Report};
pub use child_env::{BadEnvArgument, EnvBinding, env_bindings, env_for_children, parse_env_argument};
pub use listen::parse_listen_argument;
#[cfg(feature = "failpoints")]
pub use load::failpoints;
pub use load::{Env, ProcessEnv, load, load_text};
pub use policies::{pin_path, read_pin, read_policies, read_policy_tests, write_pin};
pub use replayed::{REPLAY_URL_VARIABLE, env_for_replay, replayed};
pub use schema::{schema, schema_text};
pub use settings::{
    EnvName, Journal, JournalUnavailable, Limits, Listen, Log, LogFormat, LogLevel, OnDivergence, Retention,
    Reuse, Settings, UnixSocket, Upstream, UpstreamUrl, UsageMode, Workers, WorkflowIds,
};

#[cfg(test)]
mod tests;
