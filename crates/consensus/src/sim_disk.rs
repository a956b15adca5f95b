//! A disk in memory that loses what was not synced, for the simulator and for tests.
//!
//! It models what a Linux file system on a disk with a write cache does, at its worst:
//! - Bytes that were appended and not synced are, after a crash, there or not in any pattern of 512-byte sectors;
//!   missing ones read as zeros or the file ends before them.
//! - A replacement that was interrupted leaves the old content or the new one.
//! - After a failed sync the bytes still read as written, and no later sync of the file makes them durable.
//! - A full disk takes a part of an append and then refuses.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::Disk;

const SECTOR: usize = 512;

/// The disk. Clones share it, so it outlives the replica that uses it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    capacity: Option<usize>,
    failing_syncs: u32,
    sync_lies: bool,
    writes_until_power_loss: Option<u32>,
    syncs: u64,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What a read returns.
    cached: Vec<u8>,
    /// What the medium holds, `None` for a file that is not in its directory yet.
    durable: Option<Vec<u8>>,
    /// Parts of `cached` that a sync would write.
    dirty: Vec<Range<usize>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails and comes back: what was not synced is lost in a way that `seed` decides.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let mut state = self.state();
        state.writes_until_power_loss = None;
        state.files.retain(|_, file| {
            let survivor = file.after_crash(&mut random);
            let exists = survivor.is_some();
            file.cached = survivor.clone().unwrap_or_default();
            file.durable = survivor;
            file.dirty.clear();
            exists
        });
    }

    /// From now on there is room for so many bytes in all, or for any number.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// The next syncs (of appended bytes or within a replacement) fail.
    pub fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Whether syncs only claim to have happened: what a program does that forgets them.
    pub fn set_sync_lies(&self, lies: bool) {
        self.state().sync_lies = lies;
    }

    /// After so many more writes and syncs the power fails: the one after them, and all later ones, fail half done.
    /// Follow with [`SimDisk::crash`].
    pub fn lose_power_after(&self, writes: u32) {
        self.state().writes_until_power_loss = Some(writes);
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Changes the content of a file, durably: damage.
    pub fn damage(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.files.entry(file.to_owned()).or_default();
        change(&mut file.cached);
        file.durable = Some(file.cached.clone());
        file.dirty.clear();
    }

    /// A copy of the whole disk as it reads now, as a backup or the snapshot of a virtual machine takes it.
    pub fn image(&self) -> Self {
        let files = self.state().files.clone();
        Self { state: Arc::new(Mutex::new(State { files, ..State::default() })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere in a test must not hide behind a second one here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().files.get(file).map(|file| file.cached.clone()))
    }

    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let has_power = state.spend_power();
        let room = state.room();
        let Some(file) = state.files.get_mut(file) else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        let taken = bytes.len().min(room);
        let start = file.cached.len();
        file.cached.extend_from_slice(&bytes[..taken]);
        file.dirty.push(start..start + taken);
        has_power?;
        if taken < bytes.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        state.spend_power()?;
        state.syncs += 1;
        let lies = state.sync_lies;
        let fails = state.spend_failing_sync();
        let Some(file) = state.files.get_mut(file) else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        if fails {
            file.dirty.clear();
            return Err(io::Error::other("the medium reported an error"));
        }
        if !lies {
            file.write_back();
        }
        Ok(())
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let has_power = state.spend_power();
        if bytes.len() > state.room() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        state.syncs += 1;
        let lies = state.sync_lies;
        if state.spend_failing_sync() {
            return Err(io::Error::other("the medium reported an error"));
        }
        let old = state.files.get(name).and_then(|file| file.durable.clone());
        let durable = if lies || has_power.is_err() { old } else { Some(bytes.to_vec()) };
        let is_clean = durable.as_deref() == Some(bytes);
        let dirty = if is_clean { Vec::new() } else { std::iter::once(0..bytes.len()).collect() };
        state.files.insert(name.to_owned(), File { cached: bytes.to_vec(), durable, dirty });
        has_power
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }
}

impl State {
    fn spend_power(&mut self) -> io::Result<()> {
        match &mut self.writes_until_power_loss {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(writes) => {
                *writes -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn spend_failing_sync(&mut self) -> bool {
        let fails = self.failing_syncs > 0;
        self.failing_syncs = self.failing_syncs.saturating_sub(1);
        fails
    }

    fn room(&self) -> usize {
        let used: usize = self.files.values().map(|file| file.cached.len()).sum();
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(used))
    }
}

impl File {
    fn write_back(&mut self) {
        let durable = self.durable.get_or_insert_default();
        for range in self.dirty.drain(..) {
            if durable.len() < range.end {
                durable.resize(range.end, 0);
            }
            durable[range.clone()].copy_from_slice(&self.cached[range]);
        }
    }

    fn after_crash(&self, random: &mut Random) -> Option<Vec<u8>> {
        let replaced = self.dirty.first().is_some_and(|range| range.start == 0);
        if replaced {
            // An unfinished replacement: the directory entry names the old file or the new one.
            return if random.below(2) == 0 { self.durable.clone() } else { Some(self.cached.clone()) };
        }
        let mut survivor = self.durable.clone()?;
        let (Some(first), Some(last)) = (self.dirty.first(), self.dirty.last()) else {
            return Some(survivor);
        };
        let (first, last) = (first.start, last.end);
        let least = survivor.len();
        let length = least + random.below(last.saturating_sub(least) as u64 + 1) as usize;
        survivor.resize(length, 0);
        // The usual loss keeps a prefix; the others have holes.
        let holes = random.below(2) == 0;
        for sector in first / SECTOR..last.div_ceil(SECTOR) {
            if holes && random.below(2) == 0 {
                continue;
            }
            for range in &self.dirty {
                let from = range.start.max(sector * SECTOR);
                let to = range.end.min((sector + 1) * SECTOR).min(length);
                if from < to {
                    survivor[from..to].copy_from_slice(&self.cached[from..to]);
                }
            }
        }
        Some(survivor)
    }
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}
