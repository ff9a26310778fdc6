//! What `cargo test` leaves out, and the rules of the script that runs all of it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn script() -> Command {
    let mut command = Command::new(Path::new(ROOT).join("tests/run"));
    command.env_remove("CI").env_remove("OUTRIGGER_SKIPS");
    command
}

/// The names of all parts, with what each does.
fn listed() -> Vec<(String, String)> {
    let output = script().arg("--list").output().expect("tests/run starts");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("the list is text");
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, what)| (name.to_owned(), what.trim().to_owned())).collect()
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn what_is_left_out_is_said() {
    let parts = listed();
    assert!(parts.len() >= 8, "{parts:?}");
    assert!(parts.iter().all(|(_, what)| !what.is_empty()), "every part says what it does: {parts:?}");
    if std::env::var_os("OUTRIGGER_TESTS_RUN").is_some() {
        return;
    }
    let others = parts.iter().filter(|(name, _)| name != "test");
    let lines: String = others.map(|(name, what)| format!("  {name}: {what}\n")).collect();
    // Past the capture of the test harness, so that everybody sees it.
    let mut terminal = std::io::stderr();
    write!(terminal, "\n`cargo test` leaves these parts out; `tests/run` runs all of them:\n{lines}")
        .unwrap();
}

#[test]
fn a_part_that_does_not_exist_is_refused() {
    let output = script().arg("no-such-part").output().expect("tests/run starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-part"));
}

#[test]
fn skips_name_parts_and_reasons() {
    let parts = listed();
    let text = fs::read_to_string(Path::new(ROOT).join("tests/skips")).expect("tests/skips is there");
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (part, reason) = line.split_once(": ").unwrap_or_else(|| panic!("no reason: {line}"));
        assert!(parts.iter().any(|(name, _)| name == part), "there is no part `{part}`");
        assert!(!reason.trim().is_empty(), "no reason: {line}");
    }
}

/// Runs the part `shell` where there is neither shellcheck nor a way to install it.
fn run_without_shellcheck(ci: bool, skips: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    for tool in ["bash", "cut", "dirname", "env", "grep", "id", "mkdir", "sed", "sha256sum"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").expect("there is a PATH"))
            .map(|path| path.join(tool))
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{tool} is not installed"));
        std::os::unix::fs::symlink(found, folder.path().join(tool)).expect("a link");
    }
    let list = folder.path().join("skips");
    fs::write(&list, skips).expect("a file");
    let mut command = script();
    command.arg("shell").env("PATH", folder.path()).env("OUTRIGGER_SKIPS", list);
    command.env("OUTRIGGER_CACHE", folder.path()).env("CI", if ci { "true" } else { "" });
    command.output().expect("tests/run starts")
}

#[test]
fn a_skipped_part_fails_in_ci_unless_its_reason_is_listed() {
    let check = |ci: bool, skips: &str, passes: bool, last: &str| {
        let output = run_without_shellcheck(ci, skips);
        let all = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), passes, "CI={ci}, skips {skips:?}:\n{all}");
        assert_eq!(last_line(&output), last, "CI={ci}, skips {skips:?}:\n{all}");
        assert!(all.contains("skipped: shellcheck is not installed"), "{all}");
    };
    check(false, "", true, "0 passed, 0 failed");
    check(true, "", false, "0 passed, 1 failed");
    check(true, "shell: \n", false, "0 passed, 1 failed");
    check(true, "clippy: no time\n", false, "0 passed, 1 failed");
    check(true, "shell: no shellcheck on this machine\n", true, "0 passed, 0 failed");
}
