//! Sensible values for PostgreSQL's memory, WAL and checkpoints, from what the machine has. Each with its reason.
//!
//! The rules of thumb are those of PostgreSQL's manual (chapters "Resource Consumption" and "WAL Configuration"); what is
//! Mainstay's own is said in the reasons: how long a fenced server takes to go, and how long one that died takes to come back.

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
/// The kernel needs about a quarter of a second to free each GiB of touched shared memory, and a failover waits for that.
const MOST_SHARED_BUFFERS: u64 = 8 * GIB;
/// What a recovery may be counted on to replay each second: one process does it. A guess on the safe side, not a measurement of
/// this machine.
const REPLAY_BYTES_PER_SECOND: u64 = 60 * MIB;
/// A server that died on its own machine is to be back within so long.
const RECOVERY_SECONDS: u64 = 60;

/// What a machine has for PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub memory_bytes: u64,
    pub cores: u32,
    /// Of the file system with the data.
    pub disk_bytes: u64,
    /// Whether the disk has moving parts; `None` if that is not known.
    pub rotational: Option<bool>,
    /// Whether something else than PostgreSQL needs the machine's memory too.
    pub shared_with_applications: bool,
}

/// One value and why it is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sized {
    pub name: &'static str,
    pub value: String,
    pub reason: String,
}

impl Machine {
    /// The machine that this program runs on, with the disk under `data` or the nearest directory above it that exists.
    pub fn here(data: &std::path::Path) -> Machine {
        let existing = data.ancestors().find(|path| path.exists()).unwrap_or(std::path::Path::new("/"));
        let disk = nix::sys::statvfs::statvfs(existing).ok();
        Machine {
            memory_bytes: memory_bytes(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            disk_bytes: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
            rotational: rotational(existing),
            shared_with_applications: false,
        }
    }
}

/// The machine's memory, or what this program's control group may use of it.
fn memory_bytes() -> u64 {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let total = total.unwrap_or(MIB) * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    limit.and_then(|text| text.trim().parse().ok()).map_or(total, |limit: u64| limit.min(total))
}

fn rotational(path: &std::path::Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let device = std::path::PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition's queue is its disk's.
    let queue = ["queue/rotational", "../queue/rotational"].into_iter();
    let text = queue.filter_map(|file| std::fs::read_to_string(device.join(file)).ok()).next()?;
    Some(text.trim() == "1")
}

/// Values for a machine on which at most `max_connections` clients work at a time.
pub fn sizes(machine: &Machine, max_connections: u32) -> Vec<Sized> {
    let mut sized = Vec::new();
    let mut add = |name, value: String, reason: String| sized.push(Sized { name, value, reason });
    let divisor = if machine.shared_with_applications { 8 } else { 4 };
    let quarter = machine.memory_bytes / divisor;
    let shared_buffers = whole_mib(quarter.clamp(32 * MIB, MOST_SHARED_BUFFERS));
    let seconds = shared_buffers as f64 / GIB as f64 * 0.25;
    let part = if divisor == 4 { "a quarter" } else { "an eighth (applications need memory too)" };
    let capped = if quarter > MOST_SHARED_BUFFERS { ", capped" } else { "" };
    add(
        "shared_buffers",
        size(shared_buffers),
        format!(
            "{part} of {}{capped}: ending a server that has touched it all takes {seconds:.2} s of a failover",
            size(machine.memory_bytes)
        ),
    );
    let cached = if machine.shared_with_applications {
        machine.memory_bytes / 2
    } else {
        machine.memory_bytes / 4 * 3
    };
    add(
        "effective_cache_size",
        size(whole_mib(cached)),
        "what the kernel and shared_buffers cache; a hint for plans, no memory is taken".to_owned(),
    );
    let left = machine.memory_bytes.saturating_sub(shared_buffers) / if divisor == 4 { 2 } else { 4 };
    let work_mem = (left / u64::from(max_connections.max(1)) / 2).clamp(MIB, 256 * MIB) / MIB * MIB;
    add(
        "work_mem",
        size(work_mem),
        format!("so that {max_connections} sessions with two sorts each stay within half of what is left"),
    );
    let maintenance = whole_mib((machine.memory_bytes / 16).clamp(64 * MIB, 2 * GIB));
    add(
        "maintenance_work_mem",
        size(maintenance),
        "a sixteenth of the memory, for VACUUM and CREATE INDEX".to_owned(),
    );
    add("wal_buffers", size(16 * MIB), "one WAL segment".to_owned());
    wal(machine, &mut add);
    disk(machine, &mut add);
    parallel(machine, &mut add);
    sized
}

fn wal(machine: &Machine, add: &mut impl FnMut(&'static str, String, String)) {
    let by_time = REPLAY_BYTES_PER_SECOND * RECOVERY_SECONDS;
    let by_disk = machine.disk_bytes / 10;
    let most = whole_mib(by_time.min(by_disk).max(512 * MIB));
    let reason = match by_disk < by_time {
        true => "a tenth of the disk".to_owned(),
        false => format!("a server that died replays at most this much: about {RECOVERY_SECONDS} s"),
    };
    add("max_wal_size", size(most), reason);
    add(
        "min_wal_size",
        "80MB".to_owned(),
        "each segment that is kept for reuse is renamed during a promotion".to_owned(),
    );
    add(
        "checkpoint_timeout",
        "5min".to_owned(),
        "longer writes less WAL and replays longer after a crash".to_owned(),
    );
    add(
        "checkpoint_completion_target",
        "0.9".to_owned(),
        "spreads a checkpoint's writes over the time until the next".to_owned(),
    );
    let kept = whole_mib((machine.disk_bytes / 5).clamp(GIB, 64 * GIB));
    add(
        "max_slot_wal_keep_size",
        size(kept),
        "a fifth of the disk: a member that stays away must not fill it".to_owned(),
    );
}

fn disk(machine: &Machine, add: &mut impl FnMut(&'static str, String, String)) {
    let (cost, concurrency, reason) = match machine.rotational {
        Some(true) => ("4", "2", "the disk has moving parts"),
        Some(false) => {
            ("1.1", "200", "the disk has no moving parts: random reads cost little more than others")
        }
        None => ("1.5", "64", "the kind of the disk is not known"),
    };
    add("random_page_cost", cost.to_owned(), reason.to_owned());
    add("effective_io_concurrency", concurrency.to_owned(), reason.to_owned());
}

fn parallel(machine: &Machine, add: &mut impl FnMut(&'static str, String, String)) {
    let cores = machine.cores.max(1);
    let workers = cores.max(8);
    let gather = (cores / 2).clamp(1, 4);
    add("max_worker_processes", workers.to_string(), format!("one for each of {cores} cores, at least 8"));
    add("max_parallel_workers", cores.to_string(), format!("as many as there are cores ({cores})"));
    add(
        "max_parallel_workers_per_gather",
        gather.to_string(),
        "half of the cores, at most 4: one query must not take them all".to_owned(),
    );
    add("max_parallel_maintenance_workers", gather.to_string(), "half of the cores, at most 4".to_owned());
}

fn whole_mib(bytes: u64) -> u64 {
    bytes / MIB * MIB
}

/// As PostgreSQL writes it: in whole GB where it is so, else in MB.
fn size(bytes: u64) -> String {
    if bytes >= GIB && bytes.is_multiple_of(GIB) {
        format!("{}GB", bytes / GIB)
    } else {
        format!("{}MB", bytes / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(memory_gib: u64, cores: u32) -> Machine {
        Machine {
            memory_bytes: memory_gib * GIB,
            cores,
            disk_bytes: 100 * GIB,
            rotational: Some(false),
            shared_with_applications: false,
        }
    }

    fn value(sized: &[Sized], name: &str) -> String {
        sized.iter().find(|sized| sized.name == name).map(|sized| sized.value.clone()).unwrap_or_default()
    }

    #[test]
    fn memory_is_shared_out_without_being_promised_twice() {
        let sized = sizes(&machine(16, 4), 100);
        assert_eq!(value(&sized, "shared_buffers"), "4GB");
        assert_eq!(value(&sized, "effective_cache_size"), "12GB");
        assert_eq!(value(&sized, "work_mem"), "30MB");
        assert_eq!(value(&sized, "maintenance_work_mem"), "1GB");
        let small = sizes(&machine(1, 1), 100);
        assert_eq!(
            (value(&small, "shared_buffers"), value(&small, "work_mem")),
            ("256MB".to_owned(), "1MB".to_owned())
        );
        assert!(sized.iter().all(|sized| !sized.reason.is_empty()));
    }

    #[test]
    fn what_a_failover_waits_for_is_bounded() {
        let sized = sizes(&machine(256, 64), 500);
        assert_eq!(value(&sized, "shared_buffers"), "8GB");
        let reason = &sized[0].reason;
        assert!(reason.contains("capped") && reason.contains("2.00 s of a failover"), "{reason}");
        assert_eq!(value(&sized, "max_wal_size"), "3600MB");
        let tiny = Machine { disk_bytes: 8 * GIB, ..machine(2, 2) };
        assert_eq!(value(&sizes(&tiny, 50), "max_wal_size"), "819MB");
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::here(std::path::Path::new("/nonexistent/below"));
        assert!(machine.memory_bytes > MIB && machine.cores > 0 && machine.disk_bytes > 0);
    }
}
