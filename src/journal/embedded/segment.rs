//! A segment: one file of the log, with its head, its frames, and, once it is sealed, its footer. Creates
//! and reads segments; what is written into the open one is `writer`'s business.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::failpoint::{Point, reach};

use super::disk::{self, Disk, LogFile};
use super::frame::{self, Kind, Seed};
use super::row::Place;

/// Length of a segment's head; its first frame begins here.
pub(super) const HEAD_LEN: u64 = 64;

/// The version of the log's layout that this code reads and writes.
pub(super) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"OUTRLOG\n";

/// What a segment's file begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    /// Random, so that nobody who can put bytes into a body can forge a frame.
    pub(super) salt: [u8; 8],
    /// How long the file is until it gets its footer: a shorter one was cut. 0 where a head does not say.
    pub(super) len: u64,
}

/// Why a file does not begin with the head of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    Broken,
    /// Written in this later layout.
    Newer(u32),
}

impl Head {
    /// The head of a new segment.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn new(number: u64, len: u64) -> io::Result<Self> {
        let mut salt = [0; 8];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| io::Error::other("the system has no random bytes"))?;
        Ok(Self { number, salt, len })
    }

    pub(super) fn bytes(&self) -> [u8; HEAD_LEN as usize] {
        let mut front = Vec::with_capacity(HEAD_LEN as usize);
        front.extend_from_slice(&MAGIC);
        front.extend_from_slice(&u64::from(FORMAT).to_le_bytes());
        front.extend_from_slice(&self.number.to_le_bytes());
        front.extend_from_slice(&self.salt);
        front.extend_from_slice(&self.len.to_le_bytes());
        front.resize(HEAD_LEN as usize - 4, 0);
        let crc = crc32fast::hash(&front).to_le_bytes();
        front.extend_from_slice(&crc);
        let mut bytes = [0; HEAD_LEN as usize];
        bytes.copy_from_slice(&front);
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, BadHead> {
        let bytes: &[u8; HEAD_LEN as usize] = bytes.first_chunk().ok_or(BadHead::Broken)?;
        let (front, crc) = bytes.split_at(HEAD_LEN as usize - 4);
        if crc != crc32fast::hash(front).to_le_bytes() {
            return Err(BadHead::Broken);
        }
        let take =
            |at: usize| front.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied().unwrap_or_default();
        let format = u32::try_from(u64::from_le_bytes(take(8))).unwrap_or(u32::MAX);
        if take(0) != MAGIC || format == 0 {
            return Err(BadHead::Broken);
        }
        if format > FORMAT {
            return Err(BadHead::Newer(format));
        }
        let [number, len] = [16, 32].map(|at| u64::from_le_bytes(take(at)));
        Ok(Self { number, salt: take(24), len })
    }

    pub(super) fn seed(&self) -> Seed {
        Seed::new(self.salt, self.number)
    }
}

/// The directory of the log inside a journal's directory.
pub(super) const LOG: &str = "log";

pub(super) fn path(log: &Path, number: u64) -> PathBuf {
    log.join(format!("{number:010}.seg"))
}

/// The segment's number, when the file is called like one.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".seg")?.parse().ok()
}

/// The file's name for people.
pub(super) fn shown(number: u64) -> String {
    format!("{LOG}/{number:010}.seg")
}

/// A segment with room, ready to be written.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) head: Head,
    pub(super) seed: Seed,
    pub(super) file: LogFile,
    /// Length of the file; from `end` on it is zeros.
    pub(super) filled: u64,
    /// Where the next frame begins.
    pub(super) end: u64,
    /// The hash of the batch before the segment's first one; zeros while it has none.
    pub(super) previous: [u8; 32],
}

/// Makes a new, empty, zero-filled segment of its head's length, durable with its name.
///
/// # Errors
/// Whatever the disk says; nothing of the segment remains then.
pub(super) fn prepare(disk: &Disk, log: &Path, head: Head) -> io::Result<Segment> {
    let path = path(log, head.number);
    let unfinished = path.with_extension("new");
    let made = fill(disk, &unfinished, &head).and_then(|mut file| {
        reach(Point::SegmentFilled);
        disk.rename(&unfinished, &path)?;
        reach(Point::SegmentNamed);
        disk.sync_dir(log)?;
        file.set_path(path);
        Ok(file)
    });
    match made {
        Ok(file) => {
            let filled = head.len;
            Ok(Segment { seed: head.seed(), head, file, filled, end: HEAD_LEN, previous: [0; 32] })
        }
        Err(error) => {
            // Whether or not it can be removed: the next open does it again.
            let _ = std::fs::remove_file(&unfinished);
            Err(error)
        }
    }
}

fn fill(disk: &Disk, path: &Path, head: &Head) -> io::Result<LogFile> {
    let file = disk.create(path)?;
    file.fill(0, head.len)?;
    file.write_at(&head.bytes(), 0)?;
    file.sync()?;
    Ok(file)
}

/// The payload of the frame at `place`; `None` when there is no such whole frame of that kind.
///
/// # Errors
/// Whatever the disk says.
pub(super) fn payload(file: &File, seed: &Seed, place: Place, kind: Kind) -> io::Result<Option<Vec<u8>>> {
    let len = frame::HEAD_LEN + place.len as usize;
    let mut bytes = match disk::read_at(file, place.offset, len) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let whole = seed
        .parse(place.offset, &bytes)
        .is_some_and(|frame| frame.kind == kind && frame.payload.len() == place.len as usize);
    Ok(whole.then(|| bytes.split_off(frame::HEAD_LEN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head { number: 3, salt: *b"saltsalt", len: 4096 }
    }

    #[test]
    fn a_head_comes_back_and_a_broken_one_does_not() {
        let bytes = head().bytes();
        assert_eq!(Head::read(&bytes), Ok(head()));
        for at in 0..bytes.len() {
            let mut broken = bytes;
            broken[at] ^= 4;
            assert_eq!(Head::read(&broken), Err(BadHead::Broken), "byte {at}");
        }
        assert_eq!(Head::read(&bytes[..60]), Err(BadHead::Broken));
    }

    #[test]
    fn a_later_layout_is_told_from_a_broken_head() {
        let mut bytes = head().bytes();
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
        bytes[60..].copy_from_slice(&crc);
        assert_eq!(Head::read(&bytes), Err(BadHead::Newer(2)));
    }

    #[test]
    fn a_prepared_segment_is_zeros_after_its_head() {
        let dir = tempfile::tempdir().unwrap();
        let segment = prepare(&Disk::default(), dir.path(), head()).unwrap();
        let bytes = std::fs::read(path(dir.path(), 3)).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(Head::read(&bytes), Ok(head()));
        assert!(bytes[64..].iter().all(|byte| *byte == 0));
        assert_eq!(segment.end, HEAD_LEN);
        assert_eq!(number("0000000003.seg"), Some(3));
        assert_eq!(number("0000000003.new"), None);
    }
}
