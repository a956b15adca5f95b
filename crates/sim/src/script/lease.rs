//! What the lease's promises are for.

use super::reached;
use crate::fault::Fault;
use crate::machine::Process;
use crate::queue::{MS, SECOND};
use crate::world::World;

impl World {
    /// The holder's main loop is busy all the while, so it does not see that its server is gone; renewals go on.
    pub(super) fn renewed_after_run_out(&mut self, holder: usize, new_guard: bool) -> Option<()> {
        let epoch = self.epoch();
        let (one, other) = self.others(holder);
        self.cut_off(holder, true);
        self.fault(Fault::Busy { machine: holder, for_: 15 * SECOND });
        let knows = |world: &World, machine: usize| {
            world.machines[machine].member.as_ref().is_some_and(|member| {
                member.view.run_out.epoch == epoch && member.view.run_out.voters.len() >= 2
            })
        };
        reached(self.run_to(10 * SECOND, |world| knows(world, one) || knows(world, other)))?;
        let (knowing, asked) = if knows(self, one) { (one, other) } else { (other, one) };
        // Before it says so to anyone.
        self.fault(Fault::Stop { machine: knowing, process: Process::Member });
        self.fault(Fault::KillMember { machine: asked, for_: 100 * MS });
        if new_guard {
            self.fault(Fault::KillGuard { machine: holder });
        }
        reached(self.run_to(5 * SECOND, |world| world.machines[asked].member.is_some()))?;
        self.link(holder, asked, false);
        self.run_for(SECOND);
        self.fault(Fault::Continue { machine: knowing, process: Process::Member });
        self.run_for(4 * SECOND);
        Some(())
    }

    /// The primary's guard and member stand still, its server goes on; a standby's guard stands still in the middle of
    /// being told to follow.
    pub(super) fn ended_while_following(&mut self, before: usize) -> Option<()> {
        let epoch = self.epoch();
        // A planned change: the old primary follows at once, so that the gate opens with the other still a voter.
        self.fault(Fault::Switchover { to: Some(self.others(before).0) });
        let primary = self.run_to_tenure(epoch, true, 10 * SECOND)?;
        reached(primary != before)?;
        let epoch = self.epoch();
        let follower = 3 - before - primary;
        self.fault(Fault::Stop { machine: follower, process: Process::Guard });
        reached(self.run_to(10 * SECOND, |world| world.observer.gates.contains(&epoch)))?;
        self.run_for(SECOND / 2);
        self.fault(Fault::Stop { machine: primary, process: Process::Guard });
        self.fault(Fault::Stop { machine: primary, process: Process::Member });
        let member = self.machines[follower].id.clone();
        reached(self.run_to(10 * SECOND, |world| {
            world.observer.record.epoch == epoch && world.observer.record.reports.contains_key(&member)
        }))?;
        // What it was told takes effect, and its main loop looks away.
        self.fault(Fault::Busy { machine: follower, for_: 3 * SECOND });
        self.fault(Fault::Continue { machine: follower, process: Process::Guard });
        self.run_for(5 * SECOND);
        Some(())
    }
}
