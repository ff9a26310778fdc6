//! Numbers as a JSON text spells them, read exactly or not at all: no floating point, no rounding. Knows nothing of
//! which argument a number is.

use std::fmt;

/// Fraction digits that policies can see. Cedar's `decimal` has as many.
const FRACTION_DIGITS: i64 = 4;
/// An `i64` has at most 19 digits; more than these, zeros included, is a number that no policy can see.
const DIGITS_MAX: i64 = 40;

/// A number that policies cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNumber {
    #[error("it has more than {FRACTION_DIGITS} digits behind the point")]
    TooFine,
    #[error("it is too large")]
    TooLarge,
    #[error("it is not a whole number")]
    Fraction,
}

/// An exact number with four digits behind the point, as Cedar's `decimal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decimal {
    /// In units of 0.0001.
    pub units: i64,
}

impl Decimal {
    pub(super) const ZERO: Self = Self { units: 0 };

    /// The number a JSON number's text spells.
    ///
    /// # Errors
    /// [`BadNumber`] if four digits behind the point do not hold it exactly.
    pub(super) fn parse(text: &str) -> Result<Self, BadNumber> {
        scaled(text, FRACTION_DIGITS).map(|units| Self { units })
    }

    pub(super) fn checked_add(self, other: Self) -> Option<Self> {
        self.units.checked_add(other.units).map(|units| Self { units })
    }
}

impl fmt::Display for Decimal {
    /// As Cedar's `decimal("…")` takes it: `-12.5000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.units < 0 { "-" } else { "" };
        let units = self.units.unsigned_abs();
        write!(f, "{sign}{}.{:04}", units / 10_000, units % 10_000)
    }
}

/// The whole number a JSON number's text spells, however it spells it: `500`, `5e2`, `500.0`.
///
/// # Errors
/// [`BadNumber`] if it is not whole, or not an `i64`.
pub(super) fn whole(text: &str) -> Result<i64, BadNumber> {
    scaled(text, 0).map_err(|fault| if fault == BadNumber::TooFine { BadNumber::Fraction } else { fault })
}

/// The number times ten to the power of `digits`.
fn scaled(text: &str, digits: i64) -> Result<i64, BadNumber> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (int, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let significant = || int.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0');
    let zeros = significant().collect::<Vec<_>>().iter().rev().take_while(|digit| **digit == b'0').count();
    let count = significant().count().saturating_sub(zeros);
    if count == 0 {
        return Ok(0);
    }
    // An exponent that does not even fit is as large or as small as any.
    let exponent =
        exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
    let (fraction_len, zeros) = (length(fraction.len()), length(zeros));
    // Zeros to be put behind the significant digits.
    let shift = exponent.saturating_sub(fraction_len).saturating_add(zeros).saturating_add(digits);
    if shift < 0 {
        return Err(BadNumber::TooFine);
    }
    if length(count).saturating_add(shift) > DIGITS_MAX {
        return Err(BadNumber::TooLarge);
    }
    let mut value = significant().take(count).try_fold(0_i128, |value, digit| {
        value.checked_mul(10)?.checked_add(i128::from(digit.wrapping_sub(b'0')))
    });
    for _ in 0..shift {
        value = value.and_then(|value| value.checked_mul(10));
    }
    let value = value.map(|value| if negative { -value } else { value });
    value.and_then(|value| i64::try_from(value).ok()).ok_or(BadNumber::TooLarge)
}

fn length(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, BadNumber>) {
        let found = Decimal::parse(text).map(|decimal| decimal.to_string());
        assert_eq!(found, expected.map(str::to_owned), "number: {text}");
    }

    #[test]
    fn a_decimal_is_what_the_text_says_or_nothing() {
        check("0", Ok("0.0000"));
        check("-0", Ok("0.0000"));
        check("-0.0e99999999999999999999", Ok("0.0000"));
        check("120.5", Ok("120.5000"));
        check("-1", Ok("-1.0000"));
        check("5e2", Ok("500.0000"));
        check("5E+2", Ok("500.0000"));
        check("12345e-4", Ok("1.2345"));
        check("1.50000000", Ok("1.5000"));
        check("0.00010", Ok("0.0001"));
        check("499.99999", Err(BadNumber::TooFine));
        check("500.00000000000000000001", Err(BadNumber::TooFine));
        check("1e-5", Err(BadNumber::TooFine));
        check("1e-99999999999999999999", Err(BadNumber::TooFine));
        check("1e400", Err(BadNumber::TooLarge));
        check("1e99999999999999999999", Err(BadNumber::TooLarge));
        check("922337203685477.5807", Ok("922337203685477.5807"));
        check("-922337203685477.5808", Ok("-922337203685477.5808"));
        check("922337203685477.5808", Err(BadNumber::TooLarge));
        check(&"9".repeat(100), Err(BadNumber::TooLarge));
    }

    #[test]
    fn a_whole_number_is_exact_far_beyond_what_a_float_holds() {
        assert_eq!(whole("9007199254740993"), Ok(9_007_199_254_740_993));
        assert_eq!(whole("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(whole("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(whole("9223372036854775808"), Err(BadNumber::TooLarge));
        assert_eq!(whole("5.0"), Ok(5));
        assert_eq!(whole("5e2"), Ok(500));
        assert_eq!(whole("5.5"), Err(BadNumber::Fraction));
        assert_eq!(whole("1e-1"), Err(BadNumber::Fraction));
    }

    proptest! {
        #[test]
        fn every_decimal_reads_back(units in any::<i64>()) {
            let decimal = Decimal { units };
            prop_assert_eq!(Decimal::parse(&decimal.to_string()), Ok(decimal));
        }

        #[test]
        fn moving_the_point_changes_nothing(units in -1_000_000_000_i64..1_000_000_000, zeros in 0_usize..6) {
            let text = format!("{units}{}e-{}", "0".repeat(zeros), 4 + zeros);
            prop_assert_eq!(Decimal::parse(&text), Ok(Decimal { units }));
        }
    }
}
