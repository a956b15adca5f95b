//! Names, gate, sessions, replay; then the guard promotes.

use std::collections::BTreeSet;

use mainstay_core::sync::SyncSet;
use mainstay_core::view::Server;
use mainstay_core::{Epoch, Timeline};

use crate::disk::Hba;
use crate::guard::GuardRequest;
use crate::member::lane::Next;
use crate::mutant::ShellMutant;
use crate::postgres::Stage;
use crate::queue::{MS, SECOND};
use crate::world::World;

impl World {
    pub(super) fn open_step(
        &mut self,
        machine: usize,
        lane: usize,
        step: u8,
        (epoch, timeline, sync): (Epoch, Timeline, &SyncSet),
    ) -> Next {
        match step {
            0 => self.wait_until_ready(machine, lane, epoch, timeline),
            1 => {
                let shut = !self.mutated(ShellMutant::GateLeftOpen);
                self.write(machine, |files| {
                    files.names = sync.clone();
                    files.hba = if shut { Hba::Shut } else { Hba::Open };
                })
            }
            2 => self.through_guard(machine, lane, GuardRequest::Reload),
            3 => self.wait_until_effective(machine, lane, sync),
            4 => {
                if !self.runs_server(machine) {
                    return Next::Fail("PostgreSQL died".to_owned());
                }
                // None that began before is left when the first write becomes possible.
                let late = self.mutated(ShellMutant::SessionsEndedLate);
                if !late && !self.mutated(ShellMutant::StandbySessionsSpared) {
                    let now = self.now;
                    self.end_sessions_before(machine, now);
                }
                self.resume_replay(machine);
                Next::Go(2 * MS)
            }
            5 => {
                let Some((held, deadline)) = self.deadline(machine).filter(|(held, _)| *held == epoch) else {
                    return Next::Fail("the lease is not held".to_owned());
                };
                self.through_guard(machine, lane, GuardRequest::Arm { epoch: held, deadline })
            }
            6 => self.ask_to_open(machine, lane, epoch, timeline),
            _ => self.wait_until_promoted(machine, lane, sync),
        }
    }

    fn wait_until_ready(&mut self, machine: usize, lane: usize, epoch: Epoch, timeline: Timeline) -> Next {
        let Server::Running(running) = &self.member(machine).view.server else {
            return Next::Fail("PostgreSQL is not running".to_owned());
        };
        if running.opened == Some(epoch) {
            return Next::To(7, 0);
        }
        let content = self.content(machine);
        let newest = content.written;
        if self.wal.timeline(newest) >= timeline {
            return Next::Fail(format!("timeline {timeline} or a later one is here already"));
        }
        let ready = self.machines[machine].live_server().is_some_and(|live| live.stage == Stage::Standby);
        if ready {
            Next::Go(MS)
        } else if self.waited(machine, lane) > 20 * SECOND {
            Next::Fail("PostgreSQL does not become ready".to_owned())
        } else {
            Next::Stay(10 * MS)
        }
    }

    /// A fresh session shows names and gate, and the checkpointer has been seen asleep since.
    fn wait_until_effective(&mut self, machine: usize, lane: usize, sync: &SyncSet) -> Next {
        let hasty = self.mutated(ShellMutant::NamesNotProven);
        let shut = if self.mutated(ShellMutant::GateLeftOpen) { Hba::Open } else { Hba::Shut };
        let Some(live) = self.machines[machine].live_server() else {
            return self.stay_or_fail(machine, lane, 5 * SECOND, "PostgreSQL does not answer");
        };
        let shown = live.loaded.names == *sync && live.loaded.hba == shut;
        let effective = !live.checkpointer_pending && live.sync_defined != sync.is_lone();
        if hasty || (shown && effective) {
            Next::Go(MS)
        } else {
            self.stay_or_fail(machine, lane, 5 * SECOND, "the names did not become effective")
        }
    }

    pub(super) fn stay_or_fail(&self, machine: usize, lane: usize, patience: u64, why: &str) -> Next {
        if self.waited(machine, lane) > patience { Next::Fail(why.to_owned()) } else { Next::Stay(5 * MS) }
    }

    fn ask_to_open(&mut self, machine: usize, lane: usize, epoch: Epoch, timeline: Timeline) -> Next {
        let written = self.content(machine).written;
        let newest = self.wal.timeline(written);
        // Followers ask for every number up to the newest; a clone brings along only its own.
        let all = (2..timeline.0).map(Timeline).filter(|number| *number != newest);
        let mut dummies: BTreeSet<Timeline> = all.collect();
        if self.mutated(ShellMutant::DummiesNotWritten) {
            dummies.clear();
        }
        if self.mutated(ShellMutant::DummiesAboveOnly) {
            dummies.retain(|number| *number > newest);
        }
        let next = self.through_guard(machine, lane, GuardRequest::Open { epoch, dummies });
        let member = self.member(machine);
        match (&next, member.lanes[lane].request) {
            (Next::Stay(_), Some(number)) => member.opening = Some((epoch, number)),
            (Next::Go(_), _) => member.opening = None,
            _ => {}
        }
        next
    }

    fn wait_until_promoted(&mut self, machine: usize, lane: usize, sync: &SyncSet) -> Next {
        self.observe(machine);
        let view = &mut self.member(machine).view;
        let Server::Running(running) = &view.server else {
            return Next::Fail("PostgreSQL died while it was promoted".to_owned());
        };
        if running.primary.is_some() {
            view.names = Some(sync.clone());
            view.gate_open = false;
            view.checkpointed = None;
            view.scan = None;
            return Next::Done;
        }
        self.stay_or_fail(machine, lane, 5 * SECOND, "the promotion made no progress for 5 s")
    }
}
