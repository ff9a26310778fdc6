//! The play in three acts: an undisturbed run, a killed one straight at the upstreams, and a killed one
//! through Outrigger. Owns the folder, the processes and the order of events; counts nothing itself.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::Instant;

use super::client::{Client, url};
use super::error::Error;
use super::process::{Child, Start};
use super::progress::Progress;
use super::upstream::Tally;

/// What the upstreams of the three acts have counted.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) kill_at: u32,
    pub(super) undisturbed: Act,
    pub(super) without: Act,
    pub(super) with: Act,
    pub(super) workflow: String,
    pub(super) journal: PathBuf,
    pub(super) took: Duration,
}

/// One act's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) tally: Tally,
    /// What the agent answered in the end.
    pub(super) answer: String,
}

impl Played {
    /// Whether the killed agent behind Outrigger cost and did exactly what an undisturbed one does.
    pub(super) fn is_exact(&self) -> bool {
        self.with == self.undisturbed
    }
}

/// Plays all three acts.
///
/// # Errors
/// Whatever keeps a process from playing its role.
pub(super) async fn play(kill_at: u32, progress: &mut Progress) -> Result<Played, Error> {
    let started = Instant::now();
    let workflow = format!("demo-{:012x}", uuid::Uuid::now_v7().as_u128() & 0xffff_ffff_ffff);
    let folder = std::env::temp_dir().join(format!("outrigger-{workflow}"));
    std::fs::create_dir(&folder).map_err(|source| Error::Folder { path: folder.clone(), source })?;
    let stage = Stage { folder, client: Client::new() };

    progress.act("an undisturbed run");
    let upstream = Upstream::start(&stage, None).await?;
    let mut agent = stage.agent(&upstream.direct())?;
    let undisturbed =
        Act { answer: to_the_end(&mut agent, progress).await?, tally: upstream.tally(&stage).await? };
    agent.finished().await?;
    drop(upstream);

    let mut upstream = Upstream::start(&stage, Some(kill_at)).await?;
    let bases = upstream.direct();
    let without = stage.killed_act("without Outrigger", kill_at, &mut upstream, &bases, progress).await?;
    drop(upstream);

    let mut upstream = Upstream::start(&stage, Some(kill_at)).await?;
    let (sidecar, address) = stage.sidecar(&upstream).await?;
    let base = format!("http://{address}/w/{workflow}");
    let bases = Bases { openai: format!("{base}/model/v1"), mcp: format!("{base}/tools/mcp") };
    let with = stage.killed_act("through Outrigger", kill_at, &mut upstream, &bases, progress).await?;
    sidecar.stop().await?;

    let journal = stage.journal();
    Ok(Played { kill_at, undisturbed, without, with, workflow, journal, took: started.elapsed() })
}

/// What every act needs.
struct Stage {
    folder: PathBuf,
    client: Client,
}

/// An agent's base URLs: the only thing that differs between the acts.
struct Bases {
    openai: String,
    mcp: String,
}

impl Stage {
    /// An agent that is killed while step `kill_at` waits for its answer, and started again.
    async fn killed_act(
        &self,
        name: &str,
        kill_at: u32,
        upstream: &mut Upstream,
        bases: &Bases,
        progress: &mut Progress,
    ) -> Result<Act, Error> {
        progress.act(format!("{name}, to be killed at step {kill_at}"));
        let mut agent = self.agent(bases)?;
        until_held(&mut agent, &mut upstream.process, progress).await?;
        agent.kill().await?;
        self.client.ask(request(Method::POST, &upstream.at("/release"))?).await?;
        progress.act(format!("{name}, killed and started again"));
        let mut agent = self.agent(bases)?;
        let answer = to_the_end(&mut agent, progress).await?;
        agent.finished().await?;
        Ok(Act { answer, tally: upstream.tally(self).await? })
    }

    fn agent(&self, bases: &Bases) -> Result<Child, Error> {
        let environment = vec![
            ("OPENAI_BASE_URL", bases.openai.clone()),
            ("OPENAI_API_KEY", "sk-demo".to_owned()),
            ("MCP_URL", bases.mcp.clone()),
        ];
        self.start("agent", ["demo", "__agent"].map(OsString::from).to_vec(), environment)
    }

    /// Starts `outrigger serve` in front of the upstreams, as anybody would.
    async fn sidecar(&self, upstream: &Upstream) -> Result<(Child, SocketAddr), Error> {
        let config = self.folder.join("outrigger.yaml");
        std::fs::write(&config, config_text(&self.journal(), &upstream.at("")))
            .map_err(|source| Error::Folder { path: config.clone(), source })?;
        let arguments = vec!["serve".into(), "--config".into(), config.into_os_string()];
        let mut sidecar = self.start("sidecar", arguments, Vec::new())?;
        let line = sidecar.line_expected().await?;
        let bad = || Error::BadAnswer { who: "the sidecar".to_owned(), what: line.clone() };
        let ready: Value = serde_json::from_str(&line).map_err(|_| bad())?;
        let address = ready.pointer("/listen/0").and_then(Value::as_str).ok_or_else(bad)?;
        let address = address.trim_start_matches("http://").parse().map_err(|_| bad())?;
        Ok((sidecar, address))
    }

    fn start(
        &self,
        role: &'static str,
        arguments: Vec<OsString>,
        environment: Vec<(&'static str, String)>,
    ) -> Result<Child, Error> {
        Child::start(Start { role, arguments, environment, folder: &self.folder })
    }

    fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }
}

/// The upstream process of one act.
struct Upstream {
    process: Child,
    address: SocketAddr,
}

impl Upstream {
    async fn start(stage: &Stage, hold_at: Option<u32>) -> Result<Self, Error> {
        let mut arguments: Vec<OsString> = ["demo", "__upstream"].map(OsString::from).to_vec();
        if let Some(step) = hold_at {
            arguments.extend(["--hold-at".into(), step.to_string().into()]);
        }
        let mut process = stage.start("upstream", arguments, Vec::new())?;
        let line = process.line_expected().await?;
        let address = line.strip_prefix("ready ").and_then(|address| address.parse().ok());
        let address = address.ok_or(Error::BadAnswer { who: "the upstream".to_owned(), what: line })?;
        Ok(Self { process, address })
    }

    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn direct(&self) -> Bases {
        Bases { openai: self.at("/v1"), mcp: self.at("/mcp") }
    }

    async fn tally(&self, stage: &Stage) -> Result<Tally, Error> {
        let answer = stage.client.ask(request(Method::GET, &self.at("/counters"))?).await?;
        serde_json::from_slice(answer.body())
            .map_err(|error| Error::BadAnswer { who: "the upstream".to_owned(), what: error.to_string() })
    }
}

/// Follows the agent until the upstream holds its call back.
async fn until_held(agent: &mut Child, upstream: &mut Child, progress: &Progress) -> Result<(), Error> {
    loop {
        tokio::select! {
            line = upstream.line_expected() => {
                if line?.starts_with("held ") {
                    return Ok(());
                }
            }
            line = agent.line_expected() => show(&line?, progress),
        }
    }
}

/// Follows the agent to its answer.
async fn to_the_end(agent: &mut Child, progress: &Progress) -> Result<String, Error> {
    loop {
        let line = agent.line_expected().await?;
        if let Some(answer) = line.strip_prefix("answer ") {
            return Ok(answer.to_owned());
        }
        show(&line, progress);
    }
}

fn show(line: &str, progress: &Progress) {
    let step = line.strip_prefix("step ").and_then(|rest| rest.split_once(' '));
    if let Some((step, what)) = step.and_then(|(step, what)| Some((step.parse().ok()?, what))) {
        progress.step(step, what);
    }
}

fn request(method: Method, to: &str) -> Result<Request<Full<Bytes>>, Error> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    *request.uri_mut() = url(to)?;
    Ok(request)
}

/// The sidecar's config. JSON strings are YAML strings.
fn config_text(journal: &Path, upstream: &str) -> String {
    let journal = Value::from(journal.to_string_lossy());
    format!(
        "listen: [{{ address: \"127.0.0.1:0\" }}]\n\
         admin: {{ address: \"127.0.0.1:0\" }}\n\
         journal: {{ path: {journal} }}\n\
         upstreams:\n  \
           model: {{ dialect: openai, url: {url} }}\n  \
           tools: {{ dialect: mcp, url: {url}, env: {{ MCP_URL: /mcp }} }}\n",
        url = Value::from(upstream)
    )
}
