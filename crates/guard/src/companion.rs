//! A process beside the member that outlives it, found again by the lock that it holds and never by its name.
//!
//! The lock is one of POSIX (`fcntl(2)`): the kernel ties it to the process, not to a descriptor that a child could inherit,
//! and tells who holds it. So nothing rests on a number that a process has once written into a file, and whoever opens the
//! process by descriptor and sees the lock held by the same number after that has the right one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;

use crate::pidfd::PidFd;
use crate::protocol::Pid;

/// Held as long as the process lives, or this value.
#[derive(Debug)]
pub struct CompanionLock {
    _file: File,
}

impl CompanionLock {
    /// Takes the lock and leaves `stamp` in the file, for those who find this process. `None`: another process holds it.
    ///
    /// POSIX gives up the lock when the process closes *any* descriptor of the file, so it must not open it a second time.
    pub fn take(path: &Path, stamp: &str) -> io::Result<Option<CompanionLock>> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => {}
            Err(Errno::EACCES | Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(stamp.as_bytes())?;
        Ok(Some(CompanionLock { _file: file }))
    }
}

/// A living process that holds such a lock. Needs a tokio runtime.
#[derive(Debug)]
pub struct Companion {
    pid: Pid,
    process: AsyncFd<PidFd>,
    stamp: String,
}

impl Companion {
    /// The process that holds the lock `path`; `None` if nobody does.
    pub fn find(path: &Path) -> io::Result<Option<Companion>> {
        let Some(mut file) = open(path)? else { return Ok(None) };
        let Some(pid) = holder(&file)? else { return Ok(None) };
        let Some(process) = PidFd::open(pid)? else { return Ok(None) };
        // The number may have come to mean another process before it was opened.
        if holder(&file)? != Some(pid) {
            return Ok(None);
        }
        let mut stamp = String::new();
        file.read_to_string(&mut stamp)?;
        Ok(Some(Companion { pid, process: process.watch()?, stamp }))
    }

    /// The number of the process that holds the lock `path` now; it is worth what numbers of processes are.
    pub fn pid_of(path: &Path) -> io::Result<Option<Pid>> {
        match open(path)? {
            Some(file) => holder(&file),
            None => Ok(None),
        }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What the process has left in the file when it took the lock.
    pub fn stamp(&self) -> &str {
        &self.stamp
    }

    /// SIGTERM: it is to come to its end.
    pub fn terminate(&self) -> io::Result<()> {
        self.process.get_ref().signal(Signal::SIGTERM)
    }

    /// SIGKILL.
    pub fn kill(&self) -> io::Result<()> {
        self.process.get_ref().signal(Signal::SIGKILL)
    }

    /// Waits until the process has ended.
    pub async fn ended(&self) {
        // A descriptor that cannot be watched is looked at by whoever calls next.
        let _ = self.process.readable().await;
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn holder(file: &File) -> io::Result<Option<Pid>> {
    let mut asked = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut asked))?;
    let is_free = asked.l_type == libc::F_UNLCK as libc::c_short;
    // Not positive: held from another pid namespace, by a process that cannot be named here.
    Ok((!is_free && asked.l_pid > 0).then_some(asked.l_pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_that_nobody_holds_has_no_companion() {
        let path = std::env::temp_dir().join(format!("mainstay-companion-{}", std::process::id()));
        assert!(Companion::find(&path).unwrap().is_none());
        let lock = CompanionLock::take(&path, "so").unwrap().expect("free");
        // A process does not stand in its own way, so this one is not found by itself; the lock's file has the stamp.
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "so");
        drop(lock);
        assert!(Companion::find(&path).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
