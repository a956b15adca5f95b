//! What the machine is, and how it is.

use std::fmt::Write as _;

use anyhow::Result;
use mainstay_member::Configuration;

/// Small files of the kernel's, and of the system's.
const FILES: &[&str] = &[
    "/etc/os-release",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/mounts",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/swappiness",
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/net/ipv4/tcp_retries2",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/fs/cgroup/memory.max",
];

pub(super) async fn facts(configuration: &Configuration) -> Result<String> {
    let mut text = format!("mainstay {}\n", env!("CARGO_PKG_VERSION"));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let _ = writeln!(text, "{cores} cores");
    for place in [&configuration.directory, &configuration.postgresql.data_directory] {
        let _ = match nix::sys::statvfs::statvfs(place.as_path()) {
            Ok(disk) => {
                let mib = |blocks: u64| (blocks * disk.fragment_size()) >> 20;
                let (free, size) = (mib(disk.blocks_available()), mib(disk.blocks()));
                writeln!(
                    text,
                    "{}: {free} of {size} MiB are free, {} inodes",
                    place.display(),
                    disk.files_available()
                )
            }
            Err(error) => writeln!(text, "{}: {error}", place.display()),
        };
    }
    for path in FILES {
        let _ = match std::fs::read_to_string(path) {
            Ok(content) => writeln!(text, "\n--- {path}\n{}", content.trim_end()),
            Err(error) => writeln!(text, "\n--- {path}: {error}"),
        };
    }
    Ok(text)
}
