//! `outrigger gc`: says what it would do, does it, and says how much came free; with the sidecar and without.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::cli;
use crate::support::client::Ask;
use crate::support::random::Random;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

fn upstream() -> Upstream {
    Upstream::start(|request| Script::json(format!(r#"{{"call":{}}}"#, request.count)))
}

/// Enough that the journal has sealed segments: random bytes do not compress.
fn note(workflow: &str, attempt: usize, seed: u64) -> Ask {
    let mut ask = Ask::post(format!("/w/{workflow}/a/{attempt}/crm/notes"), Random::new(seed).bytes(500_000));
    ask.headers.clear();
    ask
}

/// A sidecar with two workflows, one of them closed.
fn filled(upstream: &Upstream) -> Sidecar {
    let setup = Setup::new().upstream("crm", "http", &upstream.url());
    let sidecar = setup.line("retention: { bodies_h: 0, records_h: 720 }").start();
    for seed in 0..6 {
        sidecar.call(&note("done", 1, seed)).expect(200, "live");
        sidecar.call(&note("live", 1, 100 + seed)).expect(200, "live");
    }
    sidecar.cli(&["close", "done"]).expect_code(0);
    sidecar
}

fn log_len(journal: &Path) -> u64 {
    let entries = fs::read_dir(journal.join("log")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[track_caller]
fn as_json(output: &cli::Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn gc_says_what_it_would_do_then_does_it_and_says_what_came_free() {
    for running in [true, false] {
        let upstream = upstream();
        let mut sidecar = filled(&upstream);
        if !running {
            assert!(sidecar.stop().success());
        }
        let config = sidecar.config();
        let gc = |words: &[&str]| {
            let config = ["gc", "--config", config.to_str().unwrap()];
            cli::run(&[&config[..], words].concat()).expect_code(0)
        };
        let before = log_len(&sidecar.journal());
        gc(&["--dry-run"]).prints(&["done: would be bodies expired", "nothing was changed"]);
        let dry = as_json(&gc(&["--dry-run", "--json"]));
        assert_eq!((&dry["bodies_expired"], &dry["dry_run"]), (&json!(["done"]), &json!(true)));

        // What a dry run would do is still there to be done.
        let swept = as_json(&gc(&["--json"]));
        assert_eq!((&swept["bodies_expired"], &swept["closed"]), (&json!(["done"]), &json!([])), "{swept}");
        let [was, is] = ["bytes_before", "bytes_after"].map(|key| swept[key].as_u64().unwrap());
        assert!(was - is > 2_000_000, "six bodies of 500,000 bytes: {swept}");
        assert!(before - log_len(&sidecar.journal()) > 2_000_000);
        gc(&[]).prints(&["0 closed, 0 bodies expired, 0 removed, 0 kept; 0 bytes came free"]);

        if running {
            assert!(sidecar.stop().success());
        }
        let verified = as_json(&sidecar.cli(&["journal", "verify", "--json"]).expect_code(0));
        assert_eq!((&verified["whole"], verified["bodies_expired"].as_u64() > Some(5)), (&json!(true), true));
        sidecar.cli(&["journal", "stats"]).expect_code(0).prints(&["1 open, 1 closed", "expired"]);
        sidecar.cli(&["journal", "rebuild-index"]).expect_code(0);
        let export = sidecar.home().join("export.jsonl");
        exported_and_taken_in(&sidecar, &export);
        sidecar.restart();
        for seed in 0..6 {
            sidecar.call(&note("live", 2, 100 + seed)).expect(200, "replay");
        }
        assert_eq!((upstream.count(), sidecar.states("done").len()), (12, 6));
    }
}

/// A journal with expired bodies goes into another one, and is the same there.
#[track_caller]
fn exported_and_taken_in(sidecar: &Sidecar, file: &Path) {
    sidecar.cli(&["journal", "export", "--output", file.to_str().unwrap()]).expect_code(0);
    let other = sidecar.home().join("other");
    let other = other.to_str().unwrap();
    cli::run(&["journal", "import", file.to_str().unwrap(), "--journal", other]).expect_code(0);
    cli::run(&["journal", "verify", "--journal", other]).expect_code(0);
    let timeline = |journal: &str| cli::run(&["timeline", "done", "--json", "--journal", journal]);
    assert_eq!(timeline(other).stdout, timeline(sidecar.journal().to_str().unwrap()).stdout);
}

#[test]
fn gc_of_no_journal_says_so() {
    let home = tempfile::tempdir().unwrap();
    let nowhere = home.path().join("nowhere");
    cli::run(&["gc", "--journal", nowhere.to_str().unwrap()]).expect_code(3).says(&["there is no journal"]);
}
