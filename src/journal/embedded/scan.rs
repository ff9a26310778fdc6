//! What an unsealed segment holds: its batches, and the bytes that belong to none. Pure: says where bytes
//! are bad, and leaves it to `recover` what that means.

use std::ops::Range;

use super::frame::{self, ALIGN, Frame, Gap, HEAD_LEN, Kind, Seed, Trailer};
use super::segment;

/// Frames up to a trailer.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) start: u64,
    /// Behind the trailer.
    pub(super) end: u64,
    /// Without the trailer.
    pub(super) frames: Vec<Frame<'a>>,
    /// The trailer as it stands there, or the gap in place of batches that are gone.
    pub(super) last: Frame<'a>,
    pub(super) trailer: Trailer,
    /// [`frame::batch_hash`].
    pub(super) hash: [u8; 32],
    /// Bytes within the batch that are no frame.
    pub(super) bad: Vec<Range<u64>>,
}

/// A segment, taken apart.
#[derive(Debug, Default)]
pub(super) struct Scan<'a> {
    pub(super) batches: Vec<Batch<'a>>,
    /// What follows the last batch and is not zeros: a batch without its trailer, or whatever it is.
    pub(super) rest: Option<Range<u64>>,
    /// A footer was begun behind the last batch.
    pub(super) has_footer: bool,
}

impl Scan<'_> {
    /// Where the last whole batch ends.
    pub(super) fn end(&self) -> u64 {
        self.batches.last().map_or(segment::HEAD_LEN, |batch| batch.end)
    }
}

/// Takes apart the segment whose file is `bytes`.
pub(super) fn scan<'a>(seed: &Seed, bytes: &'a [u8]) -> Scan<'a> {
    let mut scan = Scan::default();
    let mut frames = Vec::new();
    let mut bad = Vec::new();
    let mut at = segment::HEAD_LEN;
    let mut start = at;
    let end = (bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()) as u64;
    while at < end {
        let Some(frame) = parse(seed, bytes, at) else {
            let next = search(seed, bytes, at + ALIGN as u64, end).unwrap_or(end);
            bad.push(at..next);
            at = next;
            continue;
        };
        if frame.kind.is_footer() && frames.is_empty() && bad.is_empty() {
            scan.has_footer = true;
            return scan;
        }
        at = frame.end();
        if !matches!(frame.kind, Kind::Gap | Kind::Trailer) {
            frames.push(frame);
            continue;
        }
        // A trailer that is whole but cannot be decoded is no trailer of ours.
        let Some((trailer, hash)) = ended(&frame, start) else {
            bad.push(frame.offset..at);
            continue;
        };
        let (frames, bad) = (std::mem::take(&mut frames), std::mem::take(&mut bad));
        scan.batches.push(Batch { start, end: at, frames, last: frame, trailer, hash, bad });
        start = at;
    }
    if start < end {
        // A last frame's padding is zeros and counts as written.
        scan.rest = Some(start..at.max(end));
    }
    scan
}

/// The trailer that a batch's last frame is or stands for, and the batch's hash.
fn ended(frame: &Frame<'_>, start: u64) -> Option<(Trailer, [u8; 32])> {
    if frame.kind == Kind::Trailer {
        return Some((frame::uncbor(frame.payload)?, frame::batch_hash(frame.payload)));
    }
    let Gap { epoch, number, previous, hash } = frame::uncbor(frame.payload)?;
    Some((Trailer { epoch, number, previous, start, named: Vec::new() }, hash))
}

/// The frame at `at`, if there is one.
pub(super) fn parse<'a>(seed: &Seed, bytes: &'a [u8], at: u64) -> Option<Frame<'a>> {
    seed.parse(at, bytes.get(usize::try_from(at).ok()?..)?)
}

/// The next offset at or behind `from` where a frame begins.
fn search(seed: &Seed, bytes: &[u8], from: u64, end: u64) -> Option<u64> {
    (from..end.saturating_sub(HEAD_LEN as u64 - 1))
        .step_by(ALIGN)
        .find(|at| parse(seed, bytes, *at).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seed() -> Seed {
        Seed::new(*b"saltsalt", 1)
    }

    /// A segment with batches of so many frames each; the offsets where the batches begin and end.
    fn segment(batches: &[usize]) -> (Vec<u8>, Vec<Range<u64>>) {
        let mut bytes = vec![1; segment::HEAD_LEN as usize];
        let mut ranges = Vec::new();
        for (number, frames) in batches.iter().enumerate() {
            let start = bytes.len() as u64;
            for frame in 0..*frames {
                let payload = vec![frame as u8 + 1; 5 + 13 * frame];
                bytes.extend(seed().frame(bytes.len() as u64, Kind::Body, &payload).unwrap());
            }
            let trailer =
                Trailer { epoch: 1, number: number as u64 + 1, previous: [0; 32], start, named: Vec::new() };
            bytes.extend(seed().frame(bytes.len() as u64, Kind::Trailer, &frame::cbor(&trailer)).unwrap());
            ranges.push(start..bytes.len() as u64);
        }
        (bytes, ranges)
    }

    fn ranges(scan: &Scan<'_>) -> Vec<Range<u64>> {
        scan.batches.iter().map(|batch| batch.start..batch.end).collect()
    }

    #[test]
    fn every_cut_leaves_the_whole_batches_and_a_rest() {
        let (bytes, expected) = segment(&[2, 0, 3]);
        for len in 0..=bytes.len() {
            let mut cut = bytes[..len].to_vec();
            cut.resize(bytes.len() + 64, 0);
            let scan = scan(&seed(), &cut);
            let at = |range: &Range<u64>| range.start as usize..range.end as usize;
            let whole = expected.iter().take_while(|range| cut[at(range)] == bytes[at(range)]).count();
            assert_eq!(scan.batches.len(), whole, "cut to {len}");
            assert_eq!(ranges(&scan), expected[..whole]);
            assert!(scan.batches.iter().all(|batch| batch.bad.is_empty()));
            let rest_from = scan.end();
            assert!(scan.rest.is_none_or(|rest| rest.start == rest_from));
        }
    }

    proptest! {
        #[test]
        fn a_bad_range_is_found_and_the_batches_after_it_too(at in 0usize..600, len in 1usize..40) {
            let (mut bytes, expected) = segment(&[2, 1, 3, 2]);
            let at = segment::HEAD_LEN as usize + at;
            prop_assume!(at + len < bytes.len());
            let whole = bytes.clone();
            for byte in &mut bytes[at..at + len] {
                *byte ^= 0x55;
            }
            bytes.resize(bytes.len() + 256, 0);
            let hit = |range: &Range<u64>| range.start < (at + len) as u64 && (at as u64) < range.end;
            let scan = scan(&seed(), &bytes);
            let found = ranges(&scan);
            for range in expected.iter().filter(|range| !hit(range)) {
                let kept = found.iter().any(|found| found.end == range.end);
                prop_assert!(kept, "{range:?} is whole and not found in {found:?}");
            }
            for batch in &scan.batches {
                for frame in &batch.frames {
                    let at = frame.offset as usize + HEAD_LEN;
                    prop_assert_eq!(frame.payload, &whole[at..at + frame.payload.len()]);
                }
            }
        }
    }
}
