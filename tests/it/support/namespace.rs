//! PID namespaces of their own for sidecars and agents, where this machine lets the suite make them.

use std::process::Command;
use std::sync::OnceLock;

use super::cli;

/// The capability by which a process may make namespaces (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// The words in front of a program that is to run in a PID namespace of its own, with a `/proc` of its own.
/// `None`, and said so, where this user may not make one.
pub(crate) fn pid_namespace(whose: &str) -> Option<&'static [&'static str]> {
    const PLAIN: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    const MAPPED: &[&str] =
        &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    static WORDS: OnceLock<Option<&[&str]>> = OnceLock::new();
    let works = |words: &&[&str]| {
        let tried = Command::new(words[0]).args(&words[1..]).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let words = *WORDS.get_or_init(|| [PLAIN, MAPPED].into_iter().find(works));
    if words.is_none() {
        assert!(!may_make_namespaces(), "a process with CAP_SYS_ADMIN may make a PID namespace");
        cli::left_out(&format!("{whose} needs a PID namespace, which this user may not make"));
    }
    words
}

fn may_make_namespaces() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    u64::from_str_radix(effective, 16).unwrap() >> CAP_SYS_ADMIN & 1 == 1
}
