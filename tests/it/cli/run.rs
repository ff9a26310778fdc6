//! `outrigger run`: the command's environment, exit codes, restarts, signals, and its end with the
//! wrapper's. The agents are shell scripts that call with the test's own agent where they call at all.

use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::Signal;

use crate::support::cli::{self, Output};
use crate::support::sidecar::Setup;
use crate::support::upstream::{Script, Upstream};
use crate::support::wait;

/// A place with a config, and files that scripts write.
struct Home {
    dir: tempfile::TempDir,
    upstream: Upstream,
}

impl Home {
    fn new() -> Self {
        let upstream = Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)));
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup::new().upstream_with("crm", "http", &upstream.url(), "env: { CRM_URL: /api }");
        let address = "127.0.0.1:0".parse().unwrap();
        let yaml = setup.yaml(&dir.path().join("journal"), address, address);
        std::fs::write(dir.path().join("outrigger.yaml"), yaml).unwrap();
        Self { dir, upstream }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// `outrigger run OPTIONS -- sh -c SCRIPT`, in this place.
    fn command(&self, options: &[&str], script: &str) -> Command {
        let config = self.path("outrigger.yaml");
        let head = ["run", "--config", config.to_str().unwrap()];
        let words: Vec<&str> =
            head.iter().chain(options).chain(&["--", "sh", "-c", script]).copied().collect();
        let mut command = cli::command(&words);
        command.current_dir(self.dir.path());
        command
    }

    #[track_caller]
    fn run(&self, options: &[&str], script: &str) -> Output {
        cli::finish(self.command(options, script).spawn().unwrap())
    }

    fn start(&self, options: &[&str], script: &str) -> Child {
        self.command(options, script).spawn().unwrap()
    }

    #[track_caller]
    fn journal(&self, words: &[&str]) -> Output {
        let journal = self.path("journal");
        let words: Vec<&str> =
            words.iter().copied().chain(["--journal", journal.to_str().unwrap()]).collect();
        cli::run(&words)
    }

    #[track_caller]
    fn wait_for(&self, name: &str) -> String {
        wait::until_some(&format!("the script writes {name}"), || {
            Some(self.read(name)).filter(|text| text.ends_with('\n'))
        })
    }
}

/// A shell function that posts its argument to the upstream: bash can, with nothing installed.
const POST: &str = r#"post() {
    rest=${CRM_URL#http://}; host=${rest%%/*}; path=/${rest#*/}
    bash -c '
        exec 3<>"/dev/tcp/${1%:*}/${1##*:}"
        printf "POST %s/notes HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" "$2" "$1" "${#3}" "$3" >&3
        cat <&3' post "$host" "$path" "$1" >> answers
}
"#;

fn with_post(script: &str) -> String {
    format!("{POST}{script}")
}

#[test]
fn the_command_gets_its_environment_and_its_exit_code_is_returned() {
    let home = Home::new();
    let script =
        "echo \"$CRM_URL $OTHER\" > env; echo out; echo err >&2; read line; echo \"[$line]\" > stdin; exit 0";
    let output = home.run(&["--workflow", "job-1", "--env", "OTHER=crm/x/y"], script).expect_code(0);
    let environment = home.read("env");
    let (crm, other) = environment.trim().split_once(' ').unwrap();
    assert!(crm.starts_with("http://127.0.0.1:") && crm.ends_with("/w/job-1/a/1/crm/api"), "{crm}");
    assert!(other.ends_with("/w/job-1/a/1/crm/x/y"), "{other}");
    assert_eq!(output.stdout, "out\n", "standard output is the command's alone");
    assert!(output.stderr.contains("err\n"), "{}", output.stderr);
    assert_eq!(home.read("stdin"), "[]\n");
    let last: Vec<&str> = output.stderr.lines().rev().take(3).collect();
    for (line, begins) in last.iter().rev().zip(["steps:", "replayed:", "saved:"]) {
        assert!(line.trim_start_matches("outrigger: ").starts_with(begins), "{last:?}");
    }
    let state = home.journal(&["timeline", "job-1", "--json"]).expect_code(0).stdout;
    assert!(state.contains("\"closed\""), "{state}");
}

#[test]
fn a_command_that_succeeded_is_not_done_again_under_the_same_id() {
    let home = Home::new();
    home.run(&["--workflow", "job"], "exit 0").expect_code(0);
    home.run(&["--workflow", "job"], "echo ran > ran").expect_code(2).says(&["closed", "OG3004"]);
    assert_eq!(home.read("ran"), "", "it is said before the command starts");
}

#[test]
fn a_command_that_dies_is_started_again_as_the_next_attempt_and_finds_its_steps() {
    let home = Home::new();
    let script = with_post(
        "echo \"$CRM_URL\" >> urls; post '{\"n\":1}'; [ $(wc -l < urls) -ge 2 ] || kill -9 $$; post '{\"n\":2}'",
    );
    let output = home.run(&["--workflow", "job"], &script).expect_code(0);
    let urls = home.read("urls");
    assert!(
        urls.lines().next().unwrap().contains("/a/1/") && urls.lines().nth(1).unwrap().contains("/a/2/"),
        "{urls}"
    );
    assert_eq!(home.upstream.count(), 2, "{}", home.read("answers"));
    output.says(&["killed by signal 9", "steps: 2, 2 completed", "replayed: 1 answer", "1 tool call"]);
}

#[test]
fn a_command_that_keeps_dying_is_given_up_with_its_own_code() {
    let home = Home::new();
    let output = home.run(&["--workflow", "job", "--max-restarts", "2"], "echo x >> starts; exit 7");
    let output = output.expect_code(7).says(&["OG5011", "after 2 restarts"]);
    assert_eq!(home.read("starts"), "x\nx\nx\n", "{output:?}");
    let state = home.journal(&["timeline", "job", "--json"]).expect_code(0).stdout;
    assert!(state.contains("\"open\""), "it can be run again: {state}");
    home.run(&["--workflow", "job"], "exit 0").expect_code(0);
}

#[test]
fn restarts_are_counted_anew_when_a_step_was_done_in_between() {
    let home = Home::new();
    let script = with_post(
        "echo x >> starts; n=$(wc -l < starts); for k in $(seq $n); do post \"{\\\"n\\\":$k}\"; done; [ $n -ge 5 ] || exit 1",
    );
    home.run(&["--workflow", "job", "--max-restarts", "1"], &script).expect_code(0);
    assert_eq!((home.read("starts").lines().count(), home.upstream.count()), (5, 5));
}

#[test]
fn a_command_killed_by_a_signal_counts_as_shells_count() {
    let home = Home::new();
    home.run(&["--max-restarts", "0"], "kill -SEGV $$").expect_code(128 + 11);
}

#[test]
fn a_command_that_is_not_there_is_not_tried_again() {
    let home = Home::new();
    let config = home.path("outrigger.yaml");
    let words = ["run", "--config", config.to_str().unwrap(), "--", "/nonexistent/agent"];
    let output = cli::run(&words).expect_code(127).says(&["/nonexistent/agent", "OG5010"]);
    assert!(!output.stderr.contains("next start"), "{output:?}");
    let words = ["run", "--config", config.to_str().unwrap(), "--", home.dir.path().to_str().unwrap()];
    cli::run(&words).expect_code(126);
}

#[test]
fn without_an_id_one_is_made_and_told() {
    let home = Home::new();
    let output = home.run(&[], "echo \"$CRM_URL\" > url").expect_code(0);
    let url = home.read("url");
    let id = url.split("/w/").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    assert!(id.starts_with("run-"), "{url}");
    output.says(&[&format!("--workflow {id}")]);
}

#[test]
fn signals_are_handed_on_and_the_command_decides_how_it_ends() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let home = Home::new();
        let script = format!(
            "trap 'echo caught > caught; exit 3' {name}; echo ready > ready; while :; do sleep 0.05; done"
        );
        let child = home.start(&["--workflow", "job"], &script);
        home.wait_for("ready");
        cli::signal(child.id(), signal);
        cli::finish(child).expect_code(3);
        assert_eq!(home.read("caught"), "caught\n", "{name}");
        let state = home.journal(&["timeline", "job", "--json"]).expect_code(0).stdout;
        assert!(state.contains("\"open\""), "a run that was ended is not closed: {state}");
    }
}

#[test]
fn a_second_signal_kills_a_command_that_does_not_listen() {
    let home = Home::new();
    let child = home.start(&[], "trap '' TERM; echo ready > ready; while :; do sleep 0.05; done");
    home.wait_for("ready");
    cli::signal(child.id(), Signal::TERM);
    // Two at once would be one: the first must have been taken.
    let id = child.id();
    let pending = || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name).map(str::trim)).map(str::to_owned)
        };
        let bits = line("ShdPnd:").and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(0);
        bits & (1 << (15 - 1)) != 0
    };
    wait::until("the first signal is taken", || !pending());
    let begun = std::time::Instant::now();
    wait::since(begun, std::time::Duration::from_millis(200));
    cli::signal(id, Signal::TERM);
    cli::finish(child).expect_code(128 + 9);
}

#[test]
fn the_command_dies_with_a_wrapper_that_is_killed() {
    let home = Home::new();
    let mut child = home.start(&[], "echo $$ > pid; while :; do sleep 0.05; done");
    let pid: u32 = home.wait_for("pid").trim().parse().unwrap();
    assert!(cli::is_alive(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until("the command is dead", || !cli::is_alive(pid));
}

#[test]
fn a_wrapper_that_was_killed_is_followed_by_one_that_goes_on() {
    let home = Home::new();
    let first = with_post("post '{\"n\":1}'; echo done > done; while :; do sleep 0.05; done");
    let mut child = home.start(&["--workflow", "job"], &first);
    home.wait_for("done");
    child.kill().unwrap();
    child.wait().unwrap();
    let second = with_post("post '{\"n\":1}'; post '{\"n\":2}'");
    home.run(&["--workflow", "job"], &second).expect_code(0).says(&["replayed: 1 answer"]);
    assert_eq!(home.upstream.count(), 2);
}

#[test]
fn a_running_sidecar_can_be_used_instead() {
    let home = Home::new();
    let sidecar =
        Setup::new().upstream_with("crm", "http", &home.upstream.url(), "env: { CRM_URL: /api }").start();
    let admin = format!("http://{}", sidecar.admin());
    let script = with_post("echo \"$CRM_URL\" > url; post '{}'");
    home.run(&["--workflow", "job", "--sidecar", &admin], &script).expect_code(0).says(&["steps: 1"]);
    assert!(home.read("url").starts_with(&format!("http://{}/w/job/a/1/", sidecar.address())));
    assert!(!home.path("journal").exists(), "no second sidecar was started");
    assert_eq!(sidecar.timeline("job")["state"], "closed");
    let unreachable = format!("http://{}", crate::support::ports::free());
    home.run(&["--sidecar", &unreachable], "exit 0").expect_code(1).says(&["OG5005"]);
}

#[test]
fn arguments_that_cannot_be_used_are_told_before_anything_starts() {
    let home = Home::new();
    home.run(&["--env", "X=crn"], "echo ran > ran").expect_code(2).says(&["did you mean `crm`?", "OG2016"]);
    home.run(&["--workflow", "no id"], "echo ran > ran").expect_code(2).says(&["OG1001"]);
    assert_eq!(home.read("ran"), "");
}
