//! What is due for a workflow that nobody works on: closed when it has been idle for long, then its bodies go,
//! then its records (durability.md, section 5). Pure; `sweep` does it.

use std::time::Duration;

use crate::journal::Head;
use crate::model::Timestamp;

/// How long what is kept. Workflows that are not closed are kept whole, however old they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A workflow without a record for so long is closed; `None`: only somebody closes it.
    pub close_after_idle: Option<Duration>,
    /// From the closing on.
    pub bodies: Duration,
    /// From the closing on, and at least as long as bodies.
    pub records: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Default for Retention {
    /// The documented defaults: a week, a day, thirty days.
    fn default() -> Self {
        Self { close_after_idle: Some(7 * 24 * HOUR), bodies: 24 * HOUR, records: 30 * 24 * HOUR }
    }
}

/// What a workflow's age asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Close,
    ExpireBodies,
    Remove,
}

/// What is due now. Damaged workflows are kept as they are: somebody has to look at them.
pub(super) fn due(head: &Head, now: Timestamp, retention: &Retention) -> Option<Due> {
    if head.damage.is_some() || head.removed.is_some() {
        return None;
    }
    let Some(closed) = head.closed else {
        let idle = age(head.changed_at, now)?;
        return retention.close_after_idle.filter(|limit| idle >= *limit).map(|_| Due::Close);
    };
    let age = age(closed, now)?;
    if age >= retention.records {
        Some(Due::Remove)
    } else if age >= retention.bodies && head.bodies_expired.is_none() {
        Some(Due::ExpireBodies)
    } else {
        None
    }
}

/// `None` where the clock was set back: what lies ahead of it is not old.
fn age(since: Timestamp, now: Timestamp) -> Option<Duration> {
    u64::try_from(now.0.checked_sub(since.0)?).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use crate::journal::conformance::{commit, key, run_steps, workflow_closed};
    use crate::journal::memory::Memory;
    use crate::model::TestClock;

    const OPENED: i64 = 1_795_140_000_000;
    const HOUR_MS: i64 = 3_600_000;

    fn head(is_closed: bool) -> Head {
        let journal = Memory::new(std::sync::Arc::new(TestClock::default()));
        run_steps(&journal, &key("w"), 1);
        if is_closed {
            commit(&journal, &key("w"), vec![workflow_closed()], Vec::new());
        }
        journal.attach(&key("w")).unwrap().unwrap()
    }

    #[track_caller]
    fn check(head: &Head, hours: i64, expected: Option<Due>) {
        let now = Timestamp(OPENED + hours * HOUR_MS);
        assert_eq!(due(head, now, &Retention::default()), expected, "after {hours} hours");
    }

    #[test]
    fn an_idle_workflow_is_closed_after_a_week_and_never_if_nobody_said_so() {
        let open = head(false);
        check(&open, 167, None);
        check(&open, 168, Some(Due::Close));
        check(&open, 100_000, Some(Due::Close));
        let never = Retention { close_after_idle: None, ..Retention::default() };
        assert_eq!(due(&open, Timestamp(i64::MAX), &never), None);
    }

    #[test]
    fn bodies_go_after_a_day_and_records_after_thirty() {
        let closed = head(true);
        check(&closed, 23, None);
        check(&closed, 24, Some(Due::ExpireBodies));
        check(&closed, 719, Some(Due::ExpireBodies));
        check(&closed, 720, Some(Due::Remove));
        let expired = Head { bodies_expired: Some(Timestamp(OPENED)), ..closed.clone() };
        check(&expired, 700, None);
        check(&expired, 720, Some(Due::Remove));
        let removed = Head { removed: Some(Timestamp(OPENED)), ..closed.clone() };
        check(&removed, 100_000, None);
        let damaged = Head { damage: Some("log, offset 3".to_owned()), ..closed };
        check(&damaged, 100_000, None);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_old() {
        check(&head(true), -1000, None);
        check(&head(false), -1000, None);
        assert_eq!(due(&head(true), Timestamp(i64::MIN), &Retention::default()), None);
    }
}
