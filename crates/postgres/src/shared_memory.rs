//! Shared memory that a killed PostgreSQL leaves behind.
//!
//! The next start in the same directory clears it; wiping the directory first would leak it for good, some 1.5 MB a
//! time, until the machine is restarted.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;

use crate::processes;

/// `PG_DYNSHMEM_CONTROL_MAGIC` of PostgreSQL's dsm.c, unchanged since 9.4.
const CONTROL_MAGIC: u32 = 0x9a50_3d32;

/// `dsm_control_header`: magic, item count, capacity; the items follow on the next multiple of 8.
const CONTROL_HEADER_BYTES: usize = 16;

/// `dsm_control_item` on 64-bit machines; the segment's handle comes first.
const CONTROL_ITEM_BYTES: usize = 32;

/// A control segment is made right after the pid file; a machine short of memory may take its time over it.
const CREATION_WINDOW_S: u64 = 120;

/// What `postmaster.pid` says about the server that wrote it.
struct Recorded {
    started_at_unix_s: u64,
    key: u32,
    id: u32,
}

/// Removes what the dead server of `data` left: its System V segment and its POSIX segments. `uid` is its user's.
///
/// No server may run in `data`. It is tidying up, not correctness: what is in doubt is left.
pub(crate) fn remove_leaked(data: &Path, uid: u32) {
    let Some(recorded) = recorded(data) else { return };
    if is_unused_segment(recorded.key, recorded.id, uid) {
        remove_system_v_segment(recorded.id);
    }
    remove_posix_segments(Path::new("/dev/shm"), recorded.started_at_unix_s, uid);
}

/// Line 3 of `postmaster.pid` is the time of the start, line 7 key and id of the System V segment.
fn recorded(data: &Path) -> Option<Recorded> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let (key, id) = lines.get(6)?.trim().split_once(' ')?;
    // The key is a C int that PostgreSQL prints as unsigned long.
    let key = key.parse::<u64>().ok()? as u32;
    Some(Recorded { started_at_unix_s: lines.get(2)?.trim().parse().ok()?, key, id: id.trim().parse().ok()? })
}

/// Whether the segment is still the recorded one and nobody is attached. Ids are reused, hence the key.
fn is_unused_segment(key: u32, id: u32, uid: u32) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/sysvipc/shm") else { return false };
    table.lines().skip(1).any(|line| {
        let fields: Vec<i64> =
            line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        matches!(fields[..], [k, i, _, _, _, _, attached, owner]
            if k as u32 == key && i == i64::from(id) && attached == 0 && owner == i64::from(uid))
    })
}

fn remove_system_v_segment(id: u32) {
    let result = Command::new("ipcrm")
        .args(["-m", &id.to_string()])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !result.is_ok_and(|status| status.success()) {
        tracing::warn!(id, "cannot remove the shared memory of a killed PostgreSQL; `ipcrm -m {id}` does");
    }
}

/// The name of a POSIX segment does not tell its directory. But the control segment of each server lists the others;
/// it is made at the server's start, and the postmaster has it mapped for life: so one that was made then and that
/// nobody maps is the dead server's.
fn remove_posix_segments(shared_memory: &Path, started_at_unix_s: u64, uid: u32) {
    let Ok(entries) = std::fs::read_dir(shared_memory) else { return };
    let window = started_at_unix_s.saturating_sub(1)..=started_at_unix_s + CREATION_WINDOW_S;
    let is_candidate = |metadata: &std::fs::Metadata| {
        metadata.is_file()
            && metadata.uid() == uid
            && u64::try_from(metadata.mtime()).is_ok_and(|t| window.contains(&t))
    };
    let controls: Vec<(String, Vec<u32>)> = entries
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|metadata| is_candidate(&metadata)))
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| name.starts_with("PostgreSQL."))?;
            Some((name, control_handles(&entry.path())?))
        })
        .collect();
    // Looked at after the controls were read: a server maps its control segment before it writes the magic number.
    let Some(mapped) = mapped_segments(uid) else { return };
    for (name, handles) in controls.into_iter().filter(|(name, _)| !mapped.contains(name)) {
        let listed = handles.into_iter().map(|handle| format!("PostgreSQL.{handle}"));
        // The control segment goes last: it is what finds the others again after a crash of ours.
        for segment in listed.filter(|segment| !mapped.contains(segment)).chain([name]) {
            let _ = std::fs::remove_file(shared_memory.join(segment));
        }
    }
}

/// The handles that a control segment lists; `None` if the file is no control segment.
fn control_handles(path: &Path) -> Option<Vec<u32>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(1 << 20).read_to_end(&mut bytes).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if word(0)? != CONTROL_MAGIC {
        return None;
    }
    let count = word(4)? as usize;
    Some((0..count).map_while(|n| word(CONTROL_HEADER_BYTES + n * CONTROL_ITEM_BYTES)).collect())
}

/// The segments that the user's processes have mapped; `None` if that cannot be told for one of them.
fn mapped_segments(uid: u32) -> Option<HashSet<String>> {
    let mut names = HashSet::new();
    for pid in processes::pids() {
        let is_users = std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|metadata| metadata.uid() == uid);
        if !is_users {
            continue;
        }
        let maps = match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
            Ok(maps) => maps,
            // It has ended meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(_) => return None,
        };
        let paths = maps.lines().filter_map(|line| line.split_once("/dev/shm/"));
        names.extend(paths.map(|(_, name)| name.trim_end_matches(" (deleted)").to_owned()));
    }
    Some(names)
}
