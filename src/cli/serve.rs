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
