//! Processes that are at work on a data directory, found through `/proc`.
//!
//! A killed member leaves its tools behind, and pg_rewind and initdb leave a single-user `postgres`. They go on
//! writing, so they are ended before the directory is touched again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The tools that change a directory. Their working directory is the member's own, which tells them from others'.
const CHANGING_TOOLS: [&str; 3] = ["initdb", "pg_basebackup", "pg_rewind"];

/// How long a killed process may take to go; longer means that it hangs in the kernel (state D).
const END_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since boot: with the pid it names one process for good.
    started_at_ticks: u64,
    executable: String,
    arguments: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let directory = format!("/proc/{pid}");
        let target = std::fs::read_link(format!("{directory}/exe")).ok()?;
        let name = target.file_name()?.to_str()?;
        // A package upgrade unlinks the file of a program that still runs.
        let executable = name.strip_suffix(" (deleted)").unwrap_or(name).to_owned();
        let command_line = std::fs::read(format!("{directory}/cmdline")).ok()?;
        let arguments = command_line
            .split(|byte| *byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        Some(Process { pid, started_at_ticks: started_at_ticks(pid)?, executable, arguments })
    }

    /// A `postgres --single` or `--boot`, as pg_rewind and initdb start them: no server.
    fn is_single_user(&self) -> bool {
        self.executable == "postgres"
            && self
                .arguments
                .get(1)
                .is_some_and(|mode| ["--single", "--boot", "--check"].contains(&mode.as_str()))
    }

    fn is_alive(&self) -> bool {
        started_at_ticks(self.pid) == Some(self.started_at_ticks) && !is_zombie(self.pid)
    }
}

/// The `postgres` processes of a running server in `data`: postmaster and children.
pub(crate) fn servers(data: &Path) -> Vec<Process> {
    processes_in(data).into_iter().filter(|p| p.executable == "postgres" && !p.is_single_user()).collect()
}

/// Kills tools and single-user servers that an earlier life of ours left at work, and waits until they are gone.
pub(crate) fn end_leftovers(member_directory: &Path, data: &Path) -> std::io::Result<()> {
    let leftovers = || {
        let mut found = processes_in(member_directory);
        found.retain(|process| CHANGING_TOOLS.contains(&process.executable.as_str()));
        found.extend(processes_in(data).into_iter().filter(Process::is_single_user));
        found
    };
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        let remaining = leftovers();
        if remaining.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids: Vec<String> = remaining.iter().map(|process| process.pid.to_string()).collect();
            let message = format!("processes {} do not end after SIGKILL", pids.join(", "));
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, message));
        }
        for process in &remaining {
            tracing::warn!(
                pid = process.pid,
                program = process.executable,
                "ending a leftover of an earlier run"
            );
            end(process)?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(process: &Process) -> std::io::Result<()> {
    // Between this look and the signal the pid could only be reused if the counter went round in microseconds.
    if !process.is_alive() {
        return Ok(());
    }
    match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn processes_in(directory: &Path) -> Vec<Process> {
    let Ok(wanted) = std::fs::metadata(directory) else { return Vec::new() };
    pids()
        .filter(|pid| {
            std::fs::metadata(format!("/proc/{pid}/cwd"))
                .is_ok_and(|found| found.dev() == wanted.dev() && found.ino() == wanted.ino())
        })
        .filter(|pid| !is_zombie(*pid))
        .filter_map(Process::read)
        .collect()
}

/// All process ids at this moment.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` from the third on; the second, the name, may hold blanks and brackets.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn started_at_ticks(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    stat_fields(pid).is_none_or(|fields| matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_directory_and_is_no_server() {
        let here = std::env::current_dir().unwrap();
        let own_pid = i32::try_from(std::process::id()).unwrap();
        let found = processes_in(&here);
        let own = found.iter().find(|process| process.pid == own_pid).expect("we run here");
        assert!(own.is_alive() && !own.is_single_user());
        assert!(servers(&here).iter().all(|process| process.pid != own_pid));
    }

    #[test]
    fn a_leftover_is_a_tool_of_ours_in_our_directory() {
        let process = |executable: &str, mode: &str| Process {
            pid: 1,
            started_at_ticks: 0,
            executable: executable.to_owned(),
            arguments: vec!["/bin/postgres".to_owned(), mode.to_owned()],
        };
        assert!(process("postgres", "--single").is_single_user());
        assert!(!process("postgres", "-D").is_single_user());
        assert!(!process("pg_rewind", "--single").is_single_user());
    }
}
