//! The proof proved: five builds that are wrong on purpose, one by one. Each must be found by the same campaign that
//! finds nothing in the right one.

use outrigger::failpoint::{self, Defect};

use crate::agent::Violation;
use crate::campaign::{self, Failed, Plan};
use crate::support::random::seed_or;
use crate::support::table::Table;

/// Crashes within which a defect must have shown itself. Most take a handful; a used set that is lost shows only where an
/// agent that polls outlives the sidecar, after a hundred or two.
const CRASHES_MAX: usize = 2500;

/// A defect has to be found, not looked for: under this seed each shows itself soon. With others a lost used set can hold
/// agents up for seconds at each crash before anything wrong is answered.
const SEED: u64 = 20261;

/// Takes the defect out again, also when a test fails.
struct Broken;

impl Broken {
    fn by(defect: Defect) -> Self {
        failpoint::break_with(Some(defect));
        Self
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        failpoint::break_with(None);
    }
}

/// `is_found`: whether this is what the defect does. Of one that loses records it may be anything: what is missed first
/// is up to chance.
#[track_caller]
fn check(defect: Defect, is_found: impl Fn(&Violation) -> bool) {
    let _alone = crate::alone();
    let _broken = Broken::by(defect);
    let plan = Plan { crashes: CRASHES_MAX, seed: seed_or("OUTRIGGER_TEST_SEED", SEED) };
    let Err(Failed { violation, crashes, journal }) = campaign::run(plan) else {
        panic!("{plan:?}: nobody noticed {}", defect.name());
    };
    _ = std::fs::remove_dir_all(journal.parent().expect("it is in a directory of its own"));
    println!("{}: found after {crashes} crashes: {violation}", defect.name());
    assert!(is_found(&violation), "{plan:?}: something else was found: {violation}");
    let how = match violation {
        Violation::Lost(_) => "an acknowledged step was lost",
        Violation::Repeated(_) => "an effect was carried out twice",
        Violation::Wrong(_) => "an answer was another step's",
        Violation::Odd(_) => "a call was refused that should not be",
    };
    let mut table = Table::new(&["built wrong on purpose", "found after crashes", "because"]);
    table.row([format!("`{}`", defect.name()).as_str(), &(crashes + 1).to_string(), how]);
    table.write(&format!("defect-{}", defect.name()));
}

#[test]
fn a_log_that_is_never_flushed_is_found() {
    check(Defect::FlushLeftOut, |_| true);
}

#[test]
fn an_effect_that_leaves_before_its_intent_is_durable_is_found() {
    check(Defect::IntentAfterDispatch, |violation| matches!(violation, Violation::Repeated(_)));
}

#[test]
fn an_end_that_leaves_before_its_outcome_is_durable_is_found() {
    check(Defect::EndReleasedFirst, |violation| !matches!(violation, Violation::Odd(_)));
}

#[test]
fn a_used_set_that_is_not_written_is_found() {
    check(Defect::UseNotWritten, |violation| !matches!(violation, Violation::Odd(_)));
}

#[test]
fn a_miss_of_the_index_that_is_believed_is_found() {
    check(Defect::MissBelieved, |_| true);
}
