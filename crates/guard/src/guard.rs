//! The guard itself: one thread, one loop, and before anything else in each round a look at the clock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Uid;

use crate::cgroup::Cgroup;
use crate::clock::boottime_ns;
use crate::door::Door;
use crate::hardening;
use crate::journal::Journal;
use crate::lease::Lease;
use crate::postmaster_file::live_postmaster;
use crate::protocol::{Cause, LOCK_NAME, PID_NAME, SOCKET_NAME};
use crate::server::Server;

/// How long PostgreSQL may take for a fast shutdown when the guard itself is told to go by SIGTERM or SIGINT.
const STOP_ON_SIGNAL_NS: u64 = 10 * 1_000_000_000;
/// How often an empty guard looks whether somebody else has started a server.
const INTRUDER_CHECK_NS: u64 = 250_000_000;
/// How often an empty guard looks whether its directory is still there.
const DIRECTORY_CHECK_NS: u64 = 1_000_000_000;

/// How a guard is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The guard's own directory, one per server, absolute and on a local file system, best in `/run`. Made if it is
    /// missing, and always given mode 0700. Its path is at most 90 bytes long, since it holds a socket.
    pub directory: PathBuf,
    /// The server's data directory, absolute. It need not exist yet.
    pub data_directory: PathBuf,
    /// False: end the server process by process also where a cgroup could be had.
    pub use_cgroup: bool,
    /// An empty guard that no member is connected to quits after this many milliseconds.
    pub idle_quit_ms: u64,
}

impl Options {
    /// A cgroup where there is one; an idle guard quits after a minute.
    pub fn new(directory: PathBuf, data_directory: PathBuf) -> Options {
        Options { directory, data_directory, use_cgroup: true, idle_quit_ms: 60_000 }
    }
}

/// Why a guard does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("another guard runs in {directory}; connect to it")]
    AlreadyRunning { directory: PathBuf },
    #[error("{path} is not an absolute path")]
    RelativePath { path: PathBuf },
    #[error("{path} belongs to user {owner}; the guard's directory must be its own")]
    ForeignDirectory { path: PathBuf, owner: u32 },
    #[error(
        "the guard must be the only thread of its process, but there are {threads}; call it before any runtime starts"
    )]
    Threads { threads: usize },
    #[error("cannot {step} {path}")]
    File { step: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {step}")]
    System { step: &'static str, source: io::Error },
}

/// Runs a guard until it is told to quit, or is empty and alone for long enough.
///
/// It must be called on the only thread of the process, since the server is bound to the life of the thread that forks
/// it, and changes this process for good: signals, scheduling, memory locks.
///
/// # Errors
/// The guard cannot start, or the kernel fails it; then the server ends with it.
pub fn run(options: Options) -> Result<(), GuardError> {
    let mut guard = Guard::set_up(options)?;
    let result = guard.serve();
    guard.leave();
    result
}

#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) options: Options,
    /// Held for the whole life: one guard per directory.
    lock: Flock<File>,
    pub(crate) door: Door,
    pub(crate) lease: Lease,
    pub(crate) server: Server,
    pub(crate) journal: Journal,
    pub(crate) warnings: Vec<String>,
    /// Quit as soon as nothing is left.
    pub(crate) quitting: bool,
    signals: SignalFd,
    timer: TimerFd,
    /// Since when no member has been connected.
    alone_since_ns: Option<u64>,
    directory_checked_ns: u64,
    intruder_checked_ns: u64,
}

impl Guard {
    fn set_up(options: Options) -> Result<Guard, GuardError> {
        require_one_thread()?;
        for path in [&options.directory, &options.data_directory] {
            if !path.is_absolute() {
                return Err(GuardError::RelativePath { path: path.clone() });
            }
        }
        make_directory(&options.directory)?;
        let lock = take_lock(&options.directory)?;
        let signals = catch_signals().map_err(|error| system("catch signals", error.into()))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)
            .map_err(|error| system("make a timer", error.into()))?;
        hardening::become_subreaper().map_err(|error| system("become the reaper of orphans", error))?;
        let warnings = hardening::harden();
        let cgroup = if options.use_cgroup { Cgroup::create(&options.directory) } else { None };
        write_file(&options.directory.join(PID_NAME), &format!("{}\n", std::process::id()))?;
        let socket = options.directory.join(SOCKET_NAME);
        let door = Door::open(&socket).map_err(|source| GuardError::File {
            step: "listen on",
            path: socket,
            source,
        })?;
        let now_ns = boottime_ns();
        let mut guard = Guard {
            options,
            lock,
            door,
            lease: Lease::default(),
            server: Server::new(cgroup),
            journal: Journal::default(),
            warnings,
            quitting: false,
            signals,
            timer,
            alone_since_ns: Some(now_ns),
            directory_checked_ns: now_ns,
            intruder_checked_ns: now_ns,
        };
        guard.announce();
        // What an earlier guard left is ended first. It is not waited for: a process may hang on a device for long.
        guard.end(Cause::Leftovers);
        Ok(guard)
    }

    fn announce(&mut self) {
        let way = match self.server.cgroup() {
            Some(cgroup) => format!("cgroup {}", cgroup.path().display()),
            None => "no cgroup, process by process".to_owned(),
        };
        let data_directory = self.options.data_directory.display();
        self.journal.info(format!("guard {} of {data_directory} started ({way})", std::process::id()));
        for warning in self.warnings.clone() {
            self.journal.warn(warning);
        }
    }

    fn serve(&mut self) -> Result<(), GuardError> {
        loop {
            // First of all, and so also the first thing after the guard itself was stopped and continued.
            self.check_deadline();
            self.receive_signals();
            self.watch_server();
            self.end_intruder();
            self.door.accept(boottime_ns());
            for (connection, line) in self.door.receive() {
                self.check_deadline();
                self.answer(connection, &line);
            }
            if self.door.tidy() {
                self.journal.info(format!("a member's connection ended, {} left", self.door.member_count()));
            }
            if self.lease.opened().is_none() {
                self.journal.flush();
            }
            if self.is_over() {
                return Ok(());
            }
            if let Err(source) = self.wait() {
                // A guard that cannot wait cannot guard. Exit ends the postmaster, this ends the rest.
                self.end(Cause::Killed);
                return Err(system("wait for events", source));
            }
        }
    }

    /// Past the deadline of an open server: everything is killed, before anything else is done.
    pub(crate) fn check_deadline(&mut self) {
        if self.lease.expire(boottime_ns()) {
            self.end(Cause::Deadline);
        }
    }

    fn receive_signals(&mut self) {
        while let Ok(Some(received)) = self.signals.read_signal() {
            // SIGCHLD only wakes the loop, which looks for dead children in each round.
            if matches!(i32::try_from(received.ssi_signo), Ok(number) if number == Signal::SIGTERM as i32 || number == Signal::SIGINT as i32)
            {
                self.journal.info("told to go by a signal: stopping the server".to_owned());
                self.quitting = true;
                self.stop(STOP_ON_SIGNAL_NS);
            }
        }
    }

    /// A server that somebody else has started in the directory writes without a lease.
    fn end_intruder(&mut self) {
        let now_ns = boottime_ns();
        if !self.server.is_empty() || now_ns - self.intruder_checked_ns < INTRUDER_CHECK_NS {
            return;
        }
        self.intruder_checked_ns = now_ns;
        match live_postmaster(&self.options.data_directory) {
            Ok(None) => {}
            Ok(Some(pid)) => {
                self.journal.warn(format!("postmaster {pid} was started by somebody else: ending it"));
                self.end(Cause::Leftovers);
            }
            Err(error) => self.journal.warn(format!("cannot look for a foreign postmaster: {error}")),
        }
    }

    fn is_over(&mut self) -> bool {
        let now_ns = boottime_ns();
        if self.door.member_count() > 0 {
            self.alone_since_ns = None;
        } else if self.alone_since_ns.is_none() {
            self.alone_since_ns = Some(now_ns);
        }
        if !self.server.is_empty() {
            return false;
        }
        let idle = self.alone_since_ns.is_some_and(|since| now_ns - since >= self.idle_quit_ns());
        if self.quitting || idle {
            return true;
        }
        if now_ns - self.directory_checked_ns < DIRECTORY_CHECK_NS {
            return false;
        }
        self.directory_checked_ns = now_ns;
        !self.owns_directory()
    }

    /// The lock is still the one that the next guard would ask for.
    fn owns_directory(&self) -> bool {
        let named = fs::metadata(self.options.directory.join(LOCK_NAME));
        let held = self.lock.metadata();
        matches!((named, held), (Ok(named), Ok(held)) if named.dev() == held.dev() && named.ino() == held.ino())
    }

    fn idle_quit_ns(&self) -> u64 {
        self.options.idle_quit_ms.saturating_mul(1_000_000)
    }

    fn wake_at_ns(&self) -> Option<u64> {
        let idle = self.alone_since_ns.map(|since| since.saturating_add(self.idle_quit_ns()));
        let directory = Some(self.directory_checked_ns + DIRECTORY_CHECK_NS);
        let intruder = Some(self.intruder_checked_ns + INTRUDER_CHECK_NS);
        let when_empty = if self.server.is_empty() { [idle, directory, intruder] } else { [None; 3] };
        let always = [self.lease.wake_at_ns(), self.server.wake_at_ns(), self.door.wake_at_ns()];
        always.into_iter().chain(when_empty).flatten().min()
    }

    /// Waits for anything to happen. The timer is on the lease's clock; a timeout of poll would stand still in suspend.
    fn wait(&mut self) -> io::Result<()> {
        match self.wake_at_ns() {
            Some(at_ns) => {
                // Zero would mean "never".
                let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at_ns.max(1))));
                self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(launch) = self.server.launch_fd() {
            fds.push(PollFd::new(launch, PollFlags::POLLIN));
        }
        for (fd, has_output) in self.door.waits() {
            let output = if has_output { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(fd, PollFlags::POLLIN | output));
        }
        // What is ready is not looked at: each round tries everything, nothing of it blocks, and there are few of them.
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away what belongs to this life, still under the lock.
    fn leave(&mut self) {
        self.journal.info(format!("guard {} quits", std::process::id()));
        if self.owns_directory() {
            let _ = fs::remove_file(self.options.directory.join(SOCKET_NAME));
            let _ = fs::remove_file(self.options.directory.join(PID_NAME));
        }
        if let Some(cgroup) = self.server.cgroup() {
            cgroup.remove();
        }
        self.door.tidy();
        self.journal.flush();
    }
}

fn system(step: &'static str, source: io::Error) -> GuardError {
    GuardError::System { step, source }
}

fn require_one_thread() -> Result<(), GuardError> {
    let tasks = fs::read_dir("/proc/self/task").map_err(|source| system("count threads", source))?;
    match tasks.count() {
        1 => Ok(()),
        threads => Err(GuardError::Threads { threads }),
    }
}

fn make_directory(path: &Path) -> Result<(), GuardError> {
    let failed = |step, source| GuardError::File { step, path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make", error)),
        _ => {}
    }
    let metadata = fs::metadata(path).map_err(|error| failed("look at", error))?;
    if metadata.uid() != Uid::effective().as_raw() {
        return Err(GuardError::ForeignDirectory { path: path.to_owned(), owner: metadata.uid() });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|error| failed("protect", error))
}

fn take_lock(directory: &Path) -> Result<Flock<File>, GuardError> {
    let path = directory.join(LOCK_NAME);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| GuardError::File { step: "open", path: path.clone(), source })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(GuardError::AlreadyRunning { directory: directory.to_owned() }),
        Err((_, error)) => Err(GuardError::File { step: "lock", path, source: error.into() }),
    }
}

fn write_file(path: &Path, content: &str) -> Result<(), GuardError> {
    fs::write(path, content).map_err(|source| GuardError::File {
        step: "write",
        path: path.to_owned(),
        source,
    })
}

/// All signals that mean something here come through a descriptor, so that none interrupts anything.
fn catch_signals() -> nix::Result<SignalFd> {
    // SAFETY: ignoring a signal runs no handler. A member that went away must not end the guard.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    let caught =
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
    let mask: SigSet = caught.into_iter().collect();
    mask.thread_set_mask()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_no_guard() {
        // The test itself runs beside the main thread. Nothing has been touched when it is refused.
        let options = Options::new("/nonexistent/guard".into(), "/nonexistent/data".into());
        assert!(matches!(run(options), Err(GuardError::Threads { threads }) if threads > 1));
    }
}
