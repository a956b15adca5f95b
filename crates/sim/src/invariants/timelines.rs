//! Two openings never share a timeline number, and each has the one that was reserved for it.

use mainstay_core::Epoch;

use crate::wal::Tip;
use crate::world::World;

impl World {
    pub(super) fn check_timeline_is_new(&mut self, epoch: Epoch, tip: Tip) {
        let number = self.wal.timeline(tip);
        let reserved = self.observer.record.base.as_ref().map(|base| base.timeline);
        if reserved != Some(number) {
            self.violated("timelines", || {
                format!("epoch {epoch} was promoted to timeline {number}, {reserved:?} was reserved")
            });
        }
        let promotions = self.observer.promotions.iter();
        let other = promotions
            .filter(|(other, _)| **other != epoch)
            .find(|(_, (_, other_tip))| self.wal.timeline(*other_tip) == number)
            .map(|(other, _)| *other);
        if let Some(other) = other {
            self.violated("timelines", || {
                format!("epochs {other} and {epoch} were both promoted to timeline {number}")
            });
        }
    }
}
