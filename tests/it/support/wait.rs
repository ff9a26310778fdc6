//! Waiting for a condition, never for luck: every wait ends, and says what it waited for when it fails.

use std::time::{Duration, Instant};

/// Longest wait for something that should happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// Waits until `ready` gives something.
#[track_caller]
pub(crate) fn until_some<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(POLL);
    }
}

/// Waits until `ready` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> bool) {
    until_some(what, || ready().then_some(()));
}

/// Lets at least `rest` pass since `from`: for rules that are about elapsed time itself.
pub(crate) fn since(from: Instant, rest: Duration) {
    std::thread::sleep(rest.saturating_sub(from.elapsed()));
}
