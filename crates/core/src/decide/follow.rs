//! Another member holds the lease: stream from it, by the cheapest way that is right.
//!
//! The ladder is follow, then rewind, then clone. Each rung is decided from the ledger and what the directory holds,
//! after a linearizable read, so that nobody streams from a primary that the cluster has left behind.

use std::time::Duration;

use super::{Memory, Verdict, back_off, foreign, holds};
use crate::action::{Action, Job};
use crate::lineage::{self, Beyond, Standing};
use crate::mutant::{Mutant, mutated};
use crate::reason::Reason;
use crate::record::{Phase, Tenure};
use crate::sync::Voter;
use crate::view::{Directory, Failure, MemberState, PeerServer, View};
use crate::vocabulary::{Epoch, MemberId};

/// A server that was told to stream does so within this, where nothing is in its way.
const UNTOLD_PATIENCE: Duration = Duration::from_secs(2);
/// A follower that does not stream for so long, from a primary that works, has lost its way.
const STUCK_PATIENCE: Duration = Duration::from_secs(60);
/// Crash recovery reads the WAL since the last checkpoint.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// One that needs WAL that the primary no longer has need not wait so long.
const WAL_GONE_PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn other_open(view: &View) -> Option<&Tenure> {
    view.record.base.as_ref().filter(|_| view.record.is_open() && !holds(view))
}

pub(super) fn wait_for_opening(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = view.record.tenure().filter(|_| view.record.phase == Phase::Granted && !holds(view))?;
    Verdict::wait(Reason::WaitingForOpening { epoch: tenure.epoch, holder: tenure.holder.clone() })
}

/// What was applied here may be old; only a read through a majority shows that it is not.
pub(super) fn read_record(view: &View, _: &mut Memory) -> Option<Verdict> {
    let epoch = other_open(view)?.epoch;
    // A promise never to stream from this epoch was made after it ended, so the record shown here is older than that.
    let current = view.confirmed == Some(epoch) && view.sealed < epoch;
    if current || mutated(Mutant::RecordNotRead) {
        return None;
    }
    Verdict::act(Reason::ReadingRecord { epoch }, Action::ReadRecord)
}

/// Starting to follow changes, half-way, the very facts that it was decided on; it is done to its end.
pub(super) fn go_on(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    let (member, epoch) = (tenure.holder.clone(), tenure.epoch);
    let job = Job::Follow { member: member.clone(), epoch };
    if view.job.as_ref() != Some(&job) {
        return None;
    }
    memory.told_to_follow = Some(epoch);
    Verdict::act(Reason::StartingToFollow { member, epoch }, Action::Run(job))
}

/// A clone or rewind that has begun goes on: it ends the server and marks the directory first, and what is seen then is no
/// longer why it was begun. A rewind that was called off half-way would leave nothing but a clone.
pub(super) fn keep_changing(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    let job = view.job.as_ref().filter(|job| {
        matches!(job, Job::Clone { member, epoch } | Job::Rewind { member, epoch }
            if *member == tenure.holder && *epoch == tenure.epoch)
    })?;
    Verdict::act(Reason::GoingOn { job: job.clone() }, Action::Run(job.clone()))
}

/// A live standby that was told to stream from this primary. One that died is looked at anew before it is started:
/// an outside hand may have promoted it, and a follower ahead of the primary acknowledges what it does not have.
pub(super) fn keep_following(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    let (member, epoch) = (tenure.holder.clone(), tenure.epoch);
    let configured =
        view.upstream.as_ref().is_some_and(|upstream| upstream.epoch == epoch && upstream.member == member);
    if !configured || !matches!(view.directory, Directory::Valid { .. }) {
        return None;
    }
    let running = view.running()?;
    if running.streaming.is_some() {
        return Verdict::wait(Reason::Following { member, epoch });
    }
    let job = Job::Follow { member: member.clone(), epoch };
    let stuck = memory.not_streaming_since.map_or(Duration::ZERO, |(_, since)| view.now.since(since));
    let untold = memory.told_to_follow != Some(epoch)
        && (UNTOLD_PATIENCE..STUCK_PATIENCE).contains(&stuck)
        && !mutated(Mutant::NotToldAgain);
    if untold || view.failure(|failed| *failed == job).is_some() {
        // It was written that this member follows, but PostgreSQL may not have been told: that failed, or an earlier life
        // of this process ended in between. Or somebody paused its replay, which keeps it from connecting.
        memory.told_to_follow = Some(epoch);
        let reason = Reason::StartingToFollow { member, epoch };
        return back_off(view, &job).or_else(|| Verdict::act(reason, Action::Run(job)));
    }
    not_streaming(view, stuck, &member, epoch)
}

fn not_streaming(view: &View, stuck: Duration, member: &MemberId, epoch: Epoch) -> Option<Verdict> {
    let Some(primary) = ready_source(view, member, epoch) else {
        return wait_for_source(member);
    };
    let wait = Verdict::wait(Reason::NotStreaming { member: member.clone(), seconds: stuck.as_secs() });
    // A server that is still recovering has not said what it needs, and may take minutes.
    let Some(running) = view.running().filter(|running| running.ready || stuck >= START_PATIENCE) else {
        return wait;
    };
    let wal_gone = running.ready && primary.wal_kept_from.is_some_and(|kept| running.replayed < kept);
    if view.record.paused().is_some() {
        return wait;
    }
    let why = if wal_gone && stuck >= WAL_GONE_PATIENCE {
        "it no longer has the WAL that is needed here"
    } else if stuck >= STUCK_PATIENCE {
        "streaming did not begin for a minute"
    } else {
        return wait;
    };
    clone(view, member, epoch, why.to_owned())
}

fn wait_for_source(member: &MemberId) -> Option<Verdict> {
    let what = "it has not said yet that its PostgreSQL is open".to_owned();
    Verdict::wait(Reason::WaitingForSource { member: member.clone(), what })
}

/// The primary, if it was heard lately and works.
pub(super) fn ready_source<'a>(view: &'a View, member: &MemberId, epoch: Epoch) -> Option<&'a MemberState> {
    view.fresh_peer(member).filter(|peer| peer.server == PeerServer::Primary && peer.epoch == epoch)
}

pub(super) fn foreign_directory(view: &View, _: &mut Memory) -> Option<Verdict> {
    other_open(view)?;
    Verdict::wait(Reason::ForeignDirectory { why: foreign(view)? })
}

/// Whether the data here, as it is, proves what was acknowledged. The primary takes a voter that does not stream out of
/// the sync set by itself; only then may its directory be touched.
fn still_votes(view: &View) -> bool {
    let own = view.incarnation().map(|incarnation| Voter { member: view.me.clone(), incarnation });
    let sync = view.record.sync().filter(|_| !mutated(Mutant::VoterWiped));
    own.zip(sync).is_some_and(|(own, sync)| sync.voters.contains(&own))
}

fn wait_to_leave(member: &MemberId) -> Option<Verdict> {
    let what = "as long as this member is a voter, its data is not replaced".to_owned();
    Verdict::wait(Reason::WaitingForSource { member: member.clone(), what })
}

pub(super) fn clone(view: &View, member: &MemberId, epoch: Epoch, why: String) -> Option<Verdict> {
    if ready_source(view, member, epoch).is_none() {
        return wait_for_source(member);
    }
    if still_votes(view) {
        return wait_to_leave(member);
    }
    let job = Job::Clone { member: member.clone(), epoch };
    let reason = Reason::Cloning { member: member.clone(), why };
    back_off(view, &job).or_else(|| Verdict::act(reason, Action::Run(job)))
}

pub(super) fn clone_absent(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    let why = match &view.directory {
        Directory::Absent => "there is no data here yet".to_owned(),
        Directory::Marked { operation } => format!("{operation} was not finished"),
        _ => return None,
    };
    clone(view, &tenure.holder, tenure.epoch, why)
}

/// The scan of a directory that has left every epoch before `epoch`.
fn sealed_before(view: &View, epoch: Epoch) -> Option<&crate::view::Scan> {
    let scan = view.scan.as_ref().filter(|scan| Some(scan.incarnation) == view.incarnation())?;
    (view.sealed.next() >= epoch).then_some(scan)
}

/// A member that was away when the epoch ended leaves it now, before it looks at what it holds.
pub(super) fn seal(view: &View, _: &mut Memory) -> Option<Verdict> {
    let before = Epoch(other_open(view)?.epoch.0.saturating_sub(1));
    if sealed_before(view, before.next()).is_some() {
        return None;
    }
    let job = Job::Seal { epoch: before };
    back_off(view, &job).or_else(|| Verdict::act(Reason::Sealing { epoch: before }, Action::Run(job)))
}

fn standing(view: &View, tenure: &Tenure) -> Option<Standing> {
    sealed_before(view, tenure.epoch).map(|scan| lineage::compare(&view.record.lineage, &scan.extent))
}

/// Nothing is held that the lineage does not have: streaming may begin. Compared before `primary_conninfo` is written.
pub(super) fn start_to_follow(view: &View, memory: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    if !standing(view, tenure)?.may_follow() {
        return None;
    }
    let job = Job::Follow { member: tenure.holder.clone(), epoch: tenure.epoch };
    memory.told_to_follow = Some(tenure.epoch);
    let reason = Reason::StartingToFollow { member: tenure.holder.clone(), epoch: tenure.epoch };
    back_off(view, &job).or_else(|| Verdict::act(reason, Action::Run(job)))
}

/// WAL that never became part of the cluster is undone, unless `pg_rewind` could not see the difference.
pub(super) fn rewind(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    let standing = standing(view, tenure)?;
    let (timeline, bytes) = match &standing.beyond {
        Beyond::Diverged { timeline, bytes } => (*timeline, *bytes),
        Beyond::Extension { timelines } => {
            let end = view.scan.as_ref().map_or(standing.position, |scan| scan.extent.end);
            (*timelines.last()?, end.bytes_ahead_of(standing.position))
        }
        Beyond::Nothing | Beyond::Unrelated => return None,
    };
    if numbers_collide(view) || rewind_failed(view, tenure).is_some() {
        return None;
    }
    let member = tenure.holder.clone();
    if still_votes(view) {
        return wait_to_leave(&member);
    }
    if !ready_source(view, &member, tenure.epoch).is_some_and(|source| source.checkpointed) {
        let what = "the first checkpoint after its promotion, which pg_rewind needs".to_owned();
        return Verdict::wait(Reason::WaitingForSource { member, what });
    }
    let job = Job::Rewind { member: member.clone(), epoch: tenure.epoch };
    Verdict::act(Reason::Rewinding { member, timeline, bytes }, Action::Run(job))
}

/// A failure against an earlier primary says nothing about this one.
fn rewind_failed<'a>(view: &'a View, tenure: &Tenure) -> Option<&'a Failure> {
    view.failure(|job| matches!(job, Job::Rewind { epoch, .. } if *epoch == tenure.epoch))
}

/// `pg_rewind` compares timeline numbers: with the same number on another history it finds nothing to do.
fn numbers_collide(view: &View) -> bool {
    let Some(scan) = &view.scan else { return false };
    let lineage = &view.record.lineage;
    scan.extent
        .history
        .iter()
        .any(|fork| lineage.iter().any(|ours| ours.timeline == fork.timeline && ours != fork))
}

pub(super) fn clone_diverged(view: &View, _: &mut Memory) -> Option<Verdict> {
    let tenure = other_open(view)?;
    let why = match rewind_failed(view, tenure) {
        Some(failure) => format!("pg_rewind failed: {}", failure.error),
        None if numbers_collide(view) => "its timeline number belongs to another history here".to_owned(),
        None => "its history has nothing in common with the cluster's".to_owned(),
    };
    clone(view, &tenure.holder, tenure.epoch, why)
}
