//! The thread on which the replica lives. Its disk writes block it and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use mainstay_consensus::{Failure, Heard, Machine, OpenError, Outgoing, Replica, Role, Status, StepError};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use super::requests::{Request, Waiting};
use super::{MembershipError, RaftOptions, StartError};
use crate::clock::boottime_ns;
use crate::disk::FileDisk;
use crate::store::{ProposeError, ReadError, Snapshot};

/// After a stall of any length so many ticks pass at once: a member that was suspended reads what the leader
/// sent meanwhile before it concludes from the time that there is none.
const TICKS_AT_ONCE: u64 = 2;
/// So many requests share one write.
const REQUESTS_AT_ONCE: usize = 512;
/// How long after a failure of the disk it is tried again.
const REOPEN: Duration = Duration::from_secs(5);

/// The thread's sides of its channels.
pub(super) struct Ends<M: Machine> {
    pub(super) inbox: Receiver<Request<M>>,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
    /// Messages of peers in `inbox`.
    pub(super) waiting: Arc<AtomicUsize>,
}

pub(super) struct Runtime<M: Machine> {
    options: RaftOptions,
    /// The machine's beginning, to open the directory again.
    initial: M,
    ends: Ends<M>,
    watch: watch::Sender<Arc<Snapshot<M>>>,
    /// `None` after a failure.
    replica: Option<Replica<FileDisk, M>>,
    failure: Option<String>,
    /// When to open the directory again, `None` if that cannot help.
    reopen_at: Option<u64>,
    waiting: Waiting<M>,
    last_tick: u64,
    leader_seen: u64,
    /// As leader: when each member answered last.
    answered: BTreeMap<u64, u64>,
    /// Whose invalid messages were logged.
    warned: BTreeSet<u64>,
}

type Opened<M> = (Runtime<M>, watch::Receiver<Arc<Snapshot<M>>>);

impl<M> Runtime<M>
where
    M: Machine + Clone + Send + Sync + 'static,
{
    pub(super) fn open(options: RaftOptions, initial: M, ends: Ends<M>) -> Result<Opened<M>, StartError> {
        let path = options.directory.clone();
        let disk = FileDisk::open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                StartError::Open { path: path.clone(), source: OpenError::Absent }
            }
            _ => StartError::Directory { path: path.clone(), source },
        })?;
        let replica =
            open_replica(disk, &initial, &options).map_err(|source| StartError::Open { path, source })?;
        let status = replica.status();
        let snapshot = Snapshot {
            machine: Arc::new(replica.machine().clone()),
            applied: status.applied,
            status,
            failure: None,
            leader_seen: 0,
        };
        let (sender, receiver) = watch::channel(Arc::new(snapshot));
        let runtime = Self {
            options,
            initial,
            ends,
            watch: sender,
            replica: Some(replica),
            failure: None,
            reopen_at: None,
            waiting: Waiting::new(),
            last_tick: boottime_ns(),
            leader_seen: 0,
            answered: BTreeMap::new(),
            warned: BTreeSet::new(),
        };
        Ok((runtime, receiver))
    }

    /// Runs until it is stopped or the last handle is gone.
    pub(super) fn run(mut self) {
        self.serve();
        // The directory is free before those who watch see the end.
        self.replica = None;
    }

    fn serve(&mut self) {
        loop {
            match self.ends.inbox.recv_timeout(self.until_tick()) {
                Ok(request) => {
                    // Whatever else is there already shares one write with it.
                    let mut next = Some(request);
                    let mut room = REQUESTS_AT_ONCE;
                    while let Some(request) = next {
                        if !self.take(request) {
                            return;
                        }
                        room -= 1;
                        next = if room > 0 { self.ends.inbox.try_recv().ok() } else { None };
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tick();
            self.finish();
        }
    }

    fn until_tick(&self) -> Duration {
        let passed = Duration::from_nanos(boottime_ns().saturating_sub(self.last_tick));
        self.options.tick.saturating_sub(passed)
    }

    /// Takes one request; false to stop.
    fn take(&mut self, request: Request<M>) -> bool {
        if let Request::Step { .. } = request {
            self.ends.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(replica) = &mut self.replica else { return self.refuse(request) };
        match request {
            Request::Step { from, bytes } => self.step(from, &bytes),
            Request::Propose { id, data, ticket, reply } => {
                self.waiting.propose(replica, id, data, ticket, reply)
            }
            Request::Read { reply } => self.waiting.read(replica, reply),
            Request::Membership { id, changes, reply } => {
                self.waiting.change_membership(replica, id, &changes, reply);
            }
            Request::Transfer { to } => {
                if let Err(refusal) = replica.transfer_leader(to) {
                    debug!(to, %refusal, "leadership is not handed over");
                }
            }
            Request::Stop => return false,
        }
        true
    }

    fn refuse(&self, request: Request<M>) -> bool {
        let failure = || self.failure.clone().unwrap_or_default();
        match request {
            Request::Propose { ticket, reply, .. } => {
                ticket.give_up();
                let _ = reply.send(Err(ProposeError::Failed(failure())));
            }
            Request::Read { reply } => drop(reply.send(Err(ReadError::Failed(failure())))),
            Request::Membership { reply, .. } => drop(reply.send(Err(MembershipError::Failed(failure())))),
            Request::Step { .. } | Request::Transfer { .. } => {}
            Request::Stop => return false,
        }
        true
    }

    fn step(&mut self, from: u64, bytes: &[u8]) {
        let Some(replica) = &mut self.replica else { return };
        match replica.step(from, bytes) {
            Ok(Heard::Leader) => self.leader_seen = boottime_ns(),
            Ok(Heard::Follower) => {
                self.answered.insert(from, boottime_ns());
            }
            Ok(Heard::Nobody) => {}
            // The replica tells it again when it is asked for its messages.
            Err(StepError::Failed(_)) => {}
            Err(refusal) => {
                if self.warned.insert(from) {
                    warn!(from, %refusal, "a member sends invalid consensus messages; does it run the same version?");
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = boottime_ns();
        let ticks = due_ticks(&mut self.last_tick, now, self.options.tick);
        if ticks == 0 {
            return;
        }
        match &mut self.replica {
            Some(replica) => {
                for _ in 0..ticks {
                    replica.tick();
                }
                self.waiting.tick(replica);
            }
            None if self.reopen_at.is_some_and(|at| at <= now) => self.reopen(),
            None => {}
        }
    }

    /// Lets the replica do its work, publishes what came of it, and then answers: whoever got an answer finds it in the
    /// watched state.
    fn finish(&mut self) {
        let mut unreachable = BTreeSet::new();
        while let Some(replica) = &mut self.replica {
            let outgoing = &self.ends.outgoing;
            let result = replica.ready(|message| {
                if let Err(mpsc::error::TrySendError::Full(message)) = outgoing.try_send(message) {
                    unreachable.insert(message.to);
                }
            });
            match result {
                Ok(ready) => {
                    for raft_id in std::mem::take(&mut unreachable) {
                        replica.report_unreachable(raft_id);
                    }
                    let applied = replica.status().applied;
                    let is_new_leader = self.publish();
                    self.waiting.finish(ready, applied);
                    let Some(replica) = self.replica.as_mut().filter(|_| is_new_leader) else { return };
                    self.waiting.new_leader(replica);
                }
                Err(failure) => self.fail(&failure),
            }
        }
    }

    /// Publishes the replica's state; true if there is another leader than before.
    fn publish(&mut self) -> bool {
        let Some(replica) = &self.replica else { return false };
        let status = replica.status();
        let shown = Arc::clone(&self.watch.borrow());
        if status.role == Role::Leader {
            self.leader_seen =
                self.leader_seen.max(majority_answered(&self.answered, &status, boottime_ns()));
        }
        let has_leader_changed = (status.term, status.leader) != (shown.status.term, shown.status.leader);
        log_leadership(&shown.status, &status);
        // After the directory was opened again the machine grows once more from the snapshot; it is shown when it is where
        // it was.
        let applied = status.applied.max(shown.applied);
        let is_newer = status.applied > shown.applied;
        let machine = if is_newer { Arc::new(replica.machine().clone()) } else { Arc::clone(&shown.machine) };
        let wakes =
            is_newer || has_leader_changed || shown.failure.is_some() || differs(&shown.status, &status);
        let is_new_leader = has_leader_changed && status.leader.is_some();
        let next = Snapshot { machine, applied, status, failure: None, leader_seen: self.leader_seen };
        self.watch.send_if_modified(|current| {
            *current = Arc::new(next);
            wakes
        });
        is_new_leader
    }

    fn fail(&mut self, failure: &Failure) {
        self.replica = None;
        self.reopen_at = failure.may_pass().then(|| boottime_ns() + reopen_ns());
        self.show_failure(format!("{}: {failure}", self.options.directory.display()));
    }

    fn show_failure(&mut self, failure: String) {
        if self.failure.as_ref() != Some(&failure) {
            error!("{failure}");
        }
        self.waiting.fail(&failure);
        self.failure = Some(failure.clone());
        self.answered.clear();
        let leader_seen = self.leader_seen;
        self.watch.send_modify(|current| {
            let status = Status { leader: None, role: Role::Follower, ..current.status.clone() };
            *current = Arc::new(Snapshot {
                machine: Arc::clone(&current.machine),
                applied: current.applied,
                status,
                failure: Some(failure),
                leader_seen,
            });
        });
    }

    /// Takes part again after a failure of the disk. Safe because nothing of the failed replica is used: what it promised is
    /// what was synced, and opening reads that, with or without the bytes whose sync failed, and writes it anew to
    /// other blocks before a message leaves.
    fn reopen(&mut self) {
        let directory = self.options.directory.display();
        let opened = FileDisk::open(&self.options.directory)
            .map_err(|source| OpenError::Disk { file: ".", source })
            .and_then(|disk| open_replica(disk, &self.initial, &self.options));
        match opened {
            Ok(replica) => {
                info!("{directory}: the consensus directory can be written again; this member votes again");
                self.replica = Some(replica);
                self.failure = None;
                self.reopen_at = None;
            }
            Err(error) => {
                let may_pass = matches!(error, OpenError::Disk { .. });
                self.reopen_at = may_pass.then(|| boottime_ns() + reopen_ns());
                if !may_pass {
                    self.show_failure(format!("{directory}: {error}"));
                }
            }
        }
    }
}

/// How many ticks to let pass `now`. After a stall the ones that were missed are gone.
fn due_ticks(last_tick: &mut u64, now: u64, tick: Duration) -> u64 {
    let tick_ns = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX).max(1);
    let due = now.saturating_sub(*last_tick) / tick_ns;
    *last_tick += due * tick_ns;
    due.min(TICKS_AT_ONCE)
}

fn reopen_ns() -> u64 {
    u64::try_from(REOPEN.as_nanos()).expect("seconds")
}

fn open_replica<M: Machine + Clone>(
    disk: FileDisk,
    initial: &M,
    options: &RaftOptions,
) -> Result<Replica<FileDisk, M>, OpenError> {
    let (replica, report) = Replica::open(disk, initial.clone(), &options.cluster_id, options.settings)?;
    if report.torn_bytes > 0 {
        let (directory, bytes) = (options.directory.display(), report.torn_bytes);
        info!(
            "{directory}: cut {bytes} bytes of an interrupted write off the consensus log; nothing was promised on them"
        );
    }
    Ok(replica)
}

/// When a majority (of the old voters, too, during a change) had answered at the latest.
fn majority_answered(answered: &BTreeMap<u64, u64>, status: &Status, now: u64) -> u64 {
    let of = |voters: &[u64]| {
        let mut times: Vec<u64> = voters
            .iter()
            .map(|id| if *id == status.raft_id { now } else { answered.get(id).copied().unwrap_or(0) })
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(voters.len() / 2).copied().unwrap_or(u64::MAX)
    };
    of(&status.voters).min(of(&status.voters_outgoing))
}

/// Whether somebody who waits for changes wants to know. Sizes and indexes alone are not worth waking for.
fn differs(shown: &Status, status: &Status) -> bool {
    (shown.role, &shown.voters, &shown.voters_outgoing, &shown.learners)
        != (status.role, &status.voters, &status.voters_outgoing, &status.learners)
}

fn log_leadership(shown: &Status, status: &Status) {
    let (raft_id, term) = (status.raft_id, status.term);
    match (shown.role == Role::Leader, status.role == Role::Leader) {
        (false, true) => info!(raft_id, term, "this member leads the consensus"),
        (true, false) => {
            info!(raft_id, term, leader = status.leader, "this member leads the consensus no longer")
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_pace_and_a_stall_is_not_made_up_for() {
        const TICK: Duration = Duration::from_nanos(50);
        let mut last = 1000;
        assert_eq!(due_ticks(&mut last, 1049, TICK), 0);
        assert_eq!(due_ticks(&mut last, 1051, TICK), 1);
        assert_eq!(due_ticks(&mut last, 1099, TICK), 0);
        assert_eq!(due_ticks(&mut last, 1100, TICK), 1);
        assert_eq!(due_ticks(&mut last, 1_000_000_010, TICK), TICKS_AT_ONCE);
        assert_eq!(due_ticks(&mut last, 1_000_000_049, TICK), 0);
        assert_eq!(due_ticks(&mut last, 1_000_000_050, TICK), 1);
    }

    #[test]
    fn a_majority_has_answered_when_every_majority_that_counts_has() {
        let status = |voters: &[u64], voters_outgoing: &[u64]| Status {
            raft_id: 1,
            leader: Some(1),
            term: 1,
            role: Role::Leader,
            commit: 0,
            applied: 0,
            first_index: 1,
            last_index: 0,
            voters: voters.to_vec(),
            voters_outgoing: voters_outgoing.to_vec(),
            learners: Vec::new(),
            caught_up: Vec::new(),
            log_bytes: 0,
        };
        let answered = BTreeMap::from([(2, 70), (3, 40), (4, 90)]);
        for (voters, outgoing, expected) in [
            (&[1][..], &[][..], 100),
            (&[1, 2, 3], &[], 70),
            (&[1, 2, 3, 4], &[], 70),
            (&[1, 3, 9], &[], 40),
            (&[1, 8, 9], &[], 0),
            (&[1, 2, 4], &[1, 3, 9], 40),
            (&[2, 3, 4], &[], 70),
        ] {
            let seen = majority_answered(&answered, &status(voters, outgoing), 100);
            assert_eq!(seen, expected, "{voters:?} {outgoing:?}");
        }
    }
}
