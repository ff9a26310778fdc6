//! The timeline for people: header, one line per step, and what deserves attention.

use std::collections::BTreeMap;

use super::table::{self, Align, Column};
use super::{Diverged, State, Step, Timeline};

/// Refusals and the like that are listed one by one; the rest is counted.
const NOTES_MAX: usize = 20;
/// Attempts that are listed one by one.
const ATTEMPTS_MAX: usize = 20;

/// Steps that one line names.
const STEPS_SHOWN_MAX: usize = 20;

const COLUMNS: [Column; 12] = [
    Column::fixed("step", Align::Right),
    Column::fixed("time", Align::Left),
    Column::fixed("took", Align::Right),
    Column::fixed("kind", Align::Left),
    Column::up_to("upstream", 12),
    Column::elastic("model or tool", 13),
    Column::fixed("state", Align::Left),
    Column::fixed("source", Align::Left),
    Column::fixed("att", Align::Right),
    Column::up_to("again", 8),
    Column::fixed("in", Align::Right),
    Column::fixed("out", Align::Right),
];

pub(super) fn render(timeline: &Timeline) -> String {
    let mut text = header(timeline);
    if !timeline.steps.is_empty() {
        let rows: Vec<Vec<String>> = timeline.steps.iter().map(cells).collect();
        text.push('\n');
        text.push_str(&table::render(&COLUMNS, &rows));
    }
    let notes = notes(timeline);
    if !notes.is_empty() {
        text.push('\n');
        notes.iter().take(NOTES_MAX).for_each(|note| text.push_str(&format!("{}\n", plain(note))));
        if notes.len() > NOTES_MAX {
            text.push_str(&format!("and {} more; `--json` has them all\n", notes.len() - NOTES_MAX));
        }
    }
    text
}

fn header(timeline: &Timeline) -> String {
    let completed = timeline.steps.iter().filter(|step| step.state == "completed").count();
    let mut text = format!(
        "workflow {}: {}, {}, {} ({completed} completed)\n",
        timeline.workflow,
        shown_state(timeline.state),
        count(timeline.attempts.len(), "attempt"),
        count(timeline.steps.len(), "step"),
    );
    let hidden = timeline.attempts.len().saturating_sub(ATTEMPTS_MAX);
    if hidden > 0 {
        text.push_str(&format!("  {} before\n", count(hidden, "attempt")));
    }
    for attempt in timeline.attempts.iter().skip(hidden) {
        text.push_str(&format!(
            "  attempt {:<3} {:<9} opened {}\n",
            attempt.attempt,
            attempt.reason,
            shown_date(&attempt.opened_at)
        ));
    }
    text
}

pub(super) fn shown_state(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Damaged => "damaged",
        State::InDoubt => "in doubt",
        State::Open => "open",
        State::Removed => "removed",
    }
}

fn cells(step: &Step) -> Vec<String> {
    let again: Vec<String> = step.redelivered.iter().map(u32::to_string).collect();
    vec![
        step.step.to_string(),
        step.started_at.get(11..19).unwrap_or(&step.started_at).to_owned(),
        step.duration_ms.map_or_else(|| "-".to_owned(), shown_duration),
        step.kind.clone(),
        step.upstream.clone(),
        step.operation.clone(),
        step.state.replace('_', " "),
        step.source.clone(),
        step.attempt.to_string(),
        again.join(","),
        step.usage.input.map_or_else(String::new, shown_tokens),
        step.usage.output.map_or_else(String::new, shown_tokens),
    ]
}

fn notes(timeline: &Timeline) -> Vec<String> {
    let troubled = timeline.steps.iter().filter(|step| step.state != "completed").filter_map(|step| {
        let detail = step.detail.as_ref()?;
        Some(format!("step {} ({}) {}: {detail}", step.step, step.operation, step.state.replace('_', " ")))
    });
    let billed = timeline.steps.iter().filter(|step| step.possibly_billed).map(|step| {
        format!(
            "step {} ({}): a try before the recorded one may have been billed too",
            step.step, step.operation
        )
    });
    let refused = timeline.refusals.iter().map(|refused| {
        let step = refused.step.map(|step| format!(" (step {step})")).unwrap_or_default();
        format!(
            "refused in attempt {} at {}: {}{step}, {}",
            refused.attempt,
            refused.at.get(11..19).unwrap_or(&refused.at),
            refused.operation,
            refused.code
        )
    });
    let unproxied = timeline.unproxied.iter().map(|unproxied| {
        format!(
            "step {} called tool `{}`, which did not pass through Outrigger: it runs again after a restart",
            unproxied.step, unproxied.tool
        )
    });
    let diverged = timeline.diverged.iter().map(diverged).chain(loosely_found(timeline));
    let decided = timeline.decisions.iter().map(|decision| {
        format!(
            "{} decided at {}: {} {}",
            decision.by,
            decision.at.get(11..19).unwrap_or(&decision.at),
            listed(&decision.steps),
            decision.decision.replace('_', " ")
        )
    });
    let lists = timeline.changed_lists.iter().map(|list| {
        format!(
            "attempt {}: {} of {} differs from the recorded one",
            list.attempt, list.method, list.upstream
        )
    });
    troubled
        .chain(billed)
        .chain(diverged)
        .chain(refused)
        .chain(decided)
        .chain(unproxied)
        .chain(lists)
        .collect()
}

/// What was found although another request asked for it, a line per attempt and name.
fn loosely_found(timeline: &Timeline) -> Vec<String> {
    let mut steps: BTreeMap<(u32, &str), Vec<u64>> = BTreeMap::new();
    for step in &timeline.steps {
        for found in step.found.iter().filter(|found| found.by != "exact") {
            steps.entry((found.attempt, found.by.as_str())).or_default().push(step.step);
        }
    }
    let line = |((attempt, by), steps): ((u32, &str), Vec<u64>)| {
        let shown = match steps.get(..STEPS_SHOWN_MAX) {
            Some(first) if steps.len() > first.len() => {
                format!("{} and {} more", listed(first), steps.len() - first.len())
            }
            _ => listed(&steps),
        };
        format!("attempt {attempt} asked for {shown} in other words: found as {by}")
    };
    steps.into_iter().map(line).collect()
}

fn diverged(diverged: &Diverged) -> String {
    let difference = match (&diverged.pointer, &diverged.recorded, &diverged.asked) {
        (Some(pointer), Some(recorded), Some(asked)) => {
            let expected = diverged.expected.map_or_else(String::new, |step| format!(" from step {step}"));
            format!("; first differs{expected} at `{pointer}` (recorded {recorded}, asked {asked})")
        }
        _ => String::new(),
    };
    format!(
        "attempt {} went another way at {}: {}, {} left out{difference}; {}",
        diverged.attempt,
        diverged.at.get(11..19).unwrap_or(&diverged.at),
        diverged.operation,
        listed(&diverged.left_out),
        if diverged.refused { "not sent" } else { "sent" },
    )
}

fn listed(steps: &[u64]) -> String {
    let numbers: Vec<String> = steps.iter().map(u64::to_string).collect();
    format!("step{} {}", if steps.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// What upstreams and agents wrote may hold anything; a terminal gets no control characters.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `2026-11-20T02:00:00.000Z` as `2026-11-20 02:00:00 UTC`.
pub(super) fn shown_date(at: &str) -> String {
    match (at.get(..10), at.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => at.to_owned(),
    }
}

fn shown_duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

fn shown_tokens(tokens: u64) -> String {
    match tokens {
        0..1_000_000 => tokens.to_string(),
        _ => format!("{}.{}M", tokens / 1_000_000, tokens % 1_000_000 / 100_000),
    }
}

pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_tokens_are_short_at_every_size() {
        for (ms, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (59_999, "59.9s"),
            (61_000, "1m01s"),
            (7_260_000, "2h01m"),
        ] {
            assert_eq!(shown_duration(ms), expected);
        }
        assert_eq!(shown_tokens(999_999), "999999");
        assert_eq!(shown_tokens(1_250_000), "1.2M");
    }
}
