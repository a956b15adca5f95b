//! The faults themselves, on this machine's own processes, and how they are undone.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_member::Configuration;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::precheck::Before;
use crate::cli::{DrillScope, ThawOptions};

/// Longer than a frozen server is waited for: a process of its own lets it go on if this one is gone.
const FROZEN_AT_MOST: Duration = Duration::from_secs(60);

/// What is to be undone; it is also undone when this is dropped.
#[derive(Default)]
pub(super) struct Fault {
    frozen: Option<Frozen>,
}

/// A process that stands still.
#[derive(Clone, Copy)]
struct Frozen {
    pid: i32,
    started: u64,
}

impl Fault {
    /// kill -9.
    pub(super) fn kill(
        &mut self,
        configuration: &Configuration,
        scope: DrillScope,
        before: &Before,
    ) -> Result<()> {
        let postmaster = postmaster(before)?;
        if scope == DrillScope::Member {
            // The member first: it must not begin to repair what is about to be gone.
            for pid in [before.member_pid, before.guard_pid].into_iter().flatten() {
                let pid = i32::try_from(pid).context("a process id")?;
                if !is_ours(pid, configuration) {
                    bail!("process {pid} is not the member's any more; try again");
                }
                send(pid, Signal::SIGKILL)?;
            }
        }
        for pid in mainstay_guard::leftovers(&before.data_directory)? {
            if scope == DrillScope::Member || pid == postmaster {
                send(pid, Signal::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// SIGSTOP to the postmaster; another process sees to it that it goes on, whatever becomes of this one.
    pub(super) fn freeze(&mut self, before: &Before) -> Result<()> {
        let pid = postmaster(before)?;
        let started = started(pid).context("PostgreSQL has just ended")?;
        let mut watchdog = Command::new(std::env::current_exe()?);
        watchdog.args(["thaw", "--pid", &pid.to_string(), "--started", &started.to_string()]);
        watchdog.args(["--after-ms", &FROZEN_AT_MOST.as_millis().to_string()]);
        watchdog.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        // Not waited for: it is there for when this process is not.
        drop(watchdog.spawn().context("cannot start the process that lets it go on")?);
        self.frozen = Some(Frozen { pid, started });
        send(pid, Signal::SIGSTOP)
    }

    /// Lets what is frozen go on.
    pub(super) fn undo(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            frozen.go_on();
        }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.undo();
    }
}

impl Frozen {
    fn is_there(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    fn go_on(self) {
        if self.is_there() {
            // It may have just ended: then there is nothing to let go on.
            let _ = send(self.pid, Signal::SIGCONT);
        }
    }
}

/// The hidden verb: waits until the process has ended, or lets it go on after a while.
pub(crate) fn thaw(options: &ThawOptions) -> ExitCode {
    let frozen = Frozen { pid: options.pid, started: options.started };
    let begun = Instant::now();
    while frozen.is_there() && begun.elapsed() < Duration::from_millis(options.after_ms) {
        std::thread::sleep(Duration::from_millis(200));
    }
    frozen.go_on();
    ExitCode::SUCCESS
}

/// The postmaster, if it still is one of this data directory.
fn postmaster(before: &Before) -> Result<i32> {
    let pid = before.pid.context("PostgreSQL does not run there")?;
    let pid = i32::try_from(pid).context("a process id")?;
    let running = mainstay_guard::leftovers(&before.data_directory)
        .with_context(|| format!("cannot look for processes of {}", before.data_directory.display()))?;
    if !running.contains(&pid) {
        bail!("process {pid} is not PostgreSQL's in {} any more; try again", before.data_directory.display());
    }
    Ok(pid)
}

/// Whether the command line names this member's directory.
fn is_ours(pid: i32, configuration: &Configuration) -> bool {
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command_line = String::from_utf8_lossy(&command_line).into_owned();
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let is_mainstay = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mainstay"));
    let directory = configuration.directory.display().to_string();
    is_mainstay && (command_line.contains(&directory) || command_line.contains("\0run\0"))
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("cannot send {signal} to process {pid}: {error}; run it as root"),
    }
}

/// When a process began, in the kernel's ticks: with its id it names one process for good. The 22nd field of
/// `/proc/PID/stat`; the second is the command's name in parentheses.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    if rest.starts_with('Z') {
        return None;
    }
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::started;

    #[test]
    fn a_process_is_told_from_the_next_one_of_its_id() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(started(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(own), started(own));
        assert_eq!(started(i32::MAX), None);
    }
}
