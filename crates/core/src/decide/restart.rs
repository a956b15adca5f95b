//! Restarts of PostgreSQL, one member after the other: standbys first, the primary last, and again where lowering asks for it.
//!
//! Whoever holds the open lease gives the turns. A standby stops and comes back by the ordinary way of one that died. The
//! primary gives way to a standby, or stops where it is and takes over from itself.

use super::{Memory, Verdict, hold, holds_open, upkeep};
use crate::action::{Action, Job};
use crate::reason::Reason;
use crate::record::{Command, EndCause, How, Kind, Restart, Turn};
use crate::view::{RestartNeed, View};
use crate::vocabulary::MemberId;

/// A member that still waits for a restart after so many has a reason of its own.
const MOST_TURNS: u32 = 3;

fn wanted(view: &View) -> Option<&Restart> {
    view.record.restarts.wanted.as_ref()
}

fn own_turn(view: &View, how: How) -> Option<(u64, &Turn)> {
    let restart = wanted(view)?;
    let turn = restart.turn.as_ref().filter(|turn| turn.member == view.me && turn.how == how)?;
    Some((restart.id, turn))
}

fn give_up(id: u64, why: String) -> Option<Verdict> {
    let command = Command::EndRestart { id, why: Some(why.clone()) };
    Verdict::act(Reason::RestartGivenUp { why }, Action::Propose(command))
}

/// Stopping, and what is done to the directory before it may be started again, is done to its end.
pub(super) fn keep_stopping(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let epoch = view.record.epoch;
    let job = view.job.as_ref().filter(|_| holds_open(view))?;
    if !matches!(job, Job::StopInPlace { epoch: stopped, .. } if *stopped == epoch) {
        return None;
    }
    memory.ending = Some((epoch, EndCause::RestartedInPlace));
    Verdict::act(Reason::RestartingInPlace { epoch }, Action::Run(job.clone()))
}

/// The primary's turn, where it is.
pub(super) fn stop_in_place(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !holds_open(view) || !view.holds_lease() || view.record.paused().is_some() {
        return None;
    }
    let epoch = view.record.epoch;
    let (id, turn) = own_turn(view, How::InPlace).filter(|(_, turn)| turn.epoch == epoch)?;
    let job = Job::StopInPlace { epoch, id, number: turn.number };
    if let Some(failure) = view.failure(|failed| *failed == job) {
        memory.ending = None;
        return give_up(id, failure.error.clone());
    }
    memory.ending = Some((epoch, EndCause::RestartedInPlace));
    Verdict::act(Reason::RestartingInPlace { epoch }, Action::Run(job))
}

/// Whether PostgreSQL is down here because it is this standby's turn, and not by anybody's hand.
pub(super) fn stopped_for_its_turn(view: &View) -> bool {
    own_turn(view, How::Standby).is_some_and(|(id, turn)| view.stopped_for == Some((id, turn.number)))
}

/// A standby's turn. What follows is what follows on any standby that died.
pub(super) fn stop_standby(view: &View, _: &mut Memory) -> Option<Verdict> {
    if !view.record.is_open() || holds_open(view) {
        return None;
    }
    let (id, turn) = own_turn(view, How::Standby)?;
    let number = turn.number;
    if view.stopped_for == Some((id, number)) {
        return None;
    }
    let job = Job::StopForRestart { id, number };
    if let Some(failure) = view.failure(|failed| *failed == job) {
        return give_up(id, failure.error.clone());
    }
    if view.job.as_ref() != Some(&job) {
        view.running().filter(|running| running.ready)?;
    }
    Verdict::act(Reason::StoppingForRestart, Action::Run(job))
}

/// It stopped for its turn and streams again.
pub(super) fn standby_is_back(view: &View, _: &mut Memory) -> Option<Verdict> {
    let (id, turn) = own_turn(view, How::Standby)?;
    let number = turn.number;
    let follows = view.upstream.as_ref().is_some_and(|upstream| upstream.epoch == view.record.epoch);
    let streams = view.running().is_some_and(|running| running.streaming.is_some());
    if view.stopped_for != Some((id, number)) || !follows || !streams || view.job.is_some() {
        return None;
    }
    Verdict::act(Reason::Restarted, Action::Propose(Command::EndTurn { id, number }))
}

/// The primary's turn by a switchover: that is asked for like any other.
pub(super) fn ask_for_switchover(view: &View, _: &mut Memory) -> Option<Verdict> {
    let (restart, turn) =
        own_turn(view, How::Switchover).filter(|_| holds_open(view) && view.holds_lease())?;
    let switchover = restart.wrapping_add(turn.number);
    if let Some(cancelled) = view.record.cancelled.as_ref().filter(|cancelled| cancelled.id == switchover) {
        return give_up(restart, cancelled.why.clone());
    }
    if view.record.switchover.is_some() || turn.epoch != view.record.epoch {
        return None;
    }
    let command = Command::RequestSwitchover { id: switchover, epoch: turn.epoch, to: None };
    Verdict::act(Reason::RestartBySwitchover, Action::Propose(command))
}

/// A member that is none any more ends no turn.
pub(super) fn turn_of_nobody(view: &View, _: &mut Memory) -> Option<Verdict> {
    let restart = wanted(view).filter(|_| holds_open(view))?;
    let turn = restart.turn.as_ref()?;
    if view.record.members.get(&turn.member).is_some_and(|row| !row.leaving) {
        return None;
    }
    let why = format!("{} leaves the cluster", turn.member);
    give_up(restart.id, why)
}

/// Who is next, while nobody has a turn and the cluster can do without one.
pub(super) fn give_turn(view: &View, _: &mut Memory) -> Option<Verdict> {
    let restart = wanted(view).filter(|restart| restart.turn.is_none())?;
    if !holds_open(view) || !view.holds_lease() {
        return None;
    }
    let wait = |what: String| Verdict::wait(Reason::RestartWaits { what });
    if !view.gate_open {
        return wait("the primary does not let applications in yet".to_owned());
    }
    // In a pause nobody takes over by itself, also no primary that has stopped to be restarted.
    if view.record.paused().is_some() {
        return wait("the cluster is paused; go on with: mainstay resume".to_owned());
    }
    if view.record.switchover.is_some() {
        return wait("a switchover is under way".to_owned());
    }
    let next = match next(view, restart) {
        Next::Wait(what) => return wait(what),
        Next::Nobody => {
            let command = Command::EndRestart { id: restart.id, why: None };
            return Verdict::act(Reason::RestartDone, Action::Propose(command));
        }
        Next::Member(next) => next,
    };
    if let Some(missing) = missing(view, restart, &next) {
        return wait(format!("{next} is next, but {missing} does not stream"));
    }
    let how = match () {
        () if next != view.me => How::Standby,
        () if restart.in_place || view.restart.lowers => How::InPlace,
        () if hold::switchover_target(view, None).is_none() => How::InPlace,
        () => How::Switchover,
    };
    let (id, epoch) = (restart.id, view.record.epoch);
    let command = Command::GiveTurn { id, member: next.clone(), epoch, how };
    Verdict::act(Reason::RestartTurn { member: next }, Action::Propose(command))
}

enum Next {
    Member(MemberId),
    Wait(String),
    Nobody,
}

/// Standbys in the order of their names, then the primary.
fn next(view: &View, restart: &Restart) -> Next {
    let standbys = staying(view).filter(|member| **member != view.me);
    let order: Vec<&MemberId> = standbys.chain(staying(view).filter(|member| **member == view.me)).collect();
    let turns = |member: &MemberId| restart.done.get(member).copied().unwrap_or(0);
    if !restart.members.is_empty() {
        let chosen = order.into_iter().find(|member| restart.members.contains(*member) && turns(member) == 0);
        return match chosen {
            Some(member) if need(view, member).is_none() => Next::Wait(format!("{member} is not heard")),
            Some(member) => Next::Member(member.clone()),
            None => Next::Nobody,
        };
    }
    // Whoever is not heard starts with the new configuration when it comes back.
    let needs: Vec<(&MemberId, &RestartNeed)> =
        order.into_iter().filter_map(|member| Some((member, need(view, member)?))).collect();
    let current = |need: &RestartNeed| need.known && need.serial == view.record.parameters.serial;
    if let Some((member, _)) = needs.iter().find(|(_, need)| !current(need)) {
        return Next::Wait(format!("{member} has not said yet what it runs with"));
    }
    let pending = needs.iter().find(|(member, need)| need.pending && turns(member) < MOST_TURNS);
    if let Some((member, _)) = pending {
        return Next::Member((*member).clone());
    }
    match needs.iter().find(|(_, need)| need.waits && !need.pending) {
        Some((member, _)) if *member != &view.me => {
            Next::Wait(format!("{member} keeps the primary's values until it has replayed the lower ones"))
        }
        _ => Next::Nobody,
    }
}

fn staying(view: &View) -> impl Iterator<Item = &MemberId> {
    view.record.staying().filter(|(_, row)| row.kind == Kind::Data).map(|(member, _)| member)
}

fn need<'a>(view: &'a View, member: &MemberId) -> Option<&'a RestartNeed> {
    if *member == view.me { Some(&view.restart) } else { view.fresh_peer(member).map(|peer| &peer.restart) }
}

/// Who does not stream and would have to while `next` is away. Of members that were named only those that acknowledge commits
/// are asked for: somebody has looked.
fn missing(view: &View, restart: &Restart, next: &MemberId) -> Option<MemberId> {
    let voters = view.record.sync().map(|sync| &sync.voters);
    let live = |member: &MemberId| {
        let voter = voters.into_iter().flatten().find(|voter| voter.member == *member);
        voter.is_some_and(|voter| upkeep::is_live(view, voter))
    };
    let counts = |member: &MemberId| voters.into_iter().flatten().any(|voter| voter.member == *member);
    let asked = |member: &MemberId| restart.members.is_empty() || counts(member);
    let others = staying(view).filter(|member| **member != view.me && *member != next);
    others.filter(|member| asked(member)).find(|member| !live(member)).cloned()
}
