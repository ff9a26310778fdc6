//! The demo's result for people and for programs. Arithmetic only: every number comes from the upstreams.

use std::fmt::Write;

use serde::Serialize;

use super::errand::{INVOICES, STEPS};
use super::error::Error;
use super::stage::{Act, Played};
use super::upstream::Tally;

const FIRST_COLUMN: usize = 22;

#[derive(Serialize)]
struct Report<'a> {
    kill_at: u32,
    steps: u32,
    /// Whether the run through Outrigger equals the undisturbed one, answer included.
    exact: bool,
    undisturbed: &'a Tally,
    without_outrigger: &'a Tally,
    with_outrigger: &'a Tally,
    same_answer: bool,
    workflow: &'a str,
    journal: &'a std::path::Path,
    took_ms: u128,
}

/// One line of JSON.
///
/// # Errors
/// [`Error::Output`] when the journal's path is not text.
pub(super) fn json(played: &Played) -> Result<String, Error> {
    let report = Report {
        kill_at: played.kill_at,
        steps: STEPS,
        exact: played.is_exact(),
        undisturbed: &played.undisturbed.tally,
        without_outrigger: &played.without.tally,
        with_outrigger: &played.with.tally,
        same_answer: played.with.answer == played.undisturbed.answer,
        workflow: &played.workflow,
        journal: &played.journal,
        took_ms: played.took.as_millis(),
    };
    let text = serde_json::to_string(&report).map_err(|error| Error::Output(error.into()))?;
    Ok(text + "\n")
}

type Row = (&'static str, fn(&Tally) -> u64);

const ROWS: [Row; 10] = [
    ("model calls", |tally| tally.model_calls),
    ("tokens in", |tally| tally.tokens_in),
    ("tokens out", |tally| tally.tokens_out),
    ("fraud checks", |tally| tally.fraud_checks),
    ("charges", |tally| tally.charges),
    ("e-mails", |tally| tally.emails),
    ("ledger posts", |tally| tally.ledger_posts),
    ("charged again", |tally| tally.duplicates.charges),
    ("e-mailed again", |tally| tally.duplicates.emails),
    ("posted again", |tally| tally.duplicates.ledger_posts),
];

/// The table and where to look next.
pub(super) fn text(played: &Played) -> String {
    let program = std::env::args_os().next().unwrap_or_else(|| "outrigger".into());
    text_for(played, &program.to_string_lossy())
}

fn text_for(played: &Played, program: &str) -> String {
    let Played { kill_at, undisturbed, without, with, .. } = played;
    let mut out = format!(
        "\nAn agent reconciles {} invoices in {STEPS} steps. It is killed with SIGKILL while step {kill_at} \
         waits\nfor its answer, and started again. Counted by the upstreams themselves, in {:.1} s:\n\n",
        INVOICES.len(),
        played.took.as_secs_f64()
    );
    line(&mut out, ["", "undisturbed", "without Outrigger", "with Outrigger"].map(str::to_owned));
    for (name, of) in ROWS {
        let [a, b, c] = [undisturbed, without, with].map(|act: &Act| grouped(of(&act.tally)));
        line(&mut out, [name.to_owned(), a, b, c]);
    }
    let again = &without.tally.duplicates;
    let _ = write!(
        out,
        "\nWithout Outrigger the restart began at step 1: {}, {}, {}.\n",
        times(again.charges, "charge made twice", "charges made twice"),
        times(again.emails, "e-mail sent twice", "e-mails sent twice"),
        times(again.ledger_posts, "ledger post made twice", "ledger posts made twice"),
    );
    out.push_str(if played.is_exact() {
        "With Outrigger the steps already done were answered from the journal: every number, and the agent's\n\
         final answer, are those of the undisturbed run.\n"
    } else {
        "With Outrigger the numbers or the final answer are NOT those of the undisturbed run. That is a defect.\n"
    });
    let _ = write!(
        out,
        "\nWhere to look next\n  {} timeline {} --journal {}\n  The folder stays until you remove it; it also \
         holds the logs of all processes.\n",
        quoted(program),
        played.workflow,
        quoted(&played.journal.to_string_lossy())
    );
    out
}

fn line(out: &mut String, [first, a, b, c]: [String; 4]) {
    let _ = writeln!(out, "{first:<FIRST_COLUMN$}{a:>12}{b:>20}{c:>17}");
}

fn times(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A word a shell takes as it stands.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn act(model_calls: u64, charges: u64, again: u64) -> Act {
        let mut tally = Tally { model_calls, tokens_in: 31_204, charges, ..Tally::default() };
        (tally.duplicates.charges, tally.duplicates.ledger_posts) = (again, 1);
        Act { tally, answer: "done".to_owned() }
    }

    fn played(with: Act) -> Played {
        Played {
            kill_at: 13,
            undisturbed: act(22, 7, 0),
            without: act(28, 9, 2),
            with,
            workflow: "demo-1".to_owned(),
            journal: "/tmp/a folder/journal".into(),
            took: Duration::from_millis(4321),
        }
    }

    #[test]
    fn the_table_shows_all_three_runs_and_the_next_command() {
        let text = text_for(&played(act(22, 7, 0)), "target/release/outrigger");
        assert!(
            text.contains("model calls                     22                  28               22\n"),
            "{text}"
        );
        assert!(text.contains("tokens in                   31,204"), "{text}");
        assert!(
            text.contains("2 charges made twice, 0 e-mails sent twice, 1 ledger post made twice"),
            "{text}"
        );
        assert!(
            text.contains("target/release/outrigger timeline demo-1 --journal '/tmp/a folder/journal'\n")
        );
        assert!(!text.contains("NOT"), "{text}");
    }

    #[test]
    fn a_run_that_differs_is_called_a_defect_in_both_forms() {
        for differing in [act(23, 7, 0), Act { answer: "another".to_owned(), ..act(22, 7, 0) }] {
            let played = played(differing);
            assert!(text_for(&played, "outrigger").contains("NOT"));
            let json: serde_json::Value = serde_json::from_str(&json(&played).unwrap()).unwrap();
            assert_eq!(json["exact"], false);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
