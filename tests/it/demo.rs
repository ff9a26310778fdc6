//! `outrigger demo` as a person runs it: three real runs of fifty steps, and numbers that must add up.

use serde_json::{Value, json};

use crate::support::cli;

/// The steps of one undisturbed run: `M`odel, `F`raud check, `C`harge, `E`-mail, `L`edger post.
fn steps() -> String {
    "MFMCMEL".repeat(7) + "M"
}

fn count(steps: &str, kind: char) -> u64 {
    u64::try_from(steps.chars().filter(|step| *step == kind).count()).unwrap()
}

/// What upstreams count that see `steps`, of which those in `again` were made for the second time.
fn tally(steps: &str, again: &str) -> Value {
    json!({
        "model_calls": count(steps, 'M'),
        "fraud_checks": count(steps, 'F'),
        "charges": count(steps, 'C'),
        "emails": count(steps, 'E'),
        "ledger_posts": count(steps, 'L'),
        "duplicates": {
            "charges": count(again, 'C'),
            "emails": count(again, 'E'),
            "ledger_posts": count(again, 'L'),
        },
    })
}

/// The tally without its tokens, and the tokens.
fn split(tally: &Value) -> (Value, u64, u64) {
    let mut tally = tally.clone();
    let members = tally.as_object_mut().unwrap();
    let mut tokens = |name: &str| members.remove(name).and_then(|value| value.as_u64()).unwrap();
    let (tokens_in, tokens_out) = (tokens("tokens_in"), tokens("tokens_out"));
    (tally, tokens_in, tokens_out)
}

#[track_caller]
fn check(kill_at: usize) {
    let folder = tempfile::tempdir().unwrap();
    let kill_at_word = kill_at.to_string();
    let mut command = cli::command(&["demo", "--json", "--kill-at", &kill_at_word]);
    command.env("TMPDIR", folder.path());
    let output = cli::finish(command.spawn().unwrap()).expect_code(0);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&report["exact"], &report["same_answer"]), (&json!(true), &json!(true)), "{report:#}");
    assert_eq!((&report["kill_at"], &report["steps"]), (&json!(kill_at), &json!(50)));

    let whole = steps();
    let before_the_kill = whole.get(..kill_at).unwrap();
    let (undisturbed, tokens_in, tokens_out) = split(&report["undisturbed"]);
    assert_eq!(undisturbed, tally(&whole, ""));
    assert!(tokens_in > 0 && tokens_out > 0);
    let (without, more_in, more_out) = split(&report["without_outrigger"]);
    assert_eq!(without, tally(&(before_the_kill.to_owned() + &whole), before_the_kill));
    assert!(tokens_in < more_in && more_in <= 2 * tokens_in, "{report:#}");
    assert!(tokens_out < more_out && more_out <= 2 * tokens_out, "{report:#}");
    assert_eq!(report["with_outrigger"], report["undisturbed"]);

    // What it says is next works, from the journal alone.
    let workflow = report["workflow"].as_str().unwrap();
    let journal = report["journal"].as_str().unwrap();
    let timeline = cli::run(&["timeline", workflow, "--journal", journal, "--json"]).expect_code(0);
    let timeline: Value = serde_json::from_str(&timeline.stdout).unwrap();
    assert_eq!(timeline["steps"].as_array().unwrap().len(), whole.len());
    assert_eq!(timeline["attempts"].as_array().unwrap().len(), 2);
}

#[test]
fn an_agent_killed_at_step_47_costs_what_an_undisturbed_one_costs() {
    check(47);
}

#[test]
fn an_agent_killed_at_step_13_gives_other_and_right_numbers() {
    check(13);
}

#[test]
fn an_agent_killed_while_its_charge_waits_for_the_answer_charges_once() {
    check(46);
}

#[test]
fn an_agent_killed_at_its_first_or_last_step_resumes_too() {
    check(1);
    check(50);
}

#[test]
fn a_step_the_agent_does_not_have_is_refused_before_anything_starts() {
    for step in ["0", "51", "x"] {
        cli::run(&["demo", "--kill-at", step]).expect_code(2).says(&["--kill-at"]);
    }
}
