//! Everything that the member knows, and the view that decisions are made from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_core::action::Job;
use mainstay_core::decide::{Memory, unfit};
use mainstay_core::record::{FORMAT, Record};
use mainstay_core::sync::SyncSet;
use mainstay_core::view::{
    Directory, Failure, Health, Lease, MemberState, Peer, PeerServer, RestartNeed, Scan, Server, Upstream,
    View,
};
use mainstay_core::{Epoch, Incarnation, MemberId, Now};

use crate::clock;
use crate::configure::Configured;
use crate::guard_link::GuardState;
use crate::health::Disk;
use crate::lease::LeaseState;
use crate::observe::Sql;
use crate::roster::Roster;
use crate::status::{Card, Gossip};
use crate::work::{Finished, Outcome};

/// Which life of the directory it is, if it is whole.
pub(crate) fn incarnation_of(directory: &Directory) -> Option<Incarnation> {
    match directory {
        Directory::Valid { incarnation, .. } => Some(*incarnation),
        _ => None,
    }
}

/// Work after whose end, unless it succeeds, it is not known which names are in effect.
fn changes_names(job: &Job) -> bool {
    matches!(job, Job::SetNames { .. } | Job::StopForSwitchover { .. } | Job::StopInPlace { .. })
}

/// What is known, as it came in.
pub(crate) struct Facts {
    pub(crate) me: MemberId,
    pub(crate) record: Arc<Record>,
    /// Who belongs to the cluster, also before the record is known.
    pub(crate) roster: Arc<Roster>,
    /// Members that the record here does not show yet, as another one said.
    pub(crate) heard_of: Roster,
    /// The newest change of a key in the roster that is on the disk.
    pub(crate) keys_kept: Arc<AtomicU64>,
    pub(crate) confirmed: Option<Epoch>,
    pub(crate) sealed: Epoch,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) directory: Directory,
    pub(crate) guard: GuardState,
    pub(crate) sql: Sql,
    pub(crate) health: Health,
    pub(crate) disk: Disk,
    pub(crate) lease: LeaseState,
    /// When the lease was asked for, by the number of the request.
    pub(crate) requests: BTreeMap<u64, Now>,
    pub(crate) peers: BTreeMap<MemberId, (Now, Gossip)>,
    pub(crate) scan: Option<Scan>,
    pub(crate) names: Option<SyncSet>,
    pub(crate) gate_open: Option<Epoch>,
    pub(crate) checkpointed: Option<Epoch>,
    pub(crate) stopped_for: Option<(u64, u64)>,
    /// What of the configuration waits for a restart, and of which postmaster that is known.
    pub(crate) configured: Arc<Configured>,
    pub(crate) failures: Vec<Failure>,
    /// Whether this member leads the store, and who does by its Raft id.
    pub(crate) leads: bool,
    pub(crate) leader: Option<u64>,
    pub(crate) store_failure: Option<String>,
}

impl Facts {
    pub(crate) fn new(me: MemberId, roster: Arc<Roster>, sealed: Epoch) -> Facts {
        let keys_kept = Arc::new(AtomicU64::new(crate::roster::key_serial(&roster)));
        Facts {
            me,
            record: Arc::default(),
            roster,
            keys_kept,
            heard_of: Roster::new(),
            confirmed: None,
            sealed,
            upstream: None,
            directory: Directory::Unknown,
            guard: GuardState::default(),
            sql: Sql::default(),
            health: Health::default(),
            disk: Disk::default(),
            lease: LeaseState::default(),
            requests: BTreeMap::new(),
            peers: BTreeMap::new(),
            scan: None,
            names: None,
            gate_open: None,
            checkpointed: None,
            stopped_for: None,
            configured: Arc::default(),
            failures: Vec::new(),
            leads: false,
            leader: None,
            store_failure: None,
        }
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        incarnation_of(&self.directory)
    }

    /// Whether another primary waits for its followers to say how far they are.
    pub(crate) fn gate_is_awaited(&self) -> bool {
        let primary = self.record.primary().filter(|primary| **primary != self.me);
        primary.and_then(|primary| self.peers.get(primary)).is_some_and(|(_, gossip)| !gossip.card.gate_open)
    }

    /// Takes the guard's word. Another server than before knows nothing of what was true of the one before it.
    pub(crate) fn take_guard(&mut self, guard: GuardState) {
        let pid = |guard: &GuardState| guard.status.as_ref().and_then(|status| status.postmaster);
        if pid(&guard) != pid(&self.guard) {
            self.names = None;
            // A server that has run may have been changed by an outside hand: what it holds is looked at anew.
            self.scan = None;
        }
        self.guard = guard;
    }

    /// Takes what SQL says. Names that an outside hand has changed must be proven anew.
    pub(crate) fn take_sql(&mut self, sql: Sql) {
        if sql.overridden != self.sql.overridden {
            self.names = None;
        }
        self.sql = sql;
    }

    /// Takes the end of a piece of work.
    pub(crate) fn take_finished(&mut self, finished: Finished) {
        let Finished { job, result } = finished;
        match result {
            None => {
                if changes_names(&job) {
                    self.names = None;
                }
            }
            Some(Err(error)) => {
                if changes_names(&job) {
                    self.names = None;
                }
                if let Job::StopForSwitchover { .. } | Job::StopInPlace { .. } = job {
                    self.gate_open = None;
                }
                let now = clock::now();
                match self.failures.iter_mut().find(|failure| failure.job.same_kind(&job)) {
                    Some(failure) => {
                        *failure = Failure { job, at: now, count: failure.count + 1, error: error.0 };
                    }
                    None => self.failures.push(Failure { job, at: now, count: 1, error: error.0 }),
                }
            }
            Some(Ok(outcome)) => {
                self.failures.retain(|failure| !failure.job.same_kind(&job));
                self.succeeded(&job, outcome);
            }
        }
    }

    fn succeeded(&mut self, job: &Job, outcome: Outcome) {
        match outcome {
            Outcome::Sealed { epoch, scan } => {
                self.sealed = self.sealed.max(epoch);
                self.upstream = None;
                self.scan = Some(scan);
            }
            Outcome::Names(names) => self.names = Some(names),
            Outcome::GateOpen(epoch) => self.gate_open = Some(epoch),
            Outcome::Checkpointed(epoch) => self.checkpointed = Some(epoch),
            Outcome::StoppedFor(id, number) => self.stopped_for = Some((id, number)),
            Outcome::Done => match job {
                Job::Follow { member, epoch } => {
                    self.upstream = Some(Upstream { member: member.clone(), epoch: *epoch });
                    self.scan = None;
                    // The way back was found: what failed on it before says nothing about the next time.
                    self.failures
                        .retain(|failure| !matches!(failure.job, Job::Rewind { .. } | Job::Clone { .. }));
                }
                Job::Open { sync, .. } => {
                    self.names = Some(sync.clone());
                    self.scan = None;
                }
                Job::Clone { .. } => {
                    self.failures.retain(|failure| !matches!(failure.job, Job::Rewind { .. }))
                }
                _ => {}
            },
        }
    }

    /// Whether this process has asked for what the record says is granted.
    pub(crate) fn has_asked_for(&self, record: &Record) -> bool {
        record.tenure().is_some_and(|tenure| self.requests.contains_key(&tenure.request))
    }

    /// The lease as held. One that was just granted counts before its thread has said so.
    fn held_lease(&self) -> Option<Lease> {
        let held = self.lease.held;
        let tenure = self.record.tenure().filter(|tenure| tenure.holder == self.me)?;
        if held.is_some_and(|lease| lease.epoch >= tenure.epoch) {
            return held;
        }
        let requested_at = *self.requests.get(&tenure.request)?;
        let usable = mainstay_core::lease::usable(self.record.settings.lease());
        Some(Lease {
            epoch: tenure.epoch,
            deadline: requested_at.plus(usable),
            renewed_at: requested_at,
            rests_on: None,
        })
    }

    fn server(&self) -> Server {
        let mut server = self.guard.server();
        if let Server::Running(running) = &mut server
            && self.sql.postmaster.is_some()
            && self.sql.postmaster == self.guard.status.as_ref().and_then(|status| status.postmaster)
        {
            running.ready = self.sql.ready;
            running.in_recovery = self.sql.in_recovery;
            running.replayed = self.sql.replayed;
            running.streaming = self.sql.streaming;
            running.primary = self.sql.primary.clone();
            // What the guard said before that is no sign of an outside hand.
            let unasked = self.sql.promoted_at.is_some_and(|promoted_at| self.guard.asked_at <= promoted_at);
            if running.opened.is_none() && unasked {
                running.in_recovery = None;
            }
        }
        server
    }

    pub(crate) fn view(&self, job: Option<&Job>, upkeep: Option<&Job>) -> View {
        let peer = |(name, (heard_at, gossip)): (&MemberId, &(Now, Gossip))| {
            (name.clone(), Peer { heard_at: *heard_at, state: gossip.state.clone() })
        };
        View {
            now: clock::now(),
            unix_ms: clock::unix_ms(),
            me: self.me.clone(),
            record: Arc::clone(&self.record),
            leads: self.leads,
            confirmed: self.confirmed,
            sealed: self.sealed,
            directory: self.directory.clone(),
            server: self.server(),
            scan: self.scan.clone(),
            upstream: self.upstream.clone(),
            lease: self.held_lease(),
            run_out: self.lease.run_out.clone(),
            names: self.names.clone(),
            gate_open: self.gate_open == Some(self.record.epoch),
            checkpointed: self.checkpointed,
            health: self.health.clone(),
            walsenders: self.sql.walsenders.clone(),
            peers: self.peers.iter().map(peer).collect(),
            job: job.cloned(),
            upkeep: upkeep.cloned(),
            restart: self.restart_need(),
            stopped_for: self.stopped_for,
            // The main loop knows.
            addresses_until: None,
            failures: self.failures.clone(),
        }
    }

    /// What was seen of another postmaster than the one that runs now is not known of it.
    fn restart_need(&self) -> RestartNeed {
        let postmaster = self.guard.status.as_ref().and_then(|status| status.postmaster);
        let known = postmaster.is_some() && self.configured.postmaster == postmaster;
        RestartNeed { known, ..self.configured.need }
    }

    /// Whom this member dials and lets in.
    pub(crate) fn spoken_with(&self) -> Roster {
        let mut all = self.heard_of.clone();
        all.extend(self.roster.iter().map(|(name, row)| (name.clone(), row.clone())));
        all
    }

    /// What the others are told to decide on.
    pub(crate) fn state(&self, view: &View, memory: &Memory) -> MemberState {
        let running = view.running();
        let opened = running.and_then(|running| running.opened);
        let server = match (&view.server, opened) {
            (Server::Unknown, _) => PeerServer::Unknown,
            (Server::Running(running), Some(_)) if running.primary.is_some() => PeerServer::Primary,
            (Server::Running(_), _) => PeerServer::Standby,
            _ => PeerServer::Down,
        };
        let holds = view.record.tenure().filter(|tenure| tenure.holder == view.me).map(|tenure| tenure.epoch);
        let epoch = opened.and(holds).or(view.upstream.as_ref().map(|upstream| upstream.epoch));
        let heard = |(name, (heard_at, _)): (&MemberId, &(Now, Gossip))| {
            let ago = view.now.since(*heard_at).as_millis();
            (name.clone(), u64::try_from(ago).unwrap_or(u64::MAX))
        };
        MemberState {
            incarnation: view.incarnation(),
            server,
            epoch: epoch.unwrap_or_default(),
            streaming: running.and_then(|running| running.streaming),
            replayed: running.map_or(mainstay_core::Lsn::ZERO, |running| running.replayed),
            can_report: matches!(view.directory, Directory::Valid { .. }),
            unfit: unfit(view, memory),
            wal_kept_from: self.sql.wal_kept_from.filter(|_| server == PeerServer::Primary),
            checkpointed: view.checkpointed == Some(view.record.epoch),
            format: if view.record.format > 0 { FORMAT } else { 0 },
            ids_given: view.record.membership.next_raft_id,
            keys_kept: self.keys_kept.load(Ordering::Relaxed),
            restart: view.restart,
            heard_ms: self.peers.iter().map(heard).collect(),
        }
    }

    pub(crate) fn peer_card(&self, member: &MemberId) -> Option<(Now, &MemberState, &Card)> {
        self.peers.get(member).map(|(heard_at, gossip)| (*heard_at, &gossip.state, &gossip.card))
    }
}

#[cfg(test)]
mod tests;
