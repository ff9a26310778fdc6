//! The report for people.

use crate::timeline::text::{count, plain};

use super::{Difference, Pair, Report};

/// Pairs that are shown one by one; the rest is counted.
const PAIRS_MAX: usize = 20;
/// The same of the differences of one pair.
const DIFFERENCES_MAX: usize = 10;
/// Steps that one line names.
const STEPS_MAX: usize = 20;

pub(super) fn render(report: &Report) -> String {
    let mut text = head(report);
    for pair in report.pairs.iter().take(PAIRS_MAX) {
        text.push_str(&shown(pair));
    }
    if report.pairs.len() > PAIRS_MAX {
        text.push_str(&format!("\nand {} more; `--json` has them all\n", report.pairs.len() - PAIRS_MAX));
    }
    if !report.proposals.is_empty() {
        text.push_str("\nThe config that makes them the same (the whole `match` of each upstream):\n\n");
        text.push_str(&report.yaml());
    }
    if !report.findings.is_empty() {
        text.push_str("\nAlso:\n");
        report.findings.iter().for_each(|finding| text.push_str(&format!("- {}\n", plain(&finding.text))));
    }
    text
}

fn head(report: &Report) -> String {
    let Some((earlier, later)) = report.attempts else {
        return format!("workflow {}: one attempt only, nothing to compare it with\n", report.workflow);
    };
    let mut text = format!("workflow {}: attempt {later} compared with attempt {earlier}\n", report.workflow);
    let loosely = match report.loosely {
        0 => String::new(),
        some => format!(", {some} of them in other words"),
    };
    text.push_str(&format!("  {} found what is recorded{loosely}\n", count(report.found, "call")));
    match report.pairs.len() {
        0 => text.push_str("  no difference was found\n"),
        1 => text.push_str("  1 call differs from the recorded one\n"),
        some => text.push_str(&format!("  {some} calls differ from the recorded ones\n")),
    }
    for (steps, what) in [
        (&report.left_out, "left out, and nothing corresponds to it"),
        (&report.new, "new, and nothing recorded corresponds to it"),
    ] {
        if !steps.is_empty() {
            text.push_str(&format!("  {what}: {}\n", listed(steps)));
        }
    }
    if report.cut {
        text.push_str("  the requests are too large to compare them all\n");
    }
    text
}

fn listed(steps: &[u64]) -> String {
    let numbers: Vec<String> = steps.iter().take(STEPS_MAX).map(u64::to_string).collect();
    let more = steps.len().saturating_sub(STEPS_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("step{} {}{more}", if steps.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

fn shown(pair: &Pair) -> String {
    let verdict = match pair.verdict.as_str() {
        "aligned" => "the same with the config below",
        "covered" => "the same with the present config",
        "elsewhere" => "the bodies say the same: path, query or a header differs",
        "unreadable" => "a request is not recorded any more",
        _ => "not the same",
    };
    let mut text = format!(
        "\nstep {} was asked for as step {} ({}, {}, {}): {verdict}\n",
        pair.recorded,
        pair.asked,
        pair.kind,
        pair.upstream,
        plain(&pair.operation)
    );
    for difference in pair.differences.iter().take(DIFFERENCES_MAX) {
        text.push_str(&format!("  {}: {}\n", place(difference), plain(&said(difference))));
        let (recorded, asked) = (&difference.recorded, &difference.asked);
        match (&difference.recorded_value, &difference.asked_value) {
            (None, None) => text.push_str(&format!("    recorded {recorded}, asked {asked}\n")),
            (one, other) => {
                let value = |value: &Option<String>, otherwise: &str| match value {
                    Some(value) => plain(value),
                    None => otherwise.to_owned(),
                };
                text.push_str(&format!(
                    "    recorded {}\n    asked    {}\n",
                    value(one, recorded),
                    value(other, asked)
                ));
            }
        }
    }
    let hidden = pair.differences.len().saturating_sub(DIFFERENCES_MAX);
    if hidden > 0 {
        let at_least = if pair.more { "at least " } else { "" };
        text.push_str(&format!("  and {at_least}{hidden} more\n"));
    }
    text
}

fn place(difference: &Difference) -> String {
    if difference.pointer.is_empty() { "the whole".to_owned() } else { plain(&difference.pointer) }
}

/// What a difference is, and what can be done.
fn said(difference: &Difference) -> String {
    match difference.remedy.as_str() {
        "covered" => return "left out by the present config".to_owned(),
        "cache_control" => return "a cache mark, which can be left out".to_owned(),
        "member" => return "a member that says nothing of what is asked, and can be left out".to_owned(),
        "scrub" => return format!("{} differs, which can be scrubbed", difference.kinds.join(" and ")),
        _ => {}
    }
    match difference.part.as_str() {
        "answer" => "an answer of a model that was made anew; it follows from what differed before",
        "arguments" => "what a tool is asked to do; never scrubbed",
        "output" => {
            "another output of a tool, of no kind that says nothing; does the tool pass through Outrigger?"
        }
        "setting" => "a setting of the call; nothing to scrub",
        "tools" => "the tools are described in another way; nothing to scrub",
        _ => "text of no kind that is known to say nothing; if it does, write a scrub of your own",
    }
    .to_owned()
}
