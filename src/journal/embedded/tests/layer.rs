//! A layer between the log and the disk: it knows which 512-byte blocks and which names were not flushed, and makes
//! a copy of the journal in which any of them may be lost. Also part of `tests/proof`, which puts a whole sidecar
//! on it.
//!
//! Model: a flush makes a file's blocks durable, a flush of a directory its names. Whatever is not flushed
//! is kept or lost block by block, in any combination. sled's files are never flushed by this layer's
//! account, so any of them may be lost, cut or garbled.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use parking_lot::{Condvar, Mutex};

use super::Watch;

const BLOCK: u64 = 512;

#[derive(Debug, Default)]
struct Unflushed {
    /// What each written block held before, by file. `None`: it was behind the file's end.
    blocks: HashMap<PathBuf, BTreeMap<u64, Vec<u8>>>,
    /// The blocks a flush under way will make durable.
    flushing: HashMap<PathBuf, Vec<u64>>,
    /// Names that are new, each with what there may still be instead.
    names: HashMap<PathBuf, Before>,
    /// Names that were taken away, each with what it may still lead to.
    removed: HashMap<PathBuf, Vec<u8>>,
}

/// What a directory says until it is flushed.
#[derive(Debug, Default)]
struct Before {
    /// The name that the file had.
    name: Option<PathBuf>,
    /// The file that had the name.
    file: Option<Vec<u8>>,
}

/// The layer.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    unflushed: Mutex<Unflushed>,
    halt: Mutex<Halt>,
    changed: Condvar,
}

/// Holds the thread that makes the n-th flush from now until the power was cut.
#[derive(Debug, Default, PartialEq)]
enum Halt {
    #[default]
    Never,
    After(u64),
    Held,
    Over,
}

impl Layer {
    pub(crate) fn halt_after(&self, flushes: u64) {
        *self.halt.lock() = Halt::After(flushes);
    }

    pub(crate) fn wait_until_held(&self) {
        let mut halt = self.halt.lock();
        while *halt != Halt::Held {
            self.changed.wait(&mut halt);
        }
    }

    pub(crate) fn let_go(&self) {
        *self.halt.lock() = Halt::Over;
        self.changed.notify_all();
    }

    fn hold(&self) {
        let mut halt = self.halt.lock();
        if let Halt::After(left) = &mut *halt {
            *left = left.saturating_sub(1);
            if *left == 0 {
                *halt = Halt::Held;
                self.changed.notify_all();
            }
        }
        while *halt == Halt::Held {
            self.changed.wait(&mut halt);
        }
    }
}

impl Layer {
    /// Takes every name for durable.
    pub(crate) fn forget_names(&self) {
        self.unflushed.lock().names.clear();
    }
}

impl Watch for Layer {
    fn write(&self, path: &Path, offset: u64, len: u64) -> io::Result<()> {
        let mut unflushed = self.unflushed.lock();
        let file = fs::File::open(path)?;
        let blocks = unflushed.blocks.entry(path.to_owned()).or_default();
        for block in offset / BLOCK..(offset + len).div_ceil(BLOCK) {
            blocks.entry(block).or_insert_with(|| {
                let mut before = vec![0; BLOCK as usize];
                let mut read = 0;
                while let Ok(more @ 1..) = file.read_at(&mut before[read..], block * BLOCK + read as u64) {
                    read += more;
                }
                before
            });
        }
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut unflushed = self.unflushed.lock();
        let blocks = unflushed.blocks.get(path).map(|blocks| blocks.keys().copied().collect());
        unflushed.flushing.insert(path.to_owned(), blocks.unwrap_or_default());
        drop(unflushed);
        self.hold();
        Ok(())
    }

    fn synced(&self, path: &Path) {
        let mut unflushed = self.unflushed.lock();
        let flushed = unflushed.flushing.remove(path).unwrap_or_default();
        if let Some(blocks) = unflushed.blocks.get_mut(path) {
            blocks.retain(|block, _| !flushed.contains(block));
        }
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        self.unflushed.lock().names.insert(path.to_owned(), Before::default());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut unflushed = self.unflushed.lock();
        let file = fs::read(to).ok();
        unflushed.names.remove(from);
        unflushed.names.insert(to.to_owned(), Before { name: Some(from.to_owned()), file });
        if let Some(blocks) = unflushed.blocks.remove(from) {
            unflushed.blocks.insert(to.to_owned(), blocks);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut unflushed = self.unflushed.lock();
        unflushed.names.retain(|name, _| name.parent() != Some(path));
        unflushed.removed.retain(|name, _| name.parent() != Some(path));
        Ok(())
    }

    fn set_len(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let bytes = fs::read(path)?;
        self.unflushed.lock().removed.insert(path.to_owned(), bytes);
        Ok(())
    }
}

/// Numbers that come out the same for the same seed.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

impl Layer {
    /// The journal in `from` as a power cut now may leave it. Nothing is flushed while it is copied; `note`
    /// is called at that moment.
    pub(crate) fn cut(&self, from: &Path, to: &Path, dice: &mut Dice, note: impl FnOnce()) {
        let unflushed = self.unflushed.lock();
        note();
        fs::create_dir_all(to.join("log")).unwrap();
        for (path, bytes) in &unflushed.removed {
            if !path.exists() && dice.roll(2) == 0 {
                fs::write(to.join("log").join(path.file_name().unwrap()), bytes).unwrap();
            }
        }
        for entry in fs::read_dir(from.join("log")).unwrap() {
            let path = entry.unwrap().path();
            let Ok(mut bytes) = fs::read(&path) else { continue };
            // The three kinds of disk: keeps all, loses all, and anything between.
            let kind = dice.roll(3);
            for (block, before) in unflushed.blocks.get(&path).into_iter().flatten() {
                let keeps = match kind {
                    0 => true,
                    1 => false,
                    _ => dice.roll(2) == 0,
                };
                let at = (block * BLOCK) as usize;
                if !keeps && at < bytes.len() {
                    let end = bytes.len().min(at + BLOCK as usize);
                    bytes[at..end].copy_from_slice(&before[..end - at]);
                }
            }
            let name = match unflushed.names.get(&path) {
                None => path.clone(),
                Some(_) if dice.roll(2) == 0 => path.clone(),
                Some(before) => {
                    if let Some(bytes) = &before.file {
                        fs::write(to.join("log").join(path.file_name().unwrap()), bytes).unwrap();
                    }
                    let Some(name) = &before.name else { continue };
                    name.clone()
                }
            };
            fs::write(to.join("log").join(name.file_name().unwrap()), bytes).unwrap();
        }
        if dice.roll(2) == 0 {
            let _ = fs::copy(from.join("journal.lock"), to.join("journal.lock"));
        }
        garble(&from.join("index"), &to.join("index"), dice);
    }
}

/// sled's files as nobody flushed them.
pub(crate) fn garble(from: &Path, to: &Path, dice: &mut Dice) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>() {
        let Ok(mut bytes) = fs::read(&path) else { continue };
        match dice.roll(4) {
            0 => continue,
            1 => bytes.truncate(dice.roll(bytes.len() as u64 + 1) as usize),
            2 => {
                for at in (0..bytes.len()).step_by(4096).filter(|_| dice.roll(3) == 0).collect::<Vec<_>>() {
                    let end = bytes.len().min(at + 4096);
                    bytes[at..end].fill(0);
                }
            }
            _ => {}
        }
        fs::write(to.join(path.file_name().unwrap()), bytes).unwrap();
    }
}
