//! Whether the disk still takes writes, found out by a thread that nothing else waits for.
//!
//! A write to a stalled disk cannot be interrupted. So one thread per file system writes and syncs a small file every
//! second and publishes when it began and ended; readers only look at numbers in memory.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::Now;
use nix::libc;
use nix::sys::statvfs::statvfs;
use nix::time::{ClockId, clock_gettime};

use crate::layout::Layout;

const INTERVAL: Duration = Duration::from_secs(1);

/// The file that is written. pg_basebackup and pg_rewind may copy it; it means nothing elsewhere.
const FILE: &str = "mainstay.probe";

/// No errno has this number: the write succeeded.
const NO_ERROR: i32 = 0;

/// Stands in place of a number that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// What is known about the disk at this moment. Times are of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When the newest write began.
    pub started_at: Option<Now>,
    /// When the newest complete write ended. If it is before `started_at` a write is under way.
    pub finished_at: Option<Now>,
    /// How long the newest complete write took.
    pub took: Option<Duration>,
    /// The errno of the newest complete write, if it failed: ENOENT if the directory is gone or not PostgreSQL's.
    pub errno: Option<i32>,
    /// What PostgreSQL's user may still write, in bytes.
    pub free_bytes: Option<u64>,
    /// The size of the file system, in bytes.
    pub total_bytes: Option<u64>,
    /// When the block device was last seen to have completed any read or write; `None` if it cannot be known (no such
    /// device: overlay, network, btrfs).
    pub device_completed_at: Option<Now>,
}

impl Reading {
    /// How long the write under way has taken until `now`; `None` if none is.
    pub fn waiting(&self, now: Now) -> Option<Duration> {
        let started_at = self.started_at?;
        let is_under_way = self.finished_at.is_none_or(|finished_at| finished_at < started_at);
        is_under_way.then(|| now.since(started_at))
    }
}

/// A thread that writes into one directory's file system until it is dropped.
#[derive(Debug)]
pub struct WriteProbe {
    shared: Arc<Shared>,
    thread: std::thread::Thread,
    device: Mutex<DeviceCounter>,
}

#[derive(Debug)]
struct Shared {
    is_stopped: AtomicBool,
    is_paused: AtomicBool,
    started_ns: AtomicU64,
    finished_ns: AtomicU64,
    took_ns: AtomicU64,
    errno: AtomicI32,
    free_bytes: AtomicU64,
    total_bytes: AtomicU64,
    /// The device's number, as `stat` gives it.
    device: AtomicU64,
}

/// What was seen of the block device's count of completed requests.
#[derive(Debug, Default)]
struct DeviceCounter {
    completed: Option<u64>,
    changed_at: Option<Now>,
}

/// The directories that a member's probes write into: PGDATA, and `pg_wal` if it is on another device. Blocks.
pub fn probed_directories(layout: &Layout) -> io::Result<Vec<PathBuf>> {
    let mut directories = vec![layout.data().to_owned()];
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    if device(&layout.pg_wal())? != device(layout.data())? {
        directories.push(layout.pg_wal());
    }
    Ok(directories)
}

impl WriteProbe {
    /// Begins to write into `directory`, as long as that is PostgreSQL's.
    pub fn start(directory: PathBuf) -> io::Result<WriteProbe> {
        let shared = Arc::new(Shared {
            is_stopped: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            started_ns: AtomicU64::new(UNKNOWN),
            finished_ns: AtomicU64::new(UNKNOWN),
            took_ns: AtomicU64::new(UNKNOWN),
            errno: AtomicI32::new(NO_ERROR),
            free_bytes: AtomicU64::new(UNKNOWN),
            total_bytes: AtomicU64::new(UNKNOWN),
            device: AtomicU64::new(UNKNOWN),
        });
        let writer = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("write-probe".to_owned()).stack_size(128 << 10);
        // Never joined: it may hang in the kernel for as long as the disk does.
        let handle = builder.spawn(move || writer.run(&directory))?;
        let thread = handle.thread().clone();
        Ok(WriteProbe { shared, thread, device: Mutex::default() })
    }

    /// What is known now. Never touches the disk. Called regularly it notices when the device makes progress.
    pub fn read(&self, now: Now) -> Reading {
        let known =
            |number: &AtomicU64| Some(number.load(Ordering::Acquire)).filter(|number| *number != UNKNOWN);
        // Finished first: a write that begins in between must not look as if it were under way for longer.
        let finished_at = known(&self.shared.finished_ns).map(Now);
        let started_at = known(&self.shared.started_ns).map(Now);
        let errno = Some(self.shared.errno.load(Ordering::Acquire)).filter(|errno| *errno != NO_ERROR);
        Reading {
            started_at,
            finished_at,
            took: known(&self.shared.took_ns).map(Duration::from_nanos),
            errno,
            free_bytes: known(&self.shared.free_bytes),
            total_bytes: known(&self.shared.total_bytes),
            device_completed_at: known(&self.shared.device)
                .and_then(|device| self.device_progress(device, now)),
        }
    }

    /// Stops writing, for as long as the directory is changed. A write under way is still completed.
    pub fn pause(&self) {
        self.shared.is_paused.store(true, Ordering::Release);
    }

    /// Writes again, at once.
    pub fn resume(&self) {
        self.shared.is_paused.store(false, Ordering::Release);
        self.thread.unpark();
    }

    /// The counters are in memory (sysfs): looking at them does not touch the disk.
    fn device_progress(&self, device: u64, now: Now) -> Option<Now> {
        let completed = completed_requests(device)?;
        let mut seen = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.completed != Some(completed) {
            *seen = DeviceCounter { completed: Some(completed), changed_at: Some(now) };
        }
        seen.changed_at
    }
}

impl Drop for WriteProbe {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Shared {
    fn run(&self, directory: &Path) {
        let mut count: u64 = 0;
        while !self.is_stopped.load(Ordering::Acquire) {
            if !self.is_paused.load(Ordering::Acquire) {
                count += 1;
                let started = boot_time_ns();
                self.started_ns.store(started, Ordering::Release);
                let result = self.write(directory, count);
                let errno = result.err().map_or(NO_ERROR, |error| error.raw_os_error().unwrap_or(libc::EIO));
                self.errno.store(errno, Ordering::Release);
                let finished = boot_time_ns();
                self.took_ns.store(finished.saturating_sub(started), Ordering::Release);
                self.finished_ns.store(finished, Ordering::Release);
            }
            std::thread::park_timeout(INTERVAL);
        }
    }

    fn write(&self, directory: &Path, count: u64) -> io::Result<()> {
        let metadata = std::fs::metadata(directory)?;
        self.device.store(metadata.dev(), Ordering::Release);
        let space = statvfs(directory)?;
        self.free_bytes.store(space.blocks_available() * space.fragment_size(), Ordering::Release);
        self.total_bytes.store(space.blocks() * space.fragment_size(), Ordering::Release);
        // A directory whose mount has vanished is there, but empty: nothing must be written into it.
        let is_postgresqls =
            ["PG_VERSION", "archive_status"].iter().any(|name| directory.join(name).exists());
        if !is_postgresqls {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join(FILE))?;
        if file.metadata()?.uid() != metadata.uid() {
            // PostgreSQL's user must be able to read it: pg_basebackup stops at a file that it cannot.
            std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        // Other bytes each time, in place: one block and no change of the file's size.
        file.write_all_at(&[count.to_ne_bytes(); 64].concat(), 0)?;
        file.sync_data()
    }
}

fn boot_time_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Completed reads plus completed writes of a block device; `None` if there is no such device.
fn completed_requests(device: u64) -> Option<u64> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let field = |index: usize| text.split_whitespace().nth(index)?.parse::<u64>().ok();
    Some(field(0)? + field(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(started_at: u64, finished_at: Option<u64>) -> Reading {
        Reading {
            started_at: Some(Now::from_millis(started_at)),
            finished_at: finished_at.map(Now::from_millis),
            took: None,
            errno: None,
            free_bytes: None,
            total_bytes: None,
            device_completed_at: None,
        }
    }

    #[test]
    fn a_write_is_under_way_until_it_has_finished() {
        let now = Now::from_millis(2500);
        assert_eq!(reading(2000, Some(1010)).waiting(now), Some(Duration::from_millis(500)));
        assert_eq!(reading(2000, None).waiting(now), Some(Duration::from_millis(500)));
        assert_eq!(reading(2000, Some(2003)).waiting(now), None);
    }
}
