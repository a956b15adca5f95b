//! The entries of the replicated log, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{How, Invitation, Joining, Member, Operate, ParameterSet, Report, Settings};
use crate::lineage::History;
use crate::sync::SyncSet;
use crate::vocabulary::{Epoch, Incarnation, MemberId, Timeline};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The first entry: who the cluster is.
    Create {
        cluster: String,
        settings: Settings,
        members: BTreeMap<MemberId, Member>,
    },
    /// A data member has made the first data directory.
    Found {
        member: MemberId,
        incarnation: Incarnation,
        system_identifier: u64,
    },
    /// The lease, for the epoch after the one that ended. Voters and timeline follow from the record.
    Grant {
        epoch: Epoch,
        holder: MemberId,
        incarnation: Incarnation,
        request: u64,
    },
    /// The holder was promoted: PostgreSQL's history now is this.
    Open {
        epoch: Epoch,
        history: History,
        next_xid: u64,
        at_unix_ms: u64,
    },
    /// Nobody writes under this epoch any more, and never will again.
    End {
        epoch: Epoch,
        cause: EndCause,
    },
    Report {
        member: MemberId,
        report: Report,
    },
    /// Who is proven to acknowledge commits from now on, and whom PostgreSQL is to ask for it; if nothing of this
    /// has changed since `serial`.
    SetSync {
        epoch: Epoch,
        serial: u64,
        sync: SyncSet,
        names: SyncSet,
    },
    RequestSwitchover {
        id: u64,
        epoch: Epoch,
        to: Option<MemberId>,
    },
    CancelSwitchover {
        id: u64,
        why: String,
    },
    /// Every member reads records of this format. (Format 2, as all that follow.)
    RaiseFormat {
        to: u32,
    },
    /// Somebody may join, once. Expired invitations go.
    Invite {
        invitation: Invitation,
        at_unix_ms: u64,
    },
    Revoke {
        id: String,
    },
    Join(Joining),
    /// The member is to be taken out of the cluster.
    Leave {
        member: MemberId,
    },
    /// Nothing rests on the leaving member any more: it is none.
    Remove {
        member: MemberId,
    },
    /// Who votes from now on; if nothing of this has changed since `serial`.
    SetVoters {
        serial: u64,
        voters: BTreeSet<MemberId>,
    },
    /// The lease rests on the new voters: the old ones need not be asked any more.
    SettleVoters {
        serial: u64,
    },
    /// An operator's wish, or what follows from one.
    Operate(Operate),
    /// What PostgreSQL is configured with from now on; if nothing of this has changed since `serial`.
    ChangeParameters {
        serial: u64,
        set: ParameterSet,
        by: String,
        at_unix_ms: u64,
    },
    /// PostgreSQL of these members is to be restarted, one after the other; none named: where parameters wait for it.
    RequestRestart {
        id: u64,
        members: BTreeSet<MemberId>,
        in_place: bool,
        by: String,
    },
    /// This member's PostgreSQL is restarted next.
    GiveTurn {
        id: u64,
        member: MemberId,
        epoch: Epoch,
        how: How,
    },
    /// The turn's member has been restarted and serves again.
    EndTurn {
        id: u64,
        number: u64,
    },
    /// Nobody is left to be restarted, or it is given up and why.
    EndRestart {
        id: u64,
        why: Option<String>,
    },
    /// The member is going to show this key instead of its present one; if its keys have not changed since `serial`.
    /// (Format 3, as the next.)
    AcceptKey {
        member: MemberId,
        key: String,
        serial: u64,
    },
    /// The member shows the key that it was going to: the one before is nobody's any more.
    DropKey {
        member: MemberId,
        serial: u64,
    },
}

impl Command {
    /// The first format of the record in which it may be proposed.
    pub fn format(&self) -> u32 {
        match self {
            Command::End { cause: EndCause::RestartedInPlace | EndCause::Recovered { .. }, .. } => 2,
            Command::Create { .. }
            | Command::Found { .. }
            | Command::Grant { .. }
            | Command::Open { .. }
            | Command::End { .. }
            | Command::Report { .. }
            | Command::SetSync { .. }
            | Command::RequestSwitchover { .. }
            | Command::CancelSwitchover { .. } => 1,
            Command::RaiseFormat { .. }
            | Command::Invite { .. }
            | Command::Revoke { .. }
            | Command::Join(_)
            | Command::Leave { .. }
            | Command::Remove { .. }
            | Command::SetVoters { .. }
            | Command::SettleVoters { .. }
            | Command::Operate(_)
            | Command::ChangeParameters { .. }
            | Command::RequestRestart { .. }
            | Command::GiveTurn { .. }
            | Command::EndTurn { .. }
            | Command::EndRestart { .. } => 2,
            Command::AcceptKey { .. } | Command::DropKey { .. } => 3,
        }
    }
}

/// Why an epoch ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The data directory was made; nothing was granted yet.
    Founded,
    /// The holder's PostgreSQL died, and none of its processes is left.
    Crashed,
    /// No process of the holder's PostgreSQL is left: the guard has ended it when the lease ran out.
    LeaseLost,
    /// The holder ended a PostgreSQL that did not answer.
    Hung { what: String },
    /// The holder stopped PostgreSQL for a planned change of the primary.
    Switchover { to: Option<MemberId> },
    /// The member was started anew, and no PostgreSQL of this epoch is left.
    Restarted,
    /// The holder stopped PostgreSQL to start it again with another configuration. (Format 2.)
    RestartedInPlace,
    /// The grant came too late or the promotion failed; PostgreSQL was not opened, or is gone again.
    NotOpened { why: String },
    /// The data directory is gone or is not the one that was granted.
    DirectoryLost,
    /// These voters, a majority, said that the lease has run out, when they were asked under that change of the voters.
    Expired {
        voters: BTreeSet<MemberId>,
        #[serde(default, skip_serializing_if = "super::is_zero")]
        serial: u64,
    },
    /// A majority was lost for good, and an operator goes on without these. It ends no epoch by itself: it stands where a
    /// new instance of the record begins. (Format 2.)
    Recovered { without: BTreeSet<MemberId> },
}

impl EndCause {
    /// Whether the last holder is at fault, so that another is to be preferred.
    pub fn blames_holder(&self) -> bool {
        !matches!(
            self,
            EndCause::Founded | EndCause::Restarted | EndCause::RestartedInPlace | EndCause::Recovered { .. }
        )
    }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::Founded => write!(f, "the data directory was made"),
            EndCause::Crashed => write!(f, "PostgreSQL died, none of its processes is left"),
            EndCause::LeaseLost => write!(f, "the lease ran out, and the guard ended PostgreSQL"),
            EndCause::Hung { what } => write!(f, "PostgreSQL was ended because {what}"),
            EndCause::Switchover { to: Some(to) } => {
                write!(f, "PostgreSQL was stopped for a switchover to {to}")
            }
            EndCause::Switchover { to: None } => write!(f, "PostgreSQL was stopped for a switchover"),
            EndCause::Restarted => write!(f, "the member was started anew"),
            EndCause::RestartedInPlace => write!(f, "PostgreSQL was stopped to be restarted"),
            EndCause::NotOpened { why } => write!(f, "it was not opened: {why}"),
            EndCause::DirectoryLost => write!(f, "the data directory is gone"),
            EndCause::Expired { voters, .. } => {
                let names: Vec<&str> = voters.iter().map(MemberId::as_str).collect();
                write!(f, "the lease has run out at {}", names.join(" and "))
            }
            EndCause::Recovered { without } => {
                let names: Vec<&str> = without.iter().map(MemberId::as_str).collect();
                write!(
                    f,
                    "a majority was lost for good, and an operator goes on without {}",
                    names.join(" and ")
                )
            }
        }
    }
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    Done,
    /// It was so already: a repeated proposal.
    Already,
    Refused(Refusal),
}

/// Why a command was not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster has been created already")]
    Created,
    #[error("{0} is not a data member of this cluster")]
    NotAMember(MemberId),
    #[error("the record is at epoch {now}, in another state; the command was for epoch {wanted}")]
    OtherEpoch { now: Epoch, wanted: Epoch },
    #[error("{member} may not be promoted: {why}")]
    NotProven { member: MemberId, why: String },
    #[error(
        "PostgreSQL came up on timeline {came}, not on {reserved} as reserved, or not as a continuation of the lineage"
    )]
    WrongTimeline { came: Timeline, reserved: Timeline },
    #[error("{0} of the store's voters is not a majority")]
    NoMajority(usize),
    #[error("the sync set has been changed since")]
    OtherSync,
    #[error("PostgreSQL's names, old or new, would not cover the sync set")]
    OrderLaw,
    #[error("the command cannot be read")]
    Unreadable,
    #[error("another switchover is under way")]
    SwitchoverUnderWay,
    #[error("not every member runs a release that knows this yet; upgrade all members")]
    OldFormat,
    #[error("the invitation is refused: {0}")]
    Invitation(String),
    #[error("there is a member {0} already; choose another name")]
    NameTaken(MemberId),
    #[error("{member} has the address {address} already")]
    AddressTaken { address: SocketAddr, member: MemberId },
    #[error("{0} is the primary, or was the last one; switch over to another member first")]
    HoldsTheLease(MemberId),
    #[error("{0} is the last data member")]
    LastDataMember(MemberId),
    #[error("{0} still votes or acknowledges commits")]
    StillCounted(MemberId),
    #[error("{member} is not promoted: {why}")]
    HeldBack { member: MemberId, why: String },
    #[error("there is no primary now")]
    NoPrimary,
    #[error("what {0} holds has changed since it was shown; look again and decide anew")]
    ChangedSince(MemberId),
    #[error("{0} holds every acknowledged commit; no loss has to be accepted: mainstay failover --to {0}")]
    Proven(MemberId),
    #[error("no such switchover is scheduled any more")]
    NotScheduled,
    #[error("the voters have been changed since, or a change of them is not settled yet")]
    OtherVoters,
    #[error("the configuration was changed meanwhile and is at number {now}; look at it and change it again")]
    OtherParameters { now: u64 },
    #[error("the configuration has {bytes} bytes; at most {most} are kept")]
    TooManyParameters { bytes: usize, most: usize },
    #[error("a restart is under way; see it with: mainstay status")]
    RestartUnderWay,
    #[error("it is about another restart")]
    OtherRestart,
    #[error("there is a client {0} already; remove it first, or choose another name")]
    ClientTaken(String),
    #[error("the keys of {0} have changed meanwhile")]
    OtherKeys(MemberId),
    #[error("the key is known already, as that of {0}")]
    KeyTaken(MemberId),
    #[error("there are {most} clients already; remove one that is not used any more")]
    TooManyClients { most: usize },
}
