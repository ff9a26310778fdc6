//! Did-you-mean: the known name that a misspelt one is closest to. Compares names and knows nothing else.

/// The candidate closest to `wrong`, if it is close enough to be meant: at most one edit in three
/// characters, letter case aside. Of equally close ones the first.
pub fn nearest<'a, S>(wrong: &str, candidates: impl IntoIterator<Item = &'a S>) -> Option<&'a str>
where
    S: AsRef<str> + ?Sized + 'a,
{
    let wrong = wrong.to_lowercase();
    let allowed = (wrong.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(AsRef::as_ref)
        .map(|candidate: &str| (edits(&wrong, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `from` into `to`
/// (optimal string alignment).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut last = None;
    for (row, here) in from.chars().enumerate() {
        let mut line = Vec::with_capacity(above.len());
        let mut left = row + 1;
        line.push(left);
        let mut last_there = None;
        for (column, there) in to.iter().enumerate() {
            let at = |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&above, column) + usize::from(here != *there);
            let mut best = replaced.min(at(&above, column + 1) + 1).min(left + 1);
            if last == Some(*there) && last_there == Some(here) {
                best = best.min(at(&before, column.wrapping_sub(1)) + 1);
            }
            line.push(best);
            left = best;
            last_there = Some(*there);
        }
        before = std::mem::replace(&mut above, line);
        last = Some(here);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wrong: &str, expected: Option<&str>) {
        let known = ["address", "dialect", "url", "upstreams", "connect_timeout_s", "env"];
        assert_eq!(nearest(wrong, known), expected, "input: {wrong:?}");
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_name_and_a_stranger_does_not() {
        check("adress", Some("address"));
        check("dailect", Some("dialect"));
        check("URL", Some("url"));
        check("ulr", Some("url"));
        check("uri", Some("url"));
        check("upstream", Some("upstreams"));
        check("conect_timeout", Some("connect_timeout_s"));
        check("evn", Some("env"));
        check("provider", None);
        check("", None);
        check("zzz", None);
    }

    #[test]
    fn edits_count_swaps_of_neighbours_once() {
        for (from, to, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "", 2),
            ("ab", "ba", 1),
            ("kitten", "sitting", 3),
            ("é", "e", 1),
        ] {
            assert_eq!(edits(from, to), expected, "{from:?} -> {to:?}");
            assert_eq!(edits(to, from), expected, "{to:?} -> {from:?}");
        }
    }
}
