//! The walreceiver: it connects to whatever answers at the configured address, and believes the numbers it hears.

use std::collections::BTreeSet;

use mainstay_core::{Epoch, Lsn, Timeline};

use super::{Connection, Stage, Walsender};
use crate::event::{Event, ServerEvent};
use crate::queue::{MS, SECOND, Time};
use crate::wal::{SEGMENT, Tip};
use crate::world::World;

/// `wal_retrieve_retry_interval`.
const RETRY: Time = 100 * MS;
/// `connect_timeout` of the connection string.
const CONNECT_TIMEOUT: Time = 2 * SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// There is none, and none is on its way.
    Idle,
    /// The startup process will try again.
    Waiting,
    /// A process that has not begun to stream.
    Connecting {
        connection: u64,
    },
    Streaming {
        connection: u64,
        heard_at: Time,
    },
}

impl Receiver {
    /// Whether there is a process.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self, Receiver::Connecting { .. } | Receiver::Streaming { .. })
    }

    pub(crate) fn connection(&self) -> Option<u64> {
        match self {
            Receiver::Connecting { connection } | Receiver::Streaming { connection, .. } => Some(*connection),
            Receiver::Idle | Receiver::Waiting => None,
        }
    }

    pub(super) fn heard_at(&mut self, wanted: u64) -> Option<&mut Time> {
        match self {
            Receiver::Streaming { connection, heard_at } if *connection == wanted => Some(heard_at),
            _ => None,
        }
    }
}

impl World {
    fn retry(&mut self, machine: usize, after: Time) {
        if self.server(machine).loaded.upstream.is_some() && self.server(machine).stage == Stage::Standby {
            self.server(machine).receiver = Receiver::Waiting;
            self.at_server(machine, after, ServerEvent::Connect);
        } else {
            self.server(machine).receiver = Receiver::Idle;
        }
    }

    pub(super) fn connect_upstream(&mut self, machine: usize) {
        let server = self.server(machine);
        if server.stage != Stage::Standby || server.receiver.is_there() {
            return;
        }
        let Some(upstream) = server.loaded.upstream.clone() else {
            server.receiver = Receiver::Idle;
            return;
        };
        let has_passfile = self.machines[machine].files.conninfo.is_some();
        let Some(source) = self.machine_of(&upstream.member).filter(|_| has_passfile) else {
            self.retry(machine, RETRY);
            return;
        };
        let there = &self.machines[source];
        let dark = !self.network.connects(machine, source) || !there.powered || there.suspended;
        let stopped = there.stopped[crate::machine::Process::Server.index()];
        if dark || (stopped && there.server.is_some()) {
            self.retry(machine, CONNECT_TIMEOUT + RETRY);
            return;
        }
        let taken = there
            .server
            .as_ref()
            .is_some_and(|server| server.senders.iter().any(|sender| sender.standby == machine));
        match there.live_server() {
            Some(live) if live.is_ready() && live.stage != Stage::Stopping && !taken => {
                let sender = (source, live.life);
                let connection = self.new_number();
                let receiver = (machine, self.server(machine).life);
                self.connections.insert(connection, Connection { sender, receiver, bogus: false });
                self.server(machine).receiver = Receiver::Connecting { connection };
                let delay = self.random.span_ms(2, 15);
                self.at_server(machine, delay, ServerEvent::Connected { connection });
            }
            // Refused, starting up, or the slot is still in use.
            _ => self.retry(machine, RETRY),
        }
    }

    pub(super) fn connected(&mut self, machine: usize, connection: u64) {
        if self.server(machine).receiver != (Receiver::Connecting { connection }) {
            return;
        }
        if self.waits_for_disk(machine, ServerEvent::Connected { connection }) {
            return;
        }
        // The walreceiver before this one flushed what it had written on its way out.
        let content = self.content(machine);
        content.durable = content.written;
        let Some((source, life)) = self.connections.get(&connection).map(|known| known.sender) else {
            return;
        };
        let lives = self.has_server(source, life)
            && self.machines[source].live_server().is_some_and(|live| live.is_ready())
            && self.network.connects(machine, source);
        let taken = self.machines[source]
            .server
            .as_ref()
            .is_some_and(|server| server.senders.iter().any(|sender| sender.standby == machine));
        let ours = self.content(machine).durable;
        let kept_from =
            self.machines[source].data.content.as_ref().map_or(Lsn::ZERO, |content| content.kept_from);
        let start = Lsn(self.wal.end(ours).0 / SEGMENT * SEGMENT);
        let streams = lives && self.would_stream(machine, source);
        if !lives || taken || !streams || self.wal.end(ours) < kept_from {
            self.note(machine, || {
                format!("cannot stream from {source}: there {lives}, slot taken {taken}, history {streams}, WAL from {kept_from}")
            });
            self.connections.remove(&connection);
            self.retry(machine, RETRY);
            return;
        }
        self.note(machine, || format!("streams from {source} from {start}"));
        self.begin_streaming(machine, source, connection);
    }

    /// `START_REPLICATION` as PostgreSQL judges it: timeline numbers, and the beginning of a segment.
    fn would_stream(&mut self, machine: usize, source: usize) -> bool {
        let ours = self.content(machine).durable;
        let theirs = self.content(source).durable;
        let number = self.wal.timeline(ours);
        let history = self.wal.history(theirs);
        let start = Lsn(self.wal.end(ours).0 / SEGMENT * SEGMENT);
        let Some(at) = history.iter().position(|fork| fork.timeline == number) else { return false };
        let until = history.get(at + 1).map_or(self.wal.end(theirs), |next| next.begin);
        if start > until {
            return false;
        }
        // The follower asks for the history file of every number in between.
        let newest = self.wal.timeline(theirs);
        let wanted: BTreeSet<Timeline> = (number.0 + 1..=newest.0).map(Timeline).collect();
        if !wanted.is_subset(&self.content(source).histories) {
            return false;
        }
        self.content(machine).histories.extend(wanted);
        true
    }

    fn begin_streaming(&mut self, machine: usize, source: usize, connection: u64) {
        let ours = self.content(machine).durable;
        let theirs = self.content(source).durable;
        let agrees = self.wal.is_prefix(ours, theirs);
        if let Some(known) = self.connections.get_mut(&connection) {
            known.bogus = !agrees;
        }
        let now = self.now;
        self.server(machine).receiver = Receiver::Streaming { connection, heard_at: now };
        let voter = mainstay_core::sync::Voter {
            member: self.machines[machine].id.clone(),
            incarnation: self.content(machine).incarnation,
        };
        let names = self.server(source).loaded.names.clone();
        let pid = self.new_life();
        self.server(source).senders.push(Walsender {
            pid,
            connection,
            standby: machine,
            voter,
            names,
            reload_pending: false,
            flushed: Lsn::ZERO,
            held_up: false,
            unread: None,
            heard_at: now,
            behind_since: Some(now),
        });
        self.observe_streaming(machine, source, agrees);
        self.names_may_have_changed(source);
        // A walreceiver begins by naming its own position, and that of a diverged one is past everything.
        self.report_flushed(machine, connection);
        if agrees {
            self.send_to(source, connection);
        } else {
            self.content(machine).garbage |= self.wal.timeline(ours) == self.wal.timeline(theirs);
            // It finds no way on, and comes back.
            let (delay, what) = (50 * MS, ServerEvent::EndWalreceiver);
            self.at_server(machine, delay, what);
        }
        self.at_server(machine, SECOND, ServerEvent::Keepalive { connection });
        self.at_server(source, SECOND, ServerEvent::Keepalive { connection });
    }

    pub(super) fn received(&mut self, machine: usize, connection: u64, tip: Tip) {
        let bogus = self.connections.get(&connection).is_none_or(|known| known.bogus);
        let now = self.now;
        let Some(heard_at) = self.server(machine).receiver.heard_at(connection) else { return };
        *heard_at = now;
        if bogus {
            self.report_flushed(machine, connection);
            return;
        }
        if self.machines[machine].disk.full {
            self.drop_receiver(machine);
            self.retry(machine, SECOND);
            return;
        }
        let written = self.content(machine).written;
        if self.wal.end(tip) > self.wal.end(written) {
            self.content(machine).written = tip;
            if self.wal.timeline(tip) != self.wal.timeline(written) {
                self.fetch_histories(machine, connection);
            }
        }
        let takes = self.machines[machine].disk.sync_time(&mut self.random);
        self.at_server(machine, takes, ServerEvent::ReceivedFlushed { connection, tip });
    }

    /// The stream went on to another timeline.
    fn fetch_histories(&mut self, machine: usize, connection: u64) {
        let source = self.connections.get(&connection).map(|known| known.sender.0);
        let there = source.and_then(|source| self.machines[source].data.content.as_ref());
        let histories = there.map(|content| content.histories.clone()).unwrap_or_default();
        self.content(machine).histories.extend(histories);
    }

    pub(super) fn received_flushed(&mut self, machine: usize, connection: u64, tip: Tip) {
        if self.waits_for_disk(machine, ServerEvent::ReceivedFlushed { connection, tip }) {
            return;
        }
        // What was flushed stays flushed, also if the connection is gone by now.
        let durable = self.content(machine).durable;
        if self.wal.end(tip) > self.wal.end(durable)
            && self.wal.is_prefix(tip, self.machines[machine].written())
        {
            self.content(machine).durable = tip;
            let server = self.server(machine);
            if !server.replay_paused && server.stage == Stage::Standby {
                (server.replayed, server.inserted) = (tip, tip);
            }
            self.send_wal(machine);
        }
        if self.server(machine).receiver.heard_at(connection).is_some() {
            self.report_flushed(machine, connection);
        }
    }

    /// Tells the walsender how far this one has flushed: a bare position.
    pub(super) fn report_flushed(&mut self, machine: usize, connection: u64) {
        let flushed = self.durable_end(machine);
        let Some((source, life)) = self.connections.get(&connection).map(|known| known.sender) else {
            return;
        };
        if self.network.passes(machine, source) {
            let delay = self.network.delay(&mut self.random, machine, source);
            let what = ServerEvent::Reply { connection, flushed };
            self.queue.push(self.now + delay, Event::Server { machine: source, life, what });
        }
    }

    /// SIGTERM, or the startup process wants another one.
    pub(super) fn end_walreceiver(&mut self, machine: usize) {
        if self.waits_for_disk(machine, ServerEvent::EndWalreceiver) {
            return;
        }
        self.drop_receiver(machine);
        self.retry(machine, RETRY);
    }

    pub(super) fn receiver_lost(&mut self, machine: usize, connection: u64) {
        if self.server(machine).receiver.connection() == Some(connection) {
            self.server(machine).receiver = Receiver::Idle;
            self.retry(machine, RETRY);
        }
    }

    /// The process goes, and the other end hears of it if a packet gets there.
    pub(crate) fn drop_receiver(&mut self, machine: usize) {
        let receiver = std::mem::replace(&mut self.server(machine).receiver, Receiver::Idle);
        let Some(connection) = receiver.connection() else { return };
        if let Some(known) = self.connections.get(&connection) {
            let (source, life) = known.sender;
            self.send_close(machine, source, life, connection);
        }
    }

    /// For which epoch this standby is configured, if it streams.
    pub(crate) fn streams_for(&self, machine: usize) -> Option<Epoch> {
        let server = self.machines[machine].server.as_ref()?;
        matches!(server.receiver, Receiver::Streaming { .. })
            .then(|| server.loaded.upstream.as_ref().map(|upstream| upstream.epoch))
            .flatten()
    }
}

impl crate::machine::Machine {
    fn written(&self) -> Tip {
        self.data.content.as_ref().expect("a server has a directory").written
    }
}
