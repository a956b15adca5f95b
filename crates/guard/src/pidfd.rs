//! A process by file descriptor (Linux 5.3): unlike a pid it never comes to mean another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::protocol::Pid;

#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// None: there is no such process.
    pub(crate) fn open(pid: Pid) -> io::Result<Option<PidFd>> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match Errno::result(fd) {
            // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows of it.
            Ok(fd) => Ok(Some(PidFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))),
            Err(Errno::ESRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal; to a process that is gone it does nothing.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open as long as `self`, and a null siginfo means "as kill(2) would".
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal as libc::c_int, no_info, 0)
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// For an asynchronous wait: readable once the process has exited. Needs a tokio runtime.
    pub(crate) fn watch(self) -> io::Result<AsyncFd<PidFd>> {
        // SAFETY: `self` owns the descriptor, which is neither replaced nor closed while the AsyncFd owns `self`.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// All threads have ended and the memory is given back, whether or not the parent has waited for it.
    pub(crate) fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(ready) if ready > 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
