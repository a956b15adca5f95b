//! Losses that an operator has accepted: exactly those, and no others.

use mainstay_core::record::{Operate, Phase};

use super::reached;
use crate::fault::Fault;
use crate::queue::{MS, SECOND};
use crate::world::World;

impl World {
    /// Of two voters one holds the newest commits and is lost with the primary. An operator goes on with the other, which is
    /// busy for a moment.
    fn accept_loss(&mut self, primary: usize) -> Option<usize> {
        let (lost, laggard) = self.others(primary);
        for step in 1..=20 {
            self.fault(Fault::LagWal { from: primary, to: laggard, lag: step * SECOND / 4 });
            self.run_for(SECOND / 2);
        }
        self.destroy_data(lost, false);
        self.fault(Fault::PowerOff { machine: primary, for_: 40 * SECOND });
        reached(self.run_to(10 * SECOND, |world| world.acceptable_loss().is_some()))?;
        let forced = self.acceptable_loss()?;
        reached(forced.member == self.machines[laggard].id)?;
        self.fault(Fault::Busy { machine: laggard, for_: SECOND });
        self.ask(&Operate::Force(forced));
        reached(self.run_to(900 * MS, |world| world.observer.record.operation.forced.is_some()))?;
        Some(laggard)
    }

    /// Before it is promoted its directory is replaced by an older one.
    pub(super) fn forced_then_restored(&mut self, primary: usize) -> Option<()> {
        let forced = self.accept_loss(primary)?;
        self.destroy_data(forced, true);
        self.run_for(20 * SECOND);
        Some(())
    }

    /// The promotion fails: what was accepted was accepted for that one.
    pub(super) fn forced_once(&mut self, primary: usize) -> Option<()> {
        let forced = self.accept_loss(primary)?;
        let epoch = self.epoch();
        reached(self.run_to_tenure(epoch, false, 5 * SECOND)? == forced)?;
        self.fault(Fault::KillPostmaster { machine: forced });
        reached(self.run_to(30 * SECOND, |world| {
            world.observer.record.epoch > epoch && matches!(world.observer.record.phase, Phase::Ended { .. })
        }))?;
        self.run_for(15 * SECOND);
        Some(())
    }
}
