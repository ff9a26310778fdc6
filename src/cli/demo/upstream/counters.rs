//! What the upstream itself saw: the demo's only source of numbers. Also the gate at which one counted call
//! waits for its answer, so that a kill hits the same point in every run.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Longest wait at the gate.
const HELD_MAX: Duration = Duration::from_secs(30);

/// Calls an upstream process has executed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli::demo) struct Tally {
    pub(in crate::cli::demo) model_calls: u64,
    pub(in crate::cli::demo) tokens_in: u64,
    pub(in crate::cli::demo) tokens_out: u64,
    pub(in crate::cli::demo) fraud_checks: u64,
    pub(in crate::cli::demo) charges: u64,
    pub(in crate::cli::demo) emails: u64,
    pub(in crate::cli::demo) ledger_posts: u64,
    /// Effects beyond the first of their kind for one invoice.
    pub(in crate::cli::demo) duplicates: Duplicates,
}

/// How many effects of each kind were made again for an invoice that already had one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli::demo) struct Duplicates {
    pub(in crate::cli::demo) charges: u64,
    pub(in crate::cli::demo) emails: u64,
    pub(in crate::cli::demo) ledger_posts: u64,
}

/// The tools of the MCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Charge,
    FraudCheck,
    LedgerPost,
    SendEmail,
}

impl Tool {
    pub(super) const ALL: [Self; 4] = [Self::FraudCheck, Self::Charge, Self::SendEmail, Self::LedgerPost];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::FraudCheck => "fraud_check",
            Self::LedgerPost => "ledger_post",
            Self::SendEmail => "send_email",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.as_str() == name)
    }
}

#[derive(Debug, Default)]
struct Book {
    tally: Tally,
    arrived: u32,
    charged: BTreeMap<String, u64>,
    emailed: BTreeMap<String, u64>,
    posted: BTreeMap<String, u64>,
}

/// The upstream's book, and its gate.
#[derive(Debug)]
pub(super) struct Counters {
    book: Mutex<Book>,
    hold_at: Option<u32>,
    released: watch::Sender<bool>,
}

impl Counters {
    /// Counters whose call number `hold_at` waits at the gate until [`Self::release`].
    pub(super) fn new(hold_at: Option<u32>) -> Self {
        Self { book: Mutex::default(), hold_at, released: watch::Sender::new(false) }
    }

    /// Counts a model call; resolves when its answer may leave.
    pub(super) async fn model_call(&self, tokens_in: u64, tokens_out: u64) {
        let number = self.enter(|book| {
            book.tally.model_calls += 1;
            book.tally.tokens_in += tokens_in;
            book.tally.tokens_out += tokens_out;
        });
        self.gate(number).await;
    }

    /// Executes a tool, which is to count it; resolves when its answer may leave.
    pub(super) async fn tool_call(&self, tool: Tool, invoice: &str) {
        let number = self.enter(|book| {
            let (total, again, seen) = match tool {
                Tool::Charge => {
                    (&mut book.tally.charges, &mut book.tally.duplicates.charges, &mut book.charged)
                }
                Tool::FraudCheck => {
                    book.tally.fraud_checks += 1;
                    return;
                }
                Tool::LedgerPost => {
                    (&mut book.tally.ledger_posts, &mut book.tally.duplicates.ledger_posts, &mut book.posted)
                }
                Tool::SendEmail => {
                    (&mut book.tally.emails, &mut book.tally.duplicates.emails, &mut book.emailed)
                }
            };
            *total += 1;
            let times = seen.entry(invoice.to_owned()).or_default();
            *times += 1;
            if *times > 1 {
                *again += 1;
            }
        });
        self.gate(number).await;
    }

    pub(super) fn tally(&self) -> Tally {
        self.book.lock().tally.clone()
    }

    /// Lets the held call, now or later, go on.
    pub(super) fn release(&self) {
        self.released.send_replace(true);
    }

    fn enter(&self, count: impl FnOnce(&mut Book)) -> u32 {
        let mut book = self.book.lock();
        book.arrived += 1;
        count(&mut book);
        book.arrived
    }

    async fn gate(&self, number: u32) {
        if self.hold_at != Some(number) {
            return;
        }
        // Without a reader of standard output nobody will release the call, and it goes on after HELD_MAX.
        let _ = writeln!(io::stdout().lock(), "held {number}");
        let mut released = self.released.subscribe();
        let _ = tokio::time::timeout(HELD_MAX, released.wait_for(|released| *released)).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn effects_are_counted_again_only_for_the_same_invoice() {
        let counters = Counters::new(None);
        for (tool, invoice) in [
            (Tool::Charge, "a"),
            (Tool::Charge, "b"),
            (Tool::Charge, "a"),
            (Tool::SendEmail, "a"),
            (Tool::FraudCheck, "a"),
            (Tool::FraudCheck, "a"),
        ] {
            counters.tool_call(tool, invoice).await;
        }
        counters.model_call(100, 7).await;
        let expected = Tally {
            model_calls: 1,
            tokens_in: 100,
            tokens_out: 7,
            fraud_checks: 2,
            charges: 3,
            emails: 1,
            ledger_posts: 0,
            duplicates: Duplicates { charges: 1, emails: 0, ledger_posts: 0 },
        };
        assert_eq!(counters.tally(), expected);
    }

    #[tokio::test]
    async fn the_held_call_is_counted_before_it_is_released_and_only_it_waits() {
        let counters = Counters::new(Some(2));
        counters.model_call(1, 1).await;
        let mut held = std::pin::pin!(counters.tool_call(Tool::Charge, "a"));
        assert_eq!(held.as_mut().now_or_never(), None);
        assert_eq!(counters.tally().charges, 1);
        counters.model_call(1, 1).await;
        counters.release();
        held.await;
        assert_eq!(counters.tally().charges, 1);
    }
}
