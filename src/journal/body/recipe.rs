//! How a body is cut into parts and written down as a list of them. Knows nothing of what is stored already.

use std::ops::Range;

use crate::model::BodyHash;

/// Parts that follow each other closely are looked for as one group of this many bytes before they are looked
/// for one by one: a long conversation then costs a few hashes at full speed instead of many short ones, which
/// BLAKE3 takes several times as long for.
const GROUP_LEN_MIN: usize = 32 << 10;

/// What may lie between two parts of a group: a comma and some space.
pub(super) const GROUP_GAP_MAX: usize = 16;

/// What a part takes in a recipe.
pub(super) const REFERENCE_LEN: usize = 40;

/// In place of the segment of a part that is stored together with its recipe.
pub(super) const WITH_ITS_RECIPE: u32 = 0;

pub(super) fn slice<'a>(bytes: &'a [u8], span: &Range<usize>) -> &'a [u8] {
    bytes.get(span.clone()).unwrap_or_default()
}

pub(super) fn hash_of(bytes: &[u8], span: &Range<usize>) -> BodyHash {
    BodyHash(*blake3::hash(slice(bytes, span)).as_bytes())
}

/// Cuts parts into groups, always from the beginning: what the next body has in front of what is new then falls
/// into the same groups. Parts that no group is full of stand alone.
pub(super) fn groups(parts: &[Range<usize>]) -> Vec<&[Range<usize>]> {
    let near = |one: &Range<usize>, next: &Range<usize>| next.start - one.end <= GROUP_GAP_MAX;
    let mut groups = Vec::new();
    for mut run in parts.chunk_by(near) {
        while let Some(first) = run.first() {
            match run.iter().position(|part| part.end - first.start >= GROUP_LEN_MIN) {
                Some(last) => {
                    let (group, rest) = run.split_at(last + 1);
                    groups.push(group);
                    run = rest;
                }
                None => {
                    groups.extend(run.chunks(1));
                    break;
                }
            }
        }
    }
    groups
}

/// The data of a recipe, part by part.
#[derive(Default)]
pub(super) struct Recipe {
    count: u32,
    listed: Vec<u8>,
    literal: Vec<u8>,
    /// Where the last part ended.
    end: usize,
}

impl Recipe {
    /// Of what begins at `start`.
    pub(super) fn from(start: usize) -> Self {
        Self { end: start, ..Self::default() }
    }

    pub(super) fn add(&mut self, bytes: &[u8], part: &Range<usize>, hash: BodyHash, segment: u32) {
        let between = slice(bytes, &(self.end..part.start));
        put_len(&mut self.listed, between.len());
        self.listed.extend_from_slice(&hash.0);
        self.listed.extend_from_slice(&segment.to_le_bytes());
        self.literal.extend_from_slice(between);
        self.count += 1;
        self.end = part.end;
    }

    /// What is behind the last part, up to `end`, ends it.
    pub(super) fn finish(mut self, bytes: &[u8], end: usize) -> Vec<u8> {
        let rest = slice(bytes, &(self.end..end));
        put_len(&mut self.listed, rest.len());
        self.literal.extend_from_slice(rest);
        [&self.count.to_le_bytes()[..], &self.listed, &self.literal].concat()
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // A body of 4 GiB is refused long before it gets here.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_turns_share_falls_into_the_same_groups() {
        let cut = |count: usize, len: usize| -> Vec<Range<usize>> {
            (0..count).map(|at| at * (len + 1)..at * (len + 1) + len).collect()
        };
        let (talk, longer) = (cut(100, 999), cut(101, 999));
        let (before, after) = (groups(&talk), groups(&longer));
        assert_eq!(before.iter().map(|group| group.len()).take(3).collect::<Vec<_>>(), [33, 33, 33]);
        assert_eq!(before[..3], after[..3]);
        assert_eq!((before.len(), after.len()), (4, 5), "what no group is full of stands alone");
        let apart = [0..GROUP_LEN_MIN / 2, GROUP_LEN_MIN..2 * GROUP_LEN_MIN];
        assert_eq!(groups(&apart).len(), 2, "no group reaches over a gap");
    }
}
