//! The few things the log does to files, each in one place: so that a test can stand between the log and
//! the disk and forget what was never flushed (`powercut`). Knows nothing of what the bytes mean.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::failpoint::{Defect, is_broken};

/// What a test's layer is asked before and told after the log touches a file.
#[cfg(any(test, feature = "failpoints"))]
pub trait Watch: Send + Sync + std::fmt::Debug {
    /// # Errors
    /// In place of the disk's own; the bytes are then not written. So below.
    fn write(&self, path: &Path, offset: u64, len: u64) -> io::Result<()>;
    /// # Errors
    /// As [`Watch::write`].
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// What [`Watch::sync`] was asked about is on disk.
    fn synced(&self, path: &Path);
    /// # Errors
    /// As [`Watch::write`].
    fn create(&self, path: &Path) -> io::Result<()>;
    /// # Errors
    /// As [`Watch::write`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// # Errors
    /// As [`Watch::write`].
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// # Errors
    /// As [`Watch::write`].
    fn set_len(&self, path: &Path) -> io::Result<()>;
    /// # Errors
    /// As [`Watch::write`].
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The disk, or in tests whatever stands before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(any(test, feature = "failpoints"))]
    pub(crate) watch: Option<Arc<dyn Watch>>,
}

/// A file of the log, opened for writing.
#[derive(Debug)]
pub(super) struct LogFile {
    file: Arc<File>,
    path: PathBuf,
    #[cfg(any(test, feature = "failpoints"))]
    watch: Option<Arc<dyn Watch>>,
}

/// How many slices one call writes at most (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Zeros are written in pieces of this many bytes.
const ZEROS_LEN: usize = 256 << 10;

impl Disk {
    /// A new file; whatever had the name is gone.
    pub(super) fn create(&self, path: &Path) -> io::Result<LogFile> {
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.create(path)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(self.file(file, path))
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(self.file(file, path))
    }

    #[cfg_attr(
        not(any(test, feature = "failpoints")),
        expect(clippy::unused_self, reason = "in tests it says what stands before the disk")
    )]
    fn file(&self, file: File, path: &Path) -> LogFile {
        LogFile {
            file: Arc::new(file),
            path: path.to_owned(),
            #[cfg(any(test, feature = "failpoints"))]
            watch: self.watch.clone(),
        }
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.rename(from, to)?;
        }
        fs::rename(from, to)
    }

    /// Takes a name away; a file without names is gone once nobody has it open.
    #[cfg_attr(
        not(any(test, feature = "failpoints")),
        expect(clippy::unused_self, reason = "in tests it says what stands before the disk")
    )]
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.remove(path)?;
        }
        fs::remove_file(path)
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.sync_dir(path)?;
        }
        File::open(path)?.sync_all()
    }
}

impl LogFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The same file, for reading.
    pub(super) fn reader(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(super) fn set_path(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Writes all of `slices`, one after the other, in as few calls as the kernel allows.
    pub(super) fn write_all_at(&self, slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        self.about_to_write(offset, slices.iter().map(|slice| slice.len() as u64).sum())?;
        let mut rest = slices;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let now = rest.get(..SLICES_MAX).unwrap_or(rest);
            match rustix::io::pwritev(&self.file, now, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        self.about_to_write(offset, bytes.len() as u64)?;
        self.file.write_all_at(bytes, offset)
    }

    /// Gives the file `len` bytes of written zeros: blocks that are merely reserved would be converted by
    /// the first flush after each write, which costs it a second one.
    pub(super) fn fill(&self, from: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, len) {
            // Not every file system can reserve; all can write.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; ZEROS_LEN];
        let mut at = from;
        let end = from + len;
        while at < end {
            let now = usize::try_from(end - at).map_or(ZEROS_LEN, |left| left.min(ZEROS_LEN));
            self.write_at(zeros.get(..now).unwrap_or_default(), at)?;
            at += now as u64;
        }
        Ok(())
    }

    /// Makes what was written durable, and the length if it changed.
    pub(super) fn sync(&self) -> io::Result<()> {
        if is_broken(Defect::FlushLeftOut) {
            return Ok(());
        }
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.sync(&self.path)?;
        }
        rustix::fs::fdatasync(&self.file)?;
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.synced(&self.path);
        }
        Ok(())
    }

    #[cfg(any(test, feature = "failpoints"))]
    fn about_to_write(&self, offset: u64, len: u64) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.write(&self.path, offset, len))
    }

    /// Cuts or extends the file.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(any(test, feature = "failpoints"))]
        if let Some(watch) = &self.watch {
            watch.set_len(&self.path)?;
        }
        self.file.set_len(len)
    }
}

/// A file, to read pieces of it.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// All bytes of a file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `len` bytes at `offset`; fewer are an error.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
