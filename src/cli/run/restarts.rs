//! When a command that died is started again, and after which pause. Pure: counts, and measures no time.

use std::time::Duration;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Restarts in a row without a new step between.
#[derive(Debug)]
pub(super) struct Restarts {
    max: u32,
    used: u32,
}

impl Restarts {
    pub(super) fn new(max: u32) -> Self {
        Self { max, used: 0 }
    }

    /// The command died. `progressed`: a new step was completed since it was started. The pause before the
    /// next start, or `None` when it has died too often.
    pub(super) fn died(&mut self, progressed: bool) -> Option<Duration> {
        if progressed {
            self.used = 0;
        }
        if self.used >= self.max {
            return None;
        }
        let pause = PAUSE_FIRST.saturating_mul(1 << self.used.min(16)).min(PAUSE_MAX);
        self.used += 1;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(restarts: &mut Restarts, progressed: bool, expected_ms: Option<u64>) {
        assert_eq!(restarts.died(progressed), expected_ms.map(Duration::from_millis));
    }

    #[test]
    fn pauses_double_to_five_seconds_and_end() {
        let mut restarts = Restarts::new(7);
        for expected in [200, 400, 800, 1600, 3200, 5000, 5000] {
            check(&mut restarts, false, Some(expected));
        }
        check(&mut restarts, false, None);
    }

    #[test]
    fn a_new_step_starts_the_count_again() {
        let mut restarts = Restarts::new(2);
        check(&mut restarts, false, Some(200));
        check(&mut restarts, false, Some(400));
        check(&mut restarts, true, Some(200));
        check(&mut restarts, false, Some(400));
        check(&mut restarts, false, None);
        check(&mut Restarts::new(0), true, None);
    }
}
