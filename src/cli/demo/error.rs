//! Why the demo could not be played. Never a wrong number: that is a result, and has its own exit code.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What went wrong on the stage.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// An answer is not what its protocol says.
    #[error("{who} gave an answer that cannot be used: {what}")]
    BadAnswer { who: String, what: String },
    /// A child process ended when it should have gone on.
    #[error("the {role} ended too early ({status}){}", log_tail(tail))]
    Died { role: &'static str, status: String, tail: String },
    /// The demo's own folder.
    #[error("cannot use {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A request got no answer at all.
    #[error("no answer from {url}: {what}")]
    NoAnswer { url: String, what: String },
    /// Standard output is gone.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// A child process could not be started or spoken to.
    #[error("cannot {doing} the {role}")]
    Process {
        doing: &'static str,
        role: &'static str,
        #[source]
        source: io::Error,
    },
    /// An HTTP answer says no.
    #[error("{url} answered {status}: {body}")]
    Refused { url: String, status: http::StatusCode, body: String },
    /// The address to listen on.
    #[error("cannot listen on a loopback port")]
    Listen(#[source] io::Error),
    /// Ctrl-C could not be caught, and would leave the children behind.
    #[error("signals cannot be handled")]
    Signals(#[source] io::Error),
    /// Nothing happened for too long.
    #[error("the {role} said nothing for {} s{}", limit.as_secs(), log_tail(tail))]
    Silent { role: &'static str, limit: Duration, tail: String },
    /// The agent did not come to an end.
    #[error("the agent made {0} steps and was still not done")]
    TooLong(u32),
    /// Something that is not a URL in the agent's environment.
    #[error("`{0}` is not a URL")]
    Url(String),
}

fn log_tail(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; its log ends with:\n{tail}") }
}
