//! The snapshot's file: the state after some entry, with that entry's place and the membership there.

use prost::Message as _;
use raft_proto::eraftpb::{ConfState, Snapshot, SnapshotMetadata};

use crate::frame::{self, Fault};
use crate::membership;

/// The snapshot's file. Absent until the first compaction or the first installed snapshot.
pub(crate) const FILE: &str = "snapshot";
const KIND: u8 = b's';
const VERSION: u16 = 1;

/// A snapshot of the state after `index`.
pub(crate) fn new(index: u64, term: u64, members: ConfState, data: Vec<u8>) -> Snapshot {
    Snapshot { data, metadata: Some(SnapshotMetadata { conf_state: Some(members), index, term }) }
}

/// The content of the file.
pub(crate) fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = frame::preamble(KIND, VERSION);
    frame::push(&mut bytes, 0, &snapshot.encode_to_vec());
    bytes
}

/// Reads the file.
pub(crate) fn load(bytes: &[u8]) -> Result<Snapshot, Fault> {
    let payload = frame::single(bytes, KIND, VERSION)?;
    let snapshot = Snapshot::decode(payload)
        .map_err(|_| Fault::Damaged { at: frame::PREAMBLE, what: "it cannot be decoded" })?;
    match check(&snapshot) {
        Ok(()) => Ok(snapshot),
        Err(_) => {
            Err(Fault::Damaged { at: frame::PREAMBLE, what: "its place or its members are impossible" })
        }
    }
}

/// Whether Raft can be in the place that a snapshot names.
pub(crate) fn check(snapshot: &Snapshot) -> Result<(), String> {
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 || metadata.term == 0 {
        return Err("a snapshot of nothing".to_owned());
    }
    // Only the beginning of the log stands for the machine's own beginning and carries no state.
    if snapshot.data.is_empty() != (metadata.index == 1) {
        return Err("a snapshot without its state".to_owned());
    }
    membership::check(metadata.get_conf_state())
}
