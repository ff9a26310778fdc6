//! Who owns an embedded journal: one live process, by a kernel lock that ends with it. The lock's file
//! says who that is, for the error that a second owner gets and for the command line, which asks the owner
//! before it reads the journal itself. Never takes a lock over from anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The lock's file inside a journal's directory.
pub const FILE: &str = "journal.lock";

/// Somebody who only looks holds the lock for a moment; an owner holds it for good.
const TRIES: u32 = 10;
const TRY_AGAIN_MS: u64 = 20;

/// Who holds a journal, as its lock file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Holder {
    /// In the holder's PID namespace.
    pub pid: u32,
    /// URL of the holder's admin listener, once it has one.
    pub admin: Option<String>,
    /// The epoch the holder writes under; 0 until it knows.
    #[serde(default)]
    pub epoch: u64,
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it; who, if the file says so.
    #[error("another process has the lock")]
    Held(Option<Holder>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The lock on a journal's directory, for as long as this value lives, and never longer than the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock on the journal in `dir`. The file keeps telling who had it last until [`Lock::tell`].
    ///
    /// # Errors
    /// [`Error::Held`], or whatever the disk says.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        for _ in 1..TRIES {
            if try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(Self { file });
            }
            std::thread::sleep(Duration::from_millis(TRY_AGAIN_MS));
        }
        if try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Self { file });
        }
        Err(Error::Held(told(&file)))
    }

    /// Writes down who holds the lock.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn tell(&self, holder: &Holder) -> io::Result<()> {
        let text = serde_json::to_vec(holder)?;
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()
    }

    /// Who had the lock before, if its file says so.
    pub fn told(&self) -> Option<Holder> {
        told(&self.file)
    }

    /// Who holds the journal in `dir` now; `None` when nobody does. A holder whose file cannot be read is
    /// a [`Holder`] with pid 0.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn read(dir: &Path) -> io::Result<Option<Holder>> {
        let file = match File::open(dir.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if try_lock(&file, FlockOperation::NonBlockingLockShared)? {
            return Ok(None);
        }
        Ok(Some(told(&file).unwrap_or_default()))
    }
}

fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn told(file: &File) -> Option<Holder> {
    let mut bytes = vec![0; 4096];
    let len = file.read_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(bytes.get(..len)?).ok()
}

/// A file system on which a lock or a flush may not mean what it says; its name.
///
/// # Errors
/// Whatever the kernel says.
pub fn network_file_system(dir: &Path) -> io::Result<Option<String>> {
    let magic = rustix::fs::statfs(dir)?.f_type;
    // Only the type in the mount table says what is behind FUSE.
    let kind = if known(magic) == Known::Fuse { mounted(dir)? } else { String::new() };
    Ok(judge(magic, &kind))
}

/// Whether what is written to `dir` is gone after a power cut whatever one does.
///
/// # Errors
/// Whatever the kernel says.
pub fn is_memory_file_system(dir: &Path) -> io::Result<bool> {
    Ok(known(rustix::fs::statfs(dir)?.f_type) == Known::Memory)
}

#[derive(PartialEq, Eq)]
enum Known {
    Fuse,
    Local,
    Memory,
    Network(&'static str),
}

/// By the numbers in the kernel's `magic.h` and in the file systems' own headers.
fn known<T: Into<i128>>(magic: T) -> Known {
    match magic.into() & 0xffff_ffff {
        0x6969 => Known::Network("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Known::Network("SMB/CIFS"),
        0x0102_1997 => Known::Network("9p"),
        0x00c3_6400 => Known::Network("Ceph"),
        0x5346_414f | 0x6b41_4653 => Known::Network("AFS"),
        0x7375_7245 => Known::Network("Coda"),
        0x0bd0_0bd0 => Known::Network("Lustre"),
        0x4750_4653 => Known::Network("GPFS"),
        0x6573_5546 => Known::Fuse,
        0x0102_1994 | 0x8584_58f6 => Known::Memory,
        _ => Known::Local,
    }
}

/// FUSE file systems that keep their files on another machine.
const NETWORK_FUSE: [&str; 16] = [
    "afp",
    "alluxio",
    "blobfuse",
    "blobfuse2",
    "ceph",
    "curlftpfs",
    "davfs",
    "gcsfuse",
    "geesefs",
    "glusterfs",
    "goofys",
    "juicefs",
    "mount-s3",
    "rclone",
    "s3fs",
    "sshfs",
];

fn judge<T: Into<i128>>(magic: T, kind: &str) -> Option<String> {
    match known(magic) {
        Known::Network(name) => Some(name.to_owned()),
        Known::Fuse => {
            let name = kind.strip_prefix("fuse.").unwrap_or(kind);
            NETWORK_FUSE.contains(&name).then(|| format!("{name} (FUSE)"))
        }
        Known::Local | Known::Memory => None,
    }
}

/// The type of the file system that `dir` is on, as the mount table names it; empty when it does not say.
fn mounted(dir: &Path) -> io::Result<String> {
    let dir = fs::canonicalize(dir)?;
    let mut table = String::new();
    File::open("/proc/self/mountinfo")?.read_to_string(&mut table)?;
    Ok(find_mount(&table, &dir))
}

fn find_mount(table: &str, dir: &Path) -> String {
    let mut best = (0, "");
    for line in table.lines() {
        // 36 35 98:0 /root /mount/point options optional... - type source options
        let (Some(point), Some((_, rest))) = (line.split(' ').nth(4), line.split_once(" - ")) else {
            continue;
        };
        let point = point.replace("\\040", " ");
        // A later mount on the same point covers the earlier one.
        if dir.starts_with(&point) && point.len() >= best.0 {
            best = (point.len(), rest.split(' ').next().unwrap_or_default());
        }
    }
    best.1.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lock::read(dir.path()).unwrap(), None);
        let lock = Lock::take(dir.path()).unwrap();
        assert_eq!(Lock::read(dir.path()).unwrap(), Some(Holder::default()));
        let holder = Holder { pid: 4242, admin: Some("http://127.0.0.1:4748".to_owned()), epoch: 3 };
        lock.tell(&Holder {
            admin: Some("http://a-longer-name.example:47480/".to_owned()),
            ..Holder::default()
        })
        .unwrap();
        lock.tell(&holder).unwrap();
        assert_eq!(Lock::read(dir.path()).unwrap(), Some(holder.clone()));
        let Err(Error::Held(Some(told))) = Lock::take(dir.path()) else { panic!("taken twice") };
        assert_eq!(told, holder);
        drop(lock);
        assert_eq!(Lock::read(dir.path()).unwrap(), None);
        assert_eq!(Lock::take(dir.path()).unwrap().told(), Some(holder));
    }

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        for magic in [0x6969i64, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400] {
            assert!(judge(magic, "").is_some(), "{magic:x}");
        }
        assert_eq!(judge(0x6573_5546i64, "fuse.sshfs").as_deref(), Some("sshfs (FUSE)"));
        for (magic, kind) in [(0x6573_5546i64, "fuse.fuse-overlayfs"), (0xef53, ""), (0x0102_1994, "tmpfs")] {
            assert_eq!(judge(magic, kind), None, "{magic:x} {kind}");
        }
        assert_eq!(network_file_system(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }

    #[test]
    fn the_mount_that_counts_is_the_innermost() {
        let table = "22 1 8:1 / / rw - ext4 /dev/vda rw\n\
            40 22 0:9 / /data rw shared:1 - fuse.sshfs host: rw\n\
            41 40 0:9 / /data/my\\040disk rw - xfs /dev/vdb rw\n";
        for (dir, kind) in [("/data/x", "fuse.sshfs"), ("/data/my disk/x", "xfs"), ("/database", "ext4")] {
            assert_eq!(find_mount(table, Path::new(dir)), kind, "{dir}");
        }
    }
}
