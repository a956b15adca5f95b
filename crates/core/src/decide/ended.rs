//! Nobody may write: every data member seals, reports, and the one that holds the most asks for the lease.

use std::time::Duration;

use super::{Memory, Verdict, back_off, foreign, has_ended, health};
use crate::action::{Action, Job};
use crate::election;
use crate::mutant::{Mutant, mutated};
use crate::reason::Reason;
use crate::record::{Command, Phase, Report};
use crate::view::{Directory, View};
use crate::vocabulary::MemberId;

/// How long members that were heard lately may take to report.
const REPORT_PATIENCE: Duration = Duration::from_millis(1_000);
/// How long each better candidate has before the next one asks.
const CANDIDATE_PATIENCE: Duration = Duration::from_millis(1_000);
/// Crashes within five minutes that are answered without a pause.
const FREE_CRASHES: usize = 3;

pub(super) fn nothing_to_report(view: &View, _: &mut Memory) -> Option<Verdict> {
    if !has_ended(view) {
        return None;
    }
    if let Some(why) = foreign(view) {
        return Verdict::wait(Reason::ForeignDirectory { why });
    }
    let operation = match &view.directory {
        Directory::Valid { .. } | Directory::Foreign { .. } => return None,
        Directory::Marked { operation } => format!("{operation} was not finished"),
        Directory::Absent => "there is no data directory".to_owned(),
        Directory::Unknown => "the data directory was not looked at yet".to_owned(),
    };
    Verdict::wait(Reason::NothingToReport { operation })
}

/// Streaming from the ended epoch stops for good before anything is said about what was received.
pub(super) fn seal(view: &View, _: &mut Memory) -> Option<Verdict> {
    let epoch = view.record.epoch;
    let current = view.scan.as_ref().is_some_and(|scan| Some(scan.incarnation) == view.incarnation());
    let sealed = view.sealed >= epoch || mutated(Mutant::ReportBeforeSeal);
    if !has_ended(view) || sealed && current {
        return None;
    }
    let job = Job::Seal { epoch };
    back_off(view, &job).or_else(|| Verdict::act(Reason::Sealing { epoch }, Action::Run(job)))
}

pub(super) fn report(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let scan = view.scan.as_ref().filter(|_| has_ended(view))?;
    let epoch = view.record.epoch;
    let said = view.record.reports.get(&view.me).is_some_and(|report| {
        report.epoch == epoch && report.incarnation == scan.incarnation && report.extent == scan.extent
    });
    if said {
        return None;
    }
    let report = Report {
        epoch,
        incarnation: scan.incarnation,
        extent: scan.extent.clone(),
        replayed: scan.replayed,
        unfit: health::unfit(view, memory),
    };
    let reason = Reason::Reporting { epoch, end: scan.extent.end };
    Verdict::act(reason, Action::Propose(Command::Report { member: view.me.clone(), report }))
}

/// Members that are alive are waited for, a little: they may hold more, and they are the voters to come.
pub(super) fn wait_for_reports(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !has_ended(view) || memory.ended_for(view) >= REPORT_PATIENCE {
        return None;
    }
    let record = &view.record;
    let reported = |member: &MemberId| record.reports.get(member).is_some_and(|r| r.epoch == record.epoch);
    let missing: Vec<MemberId> = record
        .data_members()
        .filter(|member| **member != view.me && !reported(member))
        .filter(|member| view.fresh_peer(member).is_some_and(|peer| peer.can_report))
        .cloned()
        .collect();
    if missing.is_empty() {
        None
    } else {
        Verdict::wait(Reason::WaitingForReports { epoch: record.epoch, missing })
    }
}

pub(super) fn not_proven(view: &View, _: &mut Memory) -> Option<Verdict> {
    if !has_ended(view) || !election::ranking(&view.record).is_empty() {
        return None;
    }
    let incarnation = view.incarnation()?;
    let me = election::may_be_promoted(&view.record, &view.me, incarnation).err()?;
    let holder =
        view.record.base.as_ref().map(|base| base.holder.clone()).filter(|holder| *holder != view.me);
    Verdict::wait(Reason::NotProven { epoch: view.record.epoch, me, holder })
}

/// The only one who can take over is the one whose PostgreSQL keeps dying: no endless loop.
pub(super) fn back_off_after_crashes(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !has_ended(view) || memory.crashes.len() <= FREE_CRASHES {
        return None;
    }
    let wait = Duration::from_secs(1 << (memory.crashes.len() - FREE_CRASHES).min(6));
    let left = wait.checked_sub(memory.ended_for(view))?;
    if election::ranking(&view.record).first() != Some(&view.me) {
        return None;
    }
    let (crashes, wait_s) = (memory.crashes.len(), left.as_secs() + 1);
    Verdict::wait(Reason::CrashLoop { crashes, wait_s })
}

pub(super) fn request_grant(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let Phase::Ended { .. } = view.record.phase else {
        return None;
    };
    let epoch = view.record.epoch;
    let ranking = election::ranking(&view.record);
    let place = ranking.iter().position(|member| *member == view.me);
    let chosen = ranking.first()?.clone();
    let patience =
        |place: usize| REPORT_PATIENCE + CANDIDATE_PATIENCE * u32::try_from(place).unwrap_or(u32::MAX);
    match place {
        Some(place) if place == 0 || memory.candidates_for(view) >= patience(place) => {
            let incarnation = view.incarnation()?;
            let action = Action::RequestGrant { epoch: epoch.next(), incarnation };
            let forced = view.record.operation.forced.as_ref().filter(|forced| forced.member == view.me);
            let reason = match forced {
                Some(forced) => Reason::Forced { epoch, missing: forced.missing.clone() },
                None => Reason::Chosen { epoch, ranking },
            };
            Verdict::act(reason, action)
        }
        _ => Verdict::wait(Reason::WaitingForChosen { epoch, chosen }),
    }
}
