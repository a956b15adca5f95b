//! What an operator has asked for: a pause, maintenance of a member, a new copy, a planned or a forced change of the primary.
//!
//! Nothing of this takes a fence away: leases run on and run out, epochs end, and what writes without a lease is ended,
//! paused or not. It only holds back who would be promoted or started, or says who is to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Applied, Cancelled, Kind, Phase, Record, Refusal, Switchover};
use crate::election::{self, Missing};
use crate::mutant::{Mutant, mutated};
use crate::sync::Voter;
use crate::vocabulary::{Epoch, Incarnation, Lsn, MemberId};

type Result = std::result::Result<Applied, Refusal>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// Nobody is promoted by itself.
    pub pause: Option<Pause>,
    /// Members that are neither promoted nor counted.
    pub maintenance: BTreeMap<MemberId, Pause>,
    /// Data directories that are to be thrown away and copied anew.
    pub reinit: BTreeMap<MemberId, Incarnation>,
    /// A switchover that is to come.
    pub scheduled: Option<Scheduled>,
    /// The primary is to be another one, whether the present one can be asked or not; until the next opening.
    pub failover: Option<Failover>,
    /// A member that is to be promoted although it is not proven; until the next opening.
    pub forced: Option<Forced>,
    /// Who may change things from another machine, by a name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<String, ApiClient>,
}

/// Most names of [`Operation::clients`]: more are a mistake.
const MOST_CLIENTS: usize = 64;

/// Somebody who may use the API over the network, and how they prove who they are. No secret: it is shown to everybody who may read the record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ApiClient {
    pub proof: ClientProof,
    /// Who let them in, for people.
    pub by: String,
    /// Milliseconds since 1970, by the wall clock.
    pub since_unix_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientProof {
    /// A token with this SHA-256, in hexadecimal digits.
    Token { sha256: String },
    /// A certificate of the cluster's CA for the key with this fingerprint.
    Certificate { key: String },
}

impl Operation {
    pub(super) fn is_default(&self) -> bool {
        *self == Operation::default()
    }
}

/// Since when something is held back, and by whom. Times are milliseconds since 1970, by the wall clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pause {
    /// Who asked for it, in their words; for people only.
    pub by: String,
    pub since_unix_ms: u64,
    /// When it ends by itself.
    pub until_unix_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheduled {
    pub id: u64,
    /// Milliseconds since 1970, by the wall clock of the primary.
    pub due_unix_ms: u64,
    /// `None`: the best standby.
    pub to: Option<MemberId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failover {
    pub id: u64,
    /// The epoch that was newest when it was asked for: the one to end, or the one that has ended.
    pub epoch: Epoch,
    /// `None`: the best of those that are proven.
    pub to: Option<MemberId>,
}

/// A member that an operator promotes without proof, and all that it was decided on: void when anything of it has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forced {
    /// The ended epoch.
    pub epoch: Epoch,
    pub member: MemberId,
    pub incarnation: Incarnation,
    /// Where its WAL ends, as the operator was shown.
    pub end: Lsn,
    /// The furthest position that anybody was ever heard to hold, if that is known.
    pub heard: Lsn,
    /// What is known to be missing; filled in by the record.
    pub missing: Missing,
}

impl Forced {
    /// Whether the decision is for exactly this directory, as it is, after exactly this epoch.
    pub(crate) fn is_for(&self, epoch: Epoch, voter: &Voter, end: Lsn) -> bool {
        self.member == voter.member
            && (self.epoch == epoch || mutated(Mutant::ForcedInAnyEpoch))
            && (self.incarnation == voter.incarnation && self.end == end
                || mutated(Mutant::ForcedWithAnyDirectory))
    }
}

/// What an operator asks for, and what members do about it by themselves. (Format 2.)
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operate {
    Pause(Pause),
    Resume {},
    Maintain {
        member: MemberId,
        pause: Pause,
    },
    EndMaintenance {
        member: MemberId,
    },
    /// The member throws this life of its data directory away and copies everything anew.
    Reinit {
        member: MemberId,
        incarnation: Incarnation,
    },
    /// It has, or is not to any more.
    ForgetReinit {
        member: MemberId,
    },
    Schedule(Scheduled),
    /// The scheduled switchover is due.
    Due {
        id: u64,
        epoch: Epoch,
    },
    /// The scheduled switchover, or the failover, is not to be any more.
    Withdraw {
        id: u64,
        why: String,
    },
    Failover(Failover),
    Force(Forced),
    /// Somebody may use the API over the network.
    AdmitClient {
        name: String,
        client: ApiClient,
    },
    DismissClient {
        name: String,
    },
}

/// Why one that is proven is not promoted all the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBack {
    Paused,
    Maintenance,
    /// Its priority is 0.
    Priority,
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeldBack::Paused => {
                write!(
                    f,
                    "the cluster is paused; go on with: mainstay resume, or promote with: mainstay failover"
                )
            }
            HeldBack::Maintenance => {
                write!(
                    f,
                    "it is in maintenance; promote it all the same with: mainstay failover --to its name"
                )
            }
            HeldBack::Priority => {
                write!(f, "its priority is 0: it is promoted only with: mainstay failover --to its name")
            }
        }
    }
}

impl Record {
    /// Since when nobody is promoted by itself, if that is so.
    pub fn paused(&self) -> Option<&Pause> {
        self.operation.pause.as_ref()
    }

    pub fn in_maintenance(&self, member: &MemberId) -> bool {
        self.operation.maintenance.contains_key(member)
    }

    /// Whether commits are not to rest on this life of the member's directory: it is in maintenance, or thrown away.
    pub fn is_set_aside(&self, voter: &Voter) -> bool {
        self.in_maintenance(&voter.member)
            || self.operation.reinit.get(&voter.member) == Some(&voter.incarnation)
    }

    /// The failover that was asked for about the newest opening and what became of it.
    pub fn failover(&self) -> Option<&Failover> {
        let base = self.base.as_ref()?;
        self.operation.failover.as_ref().filter(|failover| failover.epoch >= base.epoch)
    }

    /// The member that an operator wants as the primary by name, while there is none.
    pub fn named(&self) -> Option<&MemberId> {
        let forced = self.operation.forced.as_ref().filter(|forced| forced.epoch == self.epoch);
        let failover = self.failover().and_then(|failover| failover.to.as_ref());
        let switchover = self.switchover.as_ref().and_then(|switchover| switchover.to.as_ref());
        forced.map(|forced| &forced.member).or(failover).or(switchover)
    }

    pub(super) fn operate(&mut self, what: Operate) -> Result {
        match what {
            Operate::Pause(pause) => Ok(replace(&mut self.operation.pause, Some(pause))),
            Operate::Resume {} => Ok(replace(&mut self.operation.pause, None)),
            Operate::Maintain { member, pause } => self.maintain(member, pause),
            Operate::EndMaintenance { member } => {
                Ok(done(self.operation.maintenance.remove(&member).is_some()))
            }
            Operate::Reinit { member, incarnation } => self.reinit(member, incarnation),
            Operate::ForgetReinit { member } => Ok(done(self.operation.reinit.remove(&member).is_some())),
            Operate::Schedule(scheduled) => {
                if let Some(to) = &scheduled.to {
                    self.check_data_member(to)?;
                }
                Ok(replace(&mut self.operation.scheduled, Some(scheduled)))
            }
            Operate::Due { id, epoch } => self.due(id, epoch),
            Operate::Withdraw { id, why } => Ok(self.withdraw(id, why)),
            Operate::Failover(failover) => self.ask_failover(failover),
            Operate::Force(forced) => self.force(forced),
            Operate::AdmitClient { name, client } => self.admit_client(name, client),
            Operate::DismissClient { name } => Ok(done(self.operation.clients.remove(&name).is_some())),
        }
    }

    fn maintain(&mut self, member: MemberId, pause: Pause) -> Result {
        self.check_data_member(&member)?;
        let others = self.staying().filter(|(name, row)| row.kind == Kind::Data && **name != member);
        if others.filter(|(name, _)| !self.in_maintenance(name)).count() == 0 {
            return Err(Refusal::LastDataMember(member));
        }
        Ok(done(self.operation.maintenance.insert(member, pause.clone()) != Some(pause)))
    }

    /// Only while there is a primary to copy from, and never of the primary itself.
    fn reinit(&mut self, member: MemberId, incarnation: Incarnation) -> Result {
        self.check_data_member(&member)?;
        let Some(primary) = self.primary() else {
            return Err(Refusal::NoPrimary);
        };
        if *primary == member {
            return Err(Refusal::HoldsTheLease(member));
        }
        Ok(done(self.operation.reinit.insert(member, incarnation) != Some(incarnation)))
    }

    fn due(&mut self, id: u64, epoch: Epoch) -> Result {
        if self.switchover.as_ref().is_some_and(|switchover| switchover.id == id) {
            return Ok(Applied::Already);
        }
        if !self.is_open() || self.epoch != epoch {
            return Err(self.other_epoch(epoch));
        }
        if self.switchover.is_some() {
            return Err(Refusal::SwitchoverUnderWay);
        }
        match self.operation.scheduled.take() {
            Some(scheduled) if scheduled.id == id => {
                self.switchover = Some(Switchover { id, epoch, to: scheduled.to });
                Ok(Applied::Done)
            }
            other => {
                self.operation.scheduled = other;
                Err(Refusal::NotScheduled)
            }
        }
    }

    fn withdraw(&mut self, id: u64, why: String) -> Applied {
        let operation = &mut self.operation;
        let scheduled = operation.scheduled.take_if(|scheduled| scheduled.id == id).is_some();
        let failover = operation.failover.take_if(|failover| failover.id == id).is_some();
        if !scheduled && !failover {
            return Applied::Already;
        }
        self.cancelled = Some(Cancelled { id, why });
        Applied::Done
    }

    fn ask_failover(&mut self, failover: Failover) -> Result {
        if let Some(to) = &failover.to {
            self.check_data_member(to)?;
        }
        if self.operation.failover.as_ref() == Some(&failover) {
            return Ok(Applied::Already);
        }
        if !matches!(self.phase, Phase::Open | Phase::Ended { .. }) || failover.epoch != self.epoch {
            return Err(self.other_epoch(failover.epoch));
        }
        self.operation.failover = Some(failover);
        Ok(Applied::Done)
    }

    /// Everything that the operator was shown is still so, and all that is missing is the proof.
    fn force(&mut self, mut forced: Forced) -> Result {
        self.check_data_member(&forced.member)?;
        if !matches!(self.phase, Phase::Ended { .. }) || forced.epoch != self.epoch {
            return Err(self.other_epoch(forced.epoch));
        }
        let report = self.reports.get(&forced.member).filter(|report| {
            report.epoch == forced.epoch
                && report.incarnation == forced.incarnation
                && report.extent.end == forced.end
        });
        let Some(report) = report else {
            return Err(Refusal::ChangedSince(forced.member));
        };
        forced.missing = election::missing(self, report, forced.heard);
        if self.operation.forced.as_ref() == Some(&forced) {
            return Ok(Applied::Already);
        }
        match election::may_be_promoted(self, &forced.member, forced.incarnation) {
            Ok(()) => return Err(Refusal::Proven(forced.member)),
            Err(why) if !why.may_be_overridden() => {
                return Err(Refusal::NotProven { member: forced.member, why: why.to_string() });
            }
            Err(_) => {}
        }
        self.operation.forced = Some(forced);
        Ok(Applied::Done)
    }

    /// A name is one client's until it is dismissed: what is revoked by its name is all that it could prove.
    fn admit_client(&mut self, name: String, client: ApiClient) -> Result {
        let clients = &mut self.operation.clients;
        match clients.get(&name) {
            Some(there) if there.proof == client.proof => return Ok(Applied::Already),
            Some(_) => return Err(Refusal::ClientTaken(name)),
            None => {}
        }
        if clients.len() >= MOST_CLIENTS {
            return Err(Refusal::TooManyClients { most: MOST_CLIENTS });
        }
        clients.insert(name, client);
        Ok(Applied::Done)
    }

    /// What was asked about the primary before this opening is over.
    pub(super) fn forget_answered(&mut self, holder: &MemberId) {
        self.operation.failover = None;
        self.operation.forced = None;
        self.operation.reinit.remove(holder);
    }

    /// A member that is no more has nothing held back.
    pub(super) fn forget_member(&mut self, member: &MemberId) {
        self.operation.maintenance.remove(member);
        self.operation.reinit.remove(member);
    }
}

fn done(changed: bool) -> Applied {
    if changed { Applied::Done } else { Applied::Already }
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> Applied {
    let changed = *place != value;
    *place = value;
    done(changed)
}
