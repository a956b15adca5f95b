//! Processes of a server whose guard is dead. The kernel ends the postmaster with its guard, but a backend that is busy
//! on the processor lives on to the end of its statement, and may acknowledge commits until then.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroup;
use crate::pidfd::PidFd;
use crate::process;
use crate::protocol::{LOCK_NAME, Pid};

/// Why leftovers could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    #[error("the guard in {directory} is alive and ends its server itself; ask it, or end it first")]
    GuardAlive { directory: PathBuf },
    #[error(
        "processes {pids:?} of {data_directory} are still there after SIGKILL; look for a device that does not answer"
    )]
    StillThere { data_directory: PathBuf, pids: Vec<Pid> },
    #[error("cannot open the guard's lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot look for processes of {data_directory}")]
    Look { data_directory: PathBuf, source: io::Error },
}

/// The processes of PostgreSQL whose working directory is `data_directory`: those whose program's file is named
/// `postgres`. A missing directory has none.
///
/// # Errors
/// `/proc` or the directory cannot be read.
pub fn leftovers(data_directory: &Path) -> io::Result<Vec<Pid>> {
    let Some(place) = place_of(data_directory)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for process in process::all()? {
        if is_server_in(process.pid, place)? {
            found.push(process.pid);
        }
    }
    Ok(found)
}

/// Whether `pid` is such a process.
pub(crate) fn is_server_of(pid: Pid, data_directory: &Path) -> io::Result<bool> {
    match place_of(data_directory)? {
        Some(place) => is_server_in(pid, place),
        None => Ok(false),
    }
}

/// Kills what a dead guard left, and returns when nothing is left: how many processes it killed. It holds the guard's
/// lock meanwhile, so that no new guard starts a server under its hands. It blocks up to `timeout`.
///
/// # Errors
/// The guard is alive, something does not die within the time, or `/proc` cannot be read.
pub fn kill_leftovers(
    directory: &Path,
    data_directory: &Path,
    timeout: Duration,
) -> Result<usize, LeftoversError> {
    let give_up = Instant::now() + timeout;
    let _lock = lock(directory, give_up)?;
    let look = |source| LeftoversError::Look { data_directory: data_directory.to_owned(), source };
    let cgroup = Cgroup::existing(directory);
    let mut victims = Victims::default();
    loop {
        let populated = match &cgroup {
            Some(cgroup) => cgroup.is_populated().map_err(look)?,
            None => false,
        };
        if let (true, Some(cgroup)) = (populated, &cgroup) {
            cgroup.kill().map_err(look)?;
        }
        if victims.strike(data_directory).map_err(look)? && !populated {
            if let Some(cgroup) = &cgroup {
                cgroup.remove();
            }
            return Ok(victims.killed);
        }
        if Instant::now() >= give_up {
            return Err(LeftoversError::StillThere {
                data_directory: data_directory.to_owned(),
                pids: victims.pids(),
            });
        }
        victims.wait(Duration::from_millis(5));
    }
}

/// Takes the guard's lock. A guard that has just died may leave it for a moment to a child that has not yet become
/// `postgres`; that child dies with it.
fn lock(directory: &Path, give_up: Instant) -> Result<Flock<fs::File>, LeftoversError> {
    let path = directory.join(LOCK_NAME);
    loop {
        let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(|source| LeftoversError::Lock { path: path.clone(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                return Err(LeftoversError::GuardAlive { directory: directory.to_owned() });
            }
            Err((_, error)) => return Err(LeftoversError::Lock { path, source: error.into() }),
        }
    }
}

/// Leftovers that were killed and are not known to be gone. A process that gives back its memory can no longer be told
/// by its program's file, so it is watched by descriptor from the kill to the end.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    held: Vec<(Pid, PidFd)>,
    killed: usize,
}

impl Victims {
    /// Kills every leftover. True: there is none, and none of the earlier ones is left.
    pub(crate) fn strike(&mut self, data_directory: &Path) -> io::Result<bool> {
        self.held.retain(|(_, process)| !process.has_exited());
        let Some(place) = place_of(data_directory)? else { return Ok(self.held.is_empty()) };
        for pid in leftovers(data_directory)? {
            if self.held.iter().any(|(held, _)| *held == pid) {
                continue;
            }
            let Some(process) = PidFd::open(pid)? else { continue };
            // The pid may have changed hands between the look and the open; from here on it cannot.
            if is_server_in(pid, place)? {
                process.signal(Signal::SIGKILL)?;
                self.killed += 1;
                self.held.push((pid, process));
            }
        }
        Ok(self.held.is_empty())
    }

    pub(crate) fn pids(&self) -> Vec<Pid> {
        self.held.iter().filter(|(_, process)| !process.has_exited()).map(|(pid, _)| *pid).collect()
    }

    /// Waits until one of them is gone, or for `longest`.
    fn wait(&self, longest: Duration) {
        let mut fds: Vec<PollFd> =
            self.held.iter().map(|(_, process)| PollFd::new(process.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::ZERO);
        // An interrupted wait is only a shorter one.
        let _ = poll(&mut fds, timeout);
    }
}

/// Device and inode: a path can be written in many ways and, in a container, mean another directory.
type Place = (u64, u64);

fn place_of(directory: &Path) -> io::Result<Option<Place>> {
    match fs::metadata(directory) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_server_in(pid: Pid, place: Place) -> io::Result<bool> {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(program) if !is_postgres(&program) => return Ok(false),
        Ok(_) => {}
        // A process that gives back its memory has lost its program but not yet its directory, and it is not gone before
        // gigabytes of shared memory are. Kernel threads have no program either, but their directory is the root.
        Err(error) if process::is_gone(&error) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(error),
    }
    match fs::metadata(format!("/proc/{pid}/cwd")) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino()) == place),
        Err(error) if process::is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn is_postgres(program: &Path) -> bool {
    let name = program.file_name().map_or(&b""[..], |name| name.as_bytes());
    // The package was upgraded under the running server.
    name.strip_suffix(b" (deleted)").unwrap_or(name) == b"postgres"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_program_also_after_an_upgrade() {
        assert!(is_postgres(Path::new("/usr/lib/postgresql/15/bin/postgres")));
        assert!(is_postgres(Path::new("/usr/lib/postgresql/15/bin/postgres (deleted)")));
        assert!(!is_postgres(Path::new("/usr/bin/postgresql-tool")));
    }

    #[test]
    fn a_missing_directory_has_no_leftovers() {
        assert_eq!(leftovers(Path::new("/nonexistent/data")).unwrap(), Vec::<Pid>::new());
    }
}
