//! Going on with one member when a majority of the voters is lost for good.
//!
//! It is the one change of the record that no majority agrees to: an operator vouches that the others never come back as they
//! were. So it is decided here, on all that is known on the one machine, and refused wherever the cluster could still go on by
//! itself. What comes out is a **new instance** of the cluster's consensus with this member as its only one. Raft ids,
//! epochs and changes of voters begin far above everything that the others can have given since this member last heard them,
//! so that nothing of theirs is ever taken for something newer; their keys are kept, to tell them when they come.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{EndCause, FORMAT, Kind, Operation, Phase, Record, Report, Restarts, Tenure};
use crate::election::{self, Missing, Unproven};
use crate::lineage::{self, Beyond, Extent};
use crate::sync::SyncSet;
use crate::view::Directory;
use crate::vocabulary::{Epoch, Incarnation, Lsn, MemberId, Timeline};

/// More than the lost members can have counted on their own: one a second for eleven days.
const LEAP: u64 = 1_000_000;
/// Numbers of timelines that they may have used. Each costs an empty file at the next opening.
const TIMELINES: u32 = 16;
/// How many keys of lost members are kept.
const MOST_LEFT_BEHIND: usize = 64;

/// A member that was given up, and must not come back as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeftBehind {
    pub member: MemberId,
    /// The fingerprint of its key.
    pub key: String,
}

/// What is found on the machine of the member that is to go on alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    pub member: MemberId,
    pub directory: Directory,
    /// What the directory holds; `None` if it could not be read.
    pub extent: Option<Extent>,
    /// Whether the member itself runs.
    pub runs: bool,
    /// Processes of its PostgreSQL, or its guard.
    pub left: bool,
    /// The other members that answered, just now.
    pub reached: BTreeSet<MemberId>,
}

/// Why a member cannot go on alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotRecover {
    #[error("Mainstay runs on this machine; stop it first: systemctl stop mainstay")]
    Runs,
    #[error(
        "PostgreSQL or its guard is left running on this machine; end them first: mainstay after-stop, or systemctl stop mainstay"
    )]
    Left,
    #[error("the cluster has no data yet; found it anew: mainstay uninstall, then mainstay init")]
    Unfounded,
    #[error("{0} is not in the cluster's record; recover from a member that is")]
    NotAMember(MemberId),
    #[error("{0} is a witness and has no data; recover from a data member, or restore a backup")]
    Witness(MemberId),
    #[error(
        "{0} is a majority by itself; nothing has to be recovered: start it, and see with: mainstay status"
    )]
    Alone(MemberId),
    #[error("{} answer, and with this member they are a majority; let them decide: start this member, and see with: mainstay status", names(.0))]
    MajorityReached(BTreeSet<MemberId>),
    #[error("the data directory is not whole: {0}; recover from another member, or restore a backup")]
    NotWhole(String),
    #[error("the data directory is another cluster's: {0}; recover from a member with this cluster's data")]
    OtherData(String),
    #[error("the end of the WAL cannot be read; see that the disk is in order, and ask again")]
    Unread,
}

fn names(members: &BTreeSet<MemberId>) -> String {
    members.iter().map(MemberId::as_str).collect::<Vec<_>>().join(" and ")
}

/// What goes on, what is given up, and what is known of the commits that would be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub record: Record,
    pub left_behind: Vec<LeftBehind>,
    /// The newest epoch that this member knows of.
    pub epoch: Epoch,
    /// Whose epoch that was.
    pub holder: MemberId,
    pub end: Lsn,
    pub loss: Loss,
}

/// What is known of it, here, by a record that may be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Every commit that was acknowledged in the epochs that this member knows of is in its data.
    NothingKnown,
    /// Why that cannot be said, and what somebody is known to hold beyond.
    Unproven { why: Unproven, missing: Missing },
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recovery { epoch, holder, end, .. } = self;
        writeln!(f, "known: the newest epoch here is {epoch}, of {holder}; the WAL here ends at {end}.")?;
        match &self.loss {
            Loss::NothingKnown => {
                writeln!(
                    f,
                    "known: all that was acknowledged up to epoch {epoch}, as far as it is known here, is in this data."
                )?;
            }
            Loss::Unproven { why, missing } => {
                writeln!(f, "known: commits of epoch {epoch} may be missing here: {why}; {missing}.")?;
            }
        }
        write!(
            f,
            "not known: what the other members decided or acknowledged after this one last heard them. All of that is lost."
        )
    }
}

impl Record {
    /// The record of a new instance with `survivor` as its only member, or why there is to be none.
    pub fn recover(&self, survivor: &Survivor) -> Result<Recovery, CannotRecover> {
        let me = &survivor.member;
        let base = self.base.as_ref().filter(|_| self.format > 0).ok_or(CannotRecover::Unfounded)?;
        let row = self.members.get(me).ok_or_else(|| CannotRecover::NotAMember(me.clone()))?;
        if survivor.runs {
            return Err(CannotRecover::Runs);
        }
        if survivor.left {
            return Err(CannotRecover::Left);
        }
        if row.kind == Kind::Witness {
            return Err(CannotRecover::Witness(me.clone()));
        }
        if self.has_majority(|voter| voter == me) {
            return Err(CannotRecover::Alone(me.clone()));
        }
        let answers = |voter: &MemberId| voter == me || survivor.reached.contains(voter);
        if self.has_majority(answers) {
            return Err(CannotRecover::MajorityReached(survivor.reached.clone()));
        }
        let (incarnation, extent) = self.usable(survivor)?;
        let loss = self.loss(me, incarnation, &extent);
        let left_behind = self.with_those_given_up(me);
        let epoch = self.newest_tenure().map_or(base.epoch, |tenure| tenure.epoch).max(self.epoch);
        let holder = self.newest_tenure().map_or(&base.holder, |tenure| &tenure.holder).clone();
        let record = self.new_instance(me, incarnation, &extent, left_behind.clone());
        Ok(Recovery { record, left_behind, epoch, holder, end: extent.end, loss })
    }

    fn usable(&self, survivor: &Survivor) -> Result<(Incarnation, Extent), CannotRecover> {
        let (incarnation, system_identifier) = match &survivor.directory {
            Directory::Valid { incarnation, system_identifier } => (*incarnation, *system_identifier),
            Directory::Marked { operation } => {
                return Err(CannotRecover::NotWhole(format!("{operation} was not finished")));
            }
            Directory::Absent => return Err(CannotRecover::NotWhole("there is none".to_owned())),
            Directory::Foreign { why } => return Err(CannotRecover::OtherData(why.clone())),
            Directory::Unknown => return Err(CannotRecover::Unread),
        };
        if self.system_identifier != Some(system_identifier) {
            return Err(CannotRecover::OtherData(format!("its system identifier is {system_identifier}")));
        }
        let extent = survivor.extent.clone().ok_or(CannotRecover::Unread)?;
        if lineage::compare(&self.lineage, &extent).beyond == Beyond::Unrelated {
            return Err(CannotRecover::OtherData(
                "its history has nothing in common with the cluster's".to_owned(),
            ));
        }
        Ok((incarnation, extent))
    }

    /// Judged as if this member alone had reported: the very proof that a grant rests on.
    fn loss(&self, me: &MemberId, incarnation: Incarnation, extent: &Extent) -> Loss {
        let mut asked = self.clone();
        let report = Report {
            epoch: self.epoch,
            incarnation,
            extent: extent.clone(),
            replayed: Lsn::ZERO,
            unfit: None,
        };
        asked.operation.forced = None;
        asked.phase = Phase::Ended { cause: EndCause::Restarted };
        asked.reports.insert(me.clone(), report.clone());
        match election::may_be_promoted(&asked, me, incarnation) {
            Ok(()) => Loss::NothingKnown,
            Err(why) => Loss::Unproven { why, missing: election::missing(&asked, &report, Lsn::ZERO) },
        }
    }

    /// The others, and whoever was given up before.
    fn with_those_given_up(&self, me: &MemberId) -> Vec<LeftBehind> {
        let others = self.members.iter().filter(|(name, _)| *name != me);
        let others = others.flat_map(|(name, row)| {
            row.keys().map(|key| LeftBehind { member: name.clone(), key: key.to_owned() })
        });
        others.chain(self.membership.left_behind.iter().cloned()).take(MOST_LEFT_BEHIND).collect()
    }

    fn new_instance(
        &self,
        me: &MemberId,
        incarnation: Incarnation,
        extent: &Extent,
        left_behind: Vec<LeftBehind>,
    ) -> Record {
        let mut next = self.clone();
        let given = next.members.values().map(|row| row.raft_id).chain([next.membership.next_raft_id]).max();
        let raft_id = leap(given.unwrap_or(0));
        let cause =
            EndCause::Recovered { without: left_behind.iter().map(|left| left.member.clone()).collect() };
        for gone in self.members.keys().filter(|name| *name != me) {
            next.members.remove(gone);
            next.forget_parameters_of(gone);
        }
        if let Some(row) = next.members.get_mut(me) {
            (row.raft_id, row.votes, row.leaving) = (raft_id, true, false);
        }
        next.format = FORMAT;
        next.membership.next_raft_id = raft_id + 1;
        next.membership.serial = leap(self.membership.serial);
        next.membership.outgoing.clear();
        next.membership.invitations.clear();
        next.membership.left_behind = left_behind;
        next.operation = Operation { clients: self.operation.clients.clone(), ..Operation::default() };
        next.restarts = Restarts::default();
        next.switchover = None;
        next.cancelled = None;
        next.reports.clear();
        next.unopened.clear();
        next.lineage = extent.history.clone();
        next.highest_timeline = Timeline(self.highest_timeline.max(extent.timeline()).0 + TIMELINES);
        next.epoch = Epoch(leap(self.epoch.0));
        // Nobody else is left whose flush could have acknowledged anything: the proof is this directory, unchanged.
        next.base = Some(Tenure {
            epoch: next.epoch,
            holder: me.clone(),
            incarnation,
            timeline: extent.timeline(),
            sync: SyncSet::lone(),
            names: SyncSet::lone(),
            sync_serial: 0,
            request: 0,
        });
        next.last_end = Some(cause.clone());
        next.phase = Phase::Ended { cause };
        next
    }
}

/// The next multiple, so that two recoveries of one cluster never give the same numbers.
fn leap(number: u64) -> u64 {
    (number / LEAP + 1) * LEAP
}
