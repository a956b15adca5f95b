//! Every acknowledged commit is in every later primary.

use mainstay_core::Epoch;

use crate::postgres::Commit;
use crate::wal::Tip;
use crate::world::World;

impl World {
    /// A backend is about to answer COMMIT. The answer may get lost; the promise is made here.
    pub(crate) fn observe_acknowledged(&mut self, machine: usize, commit: Commit) {
        self.check_no_write_without_lease(machine);
        let Some(epoch) = self.server(machine).opened else {
            // An outside hand's server is the stated exception.
            return;
        };
        self.check_acknowledged_behind_gate(machine, epoch);
        self.check_acknowledged_by_one(machine, epoch, commit.tip);
        let tip = commit.tip;
        match self.observer.acknowledged {
            Some(before) if self.wal.is_prefix(before, tip) => self.observer.acknowledged = Some(tip),
            Some(before) if self.wal.is_prefix(tip, before) => {}
            Some(_) => self.violated("nothing_acknowledged_lost", || {
                format!(
                    "machine {machine} acknowledges a commit on a history without those acknowledged before"
                )
            }),
            None => self.observer.acknowledged = Some(tip),
        }
    }

    pub(crate) fn check_nothing_lost_by_opening(&mut self, epoch: Epoch, tip: Tip) {
        if let Some(acknowledged) = self.observer.acknowledged
            && !self.wal.is_prefix(acknowledged, tip)
        {
            self.violated("nothing_acknowledged_lost", || {
                format!("epoch {epoch} is opened without commits that were acknowledged")
            });
        }
    }
}
