//! Reads `/proc`. Only files that never wait for the process they describe: `cmdline` is not among them, since its reader
//! waits for a lock that a process stuck on a device may hold for ever.

use std::collections::HashSet;
use std::fs;
use std::io;

use nix::errno::Errno;

use crate::protocol::Pid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) state: char,
    /// In clock ticks since boot; with the pid it names a process uniquely.
    pub(crate) start_time: u64,
}

/// The process `pid`, or none if there is none that we may see.
pub(crate) fn read(pid: Pid) -> io::Result<Option<Process>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => match parse_stat(pid, &stat) {
            Some(process) => Ok(Some(process)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is malformed"))),
        },
        Err(error) if is_gone(&error) => Ok(None),
        // Mounted with `hidepid`, and of another user: nothing of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every process that was there during the whole reading.
pub(crate) fn all() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && let Some(process) = read(pid)?
        {
            processes.push(process);
        }
    }
    Ok(processes)
}

/// The children of `root`, their children and so on; `root` itself is not among them.
pub(crate) fn descendants(root: Pid, processes: &[Process]) -> Vec<Process> {
    let mut family = HashSet::from([root]);
    let mut found = Vec::new();
    // The list is in order of pids, and those wrap around, so one pass may meet a child before its parent.
    loop {
        let before = found.len();
        for process in processes {
            if family.contains(&process.parent) && family.insert(process.pid) {
                found.push(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The process or its `/proc` entry vanished while it was looked at.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

fn parse_stat(pid: Pid, stat: &[u8]) -> Option<Process> {
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(&stat[after_name..]).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // proc(5) numbers the fields from 1: state is 3, the parent 4, the start time 22.
    let start_time = fields.nth(22 - 5)?.parse().ok()?;
    Some(Process { pid, parent, state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = b"42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9876 1 2 3\n";
        let process = parse_stat(42, stat).unwrap();
        assert_eq!(process, Process { pid: 42, parent: 7, state: 'S', start_time: 9876 });
        assert_eq!(parse_stat(42, b"42 (x"), None);
        assert_eq!(parse_stat(42, b"42 (x) S 1"), None);
    }

    #[test]
    fn this_process_is_found_below_its_parent() {
        let me = std::process::id() as Pid;
        let processes = all().unwrap();
        let mine = processes.iter().find(|process| process.pid == me).unwrap();
        assert!(descendants(mine.parent, &processes).contains(mine));
        assert!(!descendants(me, &processes).contains(mine));
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let process = |pid, parent| Process { pid, parent, state: 'S', start_time: 1 };
        let processes = [process(3, 9), process(9, 8), process(8, 1), process(4, 2)];
        let mut found: Vec<Pid> = descendants(1, &processes).iter().map(|found| found.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 8, 9]);
    }
}
