//! Hogs: threads that use up what members need, so that it shows whether a busy machine is taken for a dead one.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

const BLOCK_BYTES: usize = 1 << 20;
/// Each disk hog writes its file anew after so many blocks.
const BLOCKS: u32 = 128;

/// Running hogs; they end when dropped, and their files with them.
#[derive(Debug)]
pub struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    files: Vec<PathBuf>,
}

impl Hogs {
    /// `cpu` threads that never rest, and `disk` threads that write and sync without a pause below `directory`.
    pub fn start(cpu: usize, disk: usize, directory: &Path) -> Result<Hogs> {
        let mut hogs =
            Hogs { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new(), files: Vec::new() };
        for number in 0..cpu {
            let stop = Arc::clone(&hogs.stop);
            let thread = std::thread::Builder::new().name(format!("cpu-hog-{number}"));
            hogs.threads.push(thread.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box((0..10_000_u64).fold(number as u64, u64::wrapping_add));
                }
            })?);
        }
        for number in 0..disk {
            let path = directory.join(format!("hog-{number}"));
            let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            hogs.files.push(path);
            let stop = Arc::clone(&hogs.stop);
            let thread = std::thread::Builder::new().name(format!("disk-hog-{number}"));
            hogs.threads.push(thread.spawn(move || write_for_ever(file, &stop))?);
        }
        Ok(hogs)
    }
}

/// A full disk ends the hog: what it takes away then is room, which is another fault.
fn write_for_ever(mut file: File, stop: &AtomicBool) {
    let block = vec![0xA5_u8; BLOCK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        if file.rewind().is_err() {
            return;
        }
        for _ in 0..BLOCKS {
            if stop.load(Ordering::Relaxed) || file.write_all(&block).is_err() || file.sync_data().is_err() {
                return;
            }
        }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
