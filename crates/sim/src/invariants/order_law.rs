//! The order law, at every instant: whatever names any process of the primary may act on, they cover the record's sync set.

use mainstay_core::sync::{SyncSet, is_safe};

use crate::postgres::Stage;
use crate::world::World;

impl World {
    pub(crate) fn names_may_have_changed(&mut self, machine: usize) {
        let opened = self.machines[machine]
            .server
            .as_ref()
            .is_some_and(|server| server.stage == Stage::Primary && server.opened.is_some());
        if opened {
            self.check_order_law(machine);
        }
    }

    pub(super) fn check_order_law(&mut self, machine: usize) {
        let record = std::sync::Arc::clone(&self.observer.record);
        let Some(server) = self.machines[machine].server.as_ref().filter(|server| server.executing) else {
            return;
        };
        let mut tenures = record.base.iter().chain(record.unopened.last());
        let Some(tenure) = tenures.rfind(|tenure| Some(tenure.epoch) == server.opened) else {
            return;
        };
        let unsafe_names = server
            .senders
            .iter()
            // A walsender that is not in its own names releases nobody.
            .filter(|sender| sender.names.voters.contains(&sender.voter))
            .map(|sender| &sender.names)
            .find(|names| !is_safe(names, &tenure.sync));
        let (sync, epoch) = (&tenure.sync, tenure.epoch);
        if let Some(names) = unsafe_names {
            let what = format!("epoch {epoch}: a walsender acts on {names:?}, the record says {sync:?}");
            self.violated("order_law", || what);
        } else if !server.sync_defined && !is_safe(&SyncSet::lone(), sync) {
            let what = format!("epoch {epoch}: backends do not wait, the record says {sync:?}");
            self.violated("order_law", || what);
        }
    }
}
