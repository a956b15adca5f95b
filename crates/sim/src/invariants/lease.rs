//! The lease is exclusive: when an epoch ends, nothing runs under it any more and nothing will. If it is said to have run
//! out, its holder's guard has ended PostgreSQL by its own clock already.

use mainstay_core::Epoch;
use mainstay_core::record::EndCause;

use crate::world::World;

impl World {
    pub(super) fn check_lease_is_over(&mut self, epoch: Epoch, cause: &EndCause) {
        if !matches!(cause, EndCause::Expired { .. }) {
            self.check_holder_is_done(epoch);
            return;
        }
        for machine in 0..self.machines.len() {
            let now = self.local_now(machine);
            let armed = self.machines[machine].guard.as_ref().and_then(|guard| guard.armed);
            if armed.is_some_and(|(armed, deadline)| armed == epoch && now < deadline) {
                self.violated("lease", || {
                    format!("the lease of epoch {epoch} is said to have run out, and the guard of machine {machine} counts on it still")
                });
            }
        }
    }

    /// A holder that ends its epoch itself has nothing left that runs under it.
    fn check_holder_is_done(&mut self, epoch: Epoch) {
        let runs = |place: &crate::machine::Machine| {
            place.server.as_ref().is_some_and(|server| server.opened == Some(epoch) && server.executing)
        };
        if let Some(machine) = self.machines.iter().position(runs) {
            self.violated("lease", || {
                format!("machine {machine} has ended epoch {epoch} and runs a server under it")
            });
        }
    }

    /// The guard of `machine` is about to open an epoch.
    pub(crate) fn check_opens_what_is_granted(&mut self, machine: usize, epoch: Epoch) {
        let record = &self.observer.record;
        let granted = record.tenure().is_some_and(|tenure| tenure.epoch == epoch);
        if !granted {
            self.violated("lease", || {
                format!("the guard of machine {machine} opens epoch {epoch}, which is over")
            });
        }
        self.check_holds_newest_timeline(machine, epoch);
    }
}
