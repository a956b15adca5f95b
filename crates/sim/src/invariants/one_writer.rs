//! No two members serve clients as primary at once, and none acknowledges beside a later one.

use mainstay_core::Epoch;

use crate::disk::Hba;
use crate::machine::Process;
use crate::postgres::Stage;
use crate::wal::Tip;
use crate::world::World;

impl World {
    pub(super) fn check_acknowledged_by_one(&mut self, machine: usize, epoch: Epoch, tip: Tip) {
        let Some(newest) = self.observer.openings.last().copied().filter(|newest| newest.epoch > epoch)
        else {
            return;
        };
        if !self.wal.is_prefix(tip, newest.tip) {
            self.violated("one_writer", || {
                format!(
                    "machine {machine} acknowledges under epoch {epoch} what epoch {} does not have",
                    newest.epoch
                )
            });
        }
    }

    /// A gate has opened at `machine`: nobody else may serve. A server whose guard stands still is not counted: then only
    /// what is acknowledged is protected, by the sealed standbys.
    pub(super) fn check_served_by_one(&mut self, machine: usize) {
        let serves = |other: &usize| {
            let place = &self.machines[*other];
            let guarded =
                place.runs(Process::Guard) && place.guard.is_some() && self.now > place.guard_excused_until;
            place.live_server().is_some_and(|server| {
                server.opened.is_some()
                    && server.postmaster
                    && server.stage == Stage::Primary
                    && server.loaded.hba != Hba::Shut
            }) && guarded
        };
        if let Some(other) = (0..self.machines.len()).filter(|other| *other != machine).find(serves) {
            self.violated("one_writer", || format!("machines {other} and {machine} serve clients at once"));
        }
    }
}
