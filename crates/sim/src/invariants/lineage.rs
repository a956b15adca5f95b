//! Nobody streams from a history that is not its own: what a follower holds is a prefix of what it follows, and the record's
//! lineage is what the primary really holds.

use mainstay_core::Epoch;

use crate::machine::Machine;
use crate::postgres::{Server, Stage};
use crate::wal::Tip;
use crate::world::World;

impl World {
    /// A walreceiver begins to stream from `source`; `agrees` if what it holds is a prefix of the source's WAL.
    pub(crate) fn observe_streaming(&mut self, machine: usize, source: usize, agrees: bool) {
        if agrees {
            return;
        }
        let contents = (&self.machines[machine].data.content, &self.machines[source].data.content);
        if let (Some(ours), Some(theirs)) = contents {
            let (ours, theirs) = (ours.durable, theirs.durable);
            let ends = (self.wal.end(ours), self.wal.end(theirs));
            let histories = (self.wal.history(ours), self.wal.history(theirs));
            self.note(machine, || format!("its history is not that of {source}: {ends:?} {histories:?}"));
        }
        let opened = self.machines[source].server.as_ref().and_then(|server| server.opened);
        let followed = self.streams_for(machine);
        if opened.is_some() && opened == followed {
            self.violated("lineage", || {
                format!("machine {machine} follows machine {source} and holds what that one does not")
            });
        }
    }

    /// A member begins to follow the primary of `epoch`. It has read the record through a majority since it was started, so
    /// it knows of every epoch that was open then.
    pub(crate) fn check_follows_no_old_primary(&mut self, machine: usize, epoch: Epoch) {
        self.check_follows_what_it_agrees_with(machine, epoch);
        let before = self.machines[machine].member.as_ref().map(|member| member.opened_before);
        if before.is_some_and(|before| before > epoch) {
            self.violated("lineage", || {
                format!(
                    "machine {machine} follows epoch {epoch}, which was over before the member was started"
                )
            });
        }
    }

    /// What is here is compared before the primary is written down, not left to what PostgreSQL finds out.
    fn check_follows_what_it_agrees_with(&mut self, machine: usize, epoch: Epoch) {
        // One that somebody promotes meanwhile does not stream, whatever is written down for it.
        let stands_by = |server: &Server| matches!(server.stage, Stage::Starting | Stage::Standby);
        if self.machines[machine].server.as_ref().is_some_and(|server| !stands_by(server)) {
            return;
        }
        let opens = |place: &&Machine| place.live_server().is_some_and(|server| server.opened == Some(epoch));
        let source = self.machines.iter().find(opens).and_then(|place| place.data.content.as_ref());
        if let (Some(ours), Some(theirs)) = (&self.machines[machine].data.content, source)
            && !self.wal.is_prefix(ours.written, theirs.written)
        {
            self.violated("lineage", || {
                format!("machine {machine} is to follow epoch {epoch} and holds what its primary does not")
            });
        }
    }

    /// The floor: nobody is promoted beside the newest timeline.
    pub(super) fn check_holds_newest_timeline(&mut self, machine: usize, epoch: Epoch) {
        let Some(content) = &self.machines[machine].data.content else { return };
        let history = self.wal.history(content.written);
        if !history.starts_with(&self.observer.record.lineage) {
            self.violated("lineage", || {
                format!("machine {machine} is promoted under epoch {epoch} without the newest timeline")
            });
        }
    }

    pub(super) fn check_opening_is_recorded_truly(&mut self, epoch: Epoch, tip: Tip) {
        if *self.wal.history(tip) != self.observer.record.lineage {
            self.violated("lineage", || {
                format!("the record's lineage is not that of epoch {epoch}'s primary")
            });
        }
    }
}
