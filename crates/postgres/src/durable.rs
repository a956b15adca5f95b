//! Files that survive a power cut: written whole or not at all, and their absence is as durable as their presence.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// A step on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> FileError {
        FileError { action, path: path.to_owned(), source }
    }

    /// Whether the file or directory is not there.
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Owner and mode of a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits, such as `0o600`.
    pub mode: u32,
    /// User and group id; `None` keeps those of the writing process.
    pub owner: Option<(u32, u32)>,
}

/// Writes `contents` to `path` so that a crash leaves the old file or the new one. Returns whether it changed.
///
/// An unchanged file is not rewritten, but still synced: an earlier life of this process may have been killed between
/// its rename and its sync. There must be one writer per path.
pub fn write(path: &Path, contents: &[u8], access: Access) -> Result<bool, FileError> {
    if is_unchanged(path, contents, access) {
        sync_file(path)?;
        sync_parent(path)?;
        return Ok(false);
    }
    let temporary = temporary_path(path);
    let result = write_temporary(&temporary, contents, access)
        .map_err(|e| FileError::new("write", &temporary, e))
        .and_then(|()| {
            std::fs::rename(&temporary, path).map_err(|e| FileError::new("replace", path, e))?;
            sync_parent(path)
        });
    if result.is_err() {
        // On a full disk the remainder would take the last free blocks; the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    result.map(|()| true)
}

/// Removes the file so that it stays removed. Returns whether it was there.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    let removed = match std::fs::remove_file(path) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(FileError::new("remove", path, e)),
    };
    // Synced also if it was absent: an earlier removal may not have reached the disk.
    match sync_parent(path) {
        Err(e) if e.is_absent() => Ok(removed),
        other => other.map(|()| removed),
    }
}

/// Reads a whole small file; `None` if it is absent.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::new("read", path, e)),
    }
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    sync_file(path)
}

fn sync_file(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| FileError::new("sync", path, e))
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// One fixed name per file, so that a killed writer's remainder is overwritten and never piles up.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".mainstay-new");
    path.with_file_name(name)
}

fn is_unchanged(path: &Path, contents: &[u8], access: Access) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return false };
    let same_owner = access.owner.is_none_or(|(uid, gid)| metadata.uid() == uid && metadata.gid() == gid);
    if !metadata.is_file()
        || metadata.len() != contents.len() as u64
        || metadata.permissions().mode() & 0o7777 != access.mode
        || !same_owner
    {
        return false;
    }
    let mut present = Vec::with_capacity(contents.len());
    File::open(path).and_then(|mut file| file.read_to_end(&mut present)).is_ok() && present == contents
}

fn write_temporary(path: &Path, contents: &[u8], access: Access) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The directory may belong to PostgreSQL's user while we are root: never follow a link planted there.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    if let Some((uid, gid)) = access.owner {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(access.mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("mainstay-durable-{}-{count}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const PRIVATE: Access = Access { mode: 0o600, owner: None };

    #[test]
    fn an_unchanged_file_keeps_its_inode() {
        let scratch = Scratch::new();
        let path = scratch.0.join("file");
        assert!(write(&path, b"one", PRIVATE).unwrap());
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert!(!write(&path, b"one", PRIVATE).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        assert!(write(&path, b"two", PRIVATE).unwrap());
        assert!(write(&path, b"two", Access { mode: 0o640, owner: None }).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_killed_writers_remainder_and_a_planted_link_do_no_harm() {
        let scratch = Scratch::new();
        let path = scratch.0.join("file");
        let target = scratch.0.join("target");
        std::fs::write(&target, b"precious").unwrap();
        std::os::unix::fs::symlink(&target, temporary_path(&path)).unwrap();
        assert!(write(&path, b"new", PRIVATE).unwrap());
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(!temporary_path(&path).exists());
    }

    #[test]
    fn removal_is_idempotent() {
        let scratch = Scratch::new();
        let path = scratch.0.join("file");
        write(&path, b"x", PRIVATE).unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(!remove(&scratch.0.join("gone/file")).unwrap());
    }
}
