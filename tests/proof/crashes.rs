//! The crashes themselves: how many is up to `OUTRIGGER_PROOF_CRASHES`.

use outrigger::failpoint::Point;

use crate::campaign::{self, Plan, Summary};
use crate::support::random::seed;
use crate::support::table::{self, Table};

/// Crashes when nothing else is asked for.
const CRASHES: usize = 300;
/// From so many crashes on every point must have been hit, but for the one that only a torn tail leads to: that is
/// too rare to be waited for.
const CRASHES_FOR_ALL: usize = 2500;

#[test]
fn whatever_was_acknowledged_survives_a_crash_anywhere_and_no_effect_is_repeated() {
    let _alone = crate::alone();
    let crashes = table::number("OUTRIGGER_PROOF_CRASHES", CRASHES);
    let plan = Plan { crashes, seed: seed("OUTRIGGER_TEST_SEED") };
    let summary = match campaign::run(plan) {
        Ok(summary) => summary,
        Err(failed) => panic!(
            "{plan:?}: after {} crashes: {}; see {}",
            failed.crashes,
            failed.violation,
            failed.journal.display()
        ),
    };
    println!("{summary:#?}");
    assert!(summary.tally.answers > crashes as u64, "hardly anything was asked: {summary:?}");
    assert!(summary.power_cuts > crashes / 4, "{summary:?}");
    tell(plan, &summary);
    if crashes >= CRASHES_FOR_ALL {
        for point in Point::ALL.into_iter().filter(|point| *point != Point::TailKept) {
            let name = format!("`{}`", point.name());
            assert!(summary.triggers.contains_key(&name), "no crash at {name}: {summary:?}");
        }
    }
}

/// A row of the report; runs with other seeds beside this one write their own.
fn tell(plan: Plan, summary: &Summary) {
    let tally = summary.tally;
    let columns = [
        ("seed", plan.seed),
        ("crashes", summary.crashes as u64),
        ("of them power cuts", summary.power_cuts as u64),
        ("journals", summary.journals as u64),
        ("workflows", summary.workflows as u64),
        ("answers acknowledged", tally.answers),
        ("of them replayed", tally.replays),
        ("agents killed beside", tally.agent_deaths),
        ("calls in doubt", tally.doubts),
        ("reads served once more", tally.delivered_again),
        ("effects held up", tally.held_up),
        ("**lost**", 0),
        ("**repeated**", 0),
        ("**wrong**", 0),
    ];
    let mut table = Table::new(&columns.map(|(name, _)| name));
    let cells = columns.map(|(_, count)| count.to_string());
    table.row(cells.each_ref().map(String::as_str));
    table.write(&format!("crashes-{}", plan.seed));
    let mut table = Table::new(&["the sidecar ended when", "crashes"]);
    for (trigger, count) in &summary.triggers {
        table.row([trigger.as_str(), &count.to_string()]);
    }
    table.write(&format!("points-{}", plan.seed));
}
