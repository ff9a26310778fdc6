//! Points in time, and the clock that tells them.

use std::fmt;
use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z. May jump back when the machine's clock is set; nothing that
/// must stay in order is ordered by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds from `earlier` to `self`; 0 when the clock went back between the two.
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-20T02:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// Where time comes from. One of the three `dyn` ports: tests put their own clock in its place.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall-clock time, for records and people.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary fixed point, for durations: never goes back, stops for no suspend, and
    /// counts like the kernel's process start times (`CLOCK_BOOTTIME`).
    fn since_boot(&self) -> Duration;
}

/// A clock that stands still.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TestClock(pub(crate) Timestamp);

#[cfg(test)]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_shown_in_utc_and_durations_never_go_negative() {
        assert_eq!(Timestamp(1_795_140_000_000).to_string(), "2026-11-20T02:00:00.000Z");
        assert_eq!(Timestamp(10).since_ms(Timestamp(4)), 6);
        assert_eq!(Timestamp(4).since_ms(Timestamp(10)), 0);
    }
}
