//! Applications enter an opened server only once what became visible by its promotion can no longer be lost, and no
//! session from before acknowledges anything earlier.

use mainstay_core::Epoch;

use crate::disk::Hba;
use crate::postgres::Stage;
use crate::wal::Tip;
use crate::world::World;

impl World {
    /// Configuration was read, or a promotion ended: applications may be able to enter now.
    pub(crate) fn gate_may_have_opened(&mut self, machine: usize) {
        let Some(server) = &self.machines[machine].server else { return };
        let enters = server.stage == Stage::Primary && server.loaded.hba != Hba::Shut && server.executing;
        let Some(epoch) = server.opened.filter(|_| enters) else { return };
        if !self.observer.gates.contains(&epoch) {
            self.check_gate(machine, epoch);
            self.observer.gates.insert(epoch);
            self.check_served_by_one(machine);
        }
    }

    fn check_gate(&mut self, machine: usize, epoch: Epoch) {
        let record = std::sync::Arc::clone(&self.observer.record);
        let Some(opening) = self.observer.openings.iter().find(|opening| opening.epoch == epoch).copied()
        else {
            self.violated("gate", || {
                format!("machine {machine} lets applications in before epoch {epoch} is open")
            });
            return;
        };
        let Some(tenure) = record.base.as_ref().filter(|base| base.epoch == epoch) else {
            return;
        };
        let holding = tenure.sync.voters.iter().filter(|voter| self.holds(voter, opening.tip)).count();
        if holding < tenure.sync.k as usize {
            let k = tenure.sync.k;
            self.violated("gate", || {
                format!("machine {machine} lets applications in while {holding} of {k} voters hold epoch {epoch}'s opening")
            });
        }
    }

    /// Whether the voter's directory holds `tip` safely.
    fn holds(&self, voter: &mainstay_core::sync::Voter, tip: Tip) -> bool {
        self.machine_of(&voter.member)
            .and_then(|machine| self.machines[machine].data.content.as_ref())
            .is_some_and(|content| {
                content.incarnation == voter.incarnation && self.wal.is_prefix(tip, content.durable)
            })
    }

    pub(super) fn check_acknowledged_behind_gate(&mut self, machine: usize, epoch: Epoch) {
        if !self.observer.gates.contains(&epoch) {
            self.violated("gate", || {
                format!("machine {machine} acknowledges a commit of epoch {epoch} before its gate opens")
            });
        }
    }
}
