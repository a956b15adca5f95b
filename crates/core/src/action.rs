//! What a member does next. Nothing is left to choose, and everything carries its epoch.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::Command;
use crate::sync::SyncSet;
use crate::vocabulary::{Epoch, Incarnation, MemberId, Timeline};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Append to the replicated log. Repeated until the record shows it.
    Propose(Command),
    /// Ask for the lease, noting the time of sending: the deadline counts from it.
    RequestGrant { epoch: Epoch, incarnation: Incarnation },
    /// Read the record linearizably.
    ReadRecord,
    /// Stop renewing the lease and open nothing under it, for good; before anything that comes after it in the list.
    Relinquish { epoch: Epoch },
    /// End every process of the local server now.
    Kill { why: Kill },
    /// Work on the server or its directory, one at a time; another job takes its place.
    Run(Job),
    /// Work on the sync set or the gate of an open primary, one at a time, beside `Run`.
    Upkeep(Job),
    /// End a walsender that speaks for nobody.
    EndWalsender { pid: u32 },
}

/// Why a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    EpochOver,
    PromotedByOutsideHand,
    WrongTimeline,
    NotOpenedInTime,
    Hung,
    DirectoryGone,
    FailoverAsked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Make the cluster's first data directory.
    Initdb,
    /// Start as a standby; with an upstream it streams from it, without it waits.
    Start { upstream: Option<(MemberId, Epoch)> },
    /// Promise never to stream from `epoch` or older, stop streaming, find the end of the WAL.
    Seal { epoch: Epoch },
    /// Names, gate, replay, then the guard promotes.
    Open { epoch: Epoch, timeline: Timeline, sync: SyncSet },
    /// Stream from the primary of `epoch`; begins only while the scan that this was decided on still holds.
    Follow { member: MemberId, epoch: Epoch },
    /// Undo the diverged WAL with `pg_rewind`. Reads the record once more, and leaves a directory alone that it shows
    /// among the voters.
    Rewind { member: MemberId, epoch: Epoch },
    /// Copy the whole data directory; reads the record once more, as `Rewind` does.
    Clone { member: MemberId, epoch: Epoch },
    /// Checkpoint, shut the gate, stop PostgreSQL with everything received by `to`.
    StopForSwitchover { epoch: Epoch, to: MemberId },
    /// Stop a standby's PostgreSQL; it comes back as any standby that died.
    StopForRestart { id: u64, number: u64 },
    /// Checkpoint, shut the gate, stop PostgreSQL, and note lowered parameters in its directory, so that it may start again.
    StopInPlace { epoch: Epoch, id: u64, number: u64 },
    /// Write these names, prove them effective, wait until k of them have flushed everything inserted by then.
    SetNames { epoch: Epoch, sync: SyncSet },
    /// End the sessions from before the opening, then let applications in.
    OpenGate { epoch: Epoch },
    /// Let `pg_rewind` see the new timeline.
    Checkpoint { epoch: Epoch },
}

impl Job {
    /// Whether both are the same kind of work, whatever the epoch.
    pub fn same_kind(&self, other: &Job) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Job::Initdb => write!(f, "making the first data directory"),
            Job::Start { upstream: Some((member, _)) } => write!(f, "starting as a standby of {member}"),
            Job::Start { upstream: None } => write!(f, "starting as a standby that waits"),
            Job::Seal { epoch } => write!(f, "leaving epoch {epoch} for good"),
            Job::Open { epoch, .. } => write!(f, "promoting under epoch {epoch}"),
            Job::Follow { member, .. } => write!(f, "following {member}"),
            Job::Rewind { member, .. } => write!(f, "rewinding to {member}"),
            Job::Clone { member, .. } => write!(f, "cloning from {member}"),
            Job::StopForSwitchover { to, .. } => write!(f, "stopping for a switchover to {to}"),
            Job::StopForRestart { .. } => write!(f, "stopping to be restarted"),
            Job::StopInPlace { .. } => write!(f, "stopping the primary to restart it"),
            Job::SetNames { sync, .. } if sync.is_lone() => write!(f, "going on alone"),
            Job::SetNames { .. } => write!(f, "changing who acknowledges commits"),
            Job::OpenGate { .. } => write!(f, "letting applications in"),
            Job::Checkpoint { .. } => write!(f, "making a checkpoint"),
        }
    }
}
