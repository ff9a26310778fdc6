//! Unix sockets in the file system: bound so that nobody may connect who should not, a dead process's left
//! one replaced, a live process's one left alone, our own removed at the end. Accepts nothing.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::config::UnixSocket;

/// Why a path cannot be listened at.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another process listens at {0}")]
    InUse(PathBuf),
    #[error("cannot listen at {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is there and is no socket")]
    NotASocket(PathBuf),
}

/// The file of a bound socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Binds `wanted` and begins to listen. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// [`SocketError`]; what was at the path before is then still there.
    pub(super) fn bind(wanted: &UnixSocket) -> Result<(UnixListener, Self), SocketError> {
        let path = &wanted.path;
        let failed = |source| SocketError::Io { path: path.clone(), source };
        clear(path)?;
        // Under a name that nobody knows, so that there is no moment in which the wrong ones may connect, and
        // none in which a connection to the right name finds nobody listening.
        let hidden = beside(path, 'n');
        _ = fs::remove_file(&hidden);
        let bound = UnixListener::bind(&hidden).map_err(failed)?;
        let placed = fs::set_permissions(&hidden, Permissions::from_mode(wanted.mode))
            .and_then(|()| fs::symlink_metadata(&hidden))
            .and_then(|found| {
                bound.set_nonblocking(true)?;
                // Somebody may have come in between: then they have the path.
                renameat_with(CWD, &hidden, CWD, path, RenameFlags::NOREPLACE)?;
                Ok(Self { path: path.clone(), device: found.dev(), inode: found.ino() })
            });
        match placed {
            Ok(file) => Ok((bound, file)),
            Err(error) => {
                _ = fs::remove_file(&hidden);
                let is_theirs = error.kind() == io::ErrorKind::AlreadyExists;
                Err(if is_theirs { SocketError::InUse(path.clone()) } else { failed(error) })
            }
        }
    }

    /// Removes the file, unless another process has put its own there.
    pub(super) fn remove(&self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket cannot be removed");
        }
    }
}

/// Makes the path free: takes away what a dead process left there, and nothing else.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |source: io::Error| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    if answers(path).map_err(failed)? {
        return Err(SocketError::InUse(path.to_owned()));
    }
    // Between the look and now somebody may have put a live one there: what is taken away is looked at again.
    let taken = beside(path, 'o');
    match fs::rename(path, &taken) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(failed)?,
    }
    if answers(&taken).map_err(failed)? {
        let back = renameat_with(CWD, &taken, CWD, path, RenameFlags::NOREPLACE);
        back.map_err(|error| failed(error.into()))?;
        return Err(SocketError::InUse(path.to_owned()));
    }
    fs::remove_file(&taken).map_err(failed)
}

/// Whether somebody listens at a socket. Never waits: a listener whose queue is full is a listener.
fn answers(path: &Path) -> io::Result<bool> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &address) {
        Ok(()) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(Errno::AGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A name of this process beside the path: at most 8 bytes, because a socket's path may have no more than 107.
fn beside(path: &Path, what: char) -> PathBuf {
    path.with_file_name(format!(".{:x}{what}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn wanted(path: &Path) -> UnixSocket {
        UnixSocket { path: path.to_owned(), mode: 0o640 }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_socket_has_its_mode_takes_connections_and_goes_when_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, file) = SocketFile::bind(&wanted(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let _client = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        file.remove();
        assert_eq!(names(dir.path()), [""; 0]);
        file.remove();
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, file) = SocketFile::bind(&wanted(&path)).unwrap();
        let refused = SocketFile::bind(&wanted(&path)).unwrap_err();
        assert!(matches!(refused, SocketError::InUse(_)), "{refused}");
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(names(dir.path()), ["s"]);
        // Another one's is not removed.
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        file.remove();
        assert_eq!(names(dir.path()), ["s"]);
    }

    #[test]
    fn a_listener_that_takes_no_more_connections_is_alive_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = SocketAddrUnix::new(&path).unwrap();
        let full = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&full, &address).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let refused = SocketFile::bind(&wanted(&path)).unwrap_err();
        assert!(matches!(refused, SocketError::InUse(_)), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "mine").unwrap();
        let refused = SocketFile::bind(&wanted(&path)).unwrap_err();
        assert!(matches!(refused, SocketError::NotASocket(_)), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let nowhere = SocketFile::bind(&wanted(&dir.path().join("no/s"))).unwrap_err();
        assert!(matches!(nowhere, SocketError::Io { .. }), "{nowhere}");
    }
}
