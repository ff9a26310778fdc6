//! A segment of the log that is written, damaged and taken apart again. The readers are private to their folder, so
//! the checks of the target `segment` stand here.

#[path = "../../../../src/journal/embedded/frame.rs"]
#[expect(dead_code, reason = "the target reads more kinds of frames than it writes")]
mod frame;
#[path = "../../../../src/journal/embedded/scan.rs"]
mod scan;

/// Where a segment's first frame begins; the real module opens files.
mod segment {
    pub(super) const HEAD_LEN: u64 = 64;
}

use std::ops::Range;

use frame::{Compacted, Damaged, Frame, Gap, Kind, Named, Opened, Seed, Stopped, Trailer};
use scan::{Batch, Scan};

const KINDS: [Kind; 10] = [
    Kind::Body,
    Kind::Damaged,
    Kind::Opened,
    Kind::Record,
    Kind::Trailer,
    Kind::Seal,
    Kind::Stopped,
    Kind::Table,
    Kind::Compacted,
    Kind::Gap,
];

/// Writes a segment as `script` says, damages it and takes it apart.
///
/// The script: how many bytes to damage (at most 7), for each its place in two bytes and what it is changed by, then
/// the frames: kind, length and payload of each. A first byte that is odd makes a trailer, or a gap, one that ends a
/// batch.
pub fn check(script: &[u8]) {
    let Some((count, mut rest)) = script.split_first() else { return };
    let mut damage = Vec::new();
    for _ in 0..count % 8 {
        let Some(([low, high, change], after)) = rest.split_first_chunk() else { return };
        damage.push((usize::from(u16::from_le_bytes([*low, *high])), *change));
        rest = after;
    }
    let seed = Seed::new(*b"saltsalt", 1);
    let mut written = write(&seed, rest);
    let mut hit = Vec::new();
    for (place, change) in damage {
        let place = segment::HEAD_LEN as usize + place;
        if let Some(byte) = written.bytes.get_mut(place).filter(|_| change != 0) {
            *byte ^= change;
            hit.push(place as u64);
        }
    }
    let scan = scan::scan(&seed, &written.bytes);
    check_shape(&seed, &scan, &written.bytes);
    // Behind the beginning of a footer nothing is looked for.
    if !written.has_footer {
        for trailer in &written.trailers {
            let is_whole = !hit.iter().any(|place| trailer.contains(place));
            let is_found = scan.batches.iter().any(|found| found.end == trailer.end);
            assert!(
                is_found || !is_whole,
                "the trailer at {trailer:?} is whole and not found, damage at {hit:?}"
            );
        }
    }
    if hit.is_empty() && !written.has_footer {
        assert_eq!(scan.batches.len(), written.trailers.len());
    }
}

struct Written {
    bytes: Vec<u8>,
    /// Of each batch its last frame.
    trailers: Vec<Range<u64>>,
    has_footer: bool,
}

fn write(seed: &Seed, mut script: &[u8]) -> Written {
    let mut bytes = vec![1; segment::HEAD_LEN as usize];
    let (mut trailers, mut has_footer) = (Vec::new(), false);
    while let Some(([kind, len], rest)) = script.split_first_chunk() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let at = bytes.len() as u64;
        let payload = match payload {
            [first, named @ ..] if kind == Kind::Trailer && first % 2 == 1 => trailer(at, named),
            [first, ..] if kind == Kind::Gap && first % 2 == 1 => {
                frame::cbor(&Gap { epoch: 1, number: 1, previous: [0; 32], hash: [3; 32] })
            }
            _ => payload.to_vec(),
        };
        bytes.extend(seed.frame(at, kind, &payload).expect("a payload is short"));
        has_footer |= kind.is_footer();
        let ends = match kind {
            Kind::Trailer => frame::uncbor::<Trailer>(&payload).is_some(),
            Kind::Gap => frame::uncbor::<Gap>(&payload).is_some(),
            Kind::Body
            | Kind::Compacted
            | Kind::Damaged
            | Kind::Opened
            | Kind::Record
            | Kind::Seal
            | Kind::Stopped
            | Kind::Table => false,
        };
        if ends {
            trailers.push(at..bytes.len() as u64);
        }
        script = rest;
    }
    // The file is longer than what was written.
    bytes.resize(bytes.len() + 64, 0);
    Written { bytes, trailers, has_footer }
}

fn trailer(start: u64, workflow: &[u8]) -> Vec<u8> {
    let workflow = String::from_utf8_lossy(workflow).into_owned();
    let named = Named { owner: "local".to_owned(), workflow, sequence: 1, chain: [2; 32] };
    frame::cbor(&Trailer { epoch: 1, number: 1, previous: [0; 32], start, named: vec![named] })
}

/// Every byte up to the end of the last batch belongs to one frame or is called bad, and what follows is the rest.
fn check_shape(seed: &Seed, scan: &Scan<'_>, bytes: &[u8]) {
    let mut end = segment::HEAD_LEN;
    for batch in &scan.batches {
        assert_eq!(batch.start, end, "batches lie side by side");
        check_batch(seed, batch, bytes);
        end = batch.end;
    }
    assert_eq!(scan.end(), end);
    if let Some(rest) = &scan.rest {
        assert!(!scan.has_footer && rest.start == end && rest.start < rest.end, "{rest:?}");
    }
}

fn check_batch(seed: &Seed, batch: &Batch<'_>, bytes: &[u8]) {
    let mut ranges: Vec<Range<u64>> = batch.frames.iter().map(|frame| frame.offset..frame.end()).collect();
    ranges.extend(batch.bad.iter().cloned());
    ranges.sort_by_key(|range| range.start);
    let mut end = batch.start;
    for range in &ranges {
        assert!(range.start == end && range.start < range.end, "{ranges:?} leave a gap or overlap");
        end = range.end;
    }
    let trailer = usize::try_from(end).ok().and_then(|at| seed.parse(end, bytes.get(at..)?));
    let trailer = trailer.expect("the trailer comes last");
    assert_eq!((trailer.kind, trailer.end()), (batch.last.kind, batch.end));
    if trailer.kind == Kind::Trailer {
        assert_eq!(frame::batch_hash(trailer.payload), batch.hash);
    } else {
        assert_eq!(trailer.kind, Kind::Gap);
        assert_eq!(frame::uncbor::<Gap>(trailer.payload).map(|gap| gap.hash), Some(batch.hash));
    }
    for frame in &batch.frames {
        let at = usize::try_from(frame.offset).expect("it lies in the bytes") + frame::HEAD_LEN;
        assert_eq!(bytes.get(at..at + frame.payload.len()), Some(frame.payload), "the frame's own bytes");
        check_payload(frame);
    }
    batch.trailer.named.iter().for_each(|named| drop(named.key()));
}

/// Reads a payload as what its kind says; whatever is read is written as the same bytes.
fn check_payload(frame: &Frame<'_>) {
    let payload = frame.payload;
    let mut again = Vec::new();
    match frame.kind {
        Kind::Body => {
            let Some((hash, stored)) = frame::body(payload) else { return };
            frame::put_body(&mut again, &hash, stored);
            assert_eq!(again, payload);
        }
        Kind::Record => {
            let Some(found) = frame::record(payload) else { return };
            frame::put_record(&mut again, &found.key, found.sequence, &found.chain, found.stored);
            assert_eq!(again, payload);
        }
        Kind::Damaged => drop(frame::uncbor::<Damaged>(payload).and_then(|damaged| damaged.key())),
        Kind::Opened => drop(frame::uncbor::<Opened>(payload)),
        Kind::Stopped => drop(frame::uncbor::<Stopped>(payload)),
        Kind::Compacted => drop(frame::uncbor::<Compacted>(payload)),
        Kind::Gap => drop(frame::uncbor::<Gap>(payload)),
        Kind::Seal | Kind::Table | Kind::Trailer => {}
    }
}
