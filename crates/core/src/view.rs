//! What one member knows: its own server, the record, and what the others last said of themselves.
//!
//! Absence and age are values here, never errors. A view can be written to a file and decided upon again, so that an
//! incident in the field becomes a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::Job;
use crate::lineage::{Extent, History};
use crate::record::Record;
use crate::sync::{SyncSet, Voter};
use crate::vocabulary::{Epoch, Incarnation, Lsn, MemberId, Now, Timeline};

/// A peer that was silent for longer is taken for gone.
pub const PEER_FRESH: Duration = Duration::from_millis(1_000);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub now: Now,
    /// The wall clock, in milliseconds since 1970, for what an operator has set a time for. Nothing else is decided by it.
    #[serde(default)]
    pub unix_ms: u64,
    pub me: MemberId,
    /// The record as applied here.
    pub record: Arc<Record>,
    /// Whether this member leads the replicated log. What follows from the record alone is proposed by the leader only.
    #[serde(default)]
    pub leads: bool,
    /// The epoch at which a linearizable read of the record was last completed by this process.
    pub confirmed: Option<Epoch>,
    /// The durable promise: never to stream from this epoch or an older one.
    pub sealed: Epoch,
    pub directory: Directory,
    pub server: Server,
    /// What the directory holds. Valid while nothing streams into it and nothing writes to it; `None` otherwise.
    pub scan: Option<Scan>,
    /// Whom the configuration of the local standby tells it to stream from.
    pub upstream: Option<Upstream>,
    pub lease: Option<Lease>,
    /// Voters that say, for good, that the lease of this epoch has run out.
    pub run_out: RunOut,
    /// The value of `synchronous_standby_names` proven effective, with everything older flushed by k of them. `None`
    /// from before another value is written until that one is proven, after a restart of this process, and after an
    /// opening: nobody has flushed then what was recovered.
    pub names: Option<SyncSet>,
    pub gate_open: bool,
    /// The epoch since whose opening the local server has made a checkpoint.
    pub checkpointed: Option<Epoch>,
    pub health: Health,
    /// Physical walsenders of the local server.
    pub walsenders: Vec<Walsender>,
    pub peers: BTreeMap<MemberId, Peer>,
    /// The work under way on the server or its directory.
    pub job: Option<Job>,
    /// The work under way on sync set and gate.
    pub upkeep: Option<Job>,
    /// What of the configuration waits for a restart of the local server.
    #[serde(default)]
    pub restart: RestartNeed,
    /// The restart and the number of the turn for which this process has stopped its standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_for: Option<(u64, u64)>,
    /// Until when an address that follows the lease of the record's epoch, or of an older one, may be on this machine; `None`:
    /// none is, nor will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses_until: Option<Now>,
    /// Why work of this kind last failed, since the last time it succeeded.
    pub failures: Vec<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directory {
    /// Not looked at yet.
    Unknown,
    /// There is none, or an empty one.
    Absent,
    /// It is being changed, or a change of it was interrupted: never started as it is.
    Marked {
        operation: String,
    },
    /// Something that Mainstay did not make: never touched.
    Foreign {
        why: String,
    },
    Valid {
        incarnation: Incarnation,
        system_identifier: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// The guard has not said yet.
    Unknown,
    /// No process is left.
    Down {
        last_opened: Option<Epoch>,
    },
    /// Processes are left, and are being ended.
    Ending,
    Running(Running),
}

/// A live postmaster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The epoch under which the guard opened it, if it did.
    pub opened: Option<Epoch>,
    /// Whether it answers SQL on its socket.
    pub ready: bool,
    /// `None` until asked.
    pub in_recovery: Option<bool>,
    pub replayed: Lsn,
    pub streaming: Option<Streaming>,
    /// Once it is out of recovery.
    pub primary: Option<Primary>,
}

/// A walreceiver that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streaming {
    pub timeline: Timeline,
    pub flushed: Lsn,
}

/// A server out of recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    pub history: History,
    /// A position at or behind the end-of-recovery record, taken right after the promotion.
    pub end_of_recovery: Lsn,
    pub next_xid: u64,
    pub inserted: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    pub extent: Extent,
    pub replayed: Lsn,
    pub incarnation: Incarnation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub member: MemberId,
    pub epoch: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub epoch: Epoch,
    pub deadline: Now,
    /// When the newest renewal was sent that a majority has answered.
    pub renewed_at: Now,
    /// The serial number of the voters that the lease is known to rest on, see [`crate::lease::Holder::rests_on`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_on: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOut {
    pub epoch: Epoch,
    /// The change of the voters under which they were asked: a word from before may be that of a machine that has been
    /// replaced under the same name.
    #[serde(default, skip_serializing_if = "crate::record::is_zero")]
    pub serial: u64,
    pub voters: BTreeSet<MemberId>,
}

/// Signs of life of the local server. Times are `None` when nothing is waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Since when a fresh connection has been waiting for any answer.
    pub silent_since: Option<Now>,
    /// The postmaster's process state as in `/proc/PID/stat`: `T` stopped, `R` runnable, `D` in the kernel.
    pub postmaster_state: Option<char>,
    /// Since when a small write with fdatasync has been waiting.
    pub write_waits_since: Option<Now>,
    /// Since when the device under the data directory has completed nothing, while a write waits.
    pub device_idle_since: Option<Now>,
    /// Whether the data directory is no longer there under a live server.
    pub directory_gone: bool,
    /// Too little room for WAL.
    pub disk_full: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walsender {
    pub pid: u32,
    pub application_name: String,
    /// The voter that its name says it is; `None` if the name is not one of ours.
    pub voter: Option<Voter>,
    pub streaming: bool,
    pub flushed: Lsn,
    /// Since when it has flushed nothing although there was more WAL.
    pub stalled_since: Option<Now>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub heard_at: Now,
    pub state: MemberState,
}

/// What a member tells the others of itself, several times a second. Times are ages, since clocks differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    pub incarnation: Option<Incarnation>,
    pub server: PeerServer,
    /// The epoch whose primary it follows, or that it holds.
    pub epoch: Epoch,
    pub streaming: Option<Streaming>,
    pub replayed: Lsn,
    /// Whether it has a whole directory, and so will report when an epoch ends.
    pub can_report: bool,
    pub unfit: Option<String>,
    /// Primary: the oldest WAL it still has.
    pub wal_kept_from: Option<Lsn>,
    /// Primary: it has made a checkpoint since it was opened, so `pg_rewind` sees its timeline.
    pub checkpointed: bool,
    /// The newest format of the record that it reads, once it has the record; 0 before, and in programs of format 1.
    #[serde(default)]
    pub format: u32,
    /// The first Raft id that was not given yet by the record as it has it: which members it knows of. 0 in programs before that.
    #[serde(default)]
    pub ids_given: u64,
    /// The newest change of members' keys that stands in the roster on its disk; 0 in programs before that.
    #[serde(default)]
    pub keys_kept: u64,
    /// What of the configuration waits for a restart of its server.
    #[serde(default)]
    pub restart: RestartNeed,
    /// How long ago it heard from each other member, in milliseconds.
    pub heard_ms: BTreeMap<MemberId, u64>,
}

/// What a restart of a server would change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartNeed {
    /// Whether the server that runs now was looked at.
    pub known: bool,
    /// The number of the record's configuration that was looked at.
    pub serial: u64,
    /// A restart would change something.
    pub pending: bool,
    /// A primary whose restart would lower what no standby may have lower than it.
    pub lowers: bool,
    /// A standby that keeps such values until the primary has lowered them.
    pub waits: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerServer {
    #[default]
    Unknown,
    Down,
    Standby,
    Primary,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub job: Job,
    pub at: Now,
    pub count: u32,
    pub error: String,
}

impl View {
    pub fn incarnation(&self) -> Option<Incarnation> {
        match &self.directory {
            Directory::Valid { incarnation, .. } => Some(*incarnation),
            _ => None,
        }
    }

    pub fn running(&self) -> Option<&Running> {
        match &self.server {
            Server::Running(running) => Some(running),
            _ => None,
        }
    }

    /// The peer's word, if it was heard lately.
    pub fn fresh_peer(&self, member: &MemberId) -> Option<&MemberState> {
        self.peers
            .get(member)
            .filter(|peer| self.now.since(peer.heard_at) < PEER_FRESH)
            .map(|peer| &peer.state)
    }

    /// Whether this member holds the lease of the record's epoch and may still act on it.
    pub fn holds_lease(&self) -> bool {
        self.lease.is_some_and(|lease| lease.epoch == self.record.epoch && self.now < lease.deadline)
    }

    pub fn failure(&self, matches: impl Fn(&Job) -> bool) -> Option<&Failure> {
        self.failures.iter().find(|failure| matches(&failure.job))
    }
}
