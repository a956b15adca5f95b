//! Past its guard's deadline an opened server does nothing any more, and one that nobody opened does not live long.

use crate::machine::Process;
use crate::postgres::Stage;
use crate::queue::{MS, SECOND, Time};
use crate::world::World;

/// A kill takes this long to reach every process.
const STRIKE: u64 = 12 * MS;
/// How long a member that works may take to see and end what must not be.
const NOTICE: Time = 2 * SECOND;

impl World {
    /// The server on `machine` writes, or could.
    pub(super) fn check_no_write_without_lease(&mut self, machine: usize) {
        let place = &self.machines[machine];
        let Some(server) = place.live_server() else {
            self.observer.strays.remove(&machine);
            return;
        };
        let (opened, postmaster) = (server.opened, server.postmaster);
        if server.stage != Stage::Primary || !postmaster {
            return;
        }
        let now = place.now(self.now);
        let guarded = place.runs(Process::Guard) && self.now > place.guard_excused_until;
        let armed = place.guard.as_ref().filter(|_| guarded).and_then(|guard| guard.armed);
        if let Some(epoch) = opened
            && armed.is_some_and(|(armed, deadline)| armed == epoch && now.0 > deadline.0 + STRIKE)
        {
            self.violated("no_write_without_lease", || {
                format!("machine {machine} is open past the deadline of epoch {epoch}")
            });
        }
        self.check_strays_end(machine);
    }

    /// Whatever left recovery by itself, or under an epoch that is over, is ended by a member that works.
    fn check_strays_end(&mut self, machine: usize) {
        let place = &self.machines[machine];
        let works = place.runs(Process::Member) && place.runs(Process::Guard) && place.guard.is_some();
        let Some(member) = place.member.as_ref().filter(|member| works && member.busy_until <= self.now)
        else {
            self.observer.strays.remove(&machine);
            return;
        };
        let opened = place.server.as_ref().and_then(|server| server.opened);
        let record = &member.view.record;
        let over = opened.is_none_or(|opened| {
            opened <= record.epoch
                && record.tenure().is_none_or(|tenure| tenure.epoch != opened || tenure.holder != place.id)
        });
        if !over || self.now < place.guard_excused_until + NOTICE {
            self.observer.strays.remove(&machine);
            return;
        }
        let since = *self.observer.strays.entry(machine).or_insert(self.now);
        if self.now > since + NOTICE {
            self.violated("no_write_without_lease", || {
                format!("machine {machine} has run a server out of recovery that holds no lease ({opened:?}) for 2 s")
            });
        }
    }
}
