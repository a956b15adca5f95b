//! What the proof before a promotion, and the record of it, are for.

use mainstay_core::action::Job;
use mainstay_core::record::Command;

use super::reached;
use crate::event::ServerEvent;
use crate::fault::Fault;
use crate::machine::Process;
use crate::queue::{MS, SECOND};
use crate::world::World;

impl World {
    pub(super) fn lost_before_attached(&mut self, before: usize) -> Option<()> {
        let epoch = self.epoch();
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                self.fault(Fault::LagWal { from, to, lag: 3 * SECOND });
            }
        }
        self.run_for(4 * SECOND);
        self.fault(Fault::KillPostmaster { machine: before });
        let primary = self.run_to_tenure(epoch, true, 20 * SECOND)?;
        self.fault(Fault::PowerOff { machine: primary, for_: 12 * SECOND });
        self.run_for(12 * SECOND);
        Some(())
    }

    pub(super) fn promoted_by_hand_under_grant(&mut self, before: usize) -> Option<()> {
        let epoch = self.epoch();
        self.fault(Fault::KillPostmaster { machine: before });
        let holder = self.run_to_tenure(epoch, false, 10 * SECOND)?;
        let asks = |world: &World| {
            world.machines[holder].member.as_ref().is_some_and(|member| {
                let lane = &member.lanes[crate::member::RUN];
                matches!(lane.job, Some(Job::Open { .. })) && lane.step == 6 && lane.request.is_some()
            })
        };
        reached(self.run_to(5 * SECOND, asks))?;
        self.observer.excused = true;
        self.disturb(holder);
        reached(self.machines[holder].live_server().is_some())?;
        self.at_server(holder, 0, ServerEvent::Promote);
        self.run_for(5 * SECOND);
        Some(())
    }

    /// The holder of the next grant waits for its guard, so that the other is promoted and ended before anyone is open.
    pub(super) fn promoted_by_hand_when_sealed(&mut self, before: usize) -> Option<()> {
        let epoch = self.epoch();
        self.fault(Fault::PowerOff { machine: before, for_: 20 * SECOND });
        let holder = self.run_to_tenure(epoch, false, 10 * SECOND)?;
        let sealed = 3 - before - holder;
        self.fault(Fault::Stop { machine: holder, process: Process::Guard });
        let scanned = |world: &World| {
            world.machines[sealed].member.as_ref().is_some_and(|member| member.view.scan.is_some())
        };
        reached(scanned(self) && self.machines[sealed].server.is_some())?;
        self.fault(Fault::OutsideHand { machine: sealed });
        reached(self.run_to(2 * SECOND, |world| world.machines[sealed].server.is_none()))?;
        self.run_for(20 * MS);
        self.fault(Fault::Continue { machine: holder, process: Process::Guard });
        self.run_for(5 * SECOND);
        Some(())
    }

    /// The changes of the sync set, from the first on, arrive once more, one close behind the other.
    pub(super) fn changes_come_late(&mut self, primary: usize) -> Option<()> {
        let changes =
            self.observer.proposals.iter().filter(|command| matches!(command, Command::SetSync { .. }));
        let changes: Vec<Command> = changes.cloned().collect();
        reached(self.machines[primary].member.is_some())?;
        for late in &changes {
            self.propose(primary, late);
        }
        self.run_for(5 * SECOND);
        Some(())
    }

    /// The voter that alone held the newest commits is another directory now: what it reports is no proof.
    pub(super) fn voter_restored(&mut self, primary: usize) -> Option<()> {
        let (restored, laggard) = self.others(primary);
        for step in 1..=20 {
            self.fault(Fault::LagWal { from: primary, to: laggard, lag: step * SECOND / 4 });
            self.run_for(SECOND / 2);
        }
        self.destroy_data(restored, true);
        self.fault(Fault::PowerOff { machine: primary, for_: 25 * SECOND });
        self.run_for(20 * SECOND);
        Some(())
    }

    /// The holder of a grant stands still until nearly everyone finds its lease run out, and then is not heard.
    pub(super) fn grant_held_up(&mut self, before: usize) -> Option<()> {
        let holder = self.stopped_holder(before)?;
        for to in (0..3).filter(|to| *to != holder) {
            self.fault(Fault::Cut { from: holder, to });
        }
        self.run_for(2_700 * MS);
        self.fault(Fault::Continue { machine: holder, process: Process::Member });
        self.run_for(5 * SECOND);
        Some(())
    }

    /// The holder of a grant gives it back too late to be opened; that is written down later still, since no disk but its
    /// own completes anything. Leases need none.
    pub(super) fn end_held_up(&mut self, before: usize) -> Option<()> {
        let holder = self.stopped_holder(before)?;
        self.run_for(2_650 * MS);
        let (one, other) = self.others(holder);
        for machine in [one, other] {
            self.fault(Fault::StallDisk { machine });
        }
        self.fault(Fault::Continue { machine: holder, process: Process::Member });
        self.run_for(3 * SECOND);
        for machine in [one, other] {
            self.fault(Fault::DiskGoesOn { machine });
        }
        self.run_for(3 * SECOND);
        Some(())
    }

    /// The holder of the next grant, stopped when the first of the others learns of it.
    fn stopped_holder(&mut self, before: usize) -> Option<usize> {
        let epoch = self.epoch();
        self.fault(Fault::KillPostmaster { machine: before });
        let holder = self.run_to_tenure(epoch, false, 10 * SECOND)?;
        let knows = self.machines[holder].member.as_ref().is_some_and(|m| m.view.record.epoch > epoch);
        reached(!knows)?;
        self.fault(Fault::Stop { machine: holder, process: Process::Member });
        Some(holder)
    }

    /// One voter's server stands still, the other lags: it must not become the only proof before it holds what is older.
    pub(super) fn laggard_left_alone(&mut self, primary: usize) -> Option<()> {
        let (lost, laggard) = self.others(primary);
        // Little by little, so that it flushes something all the time.
        for step in 1..=40 {
            self.fault(Fault::LagWal { from: primary, to: laggard, lag: step * SECOND / 4 });
            self.run_for(SECOND / 2);
        }
        self.fault(Fault::Stop { machine: lost, process: Process::Server });
        let only = self.machines[laggard].id.clone();
        // Until the proof goes by the laggard alone, or long enough to see that it does not.
        self.run_to(8 * SECOND, |world| {
            let sync = world.observer.record.sync();
            sync.is_some_and(|sync| sync.k == 1 && sync.voters.len() == 1 && sync.contains(&only))
        });
        self.fault(Fault::PowerOff { machine: primary, for_: 40 * SECOND });
        self.run_for(15 * SECOND);
        Some(())
    }
}
