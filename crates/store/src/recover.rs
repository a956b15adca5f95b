//! A consensus directory exchanged for one of a new instance, in one step.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mainstay_consensus::{CreateError, Identity, Machine, OpenError, Survey};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::disk::FileDisk;

/// Why a directory was not read or not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Another process has it.
    #[error("{0} is in use by another process; stop that one first")]
    InUse(PathBuf),
    /// It cannot be read.
    #[error("cannot read the consensus directory {path}")]
    Read {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no usable replica in it.
    #[error("the consensus directory {path} is of no use")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The new one was not made. Nothing has changed.
    #[error("cannot make the new consensus directory {path}")]
    Create {
        /// The new directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: CreateError,
    },
    /// The two were not exchanged. Nothing has changed.
    #[error(
        "the file system of {path} does not exchange two directories in one step; move Mainstay's directory to ext4, XFS or btrfs"
    )]
    Exchange {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A directory that is held, so that no member can start on it, with what it holds.
pub struct Held<M> {
    directory: PathBuf,
    cluster_id: String,
    survey: Survey<M>,
    _lock: FileDisk,
}

/// Locks and reads a directory.
///
/// # Errors
/// See [`RecoverError`].
pub fn hold<M: Machine>(directory: &Path, cluster_id: &str, machine: M) -> Result<Held<M>, RecoverError> {
    let disk = FileDisk::open(directory).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => RecoverError::InUse(directory.to_owned()),
        _ => RecoverError::Read { path: directory.to_owned(), source },
    })?;
    let survey = mainstay_consensus::survey(&disk, machine, cluster_id)
        .map_err(|source| RecoverError::Open { path: directory.to_owned(), source })?;
    Ok(Held { directory: directory.to_owned(), cluster_id: cluster_id.to_owned(), survey, _lock: disk })
}

impl<M: Machine> Held<M> {
    /// What the machine is after all that the log holds.
    pub fn machine(&self) -> &M {
        &self.survey.machine
    }

    /// How many entries were not known to be committed.
    pub fn uncommitted(&self) -> u64 {
        self.survey.uncommitted
    }

    /// Puts in its place a replica that is the only voter, with `machine` as its state. Killed at any moment it leaves the
    /// old directory or the new one, whole. Answers where the old one is kept.
    ///
    /// # Errors
    /// See [`RecoverError`]: nothing was changed.
    pub fn begin_anew(self, raft_id: u64, machine: &M) -> Result<PathBuf, RecoverError> {
        let new = self.directory.with_file_name("consensus.new");
        let failed =
            |source: io::Error| RecoverError::Create { path: new.clone(), source: CreateError::Disk(source) };
        // What an earlier attempt has left was never used.
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        FileDisk::create_directory(&new).map_err(failed)?;
        let mut disk = FileDisk::open(&new).map_err(failed)?;
        let identity = Identity { cluster_id: self.cluster_id.clone(), raft_id };
        mainstay_consensus::begin_anew(&mut disk, &identity, &self.survey, machine)
            .map_err(|source| RecoverError::Create { path: new.clone(), source })?;
        let kept = free_name(&self.directory);
        renameat2(AT_FDCWD, &new, AT_FDCWD, &self.directory, RenameFlags::RENAME_EXCHANGE)
            .map_err(|errno| RecoverError::Exchange { path: self.directory.clone(), source: errno.into() })?;
        // From here on it is done; what follows is tidiness.
        sync_parent(&self.directory).map_err(failed)?;
        match fs::rename(&new, &kept).and_then(|()| sync_parent(&kept)) {
            Ok(()) => Ok(kept),
            Err(_) => Ok(new),
        }
    }
}

/// Beside the directory, a name that nothing has.
fn free_name(directory: &Path) -> PathBuf {
    let name = |number: u32| directory.with_file_name(format!("consensus.before-recovery-{number}"));
    (1..).map(name).find(|path| !path.exists()).expect("a number is free")
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests;
