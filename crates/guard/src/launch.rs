//! From fork to exec: becoming the postmaster.
//!
//! The guard has one thread (`run` checks it), so that fork copies no lock that another thread holds and the child may
//! run any code; still it only makes system calls on strings that were made before. One thread also gives the parent
//! death signal its meaning: it fires when the *thread* that forked ends.

use std::ffi::{CStr, CString, NulError};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{self, ForkResult, Gid, Uid};

use crate::cgroup::Cgroup;
use crate::protocol::{Pid, RunAs, Start};

/// A child on its way to exec.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) pid: Pid,
    report: File,
}

/// What the child has reported so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Pending,
    /// Exec closed the pipe; so does a death before it, which the guard learns by waiting.
    Gone,
    Failed(Step, Errno),
}

/// The steps of the child that can fail. The number is what goes through the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    ProcessGroup,
    JoinCgroup,
    NullInput,
    ChangeUser,
    LogFile,
    ParentDeathSignal,
    DataDirectory,
    Signals,
    Execute,
}

const STEPS: [(Step, &str); 9] = [
    (Step::ProcessGroup, "make a process group"),
    (Step::JoinCgroup, "join the cgroup"),
    (Step::NullInput, "open /dev/null"),
    (Step::ChangeUser, "change to PostgreSQL's user"),
    (Step::LogFile, "open the log file"),
    (Step::ParentDeathSignal, "bind its life to the guard's"),
    (Step::DataDirectory, "enter the data directory"),
    (Step::Signals, "reset signals"),
    (Step::Execute, "execute the program"),
];

impl Step {
    pub(crate) fn text(self) -> &'static str {
        STEPS[self as usize].1
    }
}

impl Launch {
    /// Forks. The child reports through a pipe that exec closes.
    pub(crate) fn fork(start: &Start, data_directory: &Path, cgroup: Option<&Cgroup>) -> io::Result<Launch> {
        let (report, child_report) = unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let image = Image::new(start, data_directory, cgroup, child_report)?;
        // SAFETY: the guard is the only thread of its process, see the head of this file.
        match unsafe { unistd::fork() }? {
            ForkResult::Child => image.become_postmaster(),
            ForkResult::Parent { child } => Ok(Launch { pid: child.as_raw(), report: report.into() }),
        }
    }

    /// Never blocks: a log file that hangs must not hang the guard.
    pub(crate) fn progress(&mut self) -> Progress {
        let mut line = [0; 5];
        match self.report.read(&mut line) {
            Ok(5) => {
                let step = STEPS.get(usize::from(line[0])).map_or(Step::Execute, |(step, _)| *step);
                let number = i32::from_le_bytes([line[1], line[2], line[3], line[4]]);
                Progress::Failed(step, Errno::from_raw(number))
            }
            Ok(_) => Progress::Gone,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Progress::Pending
            }
            Err(_) => Progress::Gone,
        }
    }
}

impl AsFd for Launch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// Everything the child needs, allocated before the fork.
struct Image {
    program: CString,
    /// Keeps the strings alive that the pointers below point to.
    _strings: Vec<CString>,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    data_directory: CString,
    log_file: CString,
    user: Option<User>,
    cgroup_members: Option<File>,
    guard: unistd::Pid,
    report: OwnedFd,
}

struct User {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl From<&RunAs> for User {
    fn from(run_as: &RunAs) -> User {
        User {
            uid: Uid::from_raw(run_as.uid),
            gid: Gid::from_raw(run_as.gid),
            groups: run_as.groups.iter().map(|group| Gid::from_raw(*group)).collect(),
        }
    }
}

impl Image {
    fn new(
        start: &Start,
        data_directory: &Path,
        cgroup: Option<&Cgroup>,
        report: OwnedFd,
    ) -> io::Result<Image> {
        let program = c_string(start.program.as_os_str().as_bytes())?;
        let mut strings = vec![program.clone()];
        for argument in &start.arguments {
            strings.push(c_string(argument.as_bytes())?);
        }
        let count = strings.len();
        for (name, value) in &start.environment {
            strings.push(c_string(format!("{name}={value}").as_bytes())?);
        }
        // The heap memory of a CString stays where it is when the vector that holds it moves.
        let null_ended = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        Ok(Image {
            program,
            arguments: null_ended(&strings[..count]),
            environment: null_ended(&strings[count..]),
            _strings: strings,
            data_directory: c_string(data_directory.as_os_str().as_bytes())?,
            log_file: c_string(start.log_file.as_os_str().as_bytes())?,
            user: start.user.as_ref().map(User::from),
            cgroup_members: cgroup.map(Cgroup::open_members).transpose()?,
            guard: unistd::getpid(),
            report,
        })
    }

    fn become_postmaster(&self) -> ! {
        let (step, error) = match self.prepare() {
            Ok(()) => (Step::Execute, self.execute()),
            Err(failure) => failure,
        };
        let mut line = [0; 5];
        line[0] = step as u8;
        line[1..].copy_from_slice(&(error as i32).to_le_bytes());
        // Nobody is left to tell when even this fails; the guard sees the exit.
        let _ = unistd::write(&self.report, &line);
        // SAFETY: _exit ends the process without running the handlers and destructors of the guard it is a copy of.
        unsafe { libc::_exit(127) }
    }

    fn prepare(&self) -> Result<(), (Step, Errno)> {
        let at = |step: Step| move |error: Errno| (step, error);
        let own = unistd::Pid::from_raw(0);
        unistd::setpgid(own, own).map_err(at(Step::ProcessGroup))?;
        if let Some(members) = &self.cgroup_members {
            unistd::write(members, b"0").map_err(at(Step::JoinCgroup))?;
        }
        // PostgreSQL is the one that the out-of-memory killer may end. Raising the value is always allowed.
        if let Ok(adjust) =
            open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        {
            let _ = unistd::write(&adjust, b"0");
        }
        let null = open(c"/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(at(Step::NullInput))?;
        unistd::dup2_stdin(&null).map_err(at(Step::NullInput))?;
        if let Some(user) = &self.user {
            change_user(user).map_err(at(Step::ChangeUser))?;
        }
        // After the change, so that the file is the user's, and so that the user decides nothing with root's rights.
        open_log(&self.log_file).map_err(at(Step::LogFile))?;
        // After the change too: it clears the signal.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(at(Step::ParentDeathSignal))?;
        if unistd::getppid() != self.guard {
            // The guard died before the signal was set, so it will never come.
            return Err((Step::ParentDeathSignal, Errno::ESRCH));
        }
        unistd::chdir(self.data_directory.as_c_str()).map_err(at(Step::DataDirectory))?;
        umask(Mode::from_bits_truncate(0o077));
        reset_signals().map_err(at(Step::Signals))?;
        // A postmaster that is told to reload before it can would die of it. It catches the signal before it reads its
        // configuration for the first time.
        // SAFETY: the disposition runs no code of ours.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        // All descriptors are close-on-exec already; this is for one that a library forgot. Linux 5.11, else EINVAL.
        // SAFETY: it sets a flag on descriptors, touches no memory, and leaves the pipe open until exec.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    }

    fn execute(&self) -> Errno {
        // SAFETY: all strings end in NUL and both arrays in a null pointer; `self` owns them and outlives the call.
        unsafe { libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        Errno::last()
    }
}

fn change_user(user: &User) -> nix::Result<()> {
    unistd::setgroups(&user.groups)?;
    unistd::setresgid(user.gid, user.gid, user.gid)?;
    unistd::setresuid(user.uid, user.uid, user.uid)
}

fn open_log(path: &CStr) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let log = open(path, flags, Mode::from_bits_truncate(0o600))?;
    unistd::dup2_stdout(&log)?;
    unistd::dup2_stderr(&log)
}

/// Ignored signals and the mask would pass through exec; PostgreSQL's own programs expect neither.
pub(crate) fn reset_signals() -> nix::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default disposition runs no code of ours. SIGKILL, SIGSTOP and the C library's own are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    SigSet::empty().thread_set_mask()
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|error: NulError| io::Error::new(io::ErrorKind::InvalidInput, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_stands_at_its_own_number() {
        for (number, (step, _)) in STEPS.iter().enumerate() {
            assert_eq!(*step as usize, number);
        }
    }
}
