//! Processes as `/proc` shows them: who lives in which network namespace, and signals for them by id.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a process of the lab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Member,
    Guard,
    SqlProxy,
    /// It holds the virtual addresses.
    Vip,
    Postgres,
    /// pg_basebackup, pg_rewind and their like.
    Other,
}

/// One process. The time of its start tells it from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The letter of `/proc/PID/stat`: R runs, S sleeps, D waits in the kernel, T is stopped.
    pub state: char,
    /// In clock ticks (10 ms) since the machine's start.
    pub started_ticks: u64,
    pub kind: Kind,
}

/// The process, if it exists and is not a zombie.
pub fn look(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let parent = fields.get(1)?.parse().ok()?;
    let started_ticks = fields.get(19)?.parse().ok()?;
    Some(Process { pid, parent, state, started_ticks, kind: kind_of(pid) })
}

fn kind_of(pid: i32) -> Kind {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // A binary that was built anew while it runs.
    match name.trim_end_matches(" (deleted)") {
        "postgres" => Kind::Postgres,
        name if name.starts_with("mainstay") => {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            match line.split(|byte| *byte == 0).nth(1) {
                Some(b"run") => Kind::Member,
                Some(b"guard") => Kind::Guard,
                Some(b"sql-proxy") => Kind::SqlProxy,
                Some(b"vip") => Kind::Vip,
                _ => Kind::Other,
            }
        }
        _ => Kind::Other,
    }
}

/// Every process whose network is the named namespace.
pub fn in_namespace(namespace: &str) -> Vec<Process> {
    let Ok(wanted) = fs::metadata(format!("/run/netns/{namespace}")) else { return Vec::new() };
    let is_in = |pid: &i32| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|own| own.ino() == wanted.ino() && own.dev() == wanted.dev())
    };
    all_pids().into_iter().filter(is_in).filter_map(look).collect()
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The direct children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The postmaster among the processes of a namespace: the one whose parent is no `postgres`.
pub fn postmaster(processes: &[Process]) -> Option<&Process> {
    let is_postgres = |process: &&Process| process.kind == Kind::Postgres;
    let pids: Vec<i32> = processes.iter().filter(is_postgres).map(|process| process.pid).collect();
    let is_root = |process: &&Process| is_postgres(process) && !pids.contains(&process.parent);
    // Orphans of a dead postmaster have no postgres as their parent either; a living one is older than its children.
    processes.iter().filter(is_root).min_by_key(|process| (process.started_ticks, process.pid))
}

/// Sends a signal to each; one that has just ended is no error.
pub fn signal(pids: impl IntoIterator<Item = i32>, signal: Signal) -> Result<()> {
    for pid in pids {
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => bail!("cannot send {signal} to process {pid}: {error}; are you root?"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_parent() {
        let own = look(std::process::id().cast_signed()).expect("it runs");
        assert_eq!(own.parent, std::os::unix::process::parent_id().cast_signed());
        assert!(own.started_ticks > 0 && own.kind == Kind::Other);
    }

    #[test]
    fn the_postmaster_is_the_root_of_the_servers_processes() {
        let process = |pid, parent, kind| Process { pid, parent, state: 'S', started_ticks: 5, kind };
        let all =
            [process(12, 11, Kind::Postgres), process(11, 10, Kind::Postgres), process(10, 1, Kind::Guard)];
        assert_eq!(postmaster(&all).map(|found| found.pid), Some(11));
        assert_eq!(postmaster(&all[2..]), None);
    }
}
