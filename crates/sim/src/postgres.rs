//! A simulated PostgreSQL: WAL, commits that wait for standbys, streaming by bare positions, promotion, recovery.
//!
//! What is kept are PostgreSQL's habits that have lost data somewhere: each walsender acts on its own copy of the names,
//! a follower's acknowledgement is a number without a timeline, backends outlive their postmaster, and what was waiting
//! when a server died is committed and visible after its recovery.

mod commit;
mod death;
mod receiver;
mod sender;
mod session;

use std::collections::{BTreeMap, VecDeque};

use mainstay_core::sync::SyncSet;
use mainstay_core::view::Upstream;
use mainstay_core::{Epoch, Lsn, Timeline};

use crate::disk::Hba;
use crate::event::{Event, Life, ServerEvent};
use crate::queue::{MS, Time};
use crate::wal::{Kind, Tip};
use crate::world::World;

pub(crate) use commit::Commit;
pub(crate) use receiver::Receiver;
pub(crate) use sender::{Connection, Walsender};
pub(crate) use session::Session;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Standby,
    Promoting,
    Primary,
    Stopping,
}

/// The configuration as the postmaster last read it.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) names: SyncSet,
    pub(crate) hba: Hba,
    pub(crate) upstream: Option<Upstream>,
}

pub(crate) struct Server {
    pub(crate) life: Life,
    pub(crate) stage: Stage,
    /// SIGKILL has not reached its processes.
    pub(crate) executing: bool,
    /// The postmaster lives; without it only backends that are busy go on.
    pub(crate) postmaster: bool,
    /// For the checkers: the epoch under which the guard opened it.
    pub(crate) opened: Option<Epoch>,
    pub(crate) opened_at: Time,
    pub(crate) loaded: Loaded,
    /// Whether backends wait for standbys: set by the checkpointer alone.
    pub(crate) sync_defined: bool,
    pub(crate) checkpointer_pending: bool,
    pub(crate) replay_paused: bool,
    /// `primary_conninfo` is another one, and the startup process has not come round to it.
    pub(crate) upstream_changed: bool,
    pub(crate) inserted: Tip,
    pub(crate) replayed: Tip,
    pub(crate) flushing: bool,
    pub(crate) unflushed: VecDeque<Commit>,
    pub(crate) waiting: VecDeque<Commit>,
    /// Up to here waiting commits are released: the position that enough standbys have *named*.
    pub(crate) released: Lsn,
    /// Commits up to here are visible to everyone.
    pub(crate) visible: Tip,
    /// Commits that became visible because the backend that waited was ended.
    pub(crate) visible_alone: Vec<Tip>,
    pub(crate) receiver: Receiver,
    pub(crate) senders: Vec<Walsender>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    /// The timeline that it is being promoted to.
    pub(crate) next_timeline: Timeline,
    pub(crate) end_of_recovery: Lsn,
    pub(crate) next_xid: u64,
    /// The shutdown checkpoint that standbys are to get.
    pub(crate) last_words: Option<Tip>,
}

impl Server {
    pub(crate) fn is_ready(&self) -> bool {
        self.postmaster && !matches!(self.stage, Stage::Starting)
    }

    pub(crate) fn in_recovery(&self) -> bool {
        !matches!(self.stage, Stage::Primary | Stage::Stopping)
    }
}

impl World {
    /// The guard executes `postgres`.
    pub(crate) fn start_server(&mut self, machine: usize) -> Result<Life, String> {
        let life = self.new_life();
        let place = &self.machines[machine];
        let Some(content) = &place.data.content else { return Err("there is no data directory".to_owned()) };
        let tip = content.written;
        let never_ready = content.histories.iter().any(|number| *number > self.wal.timeline(tip));
        let files = &place.files;
        let loaded = Loaded { names: files.names.clone(), hba: files.hba, upstream: files.conninfo.clone() };
        let server = Server {
            life,
            stage: Stage::Starting,
            executing: true,
            postmaster: true,
            opened: None,
            opened_at: 0,
            sync_defined: !loaded.names.is_lone(),
            loaded,
            checkpointer_pending: false,
            replay_paused: false,
            upstream_changed: false,
            inserted: tip,
            replayed: tip,
            flushing: false,
            unflushed: VecDeque::new(),
            waiting: VecDeque::new(),
            released: Lsn::ZERO,
            visible: tip,
            visible_alone: Vec::new(),
            receiver: Receiver::Idle,
            senders: Vec::new(),
            sessions: BTreeMap::new(),
            next_timeline: Timeline(0),
            end_of_recovery: Lsn::ZERO,
            next_xid: 0,
            last_words: None,
        };
        self.machines[machine].server = Some(server);
        self.note(machine, || "postgres started".to_owned());
        self.check_directory_is_whole(machine);
        if !never_ready {
            // Crash recovery takes what it takes.
            let slow = self.random.chance(self.weather.slow_start);
            let takes = if slow { self.random.span_ms(600, 18_000) } else { self.random.span_ms(50, 600) };
            let at = self.now + takes;
            self.queue.push(at, Event::Server { machine, life, what: ServerEvent::Started });
        }
        Ok(life)
    }

    pub(crate) fn server_event(&mut self, machine: usize, what: ServerEvent) {
        let needs_postmaster = !matches!(
            what,
            ServerEvent::Commit { .. } | ServerEvent::FlushDone { .. } | ServerEvent::Look { .. }
        );
        if needs_postmaster && !self.server(machine).postmaster {
            return;
        }
        match what {
            ServerEvent::Started => self.server_started(machine),
            ServerEvent::Reload => self.reload(machine),
            ServerEvent::CheckpointerReload => self.checkpointer_reload(machine),
            ServerEvent::FlushDone { tip } => self.flush_done(machine, tip),
            ServerEvent::Promote => self.promote(machine),
            ServerEvent::Promoted => self.promoted(machine),
            ServerEvent::CheckpointDone => self.checkpoint_done(machine),
            ServerEvent::Connect => self.connect_upstream(machine),
            ServerEvent::Connected { connection } => self.connected(machine, connection),
            ServerEvent::EndWalreceiver => self.end_walreceiver(machine),
            ServerEvent::Received { connection, tip } => self.received(machine, connection, tip),
            ServerEvent::ReceivedFlushed { connection, tip } => {
                self.received_flushed(machine, connection, tip);
            }
            ServerEvent::Reply { connection, flushed } => self.replied(machine, connection, flushed),
            ServerEvent::WalsenderGoesOn { connection } => self.walsender_goes_on(machine, connection),
            ServerEvent::Closed { connection } => self.closed(machine, connection),
            ServerEvent::Keepalive { connection } => self.keepalive(machine, connection),
            ServerEvent::Accept { client, token } => self.accept(machine, client, token),
            ServerEvent::Authenticated { session } => self.authenticated(machine, session),
            ServerEvent::Commit { session, transaction } => self.commit(machine, session, transaction),
            ServerEvent::Look { session } => self.look(machine, session),
            ServerEvent::FastStop => self.fast_stop(machine),
        }
    }

    /// The server whose event is being handled.
    pub(crate) fn server(&mut self, machine: usize) -> &mut Server {
        self.machines[machine].server.as_mut().expect("its events come only while it lives")
    }

    pub(crate) fn at_server(&mut self, machine: usize, delay: Time, what: ServerEvent) {
        let life = self.server(machine).life;
        self.queue.push(self.now + delay, Event::Server { machine, life, what });
    }

    fn server_started(&mut self, machine: usize) {
        if self.waits_for_disk(machine, ServerEvent::Started) {
            return;
        }
        let content = self.content(machine);
        // `recovery_init_sync_method`: what is replayed is on the disk first.
        content.durable = content.written;
        let tip = content.written;
        let server = self.server(machine);
        server.stage = Stage::Standby;
        (server.inserted, server.replayed, server.visible) = (tip, tip, tip);
        if server.loaded.upstream.is_some() {
            self.at_server(machine, MS, ServerEvent::Connect);
        }
    }

    fn reload(&mut self, machine: usize) {
        let files = &self.machines[machine].files;
        let loaded = Loaded { names: files.names.clone(), hba: files.hba, upstream: files.conninfo.clone() };
        let slow = self.random.chance(self.weather.slow_checkpointer);
        let checkpointer = if slow { self.random.span_ms(20, 1_500) } else { self.random.span_ms(1, 6) };
        let server = self.server(machine);
        let other_upstream = server.loaded.upstream != loaded.upstream;
        server.loaded = loaded;
        server.checkpointer_pending = true;
        for sender in &mut server.senders {
            sender.reload_pending = true;
        }
        // The startup process asks for another walreceiver, but only when it comes round to it: while replay is paused it
        // does not.
        let ends_receiver = other_upstream && !server.replay_paused && server.stage == Stage::Standby;
        server.upstream_changed = other_upstream && server.replay_paused;
        self.at_server(machine, checkpointer, ServerEvent::CheckpointerReload);
        if ends_receiver {
            let delay = self.random.span_ms(2, 12);
            self.at_server(machine, delay, ServerEvent::EndWalreceiver);
        }
        self.gate_may_have_opened(machine);
    }

    /// `pg_wal_replay_resume()`: the startup process goes on, and looks for a walreceiver.
    pub(crate) fn resume_replay(&mut self, machine: usize) {
        let stands_by = |server: &&mut Server| server.executing && server.postmaster && server.replay_paused;
        let Some(server) = self.machines[machine].server.as_mut().filter(stands_by) else { return };
        server.replay_paused = false;
        let other = server.upstream_changed;
        let durable = self.content(machine).durable;
        if self.server(machine).stage == Stage::Standby {
            self.server(machine).replayed = durable;
            self.server(machine).upstream_changed = false;
            let what = if other { ServerEvent::EndWalreceiver } else { ServerEvent::Connect };
            self.at_server(machine, MS, what);
        }
    }

    fn checkpointer_reload(&mut self, machine: usize) {
        let server = self.server(machine);
        server.checkpointer_pending = false;
        server.sync_defined = !server.loaded.names.is_lone();
        if !server.sync_defined {
            // Whoever waits is released.
            self.release(machine, Lsn(u64::MAX));
        }
        self.names_may_have_changed(machine);
    }

    fn promote(&mut self, machine: usize) {
        if self.server(machine).stage != Stage::Standby {
            return;
        }
        self.server(machine).stage = Stage::Promoting;
        self.server(machine).replay_paused = false;
        self.drop_receiver(machine);
        // It takes the first number that has no history file here, when it begins.
        let written = self.content(machine).written;
        let mut number = self.wal.timeline(written).next();
        while self.content(machine).histories.contains(&number) {
            number = number.next();
        }
        self.server(machine).next_timeline = number;
        if self.random.chance(self.weather.promotion_hangs) {
            self.note(machine, || "promotion hangs".to_owned());
            return;
        }
        let slow = self.random.chance(0.1);
        let takes = if slow { self.random.span_ms(200, 2_500) } else { self.random.span_ms(40, 250) };
        self.at_server(machine, takes, ServerEvent::Promoted);
    }

    fn promoted(&mut self, machine: usize) {
        if self.waits_for_disk(machine, ServerEvent::Promoted) {
            return;
        }
        let content = self.content(machine);
        content.durable = content.written;
        let before = content.written;
        let number = self.server(machine).next_timeline;
        self.content(machine).histories.insert(number);
        let tip = self.wal.promote(before, number);
        let end = self.wal.end(tip);
        let content = self.content(machine);
        (content.written, content.durable) = (tip, tip);
        let server = self.server(machine);
        server.stage = Stage::Primary;
        (server.inserted, server.replayed, server.visible) = (tip, tip, tip);
        server.end_of_recovery = end;
        server.next_xid = end.0 / 1_000;
        let opened = server.opened;
        self.note(machine, || format!("promoted to timeline {number} at {end}, opened {opened:?}"));
        self.send_wal(machine);
        self.observe_promotion(machine, tip);
        self.gate_may_have_opened(machine);
    }

    pub(crate) fn start_checkpoint(&mut self, machine: usize) {
        let takes = self.random.span_ms(30, 1_000);
        self.at_server(machine, takes, ServerEvent::CheckpointDone);
    }

    fn checkpoint_done(&mut self, machine: usize) {
        if self.waits_for_disk(machine, ServerEvent::CheckpointDone) {
            return;
        }
        let inserted = self.server(machine).inserted;
        let branch = self.wal.branch(inserted);
        let removes = self.random.chance(self.weather.wal_removed);
        let durable = self.content(machine).durable;
        let end = self.wal.end(durable);
        let content = self.content(machine);
        content.control = branch;
        if removes {
            content.kept_from = end;
        }
    }

    /// `pg_ctl stop -m fast`: sessions end, standbys get the shutdown checkpoint.
    fn fast_stop(&mut self, machine: usize) {
        let sessions: Vec<u64> = self.server(machine).sessions.keys().copied().collect();
        for session in sessions {
            self.end_session(machine, session);
        }
        if self.server(machine).in_recovery() {
            self.server_exits(machine);
            return;
        }
        let inserted = self.server(machine).inserted;
        let tip = self.wal.append(inserted, 120, Kind::Other);
        let branch = self.wal.branch(tip);
        self.content(machine).control = branch;
        let server = self.server(machine);
        server.stage = Stage::Stopping;
        server.inserted = tip;
        server.last_words = Some(tip);
        self.flush(machine);
    }

    /// A fast stop is complete once every standby that is connected has everything.
    pub(crate) fn stop_if_heard(&mut self, machine: usize) {
        let Some(last) = self.server(machine).last_words else { return };
        let end = self.wal.end(last);
        let flushed = self.durable_end(machine) >= end;
        if flushed && self.server(machine).senders.iter().all(|sender| sender.flushed >= end) {
            self.server_exits(machine);
        }
    }
}
