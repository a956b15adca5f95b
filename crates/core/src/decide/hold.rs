//! The holder of the lease: opening PostgreSQL, keeping it open, giving it up.

use std::time::Duration;

use super::{Memory, Verdict, back_off, holds_granted, holds_open, upkeep};
use crate::action::{Action, Job, Kill};
use crate::election;
use crate::mutant::{Mutant, mutated};
use crate::reason::Reason;
use crate::record::{Applied, Command, EndCause, HeldBack, Record, Tenure};
use crate::view::{Server, View};
use crate::vocabulary::MemberId;

/// How long a grant may wait for PostgreSQL to become ready for its promotion.
const GRANT_PATIENCE: Duration = Duration::from_secs(120);
/// How long a switchover waits for its target to stream.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(5);

/// Ends the epoch that this member holds. The lease goes first: the proposal may be committed late, and nothing may
/// have been opened by then. If it is never committed, the voters let the lease run out.
///
/// Virtual addresses go before it too: once it is committed, another member may take them.
fn end(view: &View, memory: &mut Memory, cause: EndCause) -> Option<Verdict> {
    let epoch = view.record.epoch;
    let is_there = view.addresses_until.is_some_and(|until| view.now < until);
    if is_there && !mutated(Mutant::AddressesKept) && !mutated(Mutant::LeaseKept) {
        memory.ending = Some((epoch, cause));
        return Verdict::act(Reason::LettingAddressesGo { epoch }, Action::Relinquish { epoch });
    }
    let reason = Reason::EpochEnded { epoch, cause: cause.clone() };
    let mut actions = vec![Action::Relinquish { epoch }, Action::Propose(Command::End { epoch, cause })];
    if mutated(Mutant::LeaseKept) {
        actions.remove(0);
    }
    Some(Verdict { reason, actions })
}

/// Why this member has begun to end the epoch that it holds.
fn remembered(view: &View, memory: &Memory) -> Option<EndCause> {
    memory.ending.as_ref().filter(|(epoch, _)| *epoch == view.record.epoch).map(|(_, cause)| cause.clone())
}

fn own_tenure(view: &View) -> Option<&Tenure> {
    view.record.tenure().filter(|tenure| tenure.holder == view.me)
}

/// The directory that was granted the lease is not here any more.
pub(super) fn directory_lost(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let tenure = own_tenure(view)?;
    let same = view.incarnation() == Some(tenure.incarnation);
    if same && !view.health.directory_gone {
        return None;
    }
    if matches!(view.server, Server::Down { .. }) {
        return end(view, memory, EndCause::DirectoryLost);
    }
    let why = Kill::DirectoryGone;
    Verdict::act(Reason::Killing { why }, Action::Kill { why })
}

/// Granted, but the time in which it may be opened has passed; nothing was opened, or it is ended first.
pub(super) fn grant_void(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !holds_granted(view) || view.holds_lease() {
        return None;
    }
    let epoch = view.record.epoch;
    match &view.server {
        Server::Running(running) if running.opened == Some(epoch) => {
            let why = Kill::NotOpenedInTime;
            Verdict::act(Reason::Killing { why }, Action::Kill { why })
        }
        _ => match remembered(view, memory) {
            Some(cause) => end(view, memory, cause),
            None => {
                let cause = EndCause::NotOpened { why: "the grant came too late".to_owned() };
                let verdict = end(view, memory, cause);
                verdict.map(|verdict| Verdict { reason: Reason::GrantTooLate { epoch }, ..verdict })
            }
        },
    }
}

/// Promoted: the record takes the new timeline into the lineage, and followers, gate and routes may go on.
///
/// What the record would refuse (another number than was reserved, voters ahead of the fork) is ended instead: two
/// promotions must never share a number, and no voter may hold what the primary does not.
pub(super) fn record_opening(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let tenure = own_tenure(view).filter(|_| holds_granted(view))?;
    let running = view.running().filter(|running| running.opened == Some(tenure.epoch))?;
    let primary = running.primary.as_ref()?;
    let opened = primary.history.last()?;
    let command = Command::Open {
        epoch: tenure.epoch,
        history: primary.history.clone(),
        next_xid: primary.next_xid,
        // Wall time is for people: filled in where the command is sent.
        at_unix_ms: 0,
    };
    if let Applied::Refused(refusal) = Record::clone(&view.record).apply(command.clone()) {
        let why = Kill::WrongTimeline;
        memory.ending = Some((tenure.epoch, EndCause::NotOpened { why: refusal.to_string() }));
        return Verdict::act(Reason::Killing { why }, Action::Kill { why });
    }
    let reason =
        Reason::RecordingOpening { epoch: tenure.epoch, timeline: opened.timeline, fork: opened.begin };
    Verdict::act(reason, Action::Propose(command))
}

/// The server died on the way, or the promotion made no progress: the grant is given back.
pub(super) fn opening_failed(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let epoch = own_tenure(view).filter(|_| holds_granted(view))?.epoch;
    let not_opened = |why: &str| (epoch, EndCause::NotOpened { why: why.to_owned() });
    let opening = view.failure(|job| matches!(job, Job::Open { epoch: failed, .. } if *failed == epoch));
    match &view.server {
        Server::Down { last_opened } => {
            // One that failed before this grant says nothing yet: it is tried at least once under each.
            let since = memory.granted_since.map_or(view.now, |(_, since)| since);
            let starting = view.failure(|job| matches!(job, Job::Start { .. }));
            let starting = starting.filter(|failure| failure.at >= since);
            if *last_opened == Some(epoch) {
                memory.ending.get_or_insert(not_opened("PostgreSQL died while it was promoted"));
            } else if let Some(failure) = starting.filter(|failure| failure.count >= 3) {
                memory.ending.get_or_insert(not_opened(&failure.error));
            }
            let cause = remembered(view, memory).filter(|_| !mutated(Mutant::FailedOpeningKept))?;
            end(view, memory, cause)
        }
        Server::Running(_) => {
            let failure = opening?;
            memory.ending = Some(not_opened(&failure.error));
            let reason = Reason::OpeningFailed { epoch, error: failure.error.clone() };
            let kill = Action::Kill { why: Kill::NotOpenedInTime };
            let mut actions = vec![Action::Relinquish { epoch }, kill];
            if mutated(Mutant::FailedOpeningKept) {
                actions.remove(0);
            }
            Some(Verdict { reason, actions })
        }
        Server::Unknown | Server::Ending => None,
    }
}

/// A grant that nothing comes of keeps everybody else from opening. PostgreSQL is left alone: it may still be recovering.
pub(super) fn grant_unused(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let epoch = own_tenure(view).filter(|_| holds_granted(view) && view.holds_lease())?.epoch;
    let since = memory.granted_since.map_or(view.now, |(_, since)| since);
    let opened = view.running().and_then(|running| running.opened) == Some(epoch);
    if opened || view.now.since(since) < GRANT_PATIENCE || mutated(Mutant::FailedOpeningKept) {
        return None;
    }
    let error = format!("nothing was opened for {} s", GRANT_PATIENCE.as_secs());
    memory.ending = Some((epoch, EndCause::NotOpened { why: error.clone() }));
    Verdict::act(Reason::OpeningFailed { epoch, error }, Action::Relinquish { epoch })
}

pub(super) fn promote(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = own_tenure(view).filter(|_| holds_granted(view))?;
    let (epoch, timeline) = (tenure.epoch, tenure.timeline);
    let job = match &view.server {
        Server::Down { .. } => Job::Start { upstream: None },
        _ => Job::Open { epoch, timeline, sync: tenure.sync.clone() },
    };
    if let Some(wait) = back_off(view, &job) {
        return Some(wait);
    }
    Verdict::act(Reason::Opening { epoch, timeline }, Action::Run(job))
}

/// No process of the primary is left: nobody writes under its epoch any more, so it need not run out.
pub(super) fn server_died(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let tenure = own_tenure(view).filter(|_| holds_open(view))?;
    match &view.server {
        Server::Down { .. } => {}
        // A standby where a primary should be: the guard was started anew.
        Server::Running(running) if running.opened.is_none() && running.in_recovery == Some(true) => {}
        _ => return None,
    }
    if let Some(cause) = remembered(view, memory) {
        return end(view, memory, cause);
    }
    if memory.saw_open == Some(tenure.epoch) {
        if !view.holds_lease() {
            return end(view, memory, EndCause::LeaseLost);
        }
        memory.crashes.entry(tenure.epoch).or_insert(view.now);
        return end(view, memory, EndCause::Crashed);
    }
    end(view, memory, EndCause::Restarted)
}

/// An operator asked for another primary.
pub(super) fn switch_over(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !holds_open(view) || !view.holds_lease() {
        return None;
    }
    let switchover = view.record.switchover.as_ref()?;
    let epoch = view.record.epoch;
    let waited = memory.switchover_since.map_or(Duration::ZERO, |(_, since)| view.now.since(since));
    // What failed before this one was asked for says nothing about it.
    let asked_at = memory.switchover_since.map_or(view.now, |(_, since)| since);
    let stop = |job: &Job| matches!(job, Job::StopForSwitchover { epoch: stopped, .. } if *stopped == epoch);
    if let Some(failure) = view.failure(stop).filter(|failure| failure.at >= asked_at) {
        memory.ending = None;
        let reason = Reason::SwitchoverCancelled { why: failure.error.clone() };
        let (id, why) = (switchover.id, failure.error.clone());
        return Verdict::act(reason, Action::Propose(Command::CancelSwitchover { id, why }));
    }
    let cancel = |why: &str| {
        let reason = Reason::SwitchoverCancelled { why: why.to_owned() };
        let (id, why) = (switchover.id, why.to_owned());
        Verdict::act(reason, Action::Propose(Command::CancelSwitchover { id, why }))
    };
    if switchover.to.as_ref() == Some(&view.me) {
        return cancel("this member is the primary already");
    }
    let under_way = match &view.job {
        Some(Job::StopForSwitchover { to, .. }) => Some(to.clone()),
        _ => None,
    };
    match under_way.or_else(|| switchover_target(view, switchover.to.as_ref())) {
        Some(to) => {
            memory.ending = Some((epoch, EndCause::Switchover { to: Some(to.clone()) }));
            Verdict::act(
                Reason::SwitchingOver { to: to.clone() },
                Action::Run(Job::StopForSwitchover { epoch, to }),
            )
        }
        None if waited < SWITCHOVER_PATIENCE => {
            Verdict::wait(Reason::SwitchoverWaits { to: switchover.to.clone() })
        }
        None => cancel(match switchover.to {
            Some(_) => "the target did not stream as a voter within 5 s",
            None => "no standby streamed as a voter within 5 s",
        }),
    }
}

/// The member asked for, or the furthest, if it streams as a voter that acknowledges commits.
pub(super) fn switchover_target(view: &View, wanted: Option<&MemberId>) -> Option<MemberId> {
    let sync = view.record.sync()?;
    let live = sync.voters.iter().filter(|voter| upkeep::is_live(view, voter));
    let held_back = |voter: &crate::sync::Voter| {
        let why = election::held_back(&view.record, &voter.member);
        !upkeep::stays(view, voter) || why.is_some_and(|why| why != HeldBack::Paused)
    };
    let candidates = live.filter(|voter| match wanted {
        Some(wanted) => *wanted == voter.member,
        None => !held_back(voter),
    });
    let flushed = |voter: &&crate::sync::Voter| {
        let own = view.walsenders.iter().find(|sender| sender.voter.as_ref() == Some(*voter));
        own.map(|sender| sender.flushed)
    };
    candidates.max_by_key(flushed).map(|voter| voter.member.clone())
}

pub(super) fn primary(view: &View, _: &mut Memory) -> Option<Verdict> {
    if !holds_open(view) {
        return None;
    }
    let epoch = view.record.epoch;
    if view.holds_lease() {
        Verdict::wait(Reason::Primary { epoch })
    } else {
        Verdict::wait(Reason::PrimaryWithoutMajority { epoch })
    }
}
