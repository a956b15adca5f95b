//! What the rungs of the rejoin ladder are for.

use super::reached;
use crate::fault::Fault;
use crate::queue::{MS, SECOND};
use crate::world::World;

impl World {
    pub(super) fn voter_diverges(&mut self, primary: usize) -> Option<()> {
        let (voter, _) = self.others(primary);
        self.fault(Fault::OutsideHand { machine: voter });
        // Longer than a rewind takes, shorter than until it is no voter any more.
        self.run_for(3 * SECOND);
        let id = self.machines[voter].id.clone();
        reached(self.observer.record.sync().is_some_and(|sync| sync.contains(&id)))?;
        self.destroy_data(primary, false);
        self.run_for(10 * SECOND);
        Some(())
    }

    pub(super) fn back_to_copy(&mut self, first: usize) -> Option<()> {
        let (second, away) = self.others(first);
        self.fault(Fault::PowerOff { machine: away, for_: 90 * SECOND });
        self.run_for(8 * SECOND);
        let epoch = self.epoch();
        self.fault(Fault::KillPostmaster { machine: first });
        reached(self.run_to_tenure(epoch, true, 10 * SECOND)? == second)?;
        self.run_for(8 * SECOND);
        self.destroy_data(first, false);
        self.run_for(12 * SECOND);
        let epoch = self.epoch();
        self.fault(Fault::KillPostmaster { machine: second });
        reached(self.run_to_tenure(epoch, true, 10 * SECOND)? == first)?;
        Some(())
    }

    pub(super) fn killed_in_rewind(&mut self, primary: usize) -> Option<()> {
        let (diverged, _) = self.others(primary);
        self.fault(Fault::OutsideHand { machine: diverged });
        let half = |world: &World| {
            world.machines[diverged].data.content.as_ref().is_some_and(|content| content.garbage)
        };
        reached(self.run_to(30 * SECOND, half))?;
        self.fault(Fault::KillMember { machine: diverged, for_: 100 * MS });
        self.run_for(5 * SECOND);
        Some(())
    }

    pub(super) fn killed_before_telling(&mut self, before: usize) -> Option<()> {
        let epoch = self.epoch();
        self.fault(Fault::KillPostmaster { machine: before });
        let primary = self.run_to_tenure(epoch, true, 10 * SECOND)?;
        let epoch = self.epoch();
        let follower = (0..3).find(|machine| *machine != primary && *machine != before)?;
        let promised = |world: &World| {
            let files = &world.machines[follower].files;
            files.upstream.as_ref().is_some_and(|upstream| upstream.epoch == epoch)
                && files.conninfo.as_ref().is_none_or(|upstream| upstream.epoch != epoch)
        };
        reached(self.run_to(5 * SECOND, promised))?;
        self.fault(Fault::KillMember { machine: follower, for_: 100 * MS });
        self.run_for(70 * SECOND);
        Some(())
    }

    pub(super) fn long_cut(&mut self, primary: usize) -> Option<()> {
        let (cut, _) = self.others(primary);
        self.cut_off(cut, true);
        self.run_for(75 * SECOND);
        self.cut_off(cut, false);
        self.run_to_whole()
    }
}
