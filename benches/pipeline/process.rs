//! The processes of the bench: who runs, where it listens, what it has used so far. Ended with the bench.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::load::Way;

/// Debian puts it where an ordinary user's PATH does not look.
const NGINX: [&str; 3] = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
/// As many as the other proxies have threads here.
const NGINX_WORKERS: usize = 2;
/// Longest start.
const START_MAX: Duration = Duration::from_secs(20);

/// What /proc counts in on every Linux this is built for.
const TICKS_PER_SECOND: u64 = 100;

/// One process, or a master with its workers.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pids: Vec<u32>,
}

/// Processor time, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) kernel: f64,
}

impl Cpu {
    pub(crate) fn all(self) -> f64 {
        self.user + self.kernel
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, kernel: self.kernel - before.kernel }
    }
}

impl Process {
    pub(crate) fn mock() -> Self {
        Self::ready(own().arg("--role-mock"), |line| line.trim().parse().ok())
    }

    pub(crate) fn floor(mock: SocketAddr) -> Self {
        Self::ready(own().arg("--role-floor").arg(mock.to_string()), |line| line.trim().parse().ok())
    }

    /// `outrigger serve` with an empty journal of its own in `folder`.
    pub(crate) fn outrigger(folder: &Path, mock: SocketAddr) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let config = folder.join("outrigger.yaml");
        let journal = serde_json::Value::from(folder.join("journal").to_str().unwrap());
        let text = format!(
            "listen: [{{ address: \"127.0.0.1:0\" }}]\n\
             admin: {{ address: \"127.0.0.1:0\" }}\n\
             journal: {{ path: {journal} }}\n\
             upstreams:\n  \
               model: {{ dialect: openai, url: \"http://{mock}\" }}\n  \
               tools: {{ dialect: http, url: \"http://{mock}\" }}\n"
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        Self::ready(command.arg("serve").arg("--config").arg(config).stderr(log), |line| {
            let ready: serde_json::Value = serde_json::from_str(line).ok()?;
            ready.pointer("/listen/0")?.as_str()?.parse().ok()
        })
    }

    /// `None` when it is not installed.
    pub(crate) fn nginx(folder: &Path, mock: SocketAddr) -> Option<Self> {
        let program = NGINX.into_iter().find(|program| Path::new(program).exists())?;
        std::fs::create_dir_all(folder.join("temp")).unwrap();
        // nginx cannot be told to take a free port.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let config = folder.join("nginx.conf");
        std::fs::write(&config, nginx_config(folder, address, mock)).unwrap();
        let log = folder.join("error.log");
        let mut command = Command::new(program);
        command.args(["-e".into(), log, "-c".into(), config]).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        // It listens before it has workers.
        while TcpStream::connect(address).is_err() || children(child.id()).len() < NGINX_WORKERS {
            assert!(begun.elapsed() < START_MAX, "nginx does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        let workers = children(child.id());
        Some(Self { pids: [vec![child.id()], workers].concat(), child, address })
    }

    /// Starts a process that says where it listens in its first line.
    fn ready(command: &mut Command, address: impl Fn(&str) -> Option<SocketAddr>) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = address(&line).unwrap_or_else(|| panic!("not ready: {command:?} said {line:?}"));
        Self { pids: vec![child.id()], child, address }
    }

    /// User and system time so far, of all threads that are and were, in microseconds.
    pub(crate) fn cpu(&self) -> Cpu {
        let ticks = |field: usize| self.pids.iter().map(|pid| fields_of_stat(*pid)[field]).sum::<u64>();
        let micros = |field: usize| (ticks(field) * 1_000_000 / TICKS_PER_SECOND) as f64;
        Cpu { user: micros(0), kernel: micros(1) }
    }

    /// Resident memory, now and at its highest, in MiB.
    pub(crate) fn memory_mib(&self) -> (f64, f64) {
        let sum =
            |name: &str| -> f64 { self.pids.iter().map(|pid| status_kib(*pid, name)).sum::<f64>() / 1024.0 };
        (sum("VmRSS:"), sum("VmHWM:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An orderly end lets nginx take its workers with it; whoever does not go in time is killed.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > START_MAX {
                _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn own() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn nginx_config(folder: &Path, address: SocketAddr, mock: SocketAddr) -> String {
    let temp = |kind: &str| -> PathBuf { folder.join("temp").join(kind) };
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    format!(
        "{user} daemon off; worker_processes {NGINX_WORKERS}; pid {pid:?}; error_log stderr crit;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off; tcp_nodelay on; keepalive_requests 100000000; client_max_body_size 64m;\n\
           client_body_buffer_size 1m; proxy_buffering off; proxy_request_buffering off;\n\
           client_body_temp_path {body:?}; proxy_temp_path {proxy:?}; fastcgi_temp_path {fastcgi:?};\n\
           uwsgi_temp_path {uwsgi:?}; scgi_temp_path {scgi:?};\n\
           upstream mock {{ server {mock}; keepalive 128; keepalive_requests 100000000; }}\n\
           server {{ listen {address}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; }} }}\n\
         }}\n",
        pid = folder.join("nginx.pid"),
        body = temp("body"),
        proxy = temp("proxy"),
        fastcgi = temp("fastcgi"),
        uwsgi = temp("uwsgi"),
        scgi = temp("scgi"),
    )
}

/// `utime`, `stime` and, last, the parent's id.
fn fields_of_stat(pid: u32) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; the numbers come after it.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [11, 12, 1].map(|at| fields.get(at).and_then(|field| field.parse().ok()).unwrap_or(0))
}

fn children(of: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    all.filter(|pid| fields_of_stat(*pid)[2] == u64::from(of)).collect()
}

fn status_kib(pid: u32, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

/// One way to the mock.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// `None` without a proxy.
    pub(crate) process: Option<Process>,
}

/// Everybody who takes part.
#[derive(Debug)]
pub(crate) struct Field {
    /// In the order of the columns; the first is no proxy at all, the second the floor.
    pub(crate) runners: Vec<Runner>,
    _mock: Process,
}

/// Positions in [`Field::runners`].
pub(crate) const DIRECT: usize = 0;
pub(crate) const FLOOR: usize = 1;

impl Field {
    pub(crate) fn start(folder: &Path) -> Self {
        let mock = Process::mock();
        let to = mock.address;
        let mut runners = vec![Runner { name: "direct", way: Way::plain(to), process: None }];
        let mut add = |name, process: Process, way: fn(SocketAddr) -> Way| {
            runners.push(Runner { name, way: way(process.address), process: Some(process) });
        };
        add("floor", Process::floor(to), Way::plain);
        if let Some(nginx) = Process::nginx(&folder.join("nginx"), to) {
            add("nginx", nginx, Way::plain);
        }
        add("passing", Process::outrigger(&folder.join("passing"), to), Way::passing);
        add("journaling", Process::outrigger(&folder.join("journaling"), to), Way::journaling);
        Self { runners, _mock: mock }
    }

    pub(crate) fn runner(&self, name: &str) -> Option<&Runner> {
        self.runners.iter().find(|runner| runner.name == name)
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.runners.iter().position(|runner| runner.name == name)
    }
}
