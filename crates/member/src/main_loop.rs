//! The member's one loop: facts come in, the core decides, actions go out.

mod addresses;
mod change;
mod directory;
mod members;
mod perform;
mod stop;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::action::Job;
use mainstay_core::decide::{Decision, Memory, decide};
use mainstay_core::record::{Applied, Command, Invitation, Record};
use mainstay_core::view::{Directory, View};
use mainstay_core::{Epoch, Incarnation, MemberId, Now};
use mainstay_net::LeftBehindBy;
use mainstay_store::{RaftStore, Snapshot};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::clock;
use crate::configure::Configured;
use crate::explain::Explanations;
use crate::facts::Facts;
use crate::gossip::{self, NewerRoster};
use crate::guard_link::GuardState;
use crate::health::Signs;
use crate::heartbeat::Heartbeat;
use crate::hooks::Hook;
use crate::lease::{LeaseState, LeaseThread};
use crate::machinery::Machinery;
use crate::network::Links;
use crate::observe::{Sql, Wanted};
use crate::propose::Proposer;
use crate::record_machine::RecordMachine;
use crate::report::{self, Constants};
use crate::roster::Roster;
use crate::status::{Gossip, Role, Status};
use crate::vip;
use crate::work::{Finished, Lane};
pub(crate) use addresses::Addresses;
pub(crate) use directory::DirectoryLook;

/// Decisions are made on every event, and at least this often.
const TICK: Duration = Duration::from_millis(100);
/// The others are told at once of changes, and at least this often.
const GOSSIP_INTERVAL: Duration = Duration::from_millis(250);
/// The directory is looked at after each piece of work, and this often.
const DIRECTORY_INTERVAL: Duration = Duration::from_secs(30);
/// One that is left alone may just be in somebody's hands.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(2);

/// Whatever can wake the loop, beside its watched facts.
pub(crate) enum Event {
    Gossip(MemberId, Box<Gossip>),
    /// Another member knows of members that the record here does not show yet.
    Roster(NewerRoster),
    Run(Finished),
    Upkeep(Finished),
    Directory(DirectoryLook),
    Confirmed(Epoch),
    Proposed(Command, Result<Applied, String>),
    ReadFailed,
    /// Members that have left are not spoken with any more.
    Farewell,
    /// A step towards the record's members has been tried.
    Reconciled,
    /// Stop PostgreSQL and end (true), or end the member alone (false).
    Stop {
        everything: bool,
    },
}

/// The loop's watched facts.
pub(crate) struct Watched {
    pub(crate) record: watch::Receiver<Arc<Snapshot<RecordMachine>>>,
    pub(crate) guard: watch::Receiver<GuardState>,
    pub(crate) sql: watch::Receiver<Sql>,
    pub(crate) health: watch::Receiver<Signs>,
    pub(crate) lease: watch::Receiver<LeaseState>,
    pub(crate) configured: watch::Receiver<Arc<Configured>>,
    pub(crate) left_behind: watch::Receiver<Option<LeftBehindBy>>,
    pub(crate) handing_over: watch::Receiver<Option<Epoch>>,
    pub(crate) addresses: watch::Receiver<vip::Seen>,
}

pub(crate) struct MainLoop {
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) constants: Constants,
    pub(crate) store: RaftStore<RecordMachine>,
    pub(crate) proposer: Proposer,
    pub(crate) lease: LeaseThread,
    pub(crate) links: Links,
    pub(crate) facts: Facts,
    pub(crate) memory: Memory,
    pub(crate) run_lane: Lane,
    pub(crate) upkeep_lane: Lane,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) record: watch::Sender<Arc<Record>>,
    pub(crate) roster: watch::Sender<Arc<Roster>>,
    pub(crate) incarnation: watch::Sender<Option<Incarnation>>,
    pub(crate) status: watch::Sender<Arc<Status>>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) explanations: Arc<Mutex<Explanations>>,
    pub(crate) first_invitations: Vec<Invitation>,
    pub(crate) under_way: UnderWay,
    pub(crate) addresses: Addresses,
    pub(crate) hook: Hook,
    pub(crate) verified: crate::verify::Seen,
}

/// What the loop has begun and not yet heard of, and when it last did things that it does from time to time.
#[derive(Default)]
pub(crate) struct UnderWay {
    proposals: Vec<Command>,
    reading: bool,
    killing_since: Option<Now>,
    told_at: Now,
    told: Option<Gossip>,
    directory_at: Now,
    gate_was_looked_at: bool,
    /// Since when the member is stopping.
    stopping_since: Option<Now>,
    /// A change of the log's members.
    reconciling: bool,
    /// It stops because it is no member any more.
    removed: bool,
    /// It stops because the cluster goes on without it.
    left_behind: Option<MemberId>,
}

/// How the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// PostgreSQL is stopped, the lease given back.
    Stopped,
    /// The member alone; PostgreSQL and its guard go on.
    Left,
    /// The member was taken out of the cluster; PostgreSQL is stopped, the data is left where it is.
    Removed,
    /// A majority was lost for good, and another member was made the only one; PostgreSQL is stopped, the data is left.
    LeftBehind { by: MemberId },
    /// A newer process of this member has taken over.
    Superseded,
    /// The record is written in a format that this release does not read.
    TooOld { why: String },
    /// The file gives the lease another length than the cluster's, which the record has.
    OtherLease { cluster: Duration },
}

impl MainLoop {
    /// Runs until the member is told to stop, or a newer process of it owns the guard.
    pub(crate) async fn run(
        mut self,
        mut watched: Watched,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Ended {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_at_directory();
        loop {
            let mut next = tokio::select! {
                biased;
                Ok(()) = watched.guard.changed() => None,
                Ok(()) = watched.lease.changed() => None,
                Ok(()) = watched.handing_over.changed() => None,
                Ok(()) = watched.addresses.changed() => None,
                Ok(()) = watched.record.changed() => None,
                Ok(()) = watched.sql.changed() => None,
                Ok(()) = watched.health.changed() => None,
                Ok(()) = watched.left_behind.changed() => None,
                Some(event) = events.recv() => Some(event),
                _ = tick.tick() => None,
            };
            while let Some(event) = next {
                if self.take(event) {
                    return Ended::Left;
                }
                next = events.try_recv().ok();
            }
            if let Some(cluster) = self.other_lease(&watched) {
                return Ended::OtherLease { cluster };
            }
            if let Some(why) = watched.record.borrow().machine.too_old.clone() {
                return Ended::TooOld { why };
            }
            self.take_watched(&mut watched);
            if self.facts.guard.superseded {
                return Ended::Superseded;
            }
            self.decide();
            if self.has_stopped() {
                return self.how_it_ended();
            }
        }
    }

    /// Takes one event in; answers whether the member is to leave at once.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Gossip(from, gossip) => {
                self.tell_roster(&from, gossip.state.ids_given);
                self.addresses.heard(&from, &gossip.card.addresses, clock::now());
                self.facts.peers.insert(from, (clock::now(), *gossip));
            }
            Event::Roster(newer) => self.hear_roster(newer),
            Event::Run(finished) => {
                self.run_lane.finished();
                if matches!(finished.job, Job::Initdb | Job::Clone { .. } | Job::Rewind { .. }) {
                    // Nothing is decided on what the directory was before.
                    self.facts.directory = Directory::Unknown;
                }
                self.facts.take_finished(finished);
                self.look_at_directory();
            }
            Event::Upkeep(finished) => {
                self.upkeep_lane.finished();
                self.facts.take_finished(finished);
            }
            Event::Directory(directory) => self.take_directory(directory),
            Event::Confirmed(epoch) => {
                self.under_way.reading = false;
                self.facts.confirmed = Some(epoch);
            }
            Event::ReadFailed => self.under_way.reading = false,
            Event::Reconciled => self.under_way.reconciling = false,
            Event::Farewell => self.links.follow(&self.facts.spoken_with()),
            Event::Proposed(command, result) => self.proposed(&command, result),
            Event::Stop { everything: true } => self.begin_to_stop(),
            Event::Stop { everything: false } => return true,
        }
        false
    }

    fn take_watched(&mut self, watched: &mut Watched) {
        self.facts.take_guard(watched.guard.borrow_and_update().clone());
        let sql = watched.sql.borrow_and_update().clone();
        self.facts.take_sql(sql);
        let signs = watched.health.borrow_and_update().clone();
        (self.facts.health, self.facts.disk) = (signs.health, signs.disk);
        self.facts.lease = watched.lease.borrow_and_update().clone();
        self.facts.configured = Arc::clone(&watched.configured.borrow_and_update());
        watched.addresses.mark_unchanged();
        let snapshot = watched.record.borrow_and_update().clone();
        self.facts.leads = snapshot.status.role == mainstay_consensus::Role::Leader;
        self.facts.leader = snapshot.status.leader;
        self.facts.store_failure = snapshot.failure.clone();
        if !Arc::ptr_eq(&snapshot.machine.record, &self.facts.record) {
            self.take_record(Arc::clone(&snapshot.machine.record));
        }
        self.notice_removal(snapshot.status.raft_id);
        self.notice_left_behind(watched.left_behind.borrow_and_update().clone());
        self.reconcile_members(&snapshot.status);
        self.resume_lease();
    }

    fn take_record(&mut self, record: Arc<Record>) {
        let before = std::mem::replace(&mut self.facts.record, Arc::clone(&record));
        if before.epoch != record.epoch || before.phase != record.phase {
            change::note_change(&before, &record);
        }
        self.lease.record(Arc::clone(&record));
        self.follow_roster(&record);
        if let Some(tenure) = record.tenure()
            && tenure.holder == self.facts.me
            && let Some(requested_at) = self.facts.requests.get(&tenure.request)
        {
            self.lease.granted(tenure.epoch, *requested_at);
        }
        self.record.send_replace(record);
    }

    /// A lease that was held before this process started goes on if the guard is still armed for it.
    fn resume_lease(&self) {
        let Some(tenure) = self.facts.record.tenure().filter(|tenure| tenure.holder == self.facts.me) else {
            return;
        };
        let known = self.facts.lease.held.is_some_and(|lease| lease.epoch >= tenure.epoch);
        let armed = self.facts.guard.status.as_ref().and_then(|status| status.armed);
        if let Some(armed) = armed.filter(|armed| !known && !armed.void && armed.epoch == tenure.epoch.0) {
            self.lease.resumed(tenure.epoch, Now(armed.deadline_ns));
        }
    }

    fn decide(&mut self) {
        let mut view = self.facts.view(self.run_lane.current(), self.upkeep_lane.current());
        let asked_here = self.facts.has_asked_for(&view.record);
        view.addresses_until = self.addresses.follow(&view, asked_here, &self.machinery.vip);
        let view = Arc::new(view);
        let decision = decide(&view, &mut self.memory);
        let changed = {
            let mut explanations = self.explanations.lock().unwrap_or_else(PoisonError::into_inner);
            explanations.note(&decision, &view, &self.memory)
        };
        if changed {
            for reason in &decision.reasons {
                debug!("{reason}");
            }
        }
        for action in &decision.actions {
            self.perform(action, &view);
        }
        self.create_cluster();
        self.give_first_invitations();
        self.give_first_parameters();
        self.change_own_key();
        self.tell(&view, &decision);
        let foreign = matches!(self.facts.directory, Directory::Foreign { .. });
        let interval = if foreign { FOREIGN_INTERVAL } else { DIRECTORY_INTERVAL };
        if view.now.since(self.under_way.directory_at) > interval {
            self.look_at_directory();
        }
    }

    fn tell(&mut self, view: &View, decision: &Decision) {
        let state = self.facts.state(view, &self.memory);
        let configuration = &self.machinery.configuration;
        let mut card = report::card(configuration, &self.constants, &self.facts, view, decision);
        card.warnings.extend(self.machinery.notes());
        card.progress = self.machinery.progress.of(view);
        card.gate_open &= !self.machinery.handing_over.is_under_way(view.record.epoch);
        card.sql_proxy = self.machinery.sql_proxy.status();
        card.addresses = self.addresses.own(view.now);
        card.verified = self.verified.borrow().as_ref().map(|verified| verified.in_short());
        let role = card.role.unwrap_or(Role::Unknown);
        self.hook.tell(role, &view.record, card.timeline, &card.reason);
        let status = report::status(configuration, &self.facts, view, (&state, &card));
        self.status.send_replace(Arc::new(status));
        self.heartbeat.beat(view.now);
        let positions = self.facts.peers.iter().filter_map(|(name, (_, gossip))| {
            let flushed = gossip.state.streaming.map(|streaming| streaming.flushed);
            flushed.map(|flushed| (name.clone(), flushed))
        });
        let wanted = Wanted { busy: perform::is_busy(view), positions: positions.collect() };
        self.wanted.send_if_modified(|before| std::mem::replace(before, wanted.clone()) != wanted);
        let gossip = Gossip { state, card };
        let awaited = self.facts.gate_is_awaited();
        let important = self.under_way.told.as_ref().is_none_or(|told| told.differs(&gossip, awaited));
        if important || view.now.since(self.under_way.told_at) >= GOSSIP_INTERVAL {
            self.links.tell(&gossip::gossip(&gossip));
            self.under_way.told_at = view.now;
            self.under_way.told = Some(gossip);
        }
    }
}
