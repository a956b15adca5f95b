//! The record: the small replicated state that decides who may write.
//!
//! It changes only by [`Command`]s, applied in the same order on every member by [`Record::apply`]. The proof
//! that a member may be promoted is part of applying a grant, so no proposer can talk the cluster out of it.

mod apply;
mod command;
mod keys;
mod membership;
mod operation;
mod parameters;
mod recovery;
mod restarts;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use command::{Applied, Command, EndCause, Refusal};
pub use membership::{Invitation, Joining, Membership};
pub use operation::{
    ApiClient, ClientProof, Failover, Forced, HeldBack, Operate, Operation, Pause, Scheduled,
};
pub use parameters::{ParameterChange, ParameterSet, Parameters, Values};
pub use recovery::{CannotRecover, LeftBehind, Loss, Recovery, Survivor};
pub use restarts::{How, Restart, RestartEnd, Restarts, Turn};

use crate::election::Missing;
use crate::lineage::{Extent, History};
use crate::sync::{SyncSet, Voter};
use crate::vocabulary::{Epoch, Incarnation, Lsn, MemberId, Timeline};

/// The newest version of the record's format that this program reads and writes.
///
/// A cluster begins at 1 and rises once every member has said that it reads the next one: until then no command of a newer
/// format is proposed, so that members of two releases work together. What a format adds is left out while it is empty.
/// A member that meets an entry of a newer format applies nothing any more.
///
/// 2: members join, leave and change their vote; an operator pauses, sets members aside, schedules and forces;
/// PostgreSQL's parameters; restarts of PostgreSQL.
///
/// 3: a member changes its key.
pub const FORMAT: u32 = 3;

/// How many openings the ledger keeps. The lineage itself is never shortened.
const LEDGER_ROWS: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub cluster: String,
    pub settings: Settings,
    pub members: BTreeMap<MemberId, Member>,
    /// PostgreSQL's system identifier; `None` until the cluster was founded.
    pub system_identifier: Option<u64>,
    /// The newest epoch that was granted.
    pub epoch: Epoch,
    pub phase: Phase,
    /// How the newest opened epoch ended; `None` while it has not, and before the first.
    pub last_end: Option<EndCause>,
    /// The newest tenure that was opened: its sync set and holder decide what is proven.
    pub base: Option<Tenure>,
    /// What the data members hold since the base ended; emptied by each opening.
    pub reports: BTreeMap<MemberId, Report>,
    /// Grants since the newest opening: whose timelines may exist without being in the lineage.
    pub unopened: Vec<Tenure>,
    /// The timelines that the cluster accepted, oldest first.
    pub lineage: History,
    /// One row per opening, oldest first; the newest 256.
    pub ledger: Vec<LedgerRow>,
    /// The highest timeline number ever reserved by a grant or reported, so that no two promotions share one.
    pub highest_timeline: Timeline,
    pub switchover: Option<Switchover>,
    /// The newest switchover that was given up, and why: for whoever asked for it.
    pub cancelled: Option<Cancelled>,
    #[serde(default, skip_serializing_if = "Membership::is_default")]
    pub membership: Membership,
    #[serde(default, skip_serializing_if = "Operation::is_default")]
    pub operation: Operation,
    #[serde(default, skip_serializing_if = "Parameters::is_default")]
    pub parameters: Parameters,
    #[serde(default, skip_serializing_if = "Restarts::is_default")]
    pub restarts: Restarts,
}

/// What every member must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// 1,000 to 3,600,000.
    pub lease_ms: u64,
    pub on_crash: OnCrash,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { lease_ms: 3_000, on_crash: OnCrash::Failover }
    }
}

impl Settings {
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// What happens first when PostgreSQL crashes on a primary whose machine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCrash {
    Failover,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Runs PostgreSQL.
    Data,
    /// Votes only.
    Witness,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub kind: Kind,
    /// Whether it votes in the store and for the lease.
    pub votes: bool,
    pub raft_id: u64,
    /// Where the other members reach it.
    pub address: SocketAddr,
    /// Where its PostgreSQL listens; `None` for a witness.
    pub postgres: Option<SocketAddr>,
    /// The fingerprint of its public key: its identity between members.
    pub key: String,
    /// Among equals the highest is promoted; 0: only by name, where another has more.
    pub priority: u32,
    /// Its read-only HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// It is being taken out of the cluster: it is promoted, counted and asked no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// The key that it is going to show instead; both are accepted until it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<String>,
    /// Which of all changes of keys was the newest of its own; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub key_serial: u64,
}

/// Where the one line of the epoch's life stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No data yet.
    #[default]
    Unfounded,
    /// The lease is granted; PostgreSQL is not yet known to be open. The tenure is the newest of `unopened`.
    Granted,
    /// The holder is the primary. The tenure is `base`.
    Open,
    /// Nobody may write.
    Ended { cause: EndCause },
}

/// Who holds the lease, with which data, and whose flush acknowledges a commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tenure {
    pub epoch: Epoch,
    pub holder: MemberId,
    pub incarnation: Incarnation,
    pub timeline: Timeline,
    /// Every acknowledged commit is on `k` of these: what the proof of the next grant relies on.
    pub sync: SyncSet,
    /// What PostgreSQL on the holder is to say in `synchronous_standby_names`. It is told nothing that was not here
    /// first, so that a late proposal, or a holder that was started anew, never meets names that nobody knows of.
    pub names: SyncSet,
    /// Counts the changes of `sync` and `names`: a proposal that was made before the newest of them does nothing.
    pub sync_serial: u64,
    /// The number of the request that was granted: only the process that asked knows when it asked.
    pub request: u64,
}

impl Tenure {
    pub fn voter(&self) -> Voter {
        Voter { member: self.holder.clone(), incarnation: self.incarnation }
    }
}

/// A data member's committed word: it has stopped streaming for good from everything older than `epoch.next()`,
/// and this is all that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    pub extent: Extent,
    /// How far it has replayed; less to replay is promoted sooner. `Lsn::ZERO` if unknown.
    pub replayed: Lsn,
    /// Why it should rather not be promoted (disk nearly full, crash loop), if anything.
    pub unfit: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LedgerRow {
    pub epoch: Epoch,
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub timeline: Timeline,
    /// Where the timeline left its parent.
    pub fork: Lsn,
    /// The next transaction id at the opening: ids at or above it belong to this row or later ones.
    pub next_xid: u64,
    /// Milliseconds since 1970 at the opener; for people only.
    pub at_unix_ms: u64,
    /// How the epoch before ended.
    pub after: EndCause,
    /// An operator had it promoted without proof: what was known to be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Missing>,
}

/// A planned change of the primary, asked for by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Switchover {
    pub id: u64,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// `None`: the best standby.
    pub to: Option<MemberId>,
}

/// A switchover that did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cancelled {
    pub id: u64,
    pub why: String,
}

impl Record {
    pub fn data_members(&self) -> impl Iterator<Item = &MemberId> {
        self.members.iter().filter(|(_, member)| member.kind == Kind::Data).map(|(id, _)| id)
    }

    /// The members whose promises make the lease.
    pub fn voters(&self) -> impl Iterator<Item = &MemberId> {
        self.members.iter().filter(|(_, member)| member.votes).map(|(id, _)| id)
    }

    /// How many voters are more than half of them.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The tenure that holds the lease now, open or not.
    pub fn tenure(&self) -> Option<&Tenure> {
        match self.phase {
            Phase::Unfounded | Phase::Ended { .. } => None,
            Phase::Granted => self.unopened.last(),
            Phase::Open => self.base.as_ref(),
        }
    }

    /// The tenure that `phase` speaks of, also when it has ended.
    pub fn newest_tenure(&self) -> Option<&Tenure> {
        self.unopened.last().or(self.base.as_ref())
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The primary, while there is one.
    pub fn primary(&self) -> Option<&MemberId> {
        if self.is_open() { self.base.as_ref().map(|tenure| &tenure.holder) } else { None }
    }

    /// The sync set that proves what was acknowledged.
    pub fn sync(&self) -> Option<&SyncSet> {
        self.base.as_ref().map(|tenure| &tenure.sync)
    }

    /// Where the newest timeline begins. Nobody below it may be promoted: what older epochs acknowledged ends there.
    pub fn floor(&self) -> Lsn {
        self.lineage.last().map_or(Lsn::ZERO, |fork| fork.begin)
    }

    /// Whether `timeline` was reserved by a grant to this very life of `voter` that was never opened.
    pub fn was_reserved_for(&self, timeline: Timeline, voter: &Voter) -> bool {
        self.unopened.iter().any(|tenure| {
            tenure.timeline == timeline
                && tenure.holder == voter.member
                && tenure.incarnation == voter.incarnation
        })
    }
}

/// What is zero is left out, so that members of an older release read it.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}
