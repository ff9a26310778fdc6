//! sled beside the log: a shortcut to the sheets of sealed segments, for hits only. A sheet never changes. Nothing is acknowledged from
//! it, everything in it can be told again from the footers, and whatever goes wrong with it (an error, a
//! panic, a file that does not open) costs its contents and nothing else.

use std::fs::{self, File};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use minicbor::{Decode, Encode};
use parking_lot::RwLock;
use tracing::warn;

use super::frame;

/// The directory of the index inside a journal's directory.
pub(super) const INDEX: &str = "index";

/// Bytes of its pages that sled keeps in memory.
const CACHE_LEN: u64 = 32 << 20;

/// sled degrades beyond this. A longer sheet is read from its footer.
const VALUE_LEN_MAX: usize = 4096;

/// Rows per sled batch: a batch holds up every reader of sled while it is applied.
const BATCH_LEN: usize = 256;

/// sled gives its lock back some time after it was dropped.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// No row's key begins with a zero.
const WATERMARK: &[u8] = b"\0watermark";

/// Up to where the index is complete.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub(super) struct Watermark {
    /// Every row of this sealed segment and of all before it is in the index.
    #[n(1)]
    pub(super) segment: u64,
    /// The hash of the segment's last batch: says that it is that log's segment.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(super) hash: [u8; 32],
    /// The boot of the machine under which this was written. After another boot, what the kernel had not
    /// written by itself is gone: sled does not flush to the disk.
    #[n(3)]
    pub(super) boot_id: String,
}

/// The index, or what is left of it.
#[derive(Debug)]
pub(super) struct Index {
    dir: PathBuf,
    db: RwLock<Db>,
}

#[derive(Debug)]
enum Db {
    /// There is nothing to put into it yet: sled is made when there is.
    Later,
    /// Something went wrong with it.
    Gone,
    Open(sled::Db),
}

impl Index {
    /// No index at all: every look-up misses, and whatever is put in is not there.
    pub(super) fn none() -> Self {
        Self { dir: PathBuf::new(), db: RwLock::new(Db::Gone) }
    }

    /// An index in `dir` that is made anew when the first row comes.
    pub(super) fn later(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), db: RwLock::new(Db::Later) }
    }

    /// Opens the index in `dir` and says up to where it is complete, when `is_trusted` says so. Otherwise
    /// it is empty, and the text says why.
    pub(super) fn open(
        dir: &Path,
        is_trusted: impl Fn(&Watermark) -> bool,
    ) -> (Self, Result<Watermark, String>) {
        if !fs::exists(dir).unwrap_or(false) {
            return (Self::later(dir), Err("there was none".to_owned()));
        }
        let opened = open(dir).and_then(|db| {
            let watermark =
                guarded(|| db.get(WATERMARK))?.and_then(|value| frame::uncbor::<Watermark>(&value));
            Ok((db, watermark))
        });
        let why = match opened {
            Ok((db, Some(watermark))) if is_trusted(&watermark) => {
                return (Self { dir: dir.to_owned(), db: RwLock::new(Db::Open(db)) }, Ok(watermark));
            }
            Ok((_, Some(watermark))) => {
                format!("it ends at segment {}, which is not trusted", watermark.segment)
            }
            Ok((_, None)) => "it was never finished".to_owned(),
            Err(why) => why,
        };
        (Self::later(dir), Err(why))
    }

    /// Makes sled now, if it was to be made later.
    fn make(&self) {
        if !matches!(*self.db.read(), Db::Later) {
            return;
        }
        let mut db = self.db.write();
        if matches!(*db, Db::Later) {
            *db = match set_aside(&self.dir).and_then(|()| open(&self.dir)) {
                Ok(db) => Db::Open(db),
                Err(error) => {
                    warn!(error, "the journal's index cannot be made; look-ups read the log's footers");
                    Db::Gone
                }
            };
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.with(|db| db.get(key)).flatten().map(|value| value.to_vec())
    }

    /// Puts rows in.
    pub(super) fn put<'a>(&self, rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
        self.make();
        let mut rows = rows.into_iter().filter(|(_, value)| value.len() <= VALUE_LEN_MAX).peekable();
        while rows.peek().is_some() {
            let mut batch = sled::Batch::default();
            for (key, value) in rows.by_ref().take(BATCH_LEN) {
                batch.insert(key, value);
            }
            if self.with(|db| db.apply_batch(batch)).is_none() {
                return;
            }
        }
    }

    /// Takes rows out.
    pub(super) fn remove(&self, keys: impl Iterator<Item = Vec<u8>>) {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut batch = sled::Batch::default();
            for key in keys.by_ref().take(BATCH_LEN) {
                batch.remove(key);
            }
            if self.with(|db| db.apply_batch(batch)).is_none() {
                return;
            }
        }
    }

    /// Says up to where the index is complete, after everything put in so far.
    pub(super) fn mark(&self, watermark: &Watermark) {
        let value = frame::cbor(watermark);
        self.with(|db| {
            db.insert(WATERMARK, value)?;
            db.flush()
        });
    }

    /// Up to where it says that it is complete.
    pub(super) fn watermark(&self) -> Option<Watermark> {
        self.get(WATERMARK).and_then(|value| frame::uncbor(&value))
    }

    /// Makes what is in the index durable.
    ///
    /// # Errors
    /// Whatever the disk says. The index must then not be trusted after another boot.
    pub(super) fn sync(&self) -> io::Result<()> {
        if matches!(*self.db.read(), Db::Later) {
            return Ok(());
        }
        if self.with(|db| db.flush()).is_none() {
            return Err(io::Error::other("the index is out of use"));
        }
        // sled's own flush ends in sync_file_range, which promises nothing.
        sync_files(&self.dir)
    }

    /// Asks sled; `None` when it is out of use, now or from now on.
    fn with<T>(&self, ask: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Option<T> {
        let error = match &*self.db.read() {
            Db::Later | Db::Gone => return None,
            Db::Open(db) => match guarded(|| ask(db)) {
                Ok(answer) => return Some(answer),
                Err(error) => error,
            },
        };
        warn!(error, "the journal's index failed and is out of use until the next start");
        // It may not even be dropped in order.
        let broken = std::mem::replace(&mut *self.db.write(), Db::Gone);
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(broken)));
        // Without its watermark nothing of it is trusted again.
        let _ = fs::rename(&self.dir, self.dir.with_extension("broken"));
        None
    }
}

fn guarded<T>(ask: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("sled panicked: {}", text.unwrap_or("without a word")))
        }
    }
}

fn open(dir: &Path) -> Result<sled::Db, String> {
    remove_unfinished_snapshots(dir).map_err(|error| error.to_string())?;
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_LEN)
        .mode(sled::Mode::LowSpace)
        // Written at every seal; in between there is nothing to write.
        .flush_every_ms(None);
    for _ in 1..LOCK_TRIES {
        match guarded(|| config.open()) {
            // The journal's own lock keeps other owners out: this is an instance of this process that is
            // being dropped.
            Err(error) if error.contains("could not acquire lock") => thread::sleep(LOCK_PAUSE),
            opened => return opened,
        }
    }
    guarded(|| config.open())
}

/// A snapshot that was being written when the process died makes sled panic.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Where an index is that was taken out of the way.
pub(super) fn aside(dir: &Path) -> PathBuf {
    dir.with_extension("broken")
}

/// Takes an index that is not trusted out of the way. One is kept, for whoever wants to know why.
pub(super) fn set_aside(dir: &Path) -> Result<(), String> {
    let aside = aside(dir);
    let moved = match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => match fs::rename(dir, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    };
    moved.map_err(|error| error.to_string())
}

fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_files(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::row::Rows;
    use super::*;

    fn mark(segment: u64) -> Watermark {
        Watermark { segment, hash: [3; 32], boot_id: "boot".to_owned() }
    }

    fn rows(range: std::ops::Range<u32>, value: &[u8]) -> Rows {
        range.map(|number| (format!("s{number:06}").into_bytes(), value.to_vec())).collect()
    }

    fn slices(rows: &Rows) -> impl Iterator<Item = (&[u8], &[u8])> {
        rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    #[test]
    fn rows_survive_a_reopening_that_is_trusted_and_only_that() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join(INDEX);
        let (index, state) = Index::open(&dir, |_| true);
        assert_eq!(state, Err("there was none".to_owned()));
        index.put(slices(&rows(0..1000, b"row")));
        index.put(slices(&rows(1000..1001, &[7; 5000])));
        index.mark(&mark(4));
        index.sync().unwrap();
        drop(index);

        let (index, state) = Index::open(&dir, |found| *found == mark(4));
        assert_eq!(state, Ok(mark(4)));
        assert_eq!(index.get(b"s000999").unwrap(), b"row");
        assert_eq!(index.get(b"s001000"), None, "too long for sled");
        drop(index);

        let (index, state) = Index::open(&dir, |_| false);
        assert_eq!(state, Err("it ends at segment 4, which is not trusted".to_owned()));
        assert_eq!(index.get(b"s000999"), None);
        index.put(slices(&rows(0..1, b"row")));
        assert!(dir.with_extension("broken").exists());
    }

    #[test]
    fn an_index_without_a_watermark_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join(INDEX);
        let (index, _) = Index::open(&dir, |_| true);
        index.put(slices(&rows(0..10, b"row")));
        index.sync().unwrap();
        drop(index);
        let (index, state) = Index::open(&dir, |_| true);
        assert_eq!(state, Err("it was never finished".to_owned()));
        assert_eq!(index.get(b"s000001"), None);
    }

    #[test]
    fn whatever_is_wrong_with_the_files_it_opens_empty() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join(INDEX);
        for (file, bytes) in
            [("db", &b"garbage"[..]), ("conf", b"nonsense"), ("snap.0000.generating", b"half")]
        {
            let (index, _) = Index::open(&dir, |_| true);
            index.put(slices(&rows(0..300, &[7; 500])));
            index.mark(&mark(1));
            drop(index);
            fs::write(dir.join(file), bytes).unwrap();
            let (index, state) = Index::open(&dir, |_| true);
            assert!(state.is_err() || file != "db", "{file}: {state:?}");
            index.put(slices(&rows(0..1, b"row")));
            assert!(index.get(b"s000000").is_some(), "{file}");
            drop(index);
            let _ = fs::remove_dir_all(&dir);
        }
    }
}
