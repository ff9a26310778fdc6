//! Kinds of text that say when or by whom a call was made, and not what it asks: for each a name and the regular
//! expression that a scrub for it has. Guesses nothing beyond them.

use std::sync::LazyLock;

use crate::json::Value;

use super::scrub::{self, Scrub};

/// What a text that differs from run to run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Noise {
    Date,
    DateTime,
    Epoch,
    HexId,
    Time,
    Ulid,
    Uuid,
    Weekday,
}

/// The kinds, the most general first: when several explain a difference, these are given up first.
const KINDS: [(Noise, &str, &str); 12] = [
    (Noise::Weekday, "a weekday", r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"),
    (Noise::HexId, "a hexadecimal id", r"\b(?i:0x)?(?:[0-9a-f]{12,64}|[0-9A-F]{12,64})\b"),
    (Noise::Epoch, "seconds since 1970", r"\b[12]\d{9}(?:\d{3}){0,3}(?:\.\d{1,9})?\b"),
    (Noise::Ulid, "a ULID", r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b"),
    (Noise::Time, "a time of day", r"\b\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?: ?[AaPp]\.?[Mm]\b)?"),
    (Noise::Date, "a date", r"\b(?:\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}/\d{1,2}/\d{1,2})\b"),
    (Noise::Date, "a date", r"\b\d{4}-\d{2}-\d{2}\b"),
    (
        Noise::Date,
        "a date",
        r"\b(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4}\b",
    ),
    (
        Noise::DateTime,
        "a date with the time (RFC 2822)",
        r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), )?\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{4}(?: \d{2}:\d{2}(?::\d{2})?(?: (?:GMT|UTC|[+-]\d{4})\b)?)?",
    ),
    (
        Noise::DateTime,
        "a date with the time",
        r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) {1,2}\d{1,2} \d{2}:\d{2}:\d{2} (?:[A-Z]{2,5} )?\d{4}\b",
    ),
    (
        Noise::DateTime,
        "a date with the time (ISO 8601)",
        r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z\b| UTC\b|[+-]\d{2}:?\d{2}\b)?",
    ),
    (
        Noise::Uuid,
        "a UUID",
        r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b",
    ),
];

/// One kind, ready to be looked for.
#[derive(Debug)]
pub struct Known {
    pub noise: Noise,
    /// As people call it, with its article.
    pub name: &'static str,
    scrub: Scrub,
}

impl Known {
    pub fn regex(&self) -> &str {
        self.scrub.regex()
    }

    pub(super) fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    /// The kind with this regular expression.
    pub fn of_regex(regex: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.regex() == regex)
    }
}

/// Where the scrubs stand that are only used for their regular expressions.
const NOWHERE: &str = "/";

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let known = KINDS.iter().filter_map(|(noise, name, regex)| {
        let scrub = Scrub::new(NOWHERE, regex).ok()?;
        Some(Known { noise: *noise, name, scrub })
    });
    known.collect()
});

/// The fewest kinds without which both say the same; `None`: something else differs as well.
pub fn explain(recorded: Value<'_>, asked: Value<'_>) -> Option<Vec<&'static Known>> {
    let same = |kinds: &[&'static Known]| {
        let scrubs: Vec<&Scrub> = kinds.iter().map(|known| &known.scrub).collect();
        scrub::are_same_without(recorded, asked, &scrubs)
    };
    if recorded.kind() != asked.kind() {
        return None;
    }
    if let Some(one) = KNOWN.iter().rev().find(|known| same(&[*known])) {
        return Some(vec![one]);
    }
    let mut kinds: Vec<&'static Known> = KNOWN.iter().collect();
    if !same(&kinds) {
        return None;
    }
    let mut at = 0;
    while at < kinds.len() {
        let given_up = kinds.remove(at);
        if !same(&kinds) {
            kinds.insert(at, given_up);
            at += 1;
        }
    }
    Some(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    #[track_caller]
    fn check(recorded: &str, asked: &str, expected: Option<&[Noise]>) {
        let (one, other) = (serde_json::to_string(recorded).unwrap(), serde_json::to_string(asked).unwrap());
        let (tape, tapes) = (Tape::parse(one.as_bytes()).unwrap(), Tape::parse(other.as_bytes()).unwrap());
        let found = explain(tape.root(one.as_bytes()), tapes.root(other.as_bytes()));
        let found = found.map(|kinds| kinds.iter().map(|known| known.noise).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{recorded:?} and {asked:?}");
    }

    #[test]
    fn every_kind_can_be_a_scrub() {
        assert_eq!(KNOWN.len(), KINDS.len());
    }

    #[test]
    fn times_dates_and_ids_are_recognised() {
        let at = |what: &str| format!("Today is {what}; do it.");
        for (one, other, noise) in [
            ("2026-11-20", "2026-11-21", Noise::Date),
            ("20.11.2026", "1.12.2026", Noise::Date),
            ("11/20/2026", "11/21/2026", Noise::Date),
            ("November 20, 2026", "Dec 1, 2026", Noise::Date),
            ("Friday, November 20, 2026", "Saturday, November 21, 2026", Noise::Date),
            ("2026-11-20T14:00:00Z", "2026-11-20T14:00:01.123456+01:00", Noise::DateTime),
            ("2026-11-20 14:00", "2026-11-21 09:30:00 UTC", Noise::DateTime),
            ("Fri, 20 Nov 2026 14:00:00 GMT", "Sat, 21 Nov 2026 14:00:00 +0100", Noise::DateTime),
            ("Fri Nov 20 14:00:00 UTC 2026", "Sat Nov 21 14:00:00 UTC 2026", Noise::DateTime),
            ("9:00", "10:05:30 PM", Noise::Time),
            ("Friday", "Saturday", Noise::Weekday),
            ("1784000000", "1784000001", Noise::Epoch),
            ("1784000000123", "1784000001.5", Noise::Epoch),
            ("9f86d081884c7d65", "0a1b2c3d4e5f60718293", Noise::HexId),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ", Noise::Ulid),
            ("550e8400-e29b-41d4-a716-446655440000", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", Noise::Uuid),
        ] {
            check(&at(one), &at(other), Some(&[noise]));
        }
    }

    #[test]
    fn only_the_kinds_that_differ_are_named() {
        check(
            "run 550e8400-e29b-41d4-a716-446655440000 of 2026-11-20, invoice of 2026-01-01",
            "run 550e8400-e29b-41d4-a716-446655440001 of 2026-11-20, invoice of 2026-01-01",
            Some(&[Noise::Uuid]),
        );
        check(
            "Friday 9:00 2026-11-20",
            "Saturday 10:00 2026-11-21",
            Some(&[Noise::Weekday, Noise::Time, Noise::Date]),
        );
    }

    #[test]
    fn whatever_else_differs_is_no_noise() {
        for (one, other) in [
            ("pay 100", "pay 200"),
            ("the file has 3 lines", "the file has 4 lines"),
            ("It is 9:00.", "It was 9:05."),
            ("It is 9:00.", "It is late."),
            ("order 12345678", "order 12345679"),
            ("deadbeef", "cafebabe"),
        ] {
            check(one, other, None);
        }
    }
}
