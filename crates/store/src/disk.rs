//! The consensus directory on a real disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mainstay_consensus::Disk;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Ends the name of an unfinished replacement.
const UNFINISHED: &str = ".tmp";

/// One directory, held by one process: a lock on the directory itself keeps others out until this value is dropped.
/// The directory is 0700, its files are 0600.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    directory: Flock<File>,
    /// The file that is appended to, kept open; a replacement puts another one in its place.
    appended: Option<(String, File)>,
}

impl FileDisk {
    /// Makes the directory, durably, if there is none. Its parent must exist.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_directory(path: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
            Err(error) => return Err(error),
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }

    /// Opens and locks the directory.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none, [`io::ErrorKind::WouldBlock`] when another process, or another value in this
    /// one, holds it, else what the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = File::open(path)?;
        let directory =
            Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => io::Error::new(
                    io::ErrorKind::WouldBlock,
                    format!("{} is in use by another process; stop that one first", path.display()),
                ),
                errno => io::Error::from(errno),
            })?;
        let disk = Self { path: path.to_owned(), directory, appended: None };
        for name in disk.names()?.iter().filter(|name| name.ends_with(UNFINISHED)) {
            fs::remove_file(path.join(name))?;
        }
        Ok(disk)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

impl Disk for FileDisk {
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        if self.appended.as_ref().is_none_or(|(name, _)| name != file) {
            let handle = OpenOptions::new().append(true).open(self.path.join(file))?;
            self.appended = Some((file.to_owned(), handle));
        }
        let (_, handle) = self.appended.as_mut().expect("opened above");
        handle.write_all(bytes)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        match &self.appended {
            Some((name, handle)) if name == file => handle.sync_data(),
            _ => File::open(self.path.join(file))?.sync_data(),
        }
    }

    fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(format!("{file}{UNFINISHED}"));
        let mut handle =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        handle.write_all(bytes)?;
        handle.sync_all()?;
        fs::rename(&unfinished, self.path.join(file))?;
        self.directory.sync_all()?;
        self.appended = None;
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names()?.into_iter().filter(|name| !name.ends_with(UNFINISHED)).collect())
    }
}

#[cfg(test)]
mod tests;
