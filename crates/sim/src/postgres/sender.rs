//! Walsenders: what is flushed goes to the standbys, and what they say of it releases commits.

use mainstay_core::Lsn;
use mainstay_core::sync::{SyncSet, Voter};

use crate::event::{Event, Life, ServerEvent};
use crate::queue::{SECOND, Time};
use crate::world::World;

/// `wal_sender_timeout` and `wal_receiver_timeout`.
const TIMEOUT: Time = 5 * SECOND;

/// A streaming connection: an ordered stream of bytes, half-open for as long as nobody notices.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) sender: (usize, Life),
    pub(crate) receiver: (usize, Life),
    /// The histories differ, and PostgreSQL has not noticed.
    pub(crate) bogus: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Walsender {
    pub(crate) pid: u32,
    pub(crate) connection: u64,
    pub(crate) standby: usize,
    /// What its application_name says.
    pub(crate) voter: Voter,
    /// Its own copy of `synchronous_standby_names`.
    pub(crate) names: SyncSet,
    pub(crate) reload_pending: bool,
    /// What its standby last said: a number, whatever timeline it is on.
    pub(crate) flushed: Lsn,
    /// Held up between reading its configuration and acting on a reply.
    pub(crate) held_up: bool,
    pub(crate) unread: Option<Lsn>,
    pub(crate) heard_at: Time,
    /// Since when its standby has flushed nothing although there was more.
    pub(crate) behind_since: Option<Time>,
}

impl World {
    fn sender(&mut self, machine: usize, connection: u64) -> Option<&mut Walsender> {
        self.server(machine).senders.iter_mut().find(|sender| sender.connection == connection)
    }

    /// What is flushed leaves for every standby. Positions are cumulative, so what the network drops is made up for by the
    /// next or by a keepalive.
    pub(crate) fn send_wal(&mut self, machine: usize) {
        let connections: Vec<u64> =
            self.server(machine).senders.iter().map(|sender| sender.connection).collect();
        for connection in connections {
            self.send_to(machine, connection);
        }
    }

    pub(super) fn send_to(&mut self, machine: usize, connection: u64) {
        let tip = self.content(machine).durable;
        let end = self.wal.end(tip);
        let now = self.now;
        let Some(sender) = self.sender(machine, connection) else { return };
        if sender.flushed < end && sender.behind_since.is_none() {
            sender.behind_since = Some(now);
        }
        if sender.held_up {
            return;
        }
        if sender.reload_pending {
            self.read_names(machine, connection);
        }
        let Some((standby, life)) = self.connections.get(&connection).map(|known| known.receiver) else {
            return;
        };
        if self.network.passes(machine, standby) {
            let delay = self.network.wal_delay(&mut self.random, machine, standby);
            let what = ServerEvent::Received { connection, tip };
            self.queue.push(self.now + delay, Event::Server { machine: standby, life, what });
        }
    }

    fn read_names(&mut self, machine: usize, connection: u64) {
        let names = self.server(machine).loaded.names.clone();
        if let Some(sender) = self.sender(machine, connection) {
            sender.names = names;
            sender.reload_pending = false;
        }
        self.names_may_have_changed(machine);
    }

    pub(super) fn replied(&mut self, machine: usize, connection: u64, flushed: Lsn) {
        let now = self.now;
        let Some(sender) = self.sender(machine, connection) else { return };
        sender.heard_at = now;
        sender.unread = sender.unread.max(Some(flushed));
        if sender.held_up {
            return;
        }
        if sender.reload_pending {
            self.read_names(machine, connection);
        }
        if self.random.chance(self.weather.slow_walsender) {
            let held = self.random.span_ms(5, 1_500);
            if let Some(sender) = self.sender(machine, connection) {
                sender.held_up = true;
            }
            self.at_server(machine, held, ServerEvent::WalsenderGoesOn { connection });
            return;
        }
        self.act_on_reply(machine, connection);
    }

    pub(super) fn walsender_goes_on(&mut self, machine: usize, connection: u64) {
        if let Some(sender) = self.sender(machine, connection) {
            sender.held_up = false;
            self.act_on_reply(machine, connection);
        }
        if self.machines[machine].live_server().is_some() {
            self.send_to(machine, connection);
        }
    }

    /// `SyncRepReleaseWaiters`, with this walsender's own copy of the names.
    fn act_on_reply(&mut self, machine: usize, connection: u64) {
        let durable = self.durable_end(machine);
        let now = self.now;
        let Some(sender) = self.sender(machine, connection) else { return };
        let Some(flushed) = sender.unread.take() else { return };
        let moved = flushed > sender.flushed;
        sender.flushed = sender.flushed.max(flushed);
        sender.behind_since = match sender.behind_since {
            _ if sender.flushed >= durable => None,
            Some(since) if !moved => Some(since),
            _ => Some(now),
        };
        let names = sender.names.clone();
        if names.voters.contains(&sender.voter) {
            let mut named: Vec<Lsn> = self
                .server(machine)
                .senders
                .iter()
                .filter(|sender| names.voters.contains(&sender.voter))
                .map(|sender| sender.flushed)
                .collect();
            named.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(enough) = named.get((names.k as usize).saturating_sub(1)) {
                self.release(machine, *enough);
            }
        }
        self.stop_if_heard(machine);
    }

    /// Ends a walsender; the standby hears of it if a packet reaches it.
    pub(crate) fn drop_sender(&mut self, machine: usize, connection: u64) {
        self.server(machine).senders.retain(|sender| sender.connection != connection);
        if let Some(known) = self.connections.get(&connection) {
            let (standby, life) = known.receiver;
            self.send_close(machine, standby, life, connection);
        }
        if self.machines[machine].live_server().is_some() {
            self.stop_if_heard(machine);
        }
    }

    pub(super) fn drop_senders(&mut self, machine: usize) {
        let senders = std::mem::take(&mut self.server(machine).senders);
        for sender in senders {
            if let Some(known) = self.connections.get(&sender.connection) {
                let (standby, life) = known.receiver;
                self.send_close(machine, standby, life, sender.connection);
            }
        }
    }

    pub(super) fn send_close(&mut self, from: usize, to: usize, life: Life, connection: u64) {
        if self.network.passes(from, to) {
            let delay = self.network.delay(&mut self.random, from, to);
            let what = ServerEvent::Closed { connection };
            self.queue.push(self.now + delay, Event::Server { machine: to, life, what });
        }
    }

    pub(super) fn closed(&mut self, machine: usize, connection: u64) {
        self.server(machine).senders.retain(|sender| sender.connection != connection);
        self.stop_if_heard(machine);
        if self.machines[machine].live_server().is_some() {
            self.receiver_lost(machine, connection);
        }
    }

    /// Once a second each end hears the other, notices that it is gone, or loses patience.
    pub(super) fn keepalive(&mut self, machine: usize, connection: u64) {
        let Some(known) = self.connections.get(&connection).cloned() else { return };
        let sends = known.sender.0 == machine && self.has_server(machine, known.sender.1);
        let (other, other_life) = if sends { known.receiver } else { known.sender };
        let connects = self.network.connects(machine, other);
        let there = self.has_server(other, other_life)
            && self.machines[other].server.as_ref().is_some_and(|server| server.postmaster);
        let answers = there && self.machines[other].live_server().is_some();
        let open_there = there && self.is_open_at(other, connection);
        if connects && self.machines[other].powered && !self.machines[other].suspended && !open_there {
            self.closed(machine, connection);
            return;
        }
        let now = self.now;
        let Some(heard_at) = self.heard_at(machine, connection) else { return };
        if connects && answers {
            *heard_at = now;
        } else if now > *heard_at + TIMEOUT {
            self.closed(machine, connection);
            if sends {
                self.send_close(machine, other, other_life, connection);
            }
            return;
        }
        if sends {
            self.send_to(machine, connection);
        } else {
            self.report_flushed(machine, connection);
        }
        if self.machines[machine].live_server().is_some() {
            self.at_server(machine, SECOND, ServerEvent::Keepalive { connection });
        }
    }

    fn is_open_at(&self, machine: usize, connection: u64) -> bool {
        self.machines[machine].server.as_ref().is_some_and(|server| {
            server.receiver.connection() == Some(connection)
                || server.senders.iter().any(|sender| sender.connection == connection)
        })
    }

    fn heard_at(&mut self, machine: usize, connection: u64) -> Option<&mut Time> {
        let server = self.server(machine);
        if let Some(at) = server.senders.iter().position(|sender| sender.connection == connection) {
            return Some(&mut server.senders[at].heard_at);
        }
        server.receiver.heard_at(connection)
    }
}
