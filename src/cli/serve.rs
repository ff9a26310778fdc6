//! `outrigger serve`: the sidecar, until a signal ends it.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::app;
use crate::config::{self, ProcessEnv};

use super::failure::Failure;
use super::signals::Signals;
use super::{log, out};

/// Run the sidecar until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
#[command(
    after_help = "When it is ready, one line of JSON on standard output says where it listens. A second \
                        signal ends it at once; what was acknowledged is in the journal all the same."
)]
pub(super) struct Args {
    /// The config file [default: what OUTRIGGER_CONFIG names, else the built-in config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen for agents here and nowhere else: ADDRESS:PORT, where port 0 takes a free one, or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut settings = config::load(args.config.as_deref(), &ProcessEnv)?;
    if let Some(text) = &args.listen {
        let listen = config::parse_listen_argument(text, &settings.listen)
            .map_err(|(code, what)| Failure::usage(code, what))?;
        settings.listen = vec![listen];
    }
    log::start(settings.log, log::Stderr::Ours);
    #[cfg(feature = "failpoints")]
    arm()?;
    let mut signals =
        Signals::new().map_err(|error| Failure::new(format!("signals cannot be handled: {error}")))?;
    let running = app::start(settings).await?;
    let ready = json!({
        "ready": true,
        "pid": std::process::id(),
        "listen": running.listen(),
        "admin": format!("http://{}", running.admin()),
    });
    out::line(&ready.to_string());
    let asked = signals.next().await;
    tracing::info!(signal = asked.number(), "stopping");
    tokio::select! {
        stopped = running.stop() => {
            stopped?;
            Ok(ExitCode::SUCCESS)
        }
        again = signals.next() => {
            tracing::warn!("a second signal: ending at once");
            Ok(again.exit_code().into())
        }
    }
}

/// Makes this process die where the environment says, and be wrong as it says.
#[cfg(feature = "failpoints")]
fn arm() -> Result<(), Failure> {
    use crate::failpoint::{self, Kill};

    let armed = config::failpoints(&ProcessEnv).map_err(|error| Failure::new(error.to_string()))?;
    failpoint::break_with(armed.1);
    if let Some(trigger) = armed.0 {
        failpoint::arm(std::sync::Arc::new(Kill::new(trigger)));
    }
    Ok(())
}
