//! What the guard asks of the kernel for itself, so that it runs when it has to. None of it reaches PostgreSQL:
//! `SCHED_RESET_ON_FORK` and the launch undo it there, and memory locks end at exec.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Any real-time priority runs before all ordinary processes; the lowest one stays below the kernel's own threads.
const REAL_TIME_PRIORITY: i32 = 1;
const CAP_IPC_LOCK: u32 = 14;

/// Orphaned backends become our children instead of init's. Without it we could not tell when nothing is left.
pub(crate) fn become_subreaper() -> io::Result<()> {
    prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Asks for every protection; answers one warning for each that was denied.
pub(crate) fn harden() -> Vec<String> {
    let attempts = [
        (
            "the out-of-memory killer may end the guard",
            spare_from_oom(),
            "run it as root, or set OOMScoreAdjust=-1000",
        ),
        ("the guard may wait for its memory", lock_memory(), "run it as root, or set LimitMEMLOCK=infinity"),
        ("the guard may wait for a processor", take_precedence(), "run it as root, or set LimitRTPRIO=1"),
    ];
    let warning = |(effect, attempt, remedy): (&str, io::Result<()>, &str)| {
        attempt.err().map(|error| format!("{effect} ({error}); {remedy}"))
    };
    attempts.into_iter().filter_map(warning).collect()
}

fn spare_from_oom() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")
}

/// Keeps in memory what the guard uses, and makes its code be there: the code that kills must not have to be read from
/// the very disk that hangs. Pages of the program and its libraries are shared ones, so this costs no private memory.
fn lock_memory() -> io::Result<()> {
    // With a limit the lock would seem to work, and a later allocation fail and abort the guard.
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if limit != RLIM_INFINITY && !has_capability(CAP_IPC_LOCK)? {
        return Err(Errno::EPERM.into());
    }
    // SAFETY: mlockall takes flags and touches no memory of ours. MCL_ONFAULT keeps unused reservations from being filled.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    Errno::result(locked)?;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        if let Some((start, length)) = file_mapping(line) {
            // SAFETY: MADV_POPULATE_READ reads the pages in and changes no content; a range that is no longer mapped
            // fails with ENOMEM. Before Linux 5.14 it fails with EINVAL, and pages come in as they are used.
            unsafe {
                libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_POPULATE_READ)
            };
        }
    }
    Ok(())
}

/// Address and length of a readable mapping of a file, from a line of `/proc/self/maps`.
fn file_mapping(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let readable = fields.next()?.starts_with('r');
    let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    (readable && is_file).then_some((start, end.checked_sub(start)?))
}

fn take_precedence() -> io::Result<()> {
    let set_scheduler = |policy: i32, priority: i32| {
        let parameters = libc::sched_param { sched_priority: priority };
        // SAFETY: 0 is this process; the kernel reads the parameters during the call only.
        Errno::result(unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &parameters) })
    };
    if set_scheduler(libc::SCHED_FIFO, REAL_TIME_PRIORITY).is_ok() {
        return Ok(());
    }
    // Real-time groups of cgroup version 1 deny it even to root; the strongest ordinary priority comes close.
    set_scheduler(libc::SCHED_OTHER, 0)?;
    // SAFETY: setpriority takes integers only; 0 is this process.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) })?;
    Ok(())
}

fn has_capability(capability: u32) -> io::Result<bool> {
    let status = fs::read_to_string(Path::new("/proc/self/status"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    Ok(effective.is_some_and(|set| set & (1 << capability) != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readable_files_are_made_resident() {
        let program = "5581a000-5581c000 r-xp 00002000 fe:00 1234   /usr/bin/mainstay";
        assert_eq!(file_mapping(program), Some((0x5581_a000, 0x2000)));
        assert_eq!(file_mapping("7ffd0000-7ffd2000 rw-p 00000000 00:00 0   [stack]"), None);
        assert_eq!(file_mapping("7ffd0000-7ffd2000 rw-p 00000000 00:00 0"), None);
        assert_eq!(file_mapping("7ffd0000-7ffd2000 ---p 00002000 fe:00 1234 /usr/lib/libc.so"), None);
    }
}
