//! What an operator accepts to lose is lost; nothing else, and never for another directory or at another time.

use mainstay_core::record::{Command, Forced, Operate, Record};

use crate::wal::Tip;
use crate::world::World;

impl World {
    /// Kept apart from the record: a decision, until anything that it was made on has changed.
    pub(super) fn observe_forced(&mut self, command: &Command, before: &Record) {
        match command {
            Command::Operate(Operate::Force(forced)) => self.observer.forced = Some(forced.clone()),
            Command::Report { .. } => self.observer.forced = None,
            Command::Grant { epoch, holder, incarnation, .. } => {
                let forced: Option<Forced> = self.observer.forced.take();
                let end = before.reports.get(holder).map(|report| report.extent.end);
                let is_for = |forced: &Forced| {
                    (forced.epoch.next(), &forced.member) == (*epoch, holder)
                        && (forced.incarnation, Some(forced.end)) == (*incarnation, end)
                };
                if forced.as_ref().is_some_and(is_for) {
                    self.observer.forced_epochs.insert(*epoch);
                }
            }
            _ => {}
        }
    }

    /// An opening that an operator has forced: only what it holds has to survive from now on.
    pub(super) fn accept_what_is_lost(&mut self, tip: Tip) {
        let keep = |wal: &crate::wal::Wal, kept: Tip| wal.common(kept, tip);
        let (wal, observer) = (&self.wal, &mut self.observer);
        observer.acknowledged = observer.acknowledged.map(|kept| keep(wal, kept));
        observer.seen = observer.seen.map(|kept| keep(wal, kept));
        for alone in &mut observer.seen_alone {
            *alone = keep(wal, *alone);
        }
    }
}
