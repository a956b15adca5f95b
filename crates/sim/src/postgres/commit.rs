//! A commit's way: inserted, flushed here, flushed by enough standbys, acknowledged.

use mainstay_core::Lsn;

use super::Stage;
use crate::disk::Content;
use crate::event::{ClientEvent, Event, ServerEvent};
use crate::wal::{Kind, Tip};
use crate::world::World;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) tip: Tip,
    pub(crate) session: u64,
    pub(crate) transaction: u32,
}

impl World {
    pub(crate) fn content(&mut self, machine: usize) -> &mut Content {
        self.machines[machine].data.content.as_mut().expect("a server has a directory")
    }

    /// How far the directory is safe against a loss of power.
    pub(crate) fn durable_end(&self, machine: usize) -> Lsn {
        let content = self.machines[machine].data.content.as_ref().expect("a server has a directory");
        self.wal.end(content.durable)
    }

    /// Puts the event off if the disk completes nothing now.
    pub(crate) fn waits_for_disk(&mut self, machine: usize, what: ServerEvent) -> bool {
        if self.machines[machine].disk.stalled_since.is_none() {
            return false;
        }
        self.at_server(machine, 10 * crate::queue::MS, what);
        true
    }

    pub(super) fn commit(&mut self, machine: usize, session: u64, transaction: u32) {
        let Some((client, token)) = self.active_session(machine, session) else { return };
        if self.server(machine).stage != Stage::Primary {
            self.answer_client(machine, client, token, ClientEvent::ReadOnly);
            return;
        }
        let bytes = match self.random.below(20) {
            0 => self.random.between(5_000, 60_000),
            _ => self.random.between(100, 2_000),
        };
        let inserted = self.server(machine).inserted;
        let tip = self.wal.append(inserted, bytes, Kind::Commit(transaction));
        let server = self.server(machine);
        server.inserted = tip;
        server.next_xid += 1;
        server.unflushed.push_back(Commit { tip, session, transaction });
        self.flush(machine);
    }

    /// Writes what was inserted, if no flush is under way; the next one takes what comes meanwhile.
    pub(crate) fn flush(&mut self, machine: usize) {
        let server = self.server(machine);
        let (inserted, flushing) = (server.inserted, server.flushing);
        if flushing || self.content(machine).durable == inserted {
            return;
        }
        if self.machines[machine].disk.full {
            self.panics(machine);
            return;
        }
        self.content(machine).written = inserted;
        self.server(machine).flushing = true;
        let takes = self.machines[machine].disk.sync_time(&mut self.random);
        self.at_server(machine, takes, ServerEvent::FlushDone { tip: inserted });
    }

    pub(super) fn flush_done(&mut self, machine: usize, tip: Tip) {
        if self.waits_for_disk(machine, ServerEvent::FlushDone { tip }) {
            return;
        }
        self.content(machine).durable = tip;
        let end = self.wal.end(tip);
        self.server(machine).flushing = false;
        while let Some(commit) = self.server(machine).unflushed.front().copied() {
            if self.wal.end(commit.tip) > end {
                break;
            }
            let server = self.server(machine);
            server.unflushed.pop_front();
            if !server.sync_defined || self.wal.end(commit.tip) <= self.server(machine).released {
                self.acknowledge(machine, commit);
            } else if self.server(machine).postmaster {
                self.server(machine).waiting.push_back(commit);
            }
        }
        self.flush(machine);
        if self.machines[machine].server.as_ref().is_some_and(|server| server.postmaster) {
            self.send_wal(machine);
            self.stop_if_heard(machine);
        }
    }

    /// Standbys have named this position: whoever waits for one at or before it goes on.
    pub(crate) fn release(&mut self, machine: usize, upto: Lsn) {
        let server = self.server(machine);
        if upto != Lsn(u64::MAX) {
            server.released = server.released.max(upto);
        }
        while let Some(commit) = self.server(machine).waiting.front().copied() {
            if self.wal.end(commit.tip) > upto {
                break;
            }
            self.server(machine).waiting.pop_front();
            self.acknowledge(machine, commit);
        }
    }

    fn acknowledge(&mut self, machine: usize, commit: Commit) {
        self.observe_acknowledged(machine, commit);
        let server = self.server(machine);
        server.visible = commit.tip;
        if let Some((client, token)) = server.sessions.get(&commit.session).map(|s| (s.client, s.token)) {
            let transaction = commit.transaction;
            self.answer_client(machine, client, token, ClientEvent::Committed { transaction });
        }
    }

    /// Sends an answer to a client, if the network lets it through.
    pub(crate) fn answer_client(&mut self, machine: usize, client: usize, token: u32, what: ClientEvent) {
        let host = self.clients[client].host;
        if self.network.passes(machine, host) {
            let delay = self.network.delay(&mut self.random, machine, host);
            self.queue.push(self.now + delay, Event::Client { client, token, what });
        }
    }
}
