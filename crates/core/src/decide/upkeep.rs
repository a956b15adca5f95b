//! What an open primary does beside serving: who acknowledges commits, and when applications may come in.

use std::time::Duration;

use super::{Memory, Verdict, back_off, holds_open};
use crate::action::{Action, Job};
use crate::mutant::{Mutant, mutated};
use crate::reason::Reason;
use crate::record::{Command, Tenure};
use crate::sync::{self, Step, SyncSet, Voter, wanted_acknowledgements};
use crate::view::{MemberState, PEER_FRESH, PeerServer, Primary, View, Walsender};
use crate::vocabulary::MemberId;

/// A voter that flushes nothing for so long, although there is WAL, is not counted on.
const FLUSH_STALL: Duration = Duration::from_millis(700);
/// A lost voter that is not needed for now is taken out of the set after this.
const REMOVE_AFTER: Duration = Duration::from_secs(5);
/// A majority that has lost the standby too settles the matter after this.
const DEGRADE_AFTER: Duration = Duration::from_secs(1);
/// A standby joins the voters once it is at most this far behind: 16 MiB, one segment.
const CAUGHT_UP_BYTES: u64 = 16 * 1024 * 1024;

/// An open primary that may act: lease held, server out of recovery, nothing stopping it.
fn open_primary(view: &View) -> Option<(&Tenure, &Primary)> {
    let tenure = view.record.base.as_ref().filter(|_| holds_open(view) && view.holds_lease())?;
    let running = view.running().filter(|running| running.opened == Some(tenure.epoch))?;
    let stopping = matches!(view.job, Some(Job::StopForSwitchover { .. } | Job::StopInPlace { .. }));
    running.primary.as_ref().filter(|_| !stopping).map(|primary| (tenure, primary))
}

fn sender_of<'a>(view: &'a View, voter: &Voter) -> Option<&'a Walsender> {
    view.walsenders.iter().find(|sender| sender.voter.as_ref() == Some(voter))
}

/// What the voter says of itself, if it follows the epoch of the record with this very directory.
fn follower<'a>(view: &'a View, voter: &Voter) -> Option<&'a MemberState> {
    view.fresh_peer(&voter.member)
        .filter(|peer| peer.incarnation == Some(voter.incarnation) && peer.epoch == view.record.epoch)
}

/// Whether the primary streams to the voter and it flushes.
pub(super) fn is_live(view: &View, voter: &Voter) -> bool {
    sender_of(view, voter).is_some_and(|sender| {
        sender.streaming && sender.stalled_since.is_none_or(|since| view.now.since(since) < FLUSH_STALL)
    })
}

/// Whether the voter itself says that it receives this epoch's timeline, up to `flushed` at least.
///
/// The primary's own `flush_lsn` proves nothing: a follower ahead of the fork reports positions of another history.
fn has_flushed_past_opening(view: &View, tenure: &Tenure, primary: &Primary, voter: &Voter) -> bool {
    let streaming = follower(view, voter).and_then(|peer| peer.streaming);
    streaming.is_some_and(|streaming| {
        streaming.timeline == tenure.timeline && streaming.flushed >= primary.end_of_recovery
    })
}

/// An earlier life of this process may have changed the sync set behind what was applied here so far.
pub(super) fn read_record(view: &View, _: &mut Memory) -> Option<Verdict> {
    let epoch = open_primary(view)?.0.epoch;
    if view.confirmed == Some(epoch) || mutated(Mutant::RecordNotRead) {
        return None;
    }
    Verdict::act(Reason::ReadingRecord { epoch }, Action::ReadRecord)
}

/// A name of ours that belongs to no living directory, or to a connection that its follower has given up.
pub(super) fn end_strangers(view: &View, _: &mut Memory) -> Option<Verdict> {
    // Who is a member is told by the record, so not before it was read.
    open_primary(view).filter(|(tenure, _)| view.confirmed == Some(tenure.epoch))?;
    let stranger = |sender: &&Walsender| {
        let Some(voter) = &sender.voter else { return sender.application_name.starts_with("ms_") };
        let peer = view.fresh_peer(&voter.member);
        let other_life = peer.and_then(|peer| peer.incarnation).is_some_and(|said| said != voter.incarnation);
        let stalled = sender.stalled_since.is_some_and(|since| view.now.since(since) >= FLUSH_STALL);
        let given_up = stalled && peer.is_some_and(|peer| peer.streaming.is_none());
        !view.record.members.contains_key(&voter.member) || other_life || given_up
    };
    let sender = view.walsenders.iter().find(stranger)?;
    let reason = Reason::EndingStranger { application_name: sender.application_name.clone() };
    Verdict::act(reason, Action::EndWalsender { pid: sender.pid })
}

fn attached(view: &View, tenure: &Tenure, primary: &Primary) -> usize {
    let voters = tenure.sync.voters.iter();
    voters.filter(|voter| has_flushed_past_opening(view, tenure, primary, voter)).count()
}

/// Applications come in once what became visible by the promotion can no longer be lost.
pub(super) fn open_gate(view: &View, _: &mut Memory) -> Option<Verdict> {
    let (tenure, primary) = open_primary(view)?;
    if view.gate_open {
        return None;
    }
    let enough = attached(view, tenure, primary) >= tenure.sync.k as usize;
    if !enough && !mutated(Mutant::GateIgnored) {
        return None;
    }
    let job = Job::OpenGate { epoch: tenure.epoch };
    let reason = Reason::OpeningGate { epoch: tenure.epoch };
    back_off(view, &job).or_else(|| Verdict::act(reason, Action::Upkeep(job)))
}

pub(super) fn change_sync(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let (tenure, primary) = open_primary(view)?;
    let (target, lost) = target(view, memory, tenure, primary);
    let epoch = tenure.epoch;
    let action = match sync::plan(view.names.as_ref(), &tenure.sync, &tenure.names, &target) {
        Step::Done => return None,
        Step::Names(sync) => {
            let job = Job::SetNames { epoch, sync };
            if let Some(wait) = back_off(view, &job) {
                return Some(wait);
            }
            Action::Upkeep(job)
        }
        Step::Record { sync, names } => {
            Action::Propose(Command::SetSync { epoch, serial: tenure.sync_serial, sync, names })
        }
    };
    let from = tenure.sync.clone();
    let reason =
        if lost.is_empty() { Reason::ChangingSync { from, to: target } } else { Reason::Degrading { lost } };
    Verdict::act(reason, action)
}

/// The set that should acknowledge commits, and the voters that are given up for it.
fn target(view: &View, memory: &Memory, tenure: &Tenure, primary: &Primary) -> (SyncSet, Vec<MemberId>) {
    let wanted = wanted_acknowledgements(view.record.counted_data_members(&tenure.holder));
    let record = &tenure.sync;
    let mut live: Vec<Voter> = live_voters(view, tenure, primary);
    if live.len() < wanted as usize {
        live.extend(reserve(view, tenure));
    }
    let recently_lost = |voter: &&Voter| {
        let lost = memory.lost_since.get(*voter).map(|since| view.now.since(*since));
        stays(view, voter) && !live.contains(voter) && lost.is_none_or(|lost| lost < REMOVE_AFTER)
    };
    let kept: Vec<Voter> = record.voters.iter().filter(recently_lost).cloned().collect();
    let full = SyncSet::new(live.iter().chain(&kept).cloned(), wanted);
    // Fewer acknowledgements than now are agreed upon below only.
    if full.k >= record.k.min(wanted) && live.len() >= full.k as usize {
        return (full, Vec::new());
    }
    let missing: Vec<&Voter> = record.voters.iter().filter(|voter| !live.contains(voter)).collect();
    if missing.iter().all(|voter| may_give_up(view, memory, voter)) {
        let lost = missing.iter().map(|voter| voter.member.clone()).collect();
        return (SyncSet::new(live, wanted), lost);
    }
    (record.clone(), Vec::new())
}

/// Whether commits are to rest on the voter: its member stays in the cluster and is not set aside.
pub(super) fn stays(view: &View, voter: &Voter) -> bool {
    view.record.members.get(&voter.member).is_some_and(|row| !row.leaving) && !view.record.is_set_aside(voter)
}

/// Voters of the record that stream, and standbys that have caught up and follow this epoch by their own word.
fn live_voters(view: &View, tenure: &Tenure, primary: &Primary) -> Vec<Voter> {
    let senders =
        view.walsenders.iter().filter_map(|sender| sender.voter.as_ref().map(|voter| (sender, voter)));
    let counts = |(sender, voter): &(&Walsender, &Voter)| {
        let caught_up = primary.inserted.bytes_ahead_of(sender.flushed) <= CAUGHT_UP_BYTES;
        stays(view, voter)
            && is_live(view, voter)
            && (tenure.sync.voters.contains(*voter)
                || caught_up && has_flushed_past_opening(view, tenure, primary, voter))
    };
    let mut live: Vec<Voter> = senders.filter(counts).map(|(_, voter)| voter.clone()).collect();
    live.sort();
    live.dedup();
    live
}

/// Voters that are to go but still stream: commits rest on them until others do, so that those can be taken out, copied anew
/// and come back. Otherwise each waits for the other.
fn reserve<'a>(view: &'a View, tenure: &'a Tenure) -> impl Iterator<Item = Voter> + 'a {
    let voters = tenure.sync.voters.iter();
    voters.filter(|voter| !stays(view, voter) && is_live(view, voter)).cloned()
}

/// Whether commits may go on without this voter.
///
/// A majority that has lost it too: after a second. Only this side's link to it cut: after a full lease, and only with the
/// lease renewed since, so that a primary cut off from everyone never goes on alone.
fn may_give_up(view: &View, memory: &Memory, voter: &Voter) -> bool {
    let Some(since) = memory.lost_since.get(voter).copied() else {
        return false;
    };
    let lost_for = view.now.since(since);
    if lost_for >= DEGRADE_AFTER && lost_by_majority(view, &voter.member) {
        return true;
    }
    let lease = view.record.settings.lease();
    let renewed = view.lease.is_some_and(|held| held.renewed_at > since.plus(lease / 2));
    lost_for >= lease && renewed
}

fn lost_by_majority(view: &View, member: &MemberId) -> bool {
    if view.fresh_peer(member).is_some_and(|peer| peer.server == PeerServer::Down) {
        return true;
    }
    let others = view.record.voters().filter(|voter| **voter != view.me && *voter != member);
    let lost_too = others.filter(|voter| {
        view.fresh_peer(voter).is_some_and(|peer| {
            let heard_ms = peer.heard_ms.get(member).copied().unwrap_or(u64::MAX);
            u128::from(heard_ms) >= PEER_FRESH.as_millis()
        })
    });
    let own = usize::from(view.record.voters().any(|voter| *voter == view.me));
    lost_too.count() + own >= view.record.majority()
}

pub(super) fn wait_for_gate(view: &View, _: &mut Memory) -> Option<Verdict> {
    let (tenure, primary) = open_primary(view)?;
    if view.gate_open {
        return None;
    }
    let attached = attached(view, tenure, primary);
    Verdict::wait(Reason::WaitingForGate { attached, needed: tenure.sync.k })
}

pub(super) fn checkpoint(view: &View, _: &mut Memory) -> Option<Verdict> {
    let (tenure, _) = open_primary(view)?;
    if view.checkpointed == Some(tenure.epoch) {
        return None;
    }
    let epoch = tenure.epoch;
    let job = Job::Checkpoint { epoch };
    back_off(view, &job).or_else(|| Verdict::act(Reason::Primary { epoch }, Action::Upkeep(job)))
}
