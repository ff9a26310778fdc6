//! The sidecar of a `run`: started in this process, or one that runs already. Both are spoken to through
//! the admin API, so that a command is treated alike by either.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::app::{self, Running};
use crate::config::{Listen, Settings};
use crate::diag::Code;
use crate::model::WorkflowId;

use super::super::admin::{Admin, Error};
use super::super::failure::Failure;

/// How long a sidecar that does not answer is given to come back, once it has answered before.
const RETURN_MAX: Duration = Duration::from_secs(15);
const RETURN_POLL: Duration = Duration::from_millis(200);
/// How long closing waits for steps that outlive the command.
const RUNNING_MAX: Duration = Duration::from_secs(30);
const RUNNING_POLL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Host {
    admin: Admin,
    /// Base URL for agents, without a `/` at its end.
    pub(super) base: String,
    here: Option<Running>,
}

impl Host {
    /// Starts a sidecar on free ports of this machine, and at the sockets that the config names.
    pub(super) async fn here(mut settings: Settings) -> Result<Self, Failure> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        settings.listen.retain(|listen| listen.tcp().is_none());
        settings.listen.push(Listen::Tcp(free));
        settings.admin = free;
        let running = Box::pin(app::start(settings)).await?;
        let base = running.listen().iter().find_map(Listen::tcp).map(|address| format!("http://{address}"));
        let base = base.ok_or_else(|| Failure::new("the sidecar listens nowhere"))?;
        let admin = Admin::at(running.admin()).map_err(Failure::new)?;
        Ok(Self { admin, base, here: Some(running) })
    }

    /// Uses the sidecar with this admin address.
    pub(super) async fn there(admin: Admin) -> Result<Self, Failure> {
        let version = admin.version().await?;
        // A base URL cannot name a Unix socket.
        let mut addresses = version.listen.iter().filter_map(|listen| listen.parse().ok());
        let address = addresses.next().ok_or_else(|| {
            Failure::new(format!("the sidecar at {} listens at no address that a URL can name", admin.url()))
                .code(Code::SidecarUnreachable)
        })?;
        let base = format!("http://{}", reachable(address));
        Ok(Self { admin, base, here: None })
    }

    /// Opens the next attempt of the workflow.
    pub(super) async fn open_attempt(&self, workflow: &WorkflowId, patient: bool) -> Result<u32, Error> {
        let mut waited = Duration::ZERO;
        loop {
            match self.admin.open_attempt(workflow).await {
                Err(Error::Unreachable { .. }) if patient && waited < RETURN_MAX => {
                    tokio::time::sleep(RETURN_POLL).await;
                    waited += RETURN_POLL;
                }
                done => return done,
            }
        }
    }

    /// Completed steps of the workflow so far; 0 when the sidecar cannot say.
    pub(super) async fn completed(&self, workflow: &WorkflowId) -> u64 {
        self.admin.workflow(workflow).await.ok().flatten().map_or(0, |row| row.completed)
    }

    /// Closes the workflow, when the steps that outlive the command have ended.
    pub(super) async fn close(&self, workflow: &WorkflowId, reason: &str) -> Result<(), Error> {
        let mut waited = Duration::ZERO;
        loop {
            match self.admin.close(workflow, reason).await {
                Err(Error::Refused { status: http::StatusCode::CONFLICT, .. }) if waited < RUNNING_MAX => {
                    tokio::time::sleep(RUNNING_POLL).await;
                    waited += RUNNING_POLL;
                }
                done => return done,
            }
        }
    }

    pub(super) async fn timeline(&self, workflow: &WorkflowId) -> Result<crate::timeline::Timeline, Error> {
        self.admin.timeline(workflow).await
    }

    /// Ends a sidecar that was started here.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        match self.here {
            Some(running) => Ok(running.stop().await?),
            None => Ok(()),
        }
    }
}

/// An address to connect to: a sidecar that listens everywhere is reached on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}
