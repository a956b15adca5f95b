//! A small disk of its own for one member: xfs in a file, mounted through a loop device. It can be frozen and filled.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::program::{run, try_run};

/// The least that mkfs.xfs accepts, in MiB.
pub const LEAST_MIB: u32 = 300;

/// The file that fills a disk.
const BALLAST: &str = "ballast";

/// Whether this machine can make such disks: the reason, if not.
pub fn possible() -> Result<()> {
    run("mkfs.xfs", &["-V"]).context("mkfs.xfs is missing; install xfsprogs")?;
    run("fsfreeze", &["--version"]).context("fsfreeze is missing; install util-linux")?;
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = filesystems.lines().any(|line| line.trim() == "xfs") || try_run("modprobe", &["xfs"]);
    anyhow::ensure!(known, "the kernel knows no xfs");
    Ok(())
}

/// One mounted disk; thawed, unmounted and removed when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    kept: bool,
}

impl Disk {
    /// Makes a disk of `mib` MiB and mounts it on `mount`, which is made.
    pub fn create(image: &Path, mount: &Path, mib: u32) -> Result<Disk> {
        let shown = image.display().to_string();
        fs::create_dir_all(mount).with_context(|| format!("cannot make {}", mount.display()))?;
        let file = File::create(image).with_context(|| format!("cannot make {shown}"))?;
        // Sparse: it takes what is written to it.
        file.set_len(u64::from(mib) << 20).with_context(|| format!("cannot size {shown}"))?;
        run("mkfs.xfs", &["-q", "-f", &shown])?;
        let disk = Disk { image: image.to_owned(), mount: mount.to_owned(), kept: false };
        run("mount", &["-o", "loop", &shown, &disk.mount.display().to_string()])?;
        Ok(disk)
    }

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// From now on it outlives this value.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Every write waits from now on, and processes that write can no longer be killed.
    pub fn freeze(&self) -> Result<()> {
        run("fsfreeze", &["-f", &self.mount.display().to_string()]).map(|_| ())
    }

    pub fn thaw(&self) -> Result<()> {
        run("fsfreeze", &["-u", &self.mount.display().to_string()]).map(|_| ())
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Result<()> {
        let path = self.mount.join(BALLAST);
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let room = nix::sys::statvfs::fstatvfs(&file)?;
        let mut left = room.blocks_available() * room.fragment_size();
        let mut length = 0_i64;
        // What is available is a little more than can be had: halve what is refused, down to one block.
        while left >= 4096 {
            let bytes = i64::try_from(left).unwrap_or(i64::MAX);
            match nix::fcntl::posix_fallocate(&file, length, bytes) {
                Ok(()) => length += bytes,
                Err(nix::errno::Errno::ENOSPC) => left = left / 2 / 4096 * 4096,
                Err(error) => return Err(error).with_context(|| format!("cannot fill {}", path.display())),
            }
        }
        Ok(())
    }

    pub fn empty(&self) -> Result<()> {
        let path = self.mount.join(BALLAST);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.kept {
            unmount(&self.mount);
            let _ = fs::remove_file(&self.image);
        }
    }
}

/// Unmounts, frozen or not. What still uses it keeps the rest alive until it ends.
pub fn unmount(mount: &Path) {
    let shown = mount.display().to_string();
    try_run("fsfreeze", &["-u", &shown]);
    if !try_run("umount", &[&shown]) {
        try_run("umount", &["-l", &shown]);
    }
}
