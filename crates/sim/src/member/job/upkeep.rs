//! An open primary's sync set, gate, checkpoint, and its planned end.

use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Epoch, Lsn, MemberId};

use crate::disk::Hba;
use crate::guard::GuardRequest;
use crate::member::lane::Next;
use crate::mutant::ShellMutant;
use crate::queue::{MS, SECOND};
use crate::wal::Kind;
use crate::world::World;

impl World {
    /// Writes names and proves them effective; then waits until enough of them hold everything older.
    pub(super) fn names_step(&mut self, machine: usize, lane: usize, step: u8, sync: &SyncSet) -> Next {
        if self.machines[machine].live_server().is_none() {
            return self.stay_or_fail(machine, lane, 10 * SECOND, "PostgreSQL does not answer");
        }
        match step {
            0 => {
                // Until the checkpointer has been seen, a server that did not wait may still not wait.
                let waited_before =
                    self.member(machine).view.names.take().is_some_and(|names| !names.is_lone());
                self.member(machine).lanes[lane].noted = u64::from(waited_before);
                self.write(machine, |files| files.names = sync.clone())
            }
            1 => self.through_guard(machine, lane, GuardRequest::Reload),
            2 => {
                let shown = self.server(machine).loaded.names == *sync;
                let asleep = !self.server(machine).checkpointer_pending;
                let proven = asleep || self.member(machine).lanes[lane].noted == 1 && !sync.is_lone();
                if self.mutated(ShellMutant::NamesNotProven) && shown {
                    return Next::To(4, MS);
                }
                if shown && proven {
                    Next::Go(MS)
                } else {
                    self.stay_or_fail(machine, lane, 10 * SECOND, "the names did not become effective")
                }
            }
            3 => self.wait_for_walsenders(machine, lane),
            4 => {
                let inserted = self.server(machine).inserted;
                let end = self.wal.end(inserted);
                self.member(machine).lanes[lane].noted = end.0;
                Next::Go(MS)
            }
            _ => {
                let upto = Lsn(self.member(machine).lanes[lane].noted);
                let awaited = !self.mutated(ShellMutant::OlderNotAwaited);
                if awaited && self.flushed_by(machine, &sync.voters, upto) < sync.k as usize {
                    return self.stay_or_fail(machine, lane, 10 * SECOND, "the voters did not catch up");
                }
                self.member(machine).view.names = Some(sync.clone());
                Next::Done
            }
        }
    }

    /// A position written after the names were shown comes back through every walsender, so each has read them; one that does
    /// not answer is ended.
    fn wait_for_walsenders(&mut self, machine: usize, lane: usize) -> Next {
        let noted = self.member(machine).lanes[lane].noted;
        if noted <= 1 {
            let inserted = self.server(machine).inserted;
            let tip = self.wal.append(inserted, 60, Kind::Other);
            self.server(machine).inserted = tip;
            self.flush(machine);
            let end = self.wal.end(tip);
            self.member(machine).lanes[lane].noted = end.0;
            return Next::Stay(3 * MS);
        }
        let senders = &self.server(machine).senders;
        let silent: Vec<u64> = senders
            .iter()
            .filter(|sender| sender.flushed < Lsn(noted))
            .map(|sender| sender.connection)
            .collect();
        if silent.is_empty() {
            return Next::Go(0);
        }
        if self.waited(machine, lane) > SECOND {
            for connection in silent {
                self.drop_sender(machine, connection);
            }
        }
        Next::Stay(5 * MS)
    }

    fn flushed_by<'a>(
        &mut self,
        machine: usize,
        voters: impl IntoIterator<Item = &'a Voter>,
        upto: Lsn,
    ) -> usize {
        let senders = &self.server(machine).senders;
        let holds = |voter: &&Voter| senders.iter().any(|s| s.voter == **voter && s.flushed >= upto);
        voters.into_iter().filter(holds).count()
    }

    /// Sessions from before the opening end; what they did is made safe; then applications come in.
    pub(super) fn gate_step(&mut self, machine: usize, lane: usize, step: u8) -> Next {
        if self.machines[machine].live_server().is_none() {
            return self.stay_or_fail(machine, lane, 10 * SECOND, "PostgreSQL does not answer");
        }
        match step {
            0 => {
                if !self.mutated(ShellMutant::StandbySessionsSpared) {
                    let opened_at = self.server(machine).opened_at;
                    self.end_sessions_before(machine, opened_at);
                }
                Next::Go(MS)
            }
            1 => self.write(machine, |files| files.hba = Hba::Open),
            2 => self.through_guard(machine, lane, GuardRequest::Reload),
            _ => {
                if self.server(machine).loaded.hba != Hba::Open {
                    return self.stay_or_fail(machine, lane, 5 * SECOND, "pg_hba.conf was not read");
                }
                self.member(machine).view.gate_open = true;
                Next::Done
            }
        }
    }

    pub(super) fn checkpoint_step(&mut self, machine: usize, step: u8, epoch: Epoch) -> Next {
        let Some(live) = self.machines[machine].live_server() else {
            return Next::Fail("PostgreSQL does not answer".to_owned());
        };
        let inserted = live.inserted;
        match step {
            0 => {
                self.start_checkpoint(machine);
                Next::Go(20 * MS)
            }
            _ => {
                let control = self.content(machine).control;
                if control != self.wal.branch(inserted) {
                    return self.stay_or_fail(
                        machine,
                        crate::member::lane::UPKEEP,
                        30 * SECOND,
                        "the checkpoint does not end",
                    );
                }
                self.member(machine).view.checkpointed = Some(epoch);
                Next::Done
            }
        }
    }

    /// A standby stops for its turn to be restarted.
    pub(super) fn stop_standby_step(
        &mut self,
        machine: usize,
        lane: usize,
        step: u8,
        turn: (u64, u64),
    ) -> Next {
        match step {
            0 => self.through_guard(machine, lane, GuardRequest::FastStop { kill_after: 2 * SECOND }),
            _ if matches!(self.member(machine).view.server, mainstay_core::view::Server::Down { .. }) => {
                self.member(machine).view.stopped_for = Some(turn);
                Next::Done
            }
            _ => self.stay_or_fail(machine, lane, 60 * SECOND, "PostgreSQL does not stop"),
        }
    }

    /// A planned end: everything that was written is with `to`, if it names somebody, before the server is down.
    pub(super) fn stop_step(&mut self, machine: usize, lane: usize, step: u8, to: Option<&MemberId>) -> Next {
        match step {
            0 => Next::Go(self.random.span_ms(20, 300)),
            1 => {
                self.member(machine).view.gate_open = false;
                self.write(machine, |files| files.hba = Hba::Shut)
            }
            2 => self.through_guard(machine, lane, GuardRequest::Reload),
            3 => self.through_guard(machine, lane, GuardRequest::FastStop { kill_after: 2 * SECOND }),
            _ => {
                if matches!(self.member(machine).view.server, mainstay_core::view::Server::Down { .. }) {
                    return Next::Done;
                }
                if self.waited(machine, lane) > SECOND / 3 && self.machines[machine].live_server().is_some() {
                    let target = to.and_then(|to| self.machine_of(to));
                    let others: Vec<u64> = self
                        .server(machine)
                        .senders
                        .iter()
                        .filter(|sender| Some(sender.standby) != target)
                        .map(|sender| sender.connection)
                        .collect();
                    for connection in others {
                        self.drop_sender(machine, connection);
                        if self.machines[machine].live_server().is_none() {
                            break;
                        }
                    }
                }
                self.stay_or_fail(machine, lane, 60 * SECOND, "PostgreSQL does not stop")
            }
        }
    }
}
