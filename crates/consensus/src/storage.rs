//! The log in memory, as raft-rs reads it. It always equals what is on disk.

use std::cell::Cell;

use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use raft_proto::eraftpb::{Entry, HardState, Snapshot};

use crate::membership;

/// The retained entries, the snapshot that goes to members which lag behind them, and the hard state at open.
///
/// Invariant: `base ≤ snapshot.index ≤ last index`, and the entries are those after `base`, without a gap.
pub(crate) struct Log {
    /// Index and term of the entry before the first retained one.
    pub(crate) base: (u64, u64),
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Snapshot,
    pub(crate) hard_state: HardState,
    /// A member wants a snapshot that is newer than `snapshot`.
    pub(crate) wants_newer: Cell<bool>,
}

impl Log {
    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let offset = usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()?;
        self.entries.get(offset).map(|entry| entry.term)
    }

    /// Takes new entries; the first replaces everything at its index and above.
    pub(crate) fn extend(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            let keep = first.index.saturating_sub(self.base.0 + 1);
            self.entries.truncate(usize::try_from(keep).expect("the log is in memory"));
            self.entries.extend_from_slice(entries);
        }
    }

    /// Forgets the entries up to and including `index`.
    pub(crate) fn forget_to(&mut self, index: u64) {
        if let Some(term) = self.term_of(index) {
            self.entries.drain(..usize::try_from(index - self.base.0).expect("the log is in memory"));
            self.base = (index, term);
        }
    }

    /// Begins anew after an installed snapshot.
    pub(crate) fn begin_at(&mut self, snapshot: Snapshot) {
        self.base = (snapshot.get_metadata().index, snapshot.get_metadata().term);
        self.entries.clear();
        self.snapshot = snapshot;
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard_state.clone(),
            conf_state: self.snapshot.get_metadata().get_conf_state().clone(),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let offset = |index: u64| usize::try_from(index - self.base.0 - 1).ok();
        let range = offset(low).zip(offset(high)).and_then(|(low, high)| self.entries.get(low..high));
        let mut entries = range.ok_or(Error::Store(StorageError::Unavailable))?.to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        self.term_of(index).ok_or(Error::Store(if index < self.base.0 {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let metadata = self.snapshot.get_metadata();
        // A new member ignores a snapshot from before it became one.
        if metadata.index < request_index || !membership::contains(metadata.get_conf_state(), to) {
            self.wants_newer.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.snapshot.clone())
    }
}
