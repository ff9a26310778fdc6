//! Disks that are full, or fill up at work. Needs root, to mount small ones.

use std::path::Path;
use std::process::Command;

use crate::support::cli;
use crate::support::client::Ask;
use crate::support::sidecar::Setup;
use crate::support::upstream::{Script, Upstream};

/// A file system in memory of this size; `None` for a user who may not mount one.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Option<Self> {
        if !cli::is_root() {
            cli::left_out("a full disk needs root, to mount a small one");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            cli::left_out("a full disk needs the right to mount a small one");
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a sidecar may still be about to end.
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_disk_that_is_too_small_is_told_with_what_is_needed() {
    let Some(disk) = Mount::new("1m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outrigger.yaml");
    let journal = disk.path().join("journal");
    let yaml = format!(
        "listen: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\njournal: {{ path: \"{}\" }}\n\
         upstreams: {{ crm: {{ dialect: http, url: \"http://127.0.0.1:9\" }} }}\n",
        journal.display()
    );
    std::fs::write(&file, yaml).unwrap();
    cli::run(&["serve", "--config", file.to_str().unwrap()]).expect_code(1).says(&[
        "bytes left",
        "needs",
        "journal.path",
        "OG5004",
    ]);
}

#[test]
fn case_4_a_disk_that_fills_up_stops_effects_before_they_are_sent_and_loses_nothing() {
    let Some(disk) = Mount::new("12m") else { return };
    let journal = disk.path().join("journal");
    let upstream = Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)));
    let mut sidecar = Setup::new().upstream("crm", "http", &upstream.url()).journal_at(&journal).start();
    // Random bytes do not compress.
    let mut random = crate::support::random::Random::new(1);
    let mut done = Vec::new();
    let refused = loop {
        assert!(done.len() < 100, "the disk does not fill up");
        let mut ask = Ask::post("/w/w/a/1/crm/notes", random.bytes(600_000));
        ask.headers.clear();
        let sent = upstream.count();
        let answer = sidecar.call(&ask);
        if answer.status == 200 {
            done.push((ask, answer));
        } else {
            break (answer, upstream.count() - sent);
        }
    };
    let (answer, sent) = refused;
    if sent == 0 {
        assert_eq!((answer.status, answer.header("x-should-retry")), (503, Some("false")), "{answer:?}");
        assert!(answer.text().contains("OG3005"), "{answer:?}");
    } else {
        // The intent still had room and the outcome had not.
        assert!(answer.text().contains("OG3001"), "{answer:?}");
    }
    assert!(!done.is_empty());
    // From now on nothing leaves, and it says so.
    let before = upstream.count();
    let refused = sidecar.call(&Ask::post("/w/w/a/1/crm/more", "{}"));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(upstream.count(), before);
    let ready = sidecar.ask_admin(&Ask::get("/readyz"));
    assert_eq!((ready.status, &ready.json()["journal"]["poisoned"]), (503, &true.into()), "{ready:?}");
    assert_eq!(sidecar.ask_admin(&Ask::get("/healthz")).status, 200);
    assert!(sidecar.log().contains("full") || sidecar.log().contains("space"), "{}", sidecar.log());

    // With room again and a restart, every answer that was given is there.
    sidecar.kill9();
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(disk.path()).status();
    assert!(grown.unwrap().success());
    sidecar.restart();
    for (ask, lived) in &done {
        let again = Ask { path: ask.path.replace("/a/1/", "/a/2/"), ..ask.clone() };
        assert_eq!(sidecar.call(&again).expect(200, "replay").body, lived.body);
    }
    sidecar.kill9();
}

#[test]
fn case_4_on_a_full_disk_reads_may_pass_unrecorded_when_the_config_says_so() {
    let Some(disk) = Mount::new("12m") else { return };
    let upstream = Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)));
    let mut sidecar = Setup::new()
        .upstream("crm", "http", &upstream.url())
        .journal("segment_mib: 1, unavailable: passthrough")
        .journal_at(&disk.path().join("journal"))
        .start();
    let mut random = crate::support::random::Random::new(2);
    let mut full = false;
    for _ in 0..100 {
        let mut ask = Ask::post("/w/w/a/1/crm/notes", random.bytes(600_000));
        ask.headers.clear();
        if sidecar.call(&ask).status != 200 {
            full = true;
            break;
        }
    }
    assert!(full, "the disk does not fill up");
    let read = sidecar.call(&Ask::get("/w/w/a/1/crm/customers"));
    assert_eq!((read.status, read.source()), (200, "none"), "{read:?}");
    assert_eq!(sidecar.call(&Ask::post("/w/w/a/1/crm/notes", "{}")).status, 503);
    sidecar.kill9();
}
