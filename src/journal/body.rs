//! Bodies as the log stores them: whole or as a recipe of parts, compressed where that helps, and put
//! together again with their BLAKE3 verified. Knows nothing of files.
//!
//! A stored body is its length (8 bytes), its form (1 byte) and the data. A recipe's data is the number of
//! parts, then for each part the length of the literal bytes before it, its hash, and the segment it is
//! likely in, then the length of the literal bytes after the last one, then all literal bytes. Numbers are
//! little-endian, with 4 bytes inside a recipe.

mod recipe;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;
use zstd::bulk::{Compressor, Decompressor};

use crate::model::BodyHash;

use super::{Body, Error};
use recipe::{REFERENCE_LEN, Recipe, WITH_ITS_RECIPE, groups, hash_of, slice};

/// Parts shorter than this stay literal: a reference costs 40 bytes and a frame of its own.
const PART_LEN_MIN: usize = 64;

/// Less than this is stored as it is.
const COMPRESS_LEN_MIN: usize = 128;

/// Longest body that is read back, in bytes: a guard against lengths that make no sense.
const LEN_MAX: u64 = 1 << 30;

/// A recipe's parts are shorter than it, so depth is bounded anyway; this bounds the stack.
const DEPTH_MAX: usize = 8;

/// Compressors kept for the next body. More are made when more are at work at once.
const COMPRESSORS_MAX: usize = 2;

/// The level at which compression costs less than writing what it saves.
const LEVEL: i32 = 1;

const WHOLE: u8 = 0;
const RECIPE: u8 = 2;
const COMPRESSED: u8 = 1;

/// Hands `bytes` on when they are what `hash` names.
///
/// # Errors
/// [`Error::Body`].
pub(super) fn verified(hash: &BodyHash, bytes: Bytes) -> Result<Bytes, Error> {
    if blake3::hash(&bytes).as_bytes() == &hash.0 {
        return Ok(bytes);
    }
    Err(damaged(hash))
}

/// Checks that the parts of `body` lie in it, ascending and disjoint.
///
/// # Errors
/// [`Error::OutOfOrder`]: the caller cut the body wrongly.
pub(super) fn parts_in_order(body: &Body) -> Result<(), Error> {
    let mut end = 0;
    for part in &body.parts {
        if part.start < end || part.end < part.start || part.end > body.bytes.len() {
            return Err(Error::OutOfOrder(format!(
                "part {}..{} of a body of {} bytes begins before {end} or ends outside",
                part.start,
                part.end,
                body.bytes.len()
            )));
        }
        end = part.end;
    }
    Ok(())
}

fn damaged(hash: &BodyHash) -> Error {
    Error::Body { hash: *hash, what: "damaged: its bytes do not have its hash" }
}

/// A body or a part, ready to be put into the log.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) hash: BodyHash,
    pub(super) stored: Vec<u8>,
}

/// What is in the log already.
pub(super) trait Stored {
    /// Whether a body is, near to where the next record will be.
    fn has_near(&self, hash: &BodyHash) -> bool;

    /// The segment a body is likely in, if it is in one.
    fn segment_of(&self, hash: &BodyHash) -> Option<u32>;
}

/// Turns bodies into what the log stores.
#[derive(Default)]
pub(super) struct Packer {
    idle: Mutex<Vec<Compressor<'static>>>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// What has to be stored so that `body` can be read: itself and its parts, without what is stored
    /// already. Parts come before what is made of them.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] when its parts are not ascending and disjoint.
    pub(super) fn pack(&self, body: &Body, log: &dyn Stored) -> Result<Vec<Packed>, Error> {
        parts_in_order(body)?;
        if log.has_near(&body.hash) {
            return Ok(Vec::new());
        }
        if !body.parts.iter().any(|part| is_worth(part, body)) {
            return Ok(vec![self.one(body.hash, WHOLE, body.bytes.len(), &body.bytes)]);
        }
        let mut packing = Packing { packer: self, body, log, packed: Vec::new(), seen: HashSet::new() };
        let mut recipe = Recipe::from(0);
        for group in groups(&body.parts) {
            packing.group(group, &mut recipe);
        }
        let recipe = recipe.finish(&body.bytes, body.bytes.len());
        packing.packed.push(self.one(body.hash, RECIPE, body.bytes.len(), &recipe));
        Ok(packing.packed)
    }

    fn one(&self, hash: BodyHash, form: u8, len: usize, bytes: &[u8]) -> Packed {
        let compressed = self.compressed(bytes);
        let form = form | if compressed.is_some() { COMPRESSED } else { 0 };
        let data = compressed.as_deref().unwrap_or(bytes);
        let mut stored = Vec::with_capacity(9 + data.len());
        stored.extend_from_slice(&(len as u64).to_le_bytes());
        stored.push(form);
        stored.extend_from_slice(data);
        Packed { hash, stored }
    }

    /// `None` when it would not be shorter by at least an eighth.
    fn compressed(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.len() < COMPRESS_LEN_MIN {
            return None;
        }
        let idle = self.idle.lock().pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => Compressor::new(LEVEL).ok()?,
        };
        let compressed = compressor.compress(bytes).ok();
        let mut idle = self.idle.lock();
        if idle.len() < COMPRESSORS_MAX {
            idle.push(compressor);
        }
        compressed.filter(|compressed| compressed.len() < bytes.len() - bytes.len() / 8)
    }
}

/// Whether a part is stored for itself. One that is the whole body is none.
fn is_worth(part: &Range<usize>, body: &Body) -> bool {
    part.len() >= PART_LEN_MIN && *part != (0..body.bytes.len())
}

/// What of a body is to be stored, so far.
struct Packing<'a> {
    packer: &'a Packer,
    body: &'a Body,
    log: &'a dyn Stored,
    packed: Vec<Packed>,
    /// Hashes in `packed`.
    seen: HashSet<BodyHash>,
}

impl Packing<'_> {
    /// Adds a group to `recipe`: as a whole where it is full, else its only part.
    fn group(&mut self, group: &[Range<usize>], recipe: &mut Recipe) {
        let body = self.body;
        let (first, last) = match group {
            [] => return,
            [only] => return self.part(only, recipe),
            [first, .., last] => (first, last),
        };
        let span = first.start..last.end;
        if span == (0..body.bytes.len()) {
            return group.iter().for_each(|part| self.part(part, recipe));
        }
        let hash = hash_of(&body.bytes, &span);
        let segment = self.log.segment_of(&hash);
        if segment.is_none() && self.seen.insert(hash) {
            let mut inner = Recipe::from(span.start);
            group.iter().for_each(|part| self.part(part, &mut inner));
            let inner = inner.finish(&body.bytes, span.end);
            self.packed.push(self.packer.one(hash, RECIPE, span.len(), &inner));
        }
        recipe.add(&body.bytes, &span, hash, segment.unwrap_or(WITH_ITS_RECIPE));
    }

    fn part(&mut self, part: &Range<usize>, recipe: &mut Recipe) {
        let body = self.body;
        if !is_worth(part, body) {
            return;
        }
        let hash = hash_of(&body.bytes, part);
        let segment = self.log.segment_of(&hash);
        if segment.is_none() && self.seen.insert(hash) {
            self.packed.push(self.packer.one(hash, WHOLE, part.len(), slice(&body.bytes, part)));
        }
        recipe.add(&body.bytes, part, hash, segment.unwrap_or(WITH_ITS_RECIPE));
    }
}

/// A body as it was found in the log.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stored: Vec<u8>,
    /// Where it was.
    pub(super) segment: u32,
}

/// Finds what is stored under a hash, likely in the segment named.
pub(super) type Fetch<'a> = &'a dyn Fn(&BodyHash, u32) -> Result<Found, Error>;

/// The body `hash` out of what was found under it; `fetch` finds its parts.
///
/// # Errors
/// [`Error::Body`] when it is not what it was, and whatever `fetch` reports.
pub(super) fn unpack(hash: &BodyHash, found: &Found, fetch: Fetch<'_>) -> Result<Bytes, Error> {
    let mut bytes = Vec::new();
    append(hash, found, fetch, &mut bytes, 0)?;
    verified(hash, Bytes::from(bytes))
}

/// What a stored body is made of.
enum Made<'a> {
    /// Its own bytes.
    Whole(Cow<'a, [u8]>),
    Recipe(List),
}

/// A recipe, read.
struct List {
    /// Each with the length of the literal bytes before it and the segment it is likely in.
    parts: Vec<(usize, BodyHash, u32)>,
    literal: Vec<u8>,
}

fn read<'a>(hash: &BodyHash, stored: &'a [u8]) -> Result<Made<'a>, Error> {
    let broken = || damaged(hash);
    let (len, rest) = stored.split_first_chunk().ok_or_else(broken)?;
    let (form, data) = rest.split_first().ok_or_else(broken)?;
    let len = u64::from_le_bytes(*len);
    if len > LEN_MAX || form & !(COMPRESSED | RECIPE) != 0 {
        return Err(broken());
    }
    let len = usize::try_from(len).map_err(|_| broken())?;
    let data = if form & COMPRESSED == 0 {
        Cow::Borrowed(data)
    } else {
        // A recipe can be longer than its body.
        let len_max = len + (len / PART_LEN_MIN + 2) * REFERENCE_LEN;
        Cow::Owned(decompress(data, len_max).map_err(|_| broken())?)
    };
    if form & RECIPE == 0 { Ok(Made::Whole(data)) } else { list(&data).map(Made::Recipe).ok_or_else(broken) }
}

fn list(data: &[u8]) -> Option<List> {
    let (count, mut listed) = data.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    let literal = listed.get(count.saturating_mul(REFERENCE_LEN).saturating_add(4)..)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (between, rest) = listed.split_first_chunk()?;
        let (part, rest) = rest.split_first_chunk()?;
        let (segment, rest) = rest.split_first_chunk()?;
        parts.push((u32::from_le_bytes(*between) as usize, BodyHash(*part), u32::from_le_bytes(*segment)));
        listed = rest;
    }
    Some(List { parts, literal: literal.to_vec() })
}

/// The parts that what is stored under `hash` is made of; none, when it is stored whole.
///
/// # Errors
/// [`Error::Body`] when it cannot be read.
pub(super) fn parts(hash: &BodyHash, stored: &[u8]) -> Result<Vec<BodyHash>, Error> {
    match read(hash, stored)? {
        Made::Whole(_) => Ok(Vec::new()),
        Made::Recipe(list) => Ok(list.parts.into_iter().map(|(_, part, _)| part).collect()),
    }
}

fn append(
    hash: &BodyHash,
    found: &Found,
    fetch: Fetch<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    let broken = || damaged(hash);
    if depth > DEPTH_MAX {
        return Err(broken());
    }
    let List { parts, literal } = match read(hash, &found.stored)? {
        Made::Whole(bytes) => {
            out.extend_from_slice(&bytes);
            return Ok(());
        }
        Made::Recipe(list) => list,
    };
    let mut literal = literal.as_slice();
    for (between, part, segment) in parts {
        let (now, later) = literal.split_at_checked(between).ok_or_else(broken)?;
        out.extend_from_slice(now);
        let segment = if segment == WITH_ITS_RECIPE { found.segment } else { segment };
        append(&part, &fetch(&part, segment)?, fetch, out, depth + 1)?;
        literal = later;
    }
    out.extend_from_slice(literal);
    Ok(())
}

fn decompress(data: &[u8], len_max: usize) -> io::Result<Vec<u8>> {
    Decompressor::new()?.decompress(data, len_max)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;

    /// Stores bodies in a map and reads them back.
    #[derive(Default)]
    struct Shelf(HashMap<BodyHash, Vec<u8>>);

    impl Stored for Shelf {
        fn has_near(&self, hash: &BodyHash) -> bool {
            self.0.contains_key(hash)
        }

        fn segment_of(&self, hash: &BodyHash) -> Option<u32> {
            self.0.contains_key(hash).then_some(7)
        }
    }

    impl Shelf {
        /// Bytes that storing `body` took.
        fn put(&mut self, packer: &Packer, body: &Body) -> usize {
            let packed = packer.pack(body, self).unwrap();
            let len = packed.iter().map(|packed| packed.stored.len()).sum();
            self.0.extend(packed.into_iter().map(|packed| (packed.hash, packed.stored)));
            len
        }

        fn fetch(&self, hash: &BodyHash) -> Result<Found, Error> {
            let stored = self.0.get(hash).cloned().ok_or(Error::Body { hash: *hash, what: "not there" })?;
            Ok(Found { stored, segment: 7 })
        }

        fn take(&self, hash: &BodyHash) -> Result<Bytes, Error> {
            unpack(hash, &self.fetch(hash)?, &|part, _| self.fetch(part))
        }
    }

    fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Body {
        let mut at = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect::<Vec<_>>();
        at.sort_unstable();
        let parts = at.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
        Body { parts, ..Body::whole(Bytes::copy_from_slice(bytes)) }
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_it_comes_back(
            bytes in prop::collection::vec(0u8..4, 0..3000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let (mut shelf, packer) = (Shelf::default(), Packer::default());
            let body = cut(&bytes, &cuts);
            shelf.put(&packer, &body);
            let fetch = |part: &BodyHash, segment| {
                assert_eq!(segment, 7, "where it was said to be");
                shelf.fetch(part)
            };
            let unpacked = unpack(&body.hash, &shelf.fetch(&body.hash).unwrap(), &fetch);
            prop_assert_eq!(unpacked.unwrap(), &body.bytes);
            prop_assert_eq!(shelf.put(&packer, &body), 0);
        }

        #[test]
        fn a_long_conversation_comes_back_after_every_turn(
            messages in prop::collection::vec((0usize..4000, 0..2 * recipe::GROUP_GAP_MAX), 0..90),
            turns in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        ) {
            let (mut shelf, packer) = (Shelf::default(), Packer::default());
            let (mut talk, mut parts) = (Vec::new(), Vec::new());
            for (at, (len, gap)) in messages.into_iter().enumerate() {
                parts.push(talk.len()..talk.len() + len);
                talk.extend((0..len).map(|byte| u8::try_from((at * 7 + byte) % 251).unwrap()));
                talk.resize(talk.len() + gap, b',');
            }
            let mut turns: Vec<_> = turns.iter().map(|turn| turn.index(parts.len() + 1)).collect();
            turns.sort_unstable();
            for turn in turns {
                let end = parts.get(turn).map_or(talk.len(), |part| part.start);
                let bytes = Bytes::copy_from_slice(&talk[..end]);
                let body = Body { parts: parts[..turn].to_vec(), ..Body::whole(bytes) };
                shelf.put(&packer, &body);
                prop_assert_eq!(shelf.take(&body.hash).unwrap(), body.bytes);
            }
        }

        #[test]
        fn damage_is_never_served(
            bytes in prop::collection::vec(any::<u8>(), 200..900),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
            which in any::<prop::sample::Index>(),
            bit in any::<prop::sample::Index>(),
        ) {
            let (mut shelf, packer) = (Shelf::default(), Packer::default());
            let body = cut(&bytes, &cuts);
            shelf.put(&packer, &body);
            let mut hashes = shelf.0.keys().copied().collect::<Vec<_>>();
            hashes.sort();
            let stored = shelf.0.get_mut(which.get(&hashes)).unwrap();
            let bit = bit.index(stored.len() * 8);
            stored[bit / 8] ^= 1 << (bit % 8);
            if let Ok(served) = shelf.take(&body.hash) {
                // The length of a whole body is only a bound; everything else shows.
                prop_assert_eq!(served, body.bytes);
            }
        }
    }

    #[test]
    fn a_growing_conversation_costs_what_it_grows_by() {
        let (mut shelf, packer) = (Shelf::default(), Packer::default());
        let (mut talk, mut parts) = (b"[".to_vec(), Vec::new());
        let mut costs = Vec::new();
        for turn in 0..50u32 {
            let message: String = (0..300)
                .map(|word: u32| format!("{:x} ", (turn * 300 + word).wrapping_mul(40_503)))
                .collect();
            parts.push(talk.len()..talk.len() + message.len());
            talk.extend_from_slice(message.as_bytes());
            talk.push(b',');
            let body = Body { parts: parts.clone(), ..Body::whole(Bytes::copy_from_slice(&talk)) };
            costs.push(shelf.put(&packer, &body));
            assert_eq!(shelf.take(&body.hash).unwrap(), body.bytes);
        }
        // A message and 40 bytes for each one before it, not the whole talk again.
        assert!(costs[49] < costs[0] + 50 * 44, "{costs:?}");
        assert!(talk.len() > 40 * costs[49], "{} bytes cost {costs:?}", talk.len());
    }

    #[test]
    fn a_part_that_is_the_whole_body_is_no_part() {
        let (mut shelf, packer) = (Shelf::default(), Packer::default());
        let body =
            Body { parts: std::iter::once(0..500).collect(), ..Body::whole(Bytes::from(vec![7; 500])) };
        shelf.put(&packer, &body);
        assert_eq!(shelf.take(&body.hash).unwrap(), body.bytes);
    }

    #[test]
    fn parts_out_of_order_are_refused() {
        let whole = Body::whole(Bytes::from(vec![7; 500]));
        let (behind, backwards) = (400..501, Range { start: 9, end: 8 });
        for parts in [
            vec![100..200, 150..300],
            std::iter::once(behind).collect(),
            vec![300..400, 0..100],
            std::iter::once(backwards).collect(),
        ] {
            let refused = Packer::default().pack(&Body { parts, ..whole.clone() }, &Shelf::default());
            assert!(matches!(refused, Err(Error::OutOfOrder(_))), "{refused:?}");
        }
    }
}
