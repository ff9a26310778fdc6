//! The log's frames: the only things between a segment's head and its end. Pure: bytes in, bytes out.
//!
//! A frame is 16 bytes of head (payload length, kind, payload CRC, head CRC), the payload, and zeros up to
//! the next multiple of 8. The head's CRC also covers the segment's salt and number and the frame's
//! offset, so that a frame is one only where it was written: bytes that an agent put into a body are never
//! taken for a record, wherever a search for the next frame begins.

use minicbor::{Decode, Encode};

use crate::model::{BodyHash, Owner, WorkflowId, WorkflowKey};

use super::super::codec;

/// Length of a frame's head.
pub(super) const HEAD_LEN: usize = 16;

/// Frames begin at multiples of this.
pub(super) const ALIGN: usize = 8;

const MARK: u16 = 0xf7a6;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A body or a part of one, by hash.
    Body,
    /// The segment was compacted: [`Compacted`].
    Compacted,
    /// Records of a workflow are lost or unreadable: [`Damaged`].
    Damaged,
    /// Batches of which nothing is needed any more: [`Gap`].
    Gap,
    /// An owner has opened the journal: [`Opened`].
    Opened,
    /// One record of a workflow.
    Record,
    /// A sealed segment's directory.
    Seal,
    /// An owner has closed the journal; nothing was under way: [`Stopped`].
    Stopped,
    /// Rows of a sealed segment's index.
    Table,
    /// The end of a batch: [`Trailer`].
    Trailer,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Body,
        Self::Compacted,
        Self::Damaged,
        Self::Gap,
        Self::Opened,
        Self::Record,
        Self::Seal,
        Self::Stopped,
        Self::Table,
        Self::Trailer,
    ];

    fn number(self) -> u8 {
        match self {
            Self::Record => 1,
            Self::Body => 2,
            Self::Trailer => 3,
            Self::Opened => 4,
            Self::Stopped => 5,
            Self::Table => 6,
            Self::Seal => 7,
            Self::Damaged => 8,
            Self::Compacted => 9,
            Self::Gap => 10,
        }
    }

    /// Part of a sealed segment's footer: tells nothing that the frames before it do not.
    pub(super) fn is_footer(self) -> bool {
        matches!(self, Self::Table | Self::Seal)
    }
}

/// What makes a segment's frames its own.
#[derive(Clone, Debug)]
pub(super) struct Seed(crc32fast::Hasher);

impl Seed {
    pub(super) fn new(salt: [u8; 8], segment: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt);
        hasher.update(&segment.to_le_bytes());
        Self(hasher)
    }

    /// The head of a frame at `offset`.
    pub(super) fn head(&self, offset: u64, kind: Kind, len: u32, payload_crc: u32) -> [u8; HEAD_LEN] {
        let [l0, l1, l2, l3] = len.to_le_bytes();
        let [m0, m1] = MARK.to_le_bytes();
        let [p0, p1, p2, p3] = payload_crc.to_le_bytes();
        let front = [l0, l1, l2, l3, kind.number(), 0, m0, m1, p0, p1, p2, p3];
        let mut hasher = self.0.clone();
        hasher.update(&offset.to_le_bytes());
        hasher.update(&front);
        let [h0, h1, h2, h3] = hasher.finalize().to_le_bytes();
        [l0, l1, l2, l3, kind.number(), 0, m0, m1, p0, p1, p2, p3, h0, h1, h2, h3]
    }

    /// A whole frame as it stands in the file, padding included.
    pub(super) fn frame(&self, offset: u64, kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
        let len = u32::try_from(payload.len()).ok()?;
        let mut bytes = Vec::with_capacity(padded(payload.len()) + HEAD_LEN);
        bytes.extend_from_slice(&self.head(offset, kind, len, crc32fast::hash(payload)));
        bytes.extend_from_slice(payload);
        bytes.resize(HEAD_LEN + padded(payload.len()), 0);
        Some(bytes)
    }

    /// The frame that begins at `offset`, where `bytes` begin; `None` when there is none or it is broken.
    pub(super) fn parse<'a>(&self, offset: u64, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let head: &[u8; HEAD_LEN] = bytes.first_chunk()?;
        let [l0, l1, l2, l3, number, _, m0, m1, p0, p1, p2, p3, ..] = *head;
        // Cheap first: a search goes through every eighth byte of a segment.
        if u16::from_le_bytes([m0, m1]) != MARK {
            return None;
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let payload_crc = u32::from_le_bytes([p0, p1, p2, p3]);
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == number)?;
        if self.head(offset, kind, len, payload_crc) != *head {
            return None;
        }
        let payload = bytes.get(HEAD_LEN..)?.get(..usize::try_from(len).ok()?)?;
        (crc32fast::hash(payload) == payload_crc).then_some(Frame { offset, kind, payload })
    }
}

/// A frame that is what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) offset: u64,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// Where the next frame begins.
    pub(super) fn end(&self) -> u64 {
        self.offset + (HEAD_LEN + padded(self.payload.len())) as u64
    }
}

/// `len` rounded up to where a frame may begin.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// A record's payload: which record of which workflow it is, and the chain after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordFrame<'a> {
    pub(super) key: WorkflowKey,
    /// From 1.
    pub(super) sequence: u64,
    pub(super) chain: [u8; 32],
    /// As [`codec`] wrote it.
    pub(super) stored: &'a [u8],
}

/// Appends a record's payload to `out`.
pub(super) fn put_record(
    out: &mut Vec<u8>,
    key: &WorkflowKey,
    sequence: u64,
    chain: &[u8; 32],
    stored: &[u8],
) {
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(chain);
    put_key(out, key);
    out.extend_from_slice(stored);
}

pub(super) fn record(payload: &[u8]) -> Option<RecordFrame<'_>> {
    let (sequence, rest) = payload.split_first_chunk()?;
    let (chain, rest) = rest.split_first_chunk()?;
    let (key, stored) = key(rest)?;
    Some(RecordFrame { key, sequence: u64::from_le_bytes(*sequence), chain: *chain, stored })
}

/// A workflow's key as rows and records carry it. An owner is at most 65,535 bytes long.
pub(super) fn put_key(out: &mut Vec<u8>, key: &WorkflowKey) {
    for text in [key.owner.as_str(), key.workflow.as_str()] {
        let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(text.as_bytes().get(..usize::from(len)).unwrap_or_default());
    }
}

pub(super) fn key(bytes: &[u8]) -> Option<(WorkflowKey, &[u8])> {
    let (owner, rest) = text(bytes)?;
    let (workflow, rest) = text(rest)?;
    let workflow = WorkflowId::parse(workflow).ok()?;
    Some((WorkflowKey { owner: Owner::recorded(owner), workflow }, rest))
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// A body's payload: its hash and what [`super::super::body`] made of it.
pub(super) fn put_body(out: &mut Vec<u8>, hash: &BodyHash, stored: &[u8]) {
    out.extend_from_slice(&hash.0);
    out.extend_from_slice(stored);
}

pub(super) fn body(payload: &[u8]) -> Option<(BodyHash, &[u8])> {
    let (hash, stored) = payload.split_first_chunk()?;
    Some((BodyHash(*hash), stored))
}

/// The end of a batch, and the proof that it is whole. A batch without it was never acknowledged.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Trailer {
    #[n(1)]
    pub(super) epoch: u64,
    /// Number of the batch, from 1, through all segments.
    #[n(2)]
    pub(super) number: u64,
    /// The hash of the batch before; zeros for the first.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(super) previous: [u8; 32],
    /// Where the batch's first frame begins.
    #[n(4)]
    pub(super) start: u64,
    /// The workflows with records in the batch, each as it is after it.
    #[n(5)]
    pub(super) named: Vec<Named>,
}

/// A workflow as a batch left it.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Named {
    #[n(1)]
    pub(super) owner: String,
    #[n(2)]
    pub(super) workflow: String,
    #[n(3)]
    pub(super) sequence: u64,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(super) chain: [u8; 32],
}

impl Named {
    pub(super) fn key(&self) -> Option<WorkflowKey> {
        let workflow = WorkflowId::parse(&self.workflow).ok()?;
        Some(WorkflowKey { owner: Owner::recorded(&self.owner), workflow })
    }
}

/// What chains the batches: the hash of a trailer's payload. The trailer names the chains of all records
/// in its batch, and those name the hashes of all bodies.
pub(super) fn batch_hash(trailer_payload: &[u8]) -> [u8; 32] {
    codec::sha256(&[trailer_payload])
}

/// An owner has opened the journal.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Opened {
    #[n(1)]
    pub(super) epoch: u64,
    /// Milliseconds since 1970.
    #[n(2)]
    pub(super) at: i64,
    #[n(3)]
    pub(super) version: String,
    /// Which boot of the machine: tells a power cut from the death of a process.
    #[n(4)]
    pub(super) boot_id: String,
}

/// An owner has closed the journal: everything before this is whole, and the index beside it is on disk.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Stopped {
    #[n(1)]
    pub(super) epoch: u64,
    /// Milliseconds since 1970.
    #[n(2)]
    pub(super) at: i64,
}

/// What an owner found, so that the next one need not find it again.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Damaged {
    #[n(1)]
    pub(super) owner: String,
    #[n(2)]
    pub(super) workflow: String,
    /// File and offset.
    #[n(3)]
    pub(super) what: String,
}

impl Damaged {
    pub(super) fn new(key: &WorkflowKey, what: &str) -> Self {
        Self {
            owner: key.owner.as_str().to_owned(),
            workflow: key.workflow.as_str().to_owned(),
            what: what.to_owned(),
        }
    }

    pub(super) fn key(&self) -> Option<WorkflowKey> {
        let workflow = WorkflowId::parse(&self.workflow).ok()?;
        Some(WorkflowKey { owner: Owner::recorded(&self.owner), workflow })
    }
}

/// What a compacted segment begins with. Its footer says the same.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Compacted {
    /// Number of the first segment whose needed frames it holds; itself when it holds no other's.
    #[n(1)]
    pub(super) from: u64,
    /// How often this number was compacted.
    #[n(2)]
    pub(super) generation: u32,
}

/// Stands for batches that had nothing left, so that the batches around them still follow each other.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Gap {
    #[n(1)]
    pub(super) epoch: u64,
    /// Number of the last batch it stands for.
    #[n(2)]
    pub(super) number: u64,
    /// The hash of the batch before the first.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(super) previous: [u8; 32],
    /// The hash of the last.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(super) hash: [u8; 32],
}

/// CBOR as the log's own frames and rows carry it. Writing to a vector has no way to fail.
pub(super) fn cbor<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap_or_default()
}

pub(super) fn uncbor<'a, T: Decode<'a, ()>>(bytes: &'a [u8]) -> Option<T> {
    minicbor::decode(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 8] = *b"saltsalt";

    #[test]
    fn a_frame_is_one_only_where_it_was_written() {
        let seed = Seed::new(SALT, 7);
        let bytes = seed.frame(64, Kind::Record, b"payload").unwrap();
        assert_eq!(bytes.len() % ALIGN, 0);
        let frame = seed.parse(64, &bytes).unwrap();
        assert_eq!(
            (frame.kind, frame.payload, frame.end()),
            (Kind::Record, &b"payload"[..], 64 + bytes.len() as u64)
        );
        assert!(seed.parse(72, &bytes).is_none(), "another offset");
        assert!(Seed::new(SALT, 8).parse(64, &bytes).is_none(), "another segment");
        assert!(Seed::new(*b"tlastlas", 7).parse(64, &bytes).is_none(), "another salt");
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let seed = Seed::new(SALT, 1);
        let bytes = seed.frame(64, Kind::Body, b"twelve bytes").unwrap();
        let whole = HEAD_LEN + 12;
        for at in 0..whole * 8 {
            let mut broken = bytes.clone();
            broken[at / 8] ^= 1 << (at % 8);
            assert!(seed.parse(64, &broken).is_none(), "bit {at} flipped");
        }
        for len in 0..whole {
            assert!(seed.parse(64, &bytes[..len]).is_none(), "cut to {len}");
        }
    }

    #[test]
    fn payloads_come_back_and_cut_ones_do_not() {
        let workflow = WorkflowId::parse("order-7").unwrap();
        let key = WorkflowKey { owner: Owner::recorded("spiffe://example.org/a"), workflow };
        let mut out = Vec::new();
        put_record(&mut out, &key, 3, &[9; 32], b"stored");
        assert_eq!(
            record(&out).unwrap(),
            RecordFrame { key, sequence: 3, chain: [9; 32], stored: b"stored" }
        );
        for len in 0..out.len() - b"stored".len() {
            assert!(record(&out[..len]).is_none(), "cut to {len}");
        }
        let mut out = Vec::new();
        put_body(&mut out, &BodyHash([4; 32]), b"body");
        assert_eq!(body(&out).unwrap(), (BodyHash([4; 32]), &b"body"[..]));
    }
}
