//! What a client has read through the gate is never lost.

use mainstay_core::Epoch;

use crate::disk::Hba;
use crate::postgres::Stage;
use crate::wal::Tip;
use crate::world::World;

impl World {
    /// A client reads all that is visible.
    pub(crate) fn observe_look(&mut self, machine: usize) {
        let server = self.server(machine);
        let through_gate =
            server.stage == Stage::Primary && server.opened.is_some() && server.loaded.hba == Hba::Open;
        if !through_gate {
            return;
        }
        let (visible, alone) = (server.visible, server.visible_alone.clone());
        let tip = self.wal.last_commit(visible);
        match self.observer.seen {
            Some(before) if self.wal.is_prefix(before, tip) => self.observer.seen = Some(tip),
            Some(before) if self.wal.is_prefix(tip, before) => {}
            Some(_) => self.violated("visible_then_lost", || {
                format!("machine {machine} shows a history without what was seen before")
            }),
            None => self.observer.seen = Some(tip),
        }
        self.observer.seen_alone.extend(alone);
    }

    pub(crate) fn check_seen_survives_opening(&mut self, epoch: Epoch, tip: Tip) {
        let lost = self
            .observer
            .seen
            .iter()
            .chain(&self.observer.seen_alone)
            .any(|seen| !self.wal.is_prefix(*seen, tip));
        if lost {
            self.violated("visible_then_lost", || {
                format!("epoch {epoch} is opened without commits that clients have read")
            });
        }
    }
}
