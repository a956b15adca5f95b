//! L2: every data member streams again on the primary's lineage, and the sync set is full.

use mainstay_core::record::Record;
use mainstay_core::sync::wanted_acknowledgements;

use crate::postgres::Receiver;
use crate::queue::{SECOND, Time};
use crate::world::World;

/// A follower that cannot stream waits a minute before it is cloned, and jobs back off up to 30 s.
const WITHIN: Time = 150 * SECOND;

impl World {
    pub(crate) fn expect_standbys(&mut self) {
        let whole = self.run_while(WITHIN, |world| world.observer.excused || world.is_whole());
        if !whole {
            let sync = self.observer.record.sync().cloned();
            let streaming: Vec<bool> =
                (0..self.machines.len()).map(|machine| self.follows_primary(machine)).collect();
            self.violated("standbys_again", || {
                format!(
                    "{} s after everything was put right not all stream ({streaming:?}), sync set {sync:?}",
                    WITHIN / SECOND
                )
            });
        }
    }

    /// Whether there is a primary with every other data member as a voter that streams.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let data = self.data_members();
        let streams = data.iter().filter(|m| **m != primary).all(|m| self.follows_primary(*m));
        streams && has_full_set(&self.observer.record, data.len())
    }

    fn follows_primary(&self, machine: usize) -> bool {
        let Some(primary) = self.primary() else { return false };
        let Some(server) = self.machines[machine].live_server() else { return false };
        let Receiver::Streaming { connection, .. } = server.receiver else { return false };
        let bogus =
            self.connections.get(&connection).is_none_or(|known| known.bogus || known.sender.0 != primary);
        let contents = (&self.machines[machine].data.content, &self.machines[primary].data.content);
        let (Some(ours), Some(theirs)) = contents else { return false };
        !bogus && self.wal.is_prefix(ours.durable, theirs.durable)
    }
}

fn has_full_set(record: &Record, data_members: usize) -> bool {
    record.base.as_ref().is_some_and(|base| {
        base.sync == base.names
            && base.sync.voters.len() + 1 == data_members
            && base.sync.k == wanted_acknowledgements(data_members)
    })
}
