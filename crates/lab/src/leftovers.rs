//! What a lab of the same index has left behind when it was killed: it is cleared away before anything is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::clock;
use crate::disk;
use crate::network::{self, Index};
use crate::process;
use crate::shared_memory::Segments;

/// No cluster of the lab has more members.
pub const MOST_MEMBERS: u8 = 9;

const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// Where a lab's files are: PostgreSQL's user must be able to get there.
pub fn base(index: Index) -> PathBuf {
    PathBuf::from(format!("/var/tmp/mainstay-lab-{}", index.number()))
}

/// Ends every process, unmounts every disk, removes files and network of the lab with this index.
pub fn clear(index: Index) -> Result<()> {
    let base = base(index);
    let mounts = mounts_below(&base);
    // A frozen disk keeps its processes from dying.
    for mount in &mounts {
        crate::program::try_run("fsfreeze", &["-u", &mount.display().to_string()]);
    }
    let mut segments = Segments::default();
    for place in 1..=MOST_MEMBERS {
        segments.remember(&index.namespace(place));
        end_all(&index.namespace(place))?;
    }
    segments.remove();
    for mount in &mounts {
        disk::unmount(mount);
    }
    match fs::remove_dir_all(&base) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", base.display()));
        }
        _ => {}
    }
    network::remove(index, MOST_MEMBERS);
    Ok(())
}

fn end_all(namespace: &str) -> Result<()> {
    let begun = clock::now();
    loop {
        let left = process::in_namespace(namespace);
        if left.is_empty() {
            return Ok(());
        }
        if clock::now().since(begun) > KILL_PATIENCE {
            bail!("{} processes in the namespace {namespace} do not end", left.len());
        }
        process::signal(left.iter().map(|process| process.pid), Signal::SIGKILL)?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The mount points below `base`, the innermost first.
fn mounts_below(base: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4).map(PathBuf::from))
        .filter(|mount| mount.starts_with(base))
        .collect();
    found.sort();
    found.reverse();
    found
}
