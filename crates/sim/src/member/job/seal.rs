//! Leave an epoch for good, then find the end of the WAL.

use mainstay_core::Epoch;
use mainstay_core::lineage::Extent;
use mainstay_core::view::Scan;

use crate::event::ServerEvent;
use crate::member::lane::Next;
use crate::mutant::ShellMutant;
use crate::queue::{MICROSECOND, MS, SECOND};
use crate::world::World;

impl World {
    pub(super) fn seal_step(&mut self, machine: usize, step: u8, epoch: Epoch) -> Next {
        match step {
            0 if self.mutated(ShellMutant::SealNotDurable) => Next::Go(MICROSECOND),
            0 => self.write(machine, |files| files.sealed = files.sealed.max(epoch)),
            1 => {
                let next = self.write(machine, |files| (files.upstream, files.conninfo) = (None, None));
                if matches!(next, Next::Go(_)) {
                    self.member(machine).view.upstream = None;
                }
                next
            }
            2 => {
                if self.runs_server(machine) && !self.mutated(ShellMutant::WalreceiverLeftAlive) {
                    let signal = self.random.span_ms(1, 4);
                    self.at_server(machine, signal, ServerEvent::Reload);
                    self.at_server(machine, signal, ServerEvent::EndWalreceiver);
                    self.end_cascades(machine);
                }
                Next::Go(MS)
            }
            3 => self.look_for_walreceiver(machine),
            _ => self.scan(machine, epoch),
        }
    }

    pub(super) fn runs_server(&self, machine: usize) -> bool {
        self.machines[machine].server.as_ref().is_some_and(|server| server.executing && server.postmaster)
    }

    fn end_cascades(&mut self, machine: usize) {
        let connections: Vec<u64> =
            self.server(machine).senders.iter().map(|sender| sender.connection).collect();
        for connection in connections {
            self.drop_sender(machine, connection);
        }
    }

    /// One look at the processes without a walreceiver: since the passfile is gone, a later one cannot log in.
    fn look_for_walreceiver(&mut self, machine: usize) -> Next {
        let tolerated = self.mutated(ShellMutant::WalreceiverLeftAlive);
        let there = self.machines[machine].server.as_ref().is_some_and(|server| server.receiver.is_there());
        if !there || tolerated {
            return Next::Go(self.random.span_ms(4, 30));
        }
        let waited = self.waited(machine, crate::member::lane::RUN);
        if waited > 3 * SECOND {
            Next::Fail("the walreceiver does not end".to_owned())
        } else {
            Next::Stay(2 * MS)
        }
    }

    /// The end of the last valid record. What is reported must be on the disk, not only in the page cache.
    fn scan(&mut self, machine: usize, epoch: Epoch) -> Next {
        let place = &self.machines[machine];
        if place.disk.stalled_since.is_some() {
            return Next::Stay(20 * MS);
        }
        if place.server.as_ref().is_some_and(|server| server.executing && !server.in_recovery()) {
            return Next::Fail("the server is not a standby".to_owned());
        }
        if place.files.mark.is_some() && !self.mutated(ShellMutant::HalfChangedStarted) {
            return Next::Fail("the directory is half changed".to_owned());
        }
        let replayed = place.server.as_ref().map(|server| server.replayed);
        let lies = self.mutated(ShellMutant::ScanNotSynced);
        let Some(content) = &mut self.machines[machine].data.content else {
            return Next::Fail("there is no data directory".to_owned());
        };
        if !lies {
            content.durable = content.written;
        }
        let (tip, incarnation) = (content.written, content.incarnation);
        let extent = Extent { history: (*self.wal.history(tip)).clone(), end: self.wal.end(tip) };
        let replayed = replayed.map(|tip| self.wal.end(tip)).unwrap_or_default();
        let sealed = self.machines[machine].files.sealed.max(epoch);
        let view = &mut self.member(machine).view;
        view.sealed = sealed;
        view.scan = Some(Scan { extent, replayed, incarnation });
        Next::Done
    }
}
