//! Agents as processes of their own: this very test binary, started again, which does the requests it is
//! told on its standard input. Needed wherever it matters which process calls.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::cli::{self, signal};
use super::client::{self, Answer, Ask};

/// Tells the started test binary that it is an agent.
const ROLE: &str = "OUTRIGGER_TEST_AGENT";
const MARK: &str = ">>";
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A process that calls.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    server: Server,
}

/// Where an agent calls.
#[derive(Clone, Debug)]
enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Server {
    fn to_json(&self) -> Value {
        match self {
            Self::Tcp(address) => json!(address.to_string()),
            Self::Unix(path) => json!(path),
        }
    }

    fn from_json(value: &Value) -> Self {
        let text = text(value);
        text.parse().map_or_else(|_| Self::Unix(text.into()), Self::Tcp)
    }
}

/// In whose process group an agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Own,
    Parents,
}

impl Agent {
    /// An agent of the test, in a process group of its own, as a terminal or a supervisor gives it.
    pub(crate) fn start(server: SocketAddr) -> Self {
        Self::start_in(Server::Tcp(server), Group::Own, &[])
    }

    /// The same over a Unix socket.
    pub(crate) fn start_unix(socket: &Path) -> Self {
        Self::start_in(Server::Unix(socket.to_owned()), Group::Own, &[])
    }

    /// An agent with a program in front, such as `unshare`. Killing that must kill the agent.
    pub(crate) fn start_wrapped(server: SocketAddr, wrapper: &[&str]) -> Self {
        Self::start_in(Server::Tcp(server), Group::Own, wrapper)
    }

    /// The same over a Unix socket.
    pub(crate) fn start_wrapped_unix(socket: &Path, wrapper: &[&str]) -> Self {
        Self::start_in(Server::Unix(socket.to_owned()), Group::Own, wrapper)
    }

    fn start_in(server: Server, group: Group, wrapper: &[&str]) -> Self {
        let own = std::env::current_exe().unwrap();
        let words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).chain([own.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args([
            "--exact",
            "support::agent::agent_process",
            "--nocapture",
            "--test-threads",
            "1",
        ]);
        cli::clean_environment(&mut command);
        command.env(ROLE, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        if group == Group::Own {
            command.process_group(0);
        }
        let mut child = command.spawn().unwrap();
        let commands = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if let Some((_, text)) = line.split_once(MARK) {
                    drop(send.send(text.to_owned()));
                }
            }
        });
        Self { child, commands, answers, server }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes it call, on a connection of its own.
    #[track_caller]
    pub(crate) fn call(&mut self, ask: &Ask) -> Answer {
        self.command(&json!({"call": encode(ask)}))
    }

    /// Makes it start a process that calls and ends.
    #[track_caller]
    pub(crate) fn call_from_child(&mut self, ask: &Ask) -> Answer {
        self.command(&json!({"child": encode(ask)}))
    }

    /// Makes its `helper`-th helper call: a process in its own group, started at its first call, which lives
    /// until it is told to end.
    #[track_caller]
    pub(crate) fn call_from_helper(&mut self, helper: usize, ask: &Ask) -> Answer {
        self.command(&json!({"helper": helper, "call": encode(ask)}))
    }

    /// Makes it write bytes on a connection of its own, which it keeps open and reads nothing from.
    #[track_caller]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.tell(&json!({"write": STANDARD.encode(bytes)}));
    }

    #[track_caller]
    fn command(&mut self, command: &Value) -> Answer {
        decode(&serde_json::from_str(&self.tell(command)).unwrap())
    }

    /// Tells it what to do; what it says when it has done it.
    #[track_caller]
    fn tell(&mut self, command: &Value) -> String {
        let mut command = command.clone();
        command["server"] = self.server.to_json();
        writeln!(self.commands, "{command}").unwrap();
        self.answers.recv_timeout(ANSWER_MAX).expect("the agent answers")
    }

    /// Kills it, and leaves it unreaped: a zombie until this value is dropped.
    pub(crate) fn kill9(&self) {
        signal(self.child.id(), rustix::process::Signal::KILL);
        super::wait::until("the agent is dead", || !cli::is_alive(self.child.id()));
    }

    /// Kills and reaps it, with what stands behind its wrapper.
    pub(crate) fn end(mut self) {
        let wrapped = cli::children(self.child.id());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for child in wrapped {
            super::wait::until("the agent behind the wrapper is dead", || !cli::is_alive(child));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn encode(ask: &Ask) -> Value {
    let headers: Vec<Value> =
        ask.headers.iter().map(|(name, value)| json!([name, STANDARD.encode(value)])).collect();
    json!({"method": ask.method, "path": ask.path, "headers": headers, "body": STANDARD.encode(&ask.body)})
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn pairs(value: &Value) -> Vec<(String, Vec<u8>)> {
    value.as_array().unwrap().iter().map(|pair| (text(&pair[0]), bytes(&pair[1]))).collect()
}

fn decode(value: &Value) -> Answer {
    let status = value["status"].as_u64().unwrap();
    Answer {
        status: u16::try_from(status).unwrap(),
        headers: pairs(&value["headers"]),
        body: bytes(&value["body"]),
    }
}

fn reply(answer: &Answer) -> Value {
    let headers: Vec<Value> =
        answer.headers.iter().map(|(name, value)| json!([name, STANDARD.encode(value)])).collect();
    json!({"status": answer.status, "headers": headers, "body": STANDARD.encode(&answer.body)})
}

/// What the agent process does. As a test of its own it has nothing to do.
#[test]
fn agent_process() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut helpers: BTreeMap<u64, Agent> = BTreeMap::new();
    let mut kept = Vec::new();
    for line in std::io::stdin().lines() {
        let command: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let server = Server::from_json(&command["server"]);
        if let Some(written) = command.get("write") {
            let mut connection = match &server {
                Server::Tcp(address) => client::Client::connect(*address),
                Server::Unix(path) => client::Client::connect_unix(path),
            };
            connection.write(&bytes(written));
            kept.push(connection);
            say("");
            continue;
        }
        let (wanted, is_child) = match command.get("child") {
            Some(wanted) => (wanted, true),
            None => (&command["call"], false),
        };
        let ask = Ask {
            method: text(&wanted["method"]),
            path: text(&wanted["path"]),
            headers: pairs(&wanted["headers"]),
            body: bytes(&wanted["body"]),
        };
        let answer = if is_child {
            let mut child = Agent::start_in(server, Group::Parents, &[]);
            let answer = child.call(&ask);
            child.end();
            answer
        } else if let Some(helper) = command.get("helper") {
            let start = || Agent::start_in(server, Group::Parents, &[]);
            helpers.entry(helper.as_u64().unwrap()).or_insert_with(start).call(&ask)
        } else {
            match server {
                Server::Tcp(address) => client::call(address, &ask),
                Server::Unix(path) => client::Client::connect_unix(&path).call(&ask).unwrap(),
            }
        };
        say(&reply(&answer).to_string());
    }
    // Whoever gave the orders is gone: there is nobody to tell how the test went.
    std::process::exit(0);
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{MARK}{text}").unwrap();
    stdout.flush().unwrap();
}
