//! Who may be promoted, who should be, and whose flush then acknowledges its commits.
//!
//! A member is **proven** when it holds every commit that was ever acknowledged: as the furthest of enough
//! reports of the voters, or as the last holder with its directory unchanged; and never below the floor, where the
//! newest timeline began.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lineage::{self, Beyond, Standing};
use crate::mutant::{Mutant, mutated};
use crate::record::{EndCause, HeldBack, Kind, OnCrash, Phase, Record, Report, Tenure};
use crate::sync::{SyncSet, Voter, wanted_acknowledgements};
use crate::vocabulary::{Incarnation, Lsn, MemberId};

/// Why a member may not be promoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unproven {
    /// No data was ever made.
    Unfounded,
    /// It has not reported since the epoch ended.
    NoReport,
    /// Its directory is not the one that reported.
    OtherIncarnation,
    /// It holds WAL that the cluster abandoned.
    OffLineage,
    /// It has nothing of the newest timeline, which begins at `floor`.
    BelowFloor { position: Lsn, floor: Lsn },
    /// Commits were acknowledged by the last holder alone.
    OnlyHolder { holder: MemberId },
    /// Too few voters have reported to know what was acknowledged.
    TooFewReports { reported: usize, needed: usize, missing: Vec<MemberId> },
    /// Another reported more.
    Behind { position: Lsn, furthest: Lsn },
}

impl Unproven {
    /// Whether an operator may decide to go on without this proof. What cannot be promoted without two histories of one
    /// timeline, or beside what the cluster accepted, never is.
    pub fn may_be_overridden(&self) -> bool {
        matches!(self, Unproven::OnlyHolder { .. } | Unproven::TooFewReports { .. } | Unproven::Behind { .. })
    }
}

/// What is missing in what a member holds, as far as anybody can know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Missing {
    /// Bytes of WAL that somebody is known to hold, or to have held, beyond it.
    pub bytes: u64,
    /// Who may hold acknowledged commits and has not said what.
    pub unheard: Vec<MemberId>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of WAL are known to be missing", self.bytes)?;
        let names: Vec<&str> = self.unheard.iter().map(MemberId::as_str).collect();
        if names.is_empty() { Ok(()) } else { write!(f, "; what {} held is not known", names.join(" and ")) }
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unproven::Unfounded => write!(f, "the cluster has no data yet"),
            Unproven::NoReport => write!(f, "it has not reported what it holds"),
            Unproven::OtherIncarnation => write!(f, "its data directory was replaced since it reported"),
            Unproven::OffLineage => write!(f, "it holds WAL that the cluster abandoned"),
            Unproven::BelowFloor { position, floor } => {
                write!(f, "it ends at {position} without the newest timeline, which begins at {floor}")
            }
            Unproven::OnlyHolder { holder } => write!(f, "{holder} acknowledged commits alone"),
            Unproven::TooFewReports { reported, needed, missing } => {
                let names: Vec<&str> = missing.iter().map(MemberId::as_str).collect();
                write!(f, "{reported} of the {needed} reports needed are in (missing: {})", names.join(", "))
            }
            Unproven::Behind { position, furthest } => {
                write!(f, "it ends at {position}, another reported {furthest}")
            }
        }
    }
}

/// Whether `member`, with the directory `incarnation`, holds every acknowledged commit.
pub fn may_be_promoted(record: &Record, member: &MemberId, incarnation: Incarnation) -> Result<(), Unproven> {
    let base = record.base.as_ref().ok_or(Unproven::Unfounded)?;
    let report = fresh_report(record, member).ok_or(Unproven::NoReport)?;
    if report.incarnation != incarnation {
        return Err(Unproven::OtherIncarnation);
    }
    let standing = standing(record, report);
    if !on_lineage(record, member, report, &standing) {
        return Err(Unproven::OffLineage);
    }
    // One that ends exactly where the newest timeline begins has nothing of it, and would be promoted beside it.
    let floor = record.floor();
    if !report.extent.history.starts_with(&record.lineage) && !mutated(Mutant::FloorIgnored) {
        return Err(Unproven::BelowFloor { position: standing.position, floor });
    }
    if base.holder == *member && (base.incarnation == incarnation || mutated(Mutant::IncarnationIgnored)) {
        return Ok(());
    }
    let voter = Voter { member: member.clone(), incarnation };
    let forced = record.operation.forced.as_ref();
    if forced.is_some_and(|forced| forced.is_for(record.epoch, &voter, report.extent.end)) {
        return Ok(());
    }
    behind_nobody(record, base, standing.position)
}

/// The proof by reports: enough voters have spoken, and `position` is not behind any of them.
fn behind_nobody(record: &Record, base: &Tenure, position: Lsn) -> Result<(), Unproven> {
    if base.sync.is_lone() {
        let alone = Err(Unproven::OnlyHolder { holder: base.holder.clone() });
        return if mutated(Mutant::LoneIgnored) { Ok(()) } else { alone };
    }
    let reported: Vec<&Report> =
        base.sync.voters.iter().filter_map(|voter| voter_report(record, voter)).collect();
    let needed = base.sync.reports_needed();
    if reported.len() < needed && !mutated(Mutant::OneReportSuffices) {
        let missing = base.sync.voters.iter().filter(|voter| voter_report(record, voter).is_none());
        let missing = missing.map(|voter| voter.member.clone()).collect();
        return Err(Unproven::TooFewReports { reported: reported.len(), needed, missing });
    }
    let furthest = reported.iter().map(|report| standing(record, report).position).max().unwrap_or(Lsn::ZERO);
    if position < furthest && !mutated(Mutant::NotTheFurthest) {
        return Err(Unproven::Behind { position, furthest });
    }
    Ok(())
}

/// The sync set under which `holder` would be promoted: everyone who has just reported a prefix of what it holds.
pub fn voters_under(record: &Record, holder: &MemberId) -> SyncSet {
    let Some(own) = record.reports.get(holder) else {
        return SyncSet::lone();
    };
    let may_vote = |member: &MemberId, report: &Report| {
        member != holder
            && record.members.get(member).is_some_and(|row| !row.leaving)
            && !record.is_set_aside(&Voter { member: member.clone(), incarnation: report.incarnation })
            && report.epoch == record.epoch
            && (lineage::compare(&own.extent.history, &report.extent).may_follow()
                && report.extent.end <= own.extent.end
                || mutated(Mutant::VotersUnchecked))
    };
    let voters = record
        .reports
        .iter()
        .filter(|(member, report)| may_vote(member, report))
        .map(|(member, report)| Voter { member: member.clone(), incarnation: report.incarnation });
    SyncSet::new(voters, wanted_acknowledgements(record.counted_data_members(holder)))
}

/// Everyone who may be promoted now, the best first.
///
/// One that leaves the cluster comes last of all. A member that an operator named, or that the last holder stopped for, comes first; then the fit before the unfit, the last holder last if it is to blame,
/// the most WAL, the least left to replay, the priority, and the name.
pub fn ranking(record: &Record) -> Vec<MemberId> {
    let holder = record.newest_tenure().map(|tenure| &tenure.holder);
    let named = record.named();
    let (wanted, blamed) = match &record.phase {
        Phase::Ended { cause: EndCause::Switchover { to: Some(to) } } => (named.or(Some(to)), holder),
        // One that keeps crashing is not the first choice for ever.
        Phase::Ended { cause: EndCause::Crashed }
            if record.settings.on_crash == OnCrash::Restart
                && holder.is_some_and(|holder| is_fit(record, holder)) =>
        {
            (named.or(holder), None)
        }
        // It comes back at once, with everything that it had.
        Phase::Ended { cause: EndCause::RestartedInPlace } => (named.or(holder), None),
        Phase::Ended { cause } if cause.blames_holder() => (named, holder),
        _ => (named, None),
    };
    let mut candidates: Vec<(&MemberId, &Report)> = record
        .reports
        .iter()
        .filter(|(member, report)| may_be_promoted(record, member, report.incarnation).is_ok())
        .filter(|(member, _)| held_back(record, member).is_none())
        .collect();
    candidates.sort_by_key(|(member, report)| {
        let position = standing(record, report).position;
        let unreplayed = report.extent.end.bytes_ahead_of(report.replayed);
        let row = record.members.get(*member);
        let priority = row.map_or(0, |row| row.priority);
        (
            row.is_none_or(|row| row.leaving),
            wanted != Some(*member),
            report.unfit.is_some(),
            blamed == Some(*member),
            Reverse(position),
            unreplayed,
            Reverse(priority),
            (*member).clone(),
        )
    });
    candidates.into_iter().map(|(member, _)| member.clone()).collect()
}

/// Why `member` is not promoted, proven or not, unless an operator names it.
pub fn held_back(record: &Record, member: &MemberId) -> Option<HeldBack> {
    let priority = |row: &crate::record::Member| row.priority;
    let last = record.base.as_ref().is_some_and(|base| base.holder == *member);
    let others = record.staying().filter(|(_, row)| row.kind == Kind::Data).any(|(_, row)| row.priority > 0);
    let never = record.members.get(member).map(priority) == Some(0) && others && !last;
    let by_priority = (never && !is_named(record, member)).then_some(HeldBack::Priority);
    held_back_by_command(record, member).or(by_priority)
}

/// What of it the record itself holds to.
pub(crate) fn held_back_by_command(record: &Record, member: &MemberId) -> Option<HeldBack> {
    if is_named(record, member) {
        return None;
    }
    if record.in_maintenance(member) {
        return Some(HeldBack::Maintenance);
    }
    let stopped = matches!(record.last_end, Some(EndCause::Switchover { .. }));
    let asked_for = stopped || record.switchover.is_some() || record.failover().is_some();
    (record.paused().is_some() && !asked_for).then_some(HeldBack::Paused)
}

/// Whether an operator has named it as the next primary, or had the last one stopped for it.
fn is_named(record: &Record, member: &MemberId) -> bool {
    let stopped_for = match &record.last_end {
        Some(EndCause::Switchover { to }) => to.as_ref(),
        _ => None,
    };
    record.named().or(stopped_for) == Some(member)
}

/// Who is proven and is not promoted, with the reason.
pub fn proven_but_held_back(record: &Record) -> Option<(MemberId, HeldBack)> {
    let proven = |(member, report): (&MemberId, &Report)| {
        may_be_promoted(record, member, report.incarnation).is_ok().then(|| member.clone())
    };
    record.reports.iter().filter_map(proven).find_map(|member| {
        let why = held_back(record, &member)?;
        Some((member, why))
    })
}

/// What is missing at a member that has reported this. `heard` is the furthest position that anyone was ever heard to hold.
pub fn missing(record: &Record, report: &Report, heard: Lsn) -> Missing {
    let position = standing(record, report).position;
    let reported = record.reports.values().map(|report| standing(record, report).position);
    let furthest = reported.chain([heard]).max().unwrap_or(heard);
    let Some(base) = &record.base else { return Missing::default() };
    let voters = base.sync.voters.iter().cloned().chain([base.voter()]);
    let silent = voters.filter(|voter| voter_report(record, voter).is_none());
    let mut unheard: Vec<MemberId> = silent.map(|voter| voter.member).collect();
    unheard.sort();
    unheard.dedup();
    Missing { bytes: furthest.bytes_ahead_of(position), unheard }
}

fn is_fit(record: &Record, member: &MemberId) -> bool {
    fresh_report(record, member).is_some_and(|report| report.unfit.is_none())
}

fn fresh_report<'a>(record: &'a Record, member: &MemberId) -> Option<&'a Report> {
    record.reports.get(member).filter(|report| report.epoch == record.epoch)
}

/// A voter's report counts as long as its directory lives: it has not streamed since.
fn voter_report<'a>(record: &'a Record, voter: &Voter) -> Option<&'a Report> {
    let same_life =
        |report: &&Report| report.incarnation == voter.incarnation || mutated(Mutant::IncarnationIgnored);
    record.reports.get(&voter.member).filter(same_life)
}

fn standing(record: &Record, report: &Report) -> Standing {
    lineage::compare(&record.lineage, &report.extent)
}

fn on_lineage(record: &Record, member: &MemberId, report: &Report, standing: &Standing) -> bool {
    let voter = Voter { member: member.clone(), incarnation: report.incarnation };
    match &standing.beyond {
        Beyond::Nothing => true,
        Beyond::Extension { timelines } => {
            timelines.iter().all(|timeline| record.was_reserved_for(*timeline, &voter))
        }
        Beyond::Diverged { .. } | Beyond::Unrelated => false,
    }
}
