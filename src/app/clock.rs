//! The machine's clocks: the one place that reads them.

use std::time::Duration;

use crate::model::{Clock, Timestamp};

/// Wall-clock time from `CLOCK_REALTIME`, durations from `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Timestamp(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000))
    }

    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_after_this_was_written_and_boot_time_does_not_go_back() {
        assert!(SystemClock.now() > Timestamp(1_790_000_000_000));
        let before = SystemClock.since_boot();
        assert!(SystemClock.since_boot() >= before);
    }
}
