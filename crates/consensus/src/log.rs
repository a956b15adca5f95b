//! The log's file: what this replica has promised, in the order in which it did.
//!
//! The first frame names the replica and the entry before the first one; each further frame is one batch of a hard
//! state (term, vote, commit) and entries, appended and synced as a whole. An entry replaces the one at its index and all
//! above. The file is made anew by [`Disk::replace`] at a compaction, at an installed snapshot and at every
//! open, so there is one file, and its beginning is never torn.
//!
//! A commit index alone is not worth a write. It is written with every batch of entries, though, and that is needed:
//! a change of membership takes effect when it is applied, and safety asks that whoever holds a later change
//! in its log also knows, after a restart, that the earlier one is committed.

use std::io;

use prost::Message as _;
use raft_proto::eraftpb::{Entry, HardState};

use crate::disk::Disk;
use crate::frame::{self, Fault, PREAMBLE};

/// The log's file.
pub(crate) const FILE: &str = "log";
const KIND: u8 = b'l';
const VERSION: u16 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "1")]
    raft_id: u64,
    #[prost(uint64, tag = "2")]
    base_index: u64,
    #[prost(uint64, tag = "3")]
    base_term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(message, optional, tag = "1")]
    hard_state: Option<HardState>,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
}

/// What a log's file holds.
pub(crate) struct Loaded {
    pub(crate) base: (u64, u64),
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
    pub(crate) torn_bytes: usize,
}

/// The open log.
pub(crate) struct LogFile {
    raft_id: u64,
    bytes: u64,
}

impl LogFile {
    /// Makes the file anew with this content.
    pub(crate) fn begin(
        disk: &mut dyn Disk,
        raft_id: u64,
        base: (u64, u64),
        hard_state: &HardState,
        entries: &[Entry],
    ) -> io::Result<Self> {
        let mut file = unused(raft_id, base);
        frame::push(&mut file, 0, &batch(hard_state, entries));
        disk.replace(FILE, &file)?;
        Ok(Self { raft_id, bytes: file.len() as u64 })
    }

    /// Makes the file anew in place of this one.
    pub(crate) fn begin_again(
        &mut self,
        disk: &mut dyn Disk,
        base: (u64, u64),
        hard_state: &HardState,
        entries: &[Entry],
    ) -> io::Result<()> {
        *self = Self::begin(disk, self.raft_id, base, hard_state, entries)?;
        Ok(())
    }

    /// Appends one batch and makes it durable.
    pub(crate) fn append(
        &mut self,
        disk: &mut dyn Disk,
        hard_state: &HardState,
        entries: &[Entry],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::push(&mut bytes, self.bytes, &batch(hard_state, entries));
        disk.append(FILE, &bytes)?;
        disk.sync(FILE)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn batch(hard_state: &HardState, entries: &[Entry]) -> Vec<u8> {
    Batch { hard_state: Some(hard_state.clone()), entries: entries.to_vec() }.encode_to_vec()
}

/// The content of a log in which nothing was promised yet.
pub(crate) fn unused(raft_id: u64, base: (u64, u64)) -> Vec<u8> {
    let header = Header { raft_id, base_index: base.0, base_term: base.1 };
    let mut file = frame::preamble(KIND, VERSION);
    frame::push(&mut file, 0, &header.encode_to_vec());
    file
}

/// Whether `file` is a log in which nothing was promised, as an interrupted creation leaves it.
pub(crate) fn is_unused(file: &[u8]) -> bool {
    frame::scan(file, KIND, VERSION).is_ok_and(|frames| frames.payloads.len() == 1 && frames.torn_bytes == 0)
}

/// Reads a log.
pub(crate) fn load(file: &[u8], raft_id: u64) -> Result<Loaded, Fault> {
    let damaged = |what: &'static str| Fault::Damaged { at: PREAMBLE, what };
    let frames = frame::scan(file, KIND, VERSION)?;
    let (first, batches) = frames.payloads.split_first().ok_or(damaged("its header is missing"))?;
    let header = Header::decode(*first).map_err(|_| damaged("its header cannot be decoded"))?;
    if header.raft_id != raft_id {
        return Err(damaged("it belongs to another Raft id"));
    }
    let mut loaded = Loaded {
        base: (header.base_index, header.base_term),
        // Term 1 also for a member that knows nothing yet: raft-rs cannot refuse a vote in term 0.
        hard_state: HardState { term: header.base_term.max(1), vote: 0, commit: header.base_index },
        entries: Vec::new(),
        torn_bytes: frames.torn_bytes,
    };
    for payload in batches {
        let batch = Batch::decode(*payload).map_err(|_| damaged("a record cannot be decoded"))?;
        loaded.replay(batch).map_err(damaged)?;
    }
    loaded.check().map_err(damaged)?;
    Ok(loaded)
}

impl Loaded {
    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn replay(&mut self, batch: Batch) -> Result<(), &'static str> {
        for entry in batch.entries {
            if entry.index <= self.base.0 || entry.index > self.last() + 1 {
                return Err("its entries have a gap");
            }
            let before =
                usize::try_from(entry.index - self.base.0 - 1).map_err(|_| "its entries have a gap")?;
            self.entries.truncate(before);
            if entry.term < self.entries.last().map_or(self.base.1, |entry| entry.term) {
                return Err("its terms fall");
            }
            self.entries.push(entry);
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        Ok(())
    }

    /// The promises must fit the entries: each was written together with or after what it speaks of.
    fn check(&self) -> Result<(), &'static str> {
        let last_term = self.entries.last().map_or(self.base.1, |entry| entry.term);
        if self.hard_state.term < last_term || self.hard_state.commit > self.last() {
            return Err("its entries contradict its hard state");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
