//! The sidecar as a process of its own, with a journal of its own: started, killed, stopped, started again
//! at the same addresses.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;

use super::cli::{self, Output};
use super::client::{self, Answer, Ask, Client};
use super::{ports, wait};

/// A debug build that opens a journal on a busy machine.
const READY_WAIT: Duration = Duration::from_secs(30);

/// How a sidecar is set up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    upstreams: Vec<(String, String)>,
    journal_extra: String,
    limits: String,
    extra: String,
    /// A second listener, at [`Sidecar::socket`].
    with_socket: bool,
    journal_path: Option<PathBuf>,
    /// A program in front, such as `unshare`.
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn upstream(self, name: &str, dialect: &str, url: &str) -> Self {
        self.upstream_with(name, dialect, url, "")
    }

    /// `extra`: further keys, in YAML's flow style (`drain_s: 1, usage: observe`).
    pub(crate) fn upstream_with(mut self, name: &str, dialect: &str, url: &str, extra: &str) -> Self {
        let extra = if extra.is_empty() { String::new() } else { format!(", {extra}") };
        self.upstreams.push((name.to_owned(), format!("{{ dialect: {dialect}, url: \"{url}\"{extra} }}")));
        self
    }

    /// Puts another one in the place of an upstream, if there is one.
    pub(crate) fn upstream_instead(mut self, name: &str, dialect: &str, url: Option<&str>) -> Self {
        let Some(url) = url else { return self };
        self.upstreams.retain(|(known, _)| known != name);
        self.upstream(name, dialect, url)
    }

    /// Further keys of `limits`, in flow style.
    pub(crate) fn limits(mut self, limits: &str) -> Self {
        limits.clone_into(&mut self.limits);
        self
    }

    /// Further keys of `journal`, in flow style.
    pub(crate) fn journal(mut self, extra: &str) -> Self {
        self.journal_extra = format!(", {extra}");
        self
    }

    pub(crate) fn journal_at(mut self, path: &Path) -> Self {
        self.journal_path = Some(path.to_owned());
        self
    }

    /// A further line of the file.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.extra.push_str(line);
        self.extra.push('\n');
        self
    }

    /// Listens at a Unix socket as well.
    pub(crate) fn socket(mut self) -> Self {
        self.with_socket = true;
        self
    }

    pub(crate) fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The config file's text.
    pub(crate) fn yaml(&self, journal: &Path, listen: SocketAddr, admin: SocketAddr) -> String {
        let mut text = format!(
            "listen: [{{ address: \"{listen}\" }}{}]\nadmin: {{ address: \"{admin}\" }}\n\
             journal: {{ path: \"{}\"{} }}\n",
            if self.with_socket { ", { socket: ./agents.sock, mode: \"0660\" }" } else { "" },
            journal.display(),
            if self.journal_extra.is_empty() { ", segment_mib: 1" } else { &self.journal_extra },
        );
        if !self.limits.is_empty() {
            text.push_str(&format!("limits: {{ {} }}\n", self.limits));
        }
        text.push_str(&self.extra);
        text.push_str("upstreams:\n");
        for (name, upstream) in &self.upstreams {
            text.push_str(&format!("  {name}: {upstream}\n"));
        }
        text
    }

    #[track_caller]
    pub(crate) fn start(self) -> Sidecar {
        Sidecar::start(self)
    }
}

/// One sidecar, over all its lives.
#[derive(Debug)]
pub(crate) struct Sidecar {
    setup: Setup,
    home: tempfile::TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
    child: Mutex<Option<Child>>,
    lives: usize,
}

impl Sidecar {
    #[track_caller]
    fn start(setup: Setup) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut sidecar = Self {
            setup,
            home,
            listen: ports::free(),
            admin: ports::free(),
            child: Mutex::default(),
            lives: 0,
        };
        sidecar.restart();
        sidecar
    }

    /// Starts it again, at the same addresses and with the same journal.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let ready = self.launch();
        let Some(ready) = ready else { panic!("the sidecar is not ready; its log:\n{}", self.log()) };
        assert_eq!(ready["ready"], true, "{ready}");
        assert_eq!(ready["listen"][0], self.listen.to_string(), "{ready}");
        assert_eq!(ready["admin"], format!("http://{}", self.admin), "{ready}");
    }

    /// [`Sidecar::restart`] of one that may die before it is ready; whether it is.
    #[track_caller]
    pub(crate) fn try_restart(&mut self) -> bool {
        self.launch().is_some()
    }

    /// What it says when it is ready; `None` if it ends or says nothing.
    #[track_caller]
    fn launch(&mut self) -> Option<Value> {
        assert!(self.child.lock().unwrap().is_none(), "it is running");
        self.lives += 1;
        std::fs::write(self.config(), self.setup.yaml(&self.journal(), self.listen, self.admin)).unwrap();
        let mut words = self.setup.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_outrigger").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve").arg("--config").arg(self.config());
        cli::clean_environment(&mut command);
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        *self.child.lock().unwrap() = Some(child);
        first_line(stdout).and_then(|line| serde_json::from_str::<Value>(&line).ok())
    }

    /// Changes how it is set up, from its next start on.
    pub(crate) fn change(&mut self, setup: Setup) {
        self.setup = setup;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it is running").id()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the Unix socket is, if it is set up with one.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("agents.sock")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.home.path().join("outrigger.yaml")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.setup.journal_path.clone().unwrap_or_else(|| self.home.path().join("journal"))
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// What it said on stderr in all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.listen)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn call(&self, ask: &Ask) -> Answer {
        client::call(self.listen, ask)
    }

    pub(crate) fn try_call(&self, ask: &Ask) -> Result<Answer, client::Broken> {
        client::try_call(self.listen, ask)
    }

    /// A request to the admin address.
    #[track_caller]
    pub(crate) fn ask_admin(&self, ask: &Ask) -> Answer {
        client::call(self.admin, ask)
    }

    /// Kills it, as a crash or the OOM killer does.
    #[track_caller]
    pub(crate) fn kill9(&mut self) {
        self.kill_shared();
    }

    /// [`Sidecar::kill9`] while others still call it.
    #[track_caller]
    pub(crate) fn kill_shared(&self) {
        let mut child = self.child.lock().unwrap().take().expect("it is running");
        let wrapped = cli::children(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        for child in wrapped {
            wait::until("the sidecar behind its wrapper is dead", || !cli::is_alive(child));
        }
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn terminate(&self) {
        cli::signal(self.pid(), rustix::process::Signal::TERM);
    }

    /// SIGTERM, then its exit.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.exit()
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let mut child = self.child.lock().unwrap().take().expect("it is running");
        wait::until_some("the sidecar has stopped", || child.try_wait().unwrap())
    }

    /// What the command line says of a workflow, whether or not the sidecar runs.
    #[track_caller]
    pub(crate) fn timeline(&self, workflow: &str) -> Value {
        let output = self.cli(&["timeline", workflow, "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// A command of the command line about this journal.
    #[track_caller]
    pub(crate) fn cli(&self, words: &[&str]) -> Output {
        let journal = self.journal();
        let words: Vec<&str> =
            words.iter().copied().chain(["--journal", journal.to_str().unwrap()]).collect();
        cli::run(&words)
    }

    /// The states of a workflow's steps, in order.
    #[track_caller]
    pub(crate) fn states(&self, workflow: &str) -> Vec<String> {
        let timeline = self.timeline(workflow);
        let steps = timeline["steps"].as_array().unwrap();
        steps.iter().map(|step| step["state"].as_str().unwrap().to_owned()).collect()
    }

    /// One figure of `/metrics`; 0 when it is not there. `name` with its labels.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.ask_admin(&Ask::get("/metrics")).text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until this many agents' connections are open: the sidecar has seen the others close.
    #[track_caller]
    pub(crate) fn wait_connections(&self, open: f64) {
        wait::until(&format!("{open} open connections"), || {
            (self.metric("outrigger_connections") - open).abs() < 0.5
        });
    }

    /// Waits until a step is in this state.
    #[track_caller]
    pub(crate) fn wait_state(&self, workflow: &str, step: usize, state: &str) {
        wait::until(&format!("step {step} of {workflow} is {state}"), || {
            self.timeline_now(workflow)["steps"][step - 1]["state"] == state
        });
    }

    /// Waits until a step is completed, on disk, and nothing is at work any more.
    #[track_caller]
    pub(crate) fn wait_completed(&self, workflow: &str, step: usize) {
        self.wait_state(workflow, step, "completed");
        wait::until("nothing is running", || self.metric("outrigger_steps_running") < 0.5);
    }

    /// What the running sidecar says of a workflow; null while it knows none.
    #[track_caller]
    pub(crate) fn timeline_now(&self, workflow: &str) -> Value {
        let text = self.ask_admin(&Ask::get(format!("/v1/workflows/{workflow}/timeline"))).text();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Some round trips: what the sidecar has begun by now has gone on a little.
    #[track_caller]
    pub(crate) fn settle(&self) {
        for _ in 0..3 {
            self.ask_admin(&Ask::get("/healthz"));
        }
    }

    /// Whether it ends by SIGKILL of its own.
    #[track_caller]
    pub(crate) fn is_killed(&mut self) -> bool {
        self.exit().signal() == Some(rustix::process::Signal::KILL.as_raw())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.lock().unwrap().as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            eprintln!("--- the sidecar's log (life {}):\n{}", self.lives, log.get(from..).unwrap_or(&log));
        }
        let child = self.child.get_mut().ok().and_then(Option::take);
        if let Some(mut child) = child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The first line of a process, if it comes in time. The rest is read and dropped.
pub(crate) fn first_line(stdout: impl Read + Send + 'static) -> Option<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            drop(send.send(line));
        }
    });
    receive.recv_timeout(READY_WAIT).ok()
}
