//! What operators have asked for: pauses and maintenance that end by themselves, new copies, failovers, switchovers that are due.

use std::time::Duration;

use super::{Memory, Verdict, follow, has_ended, health, hold, holds_open, restart};
use crate::action::{Action, Kill};
use crate::election;
use crate::reason::Reason;
use crate::record::{Command, EndCause, Operate};
use crate::view::{Directory, Server, View};
use crate::vocabulary::MemberId;

/// A switchover that could not be done for so long after its time is not done at another.
const MISSED_BY: Duration = Duration::from_secs(300);

fn propose(reason: Reason, what: Operate) -> Option<Verdict> {
    Verdict::act(reason, Action::Propose(Command::Operate(what)))
}

/// Somebody holds every acknowledged commit, and an operator holds them back.
pub(super) fn held_back(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !has_ended(view) || !election::ranking(&view.record).is_empty() {
        return None;
    }
    let (member, why) = election::proven_but_held_back(&view.record)?;
    memory.held_back_at = Some((view.record.epoch, view.now));
    Verdict::wait(Reason::HeldBack { epoch: view.record.epoch, member, why })
}

/// An operator takes the lease from this primary: like a hung one it is ended at once, if another can go on.
pub(super) fn step_down(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !holds_open(view) || !view.holds_lease() {
        return None;
    }
    let epoch = view.record.epoch;
    let failover = view.record.failover().filter(|failover| failover.epoch == epoch)?;
    if !health::somebody_else_can(view, failover.to.as_ref()) {
        let why = match &failover.to {
            Some(to) => format!("{to} does not follow as a voter"),
            None => "no voter follows that could go on".to_owned(),
        };
        let id = failover.id;
        return propose(Reason::Withdrawn { why: why.clone() }, Operate::Withdraw { id, why });
    }
    let what = "an operator asked for a failover".to_owned();
    memory.ending = Some((epoch, EndCause::Hung { what: what.clone() }));
    Some(Verdict {
        reason: Reason::Hung { what },
        actions: vec![Action::Relinquish { epoch }, Action::Kill { why: Kill::FailoverAsked }],
    })
}

/// A data directory that an operator has given up is copied anew, once nobody counts on it.
pub(super) fn reinit(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = follow::other_open(view)?;
    let given_up = view.record.operation.reinit.get(&view.me)?;
    if view.incarnation() != Some(*given_up) {
        return None;
    }
    follow::clone(view, &tenure.holder, tenure.epoch, "an operator asked for a new copy".to_owned())
}

/// A PostgreSQL that was stopped, or died, while somebody works here by hand is left so.
pub(super) fn leave_stopped(view: &View, _: &mut Memory) -> Option<Verdict> {
    let epoch = follow::other_open(view)?.epoch;
    let down = matches!(view.server, Server::Down { .. });
    if !down || !matches!(view.directory, Directory::Valid { .. }) || restart::stopped_for_its_turn(view) {
        return None;
    }
    let followed = view.upstream.as_ref().is_some_and(|upstream| upstream.epoch == epoch);
    if view.record.in_maintenance(&view.me) {
        return Verdict::wait(Reason::LeftStopped { paused: false });
    }
    // One that has yet to follow this primary is started: the old primary after a switchover, say.
    if view.record.paused().is_some() && followed {
        return Verdict::wait(Reason::LeftStopped { paused: true });
    }
    None
}

/// Who leads the log of a cluster that is there says what is over: there may be no primary.
fn speaks(view: &View) -> bool {
    view.leads && view.record.format != 0
}

/// Its time is over.
pub(super) fn resume(view: &View, _: &mut Memory) -> Option<Verdict> {
    let until = view.record.paused()?.until_unix_ms?;
    if !speaks(view) || view.unix_ms < until {
        return None;
    }
    propose(Reason::PauseOver { member: None }, Operate::Resume {})
}

pub(super) fn end_maintenance(view: &View, _: &mut Memory) -> Option<Verdict> {
    let is_over = |until: Option<u64>| until.is_some_and(|until| view.unix_ms >= until);
    let mut maintained = view.record.operation.maintenance.iter();
    let (member, _) = maintained.find(|(_, pause)| speaks(view) && is_over(pause.until_unix_ms))?;
    let member = member.clone();
    propose(Reason::PauseOver { member: Some(member.clone()) }, Operate::EndMaintenance { member })
}

/// The directory that was given up is no more: its member says so itself.
pub(super) fn forget_reinit(view: &View, _: &mut Memory) -> Option<Verdict> {
    let now_there = |member: &MemberId| {
        if *member == view.me {
            view.incarnation()
        } else {
            view.fresh_peer(member).and_then(|peer| peer.incarnation)
        }
    };
    let mut given_up = view.record.operation.reinit.iter();
    let done = |(member, old): &(&MemberId, &_)| now_there(member).is_some_and(|now| now != **old);
    let member = given_up.find(|entry| speaks(view) && done(entry))?.0.clone();
    propose(Reason::CopiedAnew { member: member.clone() }, Operate::ForgetReinit { member })
}

/// The primary does it once, at its time; or says that there was none then.
pub(super) fn scheduled_switchover(view: &View, _: &mut Memory) -> Option<Verdict> {
    let scheduled = view.record.operation.scheduled.as_ref()?;
    if !holds_open(view) || !view.holds_lease() || view.unix_ms < scheduled.due_unix_ms {
        return None;
    }
    let id = scheduled.id;
    let late = Duration::from_millis(view.unix_ms - scheduled.due_unix_ms);
    if late > MISSED_BY {
        let why =
            format!("it was due {} minutes ago, and there was no primary to do it", late.as_secs() / 60);
        return propose(Reason::Withdrawn { why: why.clone() }, Operate::Withdraw { id, why });
    }
    if view.record.switchover.is_some() {
        return None;
    }
    propose(Reason::SwitchoverDue { to: scheduled.to.clone() }, Operate::Due { id, epoch: view.record.epoch })
}

/// The primary is to be left alone: another takes over first, with everything.
pub(super) fn hand_over(view: &View, _: &mut Memory) -> Option<Verdict> {
    let (record, epoch) = (&view.record, view.record.epoch);
    let leaves = record.members.get(&view.me).is_some_and(|row| row.leaving);
    let maintenance = record.operation.maintenance.get(&view.me).map(|since| since.since_unix_ms);
    let id = maintenance.or(leaves.then_some(epoch.0))?;
    if !holds_open(view) || !view.holds_lease() || view.record.switchover.is_some() {
        return None;
    }
    match hold::switchover_target(view, None) {
        Some(_) => {
            let command = Command::RequestSwitchover { id, epoch, to: None };
            Verdict::act(Reason::HandingOver, Action::Propose(command))
        }
        None => Verdict::wait(Reason::NobodyToHandOverTo),
    }
}
