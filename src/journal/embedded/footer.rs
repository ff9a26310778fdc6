//! The footer of a sealed segment: its rows in sorted, compressed blocks, a directory over them, and 32
//! bytes at the very end by which it is found. Whoever has the footer need not read the segment's records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use zstd::bulk;

use crate::failpoint::{Point, reach};

use super::disk::{self, LogFile};
use super::frame::{self, Compacted, Kind, Seed};
use super::row::{self, Place, Rows, Sheet, Short};
use super::segment;

/// Bytes of rows per block before compression: what one look-up reads.
const BLOCK_LEN: usize = 16 << 10;

/// What stands at the very end.
pub(super) const TAIL_LEN: usize = 32;
const TAIL_MAGIC: [u8; 8] = *b"OUTRSEAL";

/// What the log was when the segment was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Where the footer begins.
    pub(super) end: u64,
    /// The hash of the batch before the segment's first one.
    pub(super) previous: [u8; 32],
    /// Number of the segment's last batch.
    pub(super) batch: u64,
    /// [`frame::batch_hash`] of it.
    pub(super) hash: [u8; 32],
    /// The owner under which the segment ended, and the boot of the machine under which that was.
    pub(super) epoch: u64,
    pub(super) boot_id: String,
    /// `None`: it is as it was written.
    pub(super) compacted: Option<Compacted>,
}

#[derive(Clone, Debug, Decode, Encode)]
#[cbor(map)]
struct Directory {
    #[n(1)]
    segment: u64,
    #[n(2)]
    end: u64,
    #[n(3)]
    batch: u64,
    #[cbor(n(4), with = "minicbor::bytes")]
    hash: [u8; 32],
    #[n(5)]
    epoch: u64,
    #[n(6)]
    blocks: Vec<Block>,
    /// The names of the workflows with records in the segment, in order.
    #[cbor(n(7), with = "minicbor::bytes")]
    workflows: Vec<u8>,
    #[n(8)]
    boot_id: String,
    #[cbor(n(9), with = "minicbor::bytes")]
    previous: [u8; 32],
    #[n(10)]
    compacted: Option<Compacted>,
}

#[derive(Clone, Debug, Decode, Encode)]
struct Block {
    #[n(0)]
    place: Place,
    /// The first key in it.
    #[cbor(n(1), with = "minicbor::bytes")]
    first: Vec<u8>,
}

/// Writes the footer of `rows` behind the last batch and makes it durable. The file ends there afterwards.
///
/// # Errors
/// Whatever the disk says. The segment is then not sealed, and whole as before.
pub(super) fn write(file: &LogFile, head: &segment::Head, ended: &Ended, rows: &Rows) -> io::Result<()> {
    write_with(file, head, ended, rows, &Sheet::of(rows))
}

/// As [`write()`], with the sheets given: `rows` are those that stand for themselves.
///
/// # Errors
/// As [`write()`].
pub(super) fn write_with(
    file: &LogFile,
    head: &segment::Head,
    ended: &Ended,
    rows: &Rows,
    sheets: &BTreeMap<Short, Sheet>,
) -> io::Result<()> {
    let seed = head.seed();
    let mut out = Writer { seed: &seed, segment: head.number, at: ended.end, bytes: Vec::new() };
    let mut blocks = Vec::new();
    let mut block = Vec::new();
    let mut first = None;
    let mut names = Vec::with_capacity(sheets.len() * Short::LEN);
    let mut sheet_rows = Vec::with_capacity(sheets.len());
    for (workflow, sheet) in sheets {
        names.extend_from_slice(&workflow.0);
        sheet_rows.push((row::sheet_key(*workflow), sheet.value()));
    }
    // No table has a row that would stand behind a sheet.
    let sheets = sheet_rows.iter().map(|(key, value)| (key, value));
    for (key, value) in rows.iter().filter(|(key, _)| !row::is_on_sheet(key)).chain(sheets) {
        // A row that is long by itself does not make others long to read.
        if !block.is_empty() && block.len() + key.len() + value.len() > BLOCK_LEN {
            blocks.push(out.block(&mut block, &mut first)?);
        }
        first.get_or_insert_with(|| key.clone());
        put_row(&mut block, key, value);
    }
    if !block.is_empty() {
        blocks.push(out.block(&mut block, &mut first)?);
    }
    let directory = Directory {
        segment: head.number,
        end: ended.end,
        batch: ended.batch,
        hash: ended.hash,
        epoch: ended.epoch,
        blocks,
        workflows: names,
        boot_id: ended.boot_id.clone(),
        previous: ended.previous,
        compacted: ended.compacted,
    };
    let place = out.put(Kind::Seal, &frame::cbor(&directory))?;
    let Writer { at, bytes, .. } = out;
    reach(Point::FooterStarted);
    file.write_at(&bytes, ended.end)?;
    file.sync()?;
    reach(Point::FooterWritten);
    // INVARIANT: a file gets shorter only when its footer is on disk, so that one without a footer that is too
    // short was cut by somebody else.
    file.set_len(at + TAIL_LEN as u64)?;
    // INVARIANT: the tail is written when everything it leads to is on disk, so that a tail that is there
    // after a power cut never leads to a footer that is not.
    file.write_at(&tail(place.offset, head.salt), at)?;
    reach(Point::FooterEnded);
    file.sync()
}

struct Writer<'a> {
    seed: &'a Seed,
    segment: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, kind: Kind, payload: &[u8]) -> io::Result<Place> {
        let too_long = || io::Error::other("a part of a segment's footer is longer than 4 GiB");
        let frame = self.seed.frame(self.at, kind, payload).ok_or_else(too_long)?;
        let len = u32::try_from(payload.len()).map_err(|_| too_long())?;
        let place = Place { segment: self.segment, offset: self.at, len };
        self.at += frame.len() as u64;
        self.bytes.extend_from_slice(&frame);
        Ok(place)
    }

    fn block(&mut self, block: &mut Vec<u8>, first: &mut Option<Vec<u8>>) -> io::Result<Block> {
        let compressed = bulk::compress(block, 1)?;
        let payload = [&(block.len() as u64).to_le_bytes()[..], &compressed].concat();
        block.clear();
        Ok(Block { place: self.put(Kind::Table, &payload)?, first: first.take().unwrap_or_default() })
    }
}

fn put_row(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

fn next_row<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (key_len, after) = rest.split_first_chunk()?;
    let (value_len, after) = after.split_first_chunk()?;
    let (key, after) = after.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    let (value, after) = after.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    *rest = after;
    Some((key, value))
}

fn tail(seal: u64, salt: [u8; 8]) -> [u8; TAIL_LEN] {
    let front = [TAIL_MAGIC, seal.to_le_bytes(), salt].concat();
    let crc = u64::from(crc32fast::hash(&front));
    let mut tail = [0; TAIL_LEN];
    for (to, from) in tail.iter_mut().zip(front.into_iter().chain(crc.to_le_bytes())) {
        *to = from;
    }
    tail
}

/// A sealed segment's footer, opened.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) ended: Ended,
    file: Arc<File>,
    /// Of the file.
    len: u64,
    seed: Seed,
    blocks: Vec<Block>,
    workflows: Vec<Short>,
}

impl Sealed {
    /// The footer of the segment at `path`; `None` when it has none, or not a whole one.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn open(path: &Path, number: u64) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let Some(at) = len.checked_sub(TAIL_LEN as u64) else { return Ok(None) };
        let bytes = disk::read_at(&file, at, TAIL_LEN)?;
        let Some((seal, salt)) = read_tail(&bytes).filter(|(seal, _)| *seal < at) else { return Ok(None) };
        let seed = Seed::new(salt, number);
        let bytes = disk::read_at(&file, seal, usize::try_from(at - seal).unwrap_or(0))?;
        let directory = seed
            .parse(seal, &bytes)
            .filter(|frame| frame.kind == Kind::Seal)
            .and_then(|frame| frame::uncbor::<Directory>(frame.payload))
            .filter(|directory| directory.segment == number);
        let Some(directory) = directory else { return Ok(None) };
        let Directory { end, batch, hash, epoch, blocks, workflows, boot_id, previous, compacted, .. } =
            directory;
        let workflows = workflows.as_chunks().0.iter().map(|name| Short(*name)).collect();
        let ended = Ended { end, previous, batch, hash, epoch, boot_id, compacted };
        Ok(Some(Self { number, ended, file: Arc::new(file), len, seed, blocks, workflows }))
    }

    pub(super) fn seed(&self) -> Seed {
        self.seed.clone()
    }

    /// Length of the file, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// All bytes of the batches, with the segment's head in front.
    pub(super) fn written(&self) -> io::Result<Vec<u8>> {
        disk::read_at(&self.file, 0, usize::try_from(self.ended.end).unwrap_or(usize::MAX))
    }

    /// Number of the first segment whose frames it holds.
    pub(super) fn from(&self) -> u64 {
        self.ended.compacted.map_or(self.number, |compacted| compacted.from)
    }

    /// How often it was compacted. Where frames lie in it is known from its own rows alone, unless this is 0.
    pub(super) fn generation(&self) -> u32 {
        self.ended.compacted.map_or(0, |compacted| compacted.generation)
    }

    /// All rows, in order; of those that stand on sheets only the sheets.
    pub(super) fn rows(&self) -> io::Result<Rows> {
        let mut rows = Rows::new();
        self.prefix(b"", &mut rows)?;
        Ok(rows)
    }

    /// The workflows with records in the segment.
    pub(super) fn workflows(&self) -> impl Iterator<Item = Short> {
        self.workflows.iter().copied()
    }

    /// The payload of one of the segment's frames; `None` when it is not whole or of another kind.
    pub(super) fn payload(&self, place: Place, kind: Kind) -> io::Result<Option<Vec<u8>>> {
        segment::payload(&self.file, &self.seed, place, kind)
    }

    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let after = self.blocks.partition_point(|block| block.first.as_slice() <= key);
        let Some(block) = after.checked_sub(1).and_then(|at| self.blocks.get(at)) else { return Ok(None) };
        let rows = self.block(block)?;
        let mut rest = rows.as_slice();
        while let Some((found, value)) = next_row(&mut rest) {
            if found == key {
                return Ok(Some(value.to_vec()));
            }
        }
        Ok(None)
    }

    /// All rows whose key begins with `prefix`, in order.
    pub(super) fn prefix(&self, prefix: &[u8], found: &mut Rows) -> io::Result<()> {
        let after = self.blocks.partition_point(|block| block.first.as_slice() <= prefix);
        for block in self.blocks.get(after.saturating_sub(1)..).unwrap_or_default() {
            if block.first.as_slice() > prefix && !block.first.starts_with(prefix) {
                break;
            }
            let rows = self.block(block)?;
            let mut rest = rows.as_slice();
            while let Some((key, value)) = next_row(&mut rest) {
                if key.starts_with(prefix) {
                    found.entry(key.to_vec()).or_insert_with(|| value.to_vec());
                }
            }
        }
        Ok(())
    }

    /// What the segment says of a workflow.
    pub(super) fn sheet(&self, workflow: Short) -> io::Result<Option<Sheet>> {
        let Some(value) = self.get(&row::sheet_key(workflow))? else { return Ok(None) };
        Sheet::read(&value).map(Some).ok_or_else(|| self.broken())
    }

    /// All sheets with the workflows they are of, as they are stored.
    pub(super) fn sheets(&self) -> io::Result<Vec<(Short, Vec<u8>)>> {
        let mut found = Rows::new();
        self.prefix(row::SHEETS, &mut found)?;
        Ok(found.into_iter().filter_map(|(key, value)| Some((row::sheet_of(&key)?, value))).collect())
    }

    fn block(&self, block: &Block) -> io::Result<Vec<u8>> {
        let payload = self.payload(block.place, Kind::Table)?.ok_or_else(|| self.broken())?;
        let (len, data) = payload.split_first_chunk().ok_or_else(|| self.broken())?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| self.broken())?;
        bulk::decompress(data, len)
    }

    fn broken(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the footer of {} is damaged", segment::shown(self.number)),
        )
    }
}

/// Whether a segment without a whole footer had one. Where a process died while it sealed, the tail is
/// still zeros: it is written last.
pub(super) fn is_broken(bytes: &[u8], has_footer: bool) -> bool {
    let tail = bytes.last_chunk::<TAIL_LEN>();
    tail.is_some_and(|tail| read_tail(tail).is_some() || (has_footer && tail.iter().any(|byte| *byte != 0)))
}

fn read_tail(bytes: &[u8]) -> Option<(u64, [u8; 8])> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (seal, rest) = rest.split_first_chunk()?;
    let (salt, _) = rest.split_first_chunk()?;
    let seal = u64::from_le_bytes(*seal);
    (*magic == TAIL_MAGIC && tail(seal, *salt) == bytes).then_some((seal, *salt))
}

#[cfg(test)]
mod tests {
    use super::super::super::conformance::{key, print, step};
    use super::super::disk::Disk;
    use super::*;

    fn head() -> segment::Head {
        segment::Head { number: 3, salt: *b"saltsalt", len: 1 << 20 }
    }

    fn rows() -> Rows {
        let mut rows = Rows::new();
        for name in ["a", "b"] {
            let short = Short::of(&key(name));
            for number in 1..=800 {
                rows.insert(row::print_key(short, &print(number % 400), step(number)), Vec::new());
                rows.insert(row::step_key(short, step(number)), format!("{name}{number}").into_bytes());
                rows.insert(row::record_key(short, number), name.as_bytes().to_vec());
            }
        }
        rows
    }

    fn sealed(dir: &Path) -> Sealed {
        let segment = segment::prepare(&Disk::default(), dir, head()).unwrap();
        let (hash, previous, boot_id) = ([5; 32], [4; 32], "boot".to_owned());
        let ended = Ended { end: 4096, previous, batch: 8, hash, epoch: 1, boot_id, compacted: None };
        write(&segment.file, &segment.head, &ended, &rows()).unwrap();
        let sealed = Sealed::open(segment.file.path(), 3).unwrap().unwrap();
        assert_eq!(sealed.ended, ended);
        sealed
    }

    #[test]
    fn every_row_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = sealed(dir.path());
        assert!(sealed.blocks.len() > 3, "the rows fill several blocks");
        for (key, value) in rows().into_iter().filter(|(key, _)| !row::is_on_sheet(key)) {
            assert_eq!(sealed.get(&key).unwrap(), Some(value));
        }
        let short = Short::of(&key("a"));
        assert_eq!(sealed.get(&row::step_key(short, step(801))).unwrap(), None);
        assert_eq!(sealed.get(b"").unwrap(), None);
        assert_eq!(sealed.get(b"z").unwrap(), None);
        let mut found = Rows::new();
        sealed.prefix(&row::record_prefix(short), &mut found).unwrap();
        let numbers = found.keys().filter_map(|key| row::last_number(key)).collect::<Vec<_>>();
        assert_eq!(numbers, (1..=800).collect::<Vec<_>>());
    }

    #[test]
    fn a_workflows_sheet_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = sealed(dir.path());
        let sheet = sealed.sheet(Short::of(&key("b"))).unwrap().unwrap();
        assert_eq!(sheet.steps, (1..=800).collect::<Vec<_>>());
        assert_eq!(sheet.marks.len(), 800);
        let marked = sheet.marks.iter().filter(|(mark, _)| *mark == row::mark(&print(7)));
        assert_eq!(marked.map(|(_, step)| *step).collect::<Vec<_>>(), [7, 407]);
        assert_eq!(sealed.sheet(Short::of(&key("c"))).unwrap(), None);
        assert_eq!(sealed.workflows().count(), 2);
        assert_eq!(sealed.sheets().unwrap().len(), 2);
    }

    #[test]
    fn a_footer_that_is_not_whole_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = sealed(dir.path());
        drop(sealed);
        let path = segment::path(dir.path(), 3);
        let bytes = std::fs::read(&path).unwrap();
        for len in [0, 31, 4096, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(Sealed::open(&path, 3).unwrap().is_none(), "cut to {len}");
        }
        let mut broken = bytes.clone();
        broken[bytes.len() - 50] ^= 1;
        std::fs::write(&path, &broken).unwrap();
        assert!(Sealed::open(&path, 3).unwrap().is_none(), "a bit flipped in its directory");
        std::fs::write(&path, &bytes).unwrap();
        assert!(Sealed::open(&path, 4).unwrap().is_none(), "another segment's");
    }
}
