//! How a member starts its guard: as a process that has nothing to do with the member any more.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::unistd::setsid;

/// Starts `program` with `arguments` in a session of its own, reading from `/dev/null`, writing to the end of `log_file`,
/// and with no other descriptor of this process. It lives on when this process ends.
///
/// The caller waits for the child some day, or it stays a zombie until the caller ends; [`crate::GuardClient`] does.
///
/// # Errors
/// The log file cannot be opened, or the program cannot be executed.
pub fn spawn<A: AsRef<OsStr>>(program: &Path, arguments: &[A], log_file: &Path) -> io::Result<Child> {
    spawn_reading(program, arguments, log_file, Stdio::null())
}

/// The same, reading from `input`.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_reading<A: AsRef<OsStr>>(
    program: &Path,
    arguments: &[A],
    log_file: &Path,
    input: Stdio,
) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log_file)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/");
    command.stdin(input).stdout(log.try_clone()?).stderr(log);
    // SAFETY: between fork and exec of a process with threads only calls that are safe in signal handlers are allowed;
    // these are plain system calls.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            crate::launch::reset_signals()?;
            // Linux 5.11, else EINVAL; then we trust the libraries' own close-on-exec. The descriptor through which
            // a failed exec is reported stays open until exec.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        })
    };
    command.spawn()
}
