//! What a person sees whose sidecar does not start: what is wrong, and what to do.

use std::path::Path;

use crate::support::cli::{self, Output};
use crate::support::client::Ask;
use crate::support::ports;
use crate::support::sidecar::Setup;
use crate::support::upstream::{Script, Upstream};

const UPSTREAM: &str = "upstreams: { crm: { dialect: http, url: \"http://127.0.0.1:9\" } }\n";

/// `serve` with this config; it must end by itself.
#[track_caller]
fn serve(dir: &Path, yaml: &str) -> Output {
    let file = dir.join("outrigger.yaml");
    std::fs::write(&file, yaml).unwrap();
    cli::run(&["serve", "--config", file.to_str().unwrap()])
}

/// A config with these addresses and this journal.
fn yaml(listen: &str, admin: &str, journal: &Path) -> String {
    format!(
        "listen: [{{ address: \"{listen}\" }}]\nadmin: {{ address: \"{admin}\" }}\njournal: {{ path: \"{}\" }}\n{UPSTREAM}",
        journal.display()
    )
}

fn anywhere(journal: &Path) -> String {
    yaml("127.0.0.1:0", "127.0.0.1:0", journal)
}

#[test]
fn a_wrong_config_is_told_whole_with_places_and_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = "lisen: [{ address: 127.0.0.1:4747 }]\nadmin: { address: 0.0.0.0:4748 }\n\
                 upstreams:\n  W: { dialect: opnai, url: ftp://x }\n  crm: { dialect: http }\n";
    let output = serve(dir.path(), wrong).expect_code(2).says(&[
        "unknown key `lisen`",
        "did you mean `listen`?",
        "OG2003",
        "OG2010",
        "other machines can reach 0.0.0.0:4748",
        "outrigger.yaml:1:1",
    ]);
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(!dir.path().join("outrigger-data").exists(), "nothing was begun");
    let file = dir.path().join("outrigger.yaml");
    let checked = cli::run(&["check", "--config", file.to_str().unwrap()]).expect_code(2);
    assert_eq!(checked.stderr, output.stderr, "`check` says the same");
}

#[test]
fn an_unknown_key_at_any_depth_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (yaml, wrong, meant) in [
        (UPSTREAM.replace("url:", "uri:"), "`uri`", "`url`"),
        (format!("journal: {{ pth: x }}\n{UPSTREAM}"), "`pth`", "`path`"),
        (format!("limits: {{ body_mb_max: 1 }}\n{UPSTREAM}"), "`body_mb_max`", "`body_mib_max`"),
    ] {
        serve(dir.path(), &yaml).expect_code(2).says(&[wrong, "did you mean", meant]);
    }
}

#[test]
fn a_config_that_is_not_there_is_named() {
    cli::run(&["serve", "--config", "/nonexistent/outrigger.yaml"])
        .expect_code(2)
        .says(&["/nonexistent/outrigger.yaml", "OG2001"]);
}

#[test]
fn a_right_config_passes_the_check_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outrigger.yaml");
    std::fs::write(&file, anywhere(&dir.path().join("journal"))).unwrap();
    cli::run(&["check", "--config", file.to_str().unwrap()]).expect_code(0);
    assert!(!dir.path().join("journal").exists());
}

#[test]
fn a_port_that_is_taken_is_named_before_anything_else_happens() {
    let dir = tempfile::tempdir().unwrap();
    let address = ports::free();
    let _taken = std::net::TcpListener::bind(address).unwrap();
    let journal = dir.path().join("journal");
    for yaml in [
        yaml(&address.to_string(), "127.0.0.1:0", &journal),
        yaml("127.0.0.1:0", &address.to_string(), &journal),
    ] {
        serve(dir.path(), &yaml).expect_code(1).says(&[&address.to_string(), "OG5001"]);
    }
    assert!(!journal.exists(), "the journal stays untouched");
}

#[test]
fn a_journal_that_another_process_has_is_named_with_its_holder() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    let dir = tempfile::tempdir().unwrap();
    serve(dir.path(), &anywhere(&sidecar.journal())).expect_code(1).says(&[
        "in use by process",
        &sidecar.pid().to_string(),
        &format!("http://{}", sidecar.admin()),
        "journal.path",
        "OG5002",
    ]);
    // The holder is not disturbed.
    sidecar.call(&Ask::post("/w/w/a/1/crm/x", "{}")).expect(200, "live");
}

#[test]
fn the_lock_ends_with_its_holder_even_when_that_is_killed() {
    let upstream = Upstream::start(|_| Script::json("{}"));
    let mut sidecar = Setup::new().upstream("crm", "http", &upstream.url()).start();
    sidecar.kill9();
    sidecar.restart();
    sidecar.call(&Ask::post("/w/w/a/1/crm/x", "{}")).expect(200, "live");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "x").unwrap();
    serve(dir.path(), &anywhere(&file)).expect_code(1).says(&[file.to_str().unwrap(), "journal.path"]);
    serve(dir.path(), &anywhere(&file.join("below"))).expect_code(1).says(&["a-file", "journal.path"]);
    if cli::is_root() {
        // Nobody may create anything here, not even root.
        let yaml = anywhere(Path::new("/proc/outrigger"));
        serve(dir.path(), &yaml).expect_code(1).says(&["/proc/outrigger", "journal.path"]);
    } else {
        use std::os::unix::fs::PermissionsExt;
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
        serve(dir.path(), &anywhere(&closed)).expect_code(1).says(&["closed", "OG5003", "journal.path"]);
    }
}

#[test]
fn a_directory_that_holds_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("photos");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("cat.jpg"), "meow").unwrap();
    serve(dir.path(), &anywhere(&other)).expect_code(1).says(&["no journal", "OG5008"]);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn every_code_that_is_shown_can_be_explained() {
    for code in ["OG2003", "og5001", "3001"] {
        let output = cli::run(&["explain", code]).expect_code(0);
        assert!(output.stdout.contains("What to do"), "{output:?}");
    }
    cli::run(&["explain", "OG9999"]).expect_code(2);
}

#[test]
fn the_listen_argument_wins_over_the_config_and_exposes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outrigger.yaml");
    std::fs::write(&file, anywhere(&dir.path().join("journal"))).unwrap();
    cli::run(&["serve", "--config", file.to_str().unwrap(), "--listen", "0.0.0.0:0"])
        .expect_code(2)
        .says(&["OG2010", "expose"]);
    cli::run(&["serve", "--listen", "nonsense"]).expect_code(2).says(&["--listen"]);
}
