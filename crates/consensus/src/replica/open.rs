//! Opening a consensus directory.
//!
//! **Everything that is read is written anew before it is used.** After a failed sync, reads return what the system
//! still has in memory although it is not, and will never be, on the medium; a replica that came back after such a
//! failure would vote with promises that the next power cut takes away. Writing the log and the snapshot to new
//! files, synced and renamed, makes what was read true, whatever happened before; and it cuts a torn tail by the way.
//! Whether an entry or a vote whose sync failed is in what was read does not matter: no message about it had left.

use std::cell::Cell;
use std::io;

use raft::{Config, RawNode, ReadOnlyOption};
use raft_proto::eraftpb::{ConfState, HardState, Snapshot};

use super::{Ready, Replica, Settings};
use crate::disk::Disk;
use crate::frame::{Fault, PREAMBLE};
use crate::identity::{self, genesis};
use crate::log::{self, LogFile};
use crate::machine::{Machine, RestoreError};
use crate::recent::Recent;
use crate::snapshot;
use crate::storage::Log;

/// Marks a directory that must not vote any more, and says why.
pub(super) const RETIRED: &str = "retired";

/// One append carries at most so many bytes of entries, and one entry more.
const APPEND_BYTES: u64 = 1 << 20;
/// Appends under way to one member.
const APPENDS_IN_FLIGHT: usize = 64;
/// Proposals beyond so many uncommitted bytes are refused.
const UNCOMMITTED_BYTES: u64 = 16 << 20;

/// Why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no replica here. It is not made up: a member with an empty directory has forgotten its votes.
    #[error(
        "the consensus directory is empty; if this member was one before, remove it from the cluster and let it join \
         under a new Raft id"
    )]
    Absent,
    /// It belongs to another cluster.
    #[error(
        "the consensus directory belongs to cluster `{found}`, not to `{expected}`; point the member to its own"
    )]
    OtherCluster {
        /// The cluster that the directory names.
        found: String,
        /// The member's cluster.
        expected: String,
    },
    /// Written by another version of the program.
    #[error(
        "the consensus file `{file}` has format {found}, which this version does not know; run the newer version"
    )]
    Version {
        /// The file.
        file: &'static str,
        /// Its version.
        found: u16,
    },
    /// Not what this program wrote.
    #[error(
        "the consensus file `{file}` is damaged at byte {at}: {what}; remove this member from the cluster and let it \
         join under a new Raft id"
    )]
    Damaged {
        /// The file.
        file: &'static str,
        /// Where.
        at: usize,
        /// How.
        what: &'static str,
    },
    /// An earlier run has found that it lost promises.
    #[error("the consensus directory must not be used again: {reason}")]
    Retired {
        /// What it found.
        reason: String,
    },
    /// The machine cannot read the snapshot.
    #[error("the consensus snapshot is of no use to this version; run the version that wrote it")]
    Restore(#[source] RestoreError),
    /// The times contradict each other.
    #[error("the consensus timing is not possible: {reason}")]
    Timing {
        /// What is wrong.
        reason: &'static str,
    },
    /// The directory cannot be read or written.
    #[error("cannot use the consensus file `{file}`")]
    Disk {
        /// The file.
        file: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What was found when a directory was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The replica's Raft id.
    pub raft_id: u64,
    /// The snapshot's entry.
    pub snapshot_index: u64,
    /// Entries in the log.
    pub entries: usize,
    /// Bytes of an interrupted write that were cut; nothing of it was promised.
    pub torn_bytes: usize,
}

pub(super) fn open<D: Disk, M: Machine>(
    mut disk: D,
    mut machine: M,
    cluster_id: &str,
    settings: Settings,
) -> Result<(Replica<D, M>, OpenReport), OpenError> {
    check_timing(&settings)?;
    let written = read_identity(&disk, cluster_id)?;
    let raft_id = written.identity.raft_id;
    let (log, torn_bytes) = read_log(&disk, raft_id, written.members)?;
    let snapshot_index = log.snapshot.get_metadata().index;
    let mut recent = Recent::default();
    if !log.snapshot.data.is_empty() {
        let (ids, state) = Recent::decode(&log.snapshot.data).map_err(OpenError::Restore)?;
        machine.restore(state).map_err(OpenError::Restore)?;
        recent = ids;
        disk.replace(snapshot::FILE, &snapshot::encode(&log.snapshot)).map_err(failed(snapshot::FILE))?;
    }
    let file = LogFile::begin(&mut disk, raft_id, log.base, &log.hard_state, &log.entries)
        .map_err(failed(log::FILE))?;
    let report = OpenReport { raft_id, snapshot_index, entries: log.entries.len(), torn_bytes };
    let replica = Replica {
        disk,
        machine,
        compact_bytes: file.bytes(),
        file,
        durable: log.hard_state.clone(),
        members: log.snapshot.get_metadata().get_conf_state().clone(),
        applied: snapshot_index,
        recent,
        node: node(raft_id, log, &settings),
        reads: Default::default(),
        snapshots: Default::default(),
        outbox: Vec::new(),
        done: Ready::default(),
        failure: None,
        settings,
    };
    Ok((replica, report))
}

fn check_timing(settings: &Settings) -> Result<(), OpenError> {
    let timing = &settings.timing;
    let reason = if timing.heartbeat_ticks == 0 {
        "a heartbeat takes at least one tick"
    } else if timing.leader_ticks <= timing.heartbeat_ticks {
        "a leader must be heard more often than it counts as gone"
    } else if timing.election_ticks_min < timing.leader_ticks {
        "an election must not begin before the leader counts as gone"
    } else if timing.election_ticks_max <= timing.election_ticks_min {
        "the range of the election timeout is empty"
    } else if settings.compact_after_entries == 0 {
        "a compaction needs at least one entry"
    } else {
        return Ok(());
    };
    Err(OpenError::Timing { reason })
}

pub(crate) fn read_identity(disk: &dyn Disk, cluster_id: &str) -> Result<identity::Written, OpenError> {
    if let Some(reason) = disk.read(RETIRED).map_err(failed(RETIRED))? {
        return Err(OpenError::Retired { reason: String::from_utf8_lossy(&reason).into_owned() });
    }
    let Some(bytes) = disk.read(identity::FILE).map_err(failed(identity::FILE))? else {
        let files = disk.list().map_err(failed(identity::FILE))?;
        // A log without an identity is all that an interrupted creation leaves; anything more had one.
        if files.iter().any(|file| file != log::FILE) {
            return Err(damaged(identity::FILE, "it is missing"));
        }
        return Err(OpenError::Absent);
    };
    let written = identity::load(&bytes).map_err(fault(identity::FILE))?;
    if written.identity.cluster_id != cluster_id {
        return Err(OpenError::OtherCluster {
            found: written.identity.cluster_id,
            expected: cluster_id.to_owned(),
        });
    }
    Ok(written)
}

/// Reads snapshot and log and lets them meet. A crash between the writing of the two leaves a log that is older
/// than the snapshot: after a compaction one that begins earlier, after an installed snapshot one that ends
/// earlier or contradicts it and is void.
pub(crate) fn read_log(disk: &dyn Disk, raft_id: u64, members: ConfState) -> Result<(Log, usize), OpenError> {
    let snapshot = match disk.read(snapshot::FILE).map_err(failed(snapshot::FILE))? {
        Some(bytes) => snapshot::load(&bytes).map_err(fault(snapshot::FILE))?,
        None => {
            let (index, term) = genesis(&members);
            snapshot::new(index, term, members, Vec::new())
        }
    };
    let bytes = disk.read(log::FILE).map_err(failed(log::FILE))?;
    let loaded =
        log::load(&bytes.ok_or(damaged(log::FILE, "it is missing"))?, raft_id).map_err(fault(log::FILE))?;
    let (index, term) = (snapshot.get_metadata().index, snapshot.get_metadata().term);
    if loaded.base.0 > index {
        return Err(damaged(log::FILE, "it begins after the snapshot ends"));
    }
    let mut hard_state = loaded.hard_state;
    let mut log = Log {
        base: loaded.base,
        entries: loaded.entries,
        snapshot,
        hard_state: HardState::default(),
        wants_newer: Cell::new(false),
    };
    if log.term_of(index) != Some(term) {
        if hard_state.commit >= index {
            return Err(damaged(log::FILE, "it contradicts the snapshot"));
        }
        let snapshot: Snapshot = log.snapshot.clone();
        log.begin_at(snapshot);
    }
    hard_state.commit = hard_state.commit.max(index);
    if hard_state.term < term {
        // The term of the leader that sent the snapshot was to be written with the log; no vote was cast in it.
        (hard_state.term, hard_state.vote) = (term, raft::INVALID_ID);
    }
    log.hard_state = hard_state;
    Ok((log, loaded.torn_bytes))
}

fn node(raft_id: u64, log: Log, settings: &Settings) -> RawNode<Log> {
    let timing = &settings.timing;
    let config = Config {
        id: raft_id,
        applied: log.snapshot.get_metadata().index,
        heartbeat_tick: timing.heartbeat_ticks,
        election_tick: timing.leader_ticks,
        min_election_tick: timing.election_ticks_min,
        max_election_tick: timing.election_ticks_max,
        max_size_per_msg: APPEND_BYTES,
        max_inflight_msgs: APPENDS_IN_FLIGHT,
        max_uncommitted_size: UNCOMMITTED_BYTES,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        ..Config::default()
    };
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, log, &silent).expect("timing, members, term and commit index were checked")
}

fn damaged(file: &'static str, what: &'static str) -> OpenError {
    OpenError::Damaged { file, at: PREAMBLE, what }
}

fn fault(file: &'static str) -> impl FnOnce(Fault) -> OpenError {
    move |fault| match fault {
        Fault::Version(found) => OpenError::Version { file, found },
        Fault::Damaged { at, what } => OpenError::Damaged { file, at, what },
    }
}

fn failed(file: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Disk { file, source }
}
