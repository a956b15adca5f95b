//! An epoch of a primary that works, on an undisturbed machine with a majority, never ends.

use mainstay_core::Epoch;
use mainstay_core::record::EndCause;

use crate::machine::Process;
use crate::network::Weather;
use crate::queue::{SECOND, Time};
use crate::world::World;

impl World {
    /// How long a disturbance excuses what follows.
    fn excuse(&self) -> Time {
        let lease = u64::try_from(self.config.lease.as_nanos()).expect("a lease is short");
        4 * lease + 5 * SECOND
    }

    fn is_undisturbed(&self, machine: usize) -> bool {
        let place = &self.machines[machine];
        let runs = Process::ALL.iter().all(|process| place.runs(*process));
        let works = place.member.is_some() && place.disk.stalled_since.is_none() && !place.disk.full;
        runs && works && self.now > place.disturbed_at + self.excuse()
    }

    pub(super) fn check_end_was_needed(&mut self, epoch: Epoch, cause: &EndCause) {
        if matches!(cause, EndCause::Switchover { .. } | EndCause::RestartedInPlace) {
            return;
        }
        let Some(holder) = self.observer.record.base.as_ref().and_then(|base| self.machine_of(&base.holder))
        else {
            return;
        };
        // What counts is when the server was lost; that may be written down much later.
        let needless = self.observer.losses.get(&epoch).copied().unwrap_or_else(|| self.should_work(holder));
        if needless {
            self.violated("needless_failover", || {
                format!("epoch {epoch} of machine {holder} ended without need: {cause}")
            });
        }
    }

    /// The server of `machine` goes down.
    pub(crate) fn observe_loss(&mut self, machine: usize) {
        let opened = self.machines[machine].server.as_ref().and_then(|server| server.opened);
        if let Some(epoch) = opened {
            let needless = self.should_work(machine);
            self.observer.losses.insert(epoch, needless);
        }
    }

    /// Whether nothing has happened for a while that could keep a primary there from working.
    fn should_work(&self, holder: usize) -> bool {
        let fair =
            self.network.weather == Weather::FAIR && self.now > self.observer.weather_at + self.excuse();
        let majority = self.observer.record.has_majority(|voter| {
            self.machine_of(voter)
                .is_some_and(|machine| self.is_undisturbed(machine) && self.network.connects(holder, machine))
        });
        fair && majority && self.is_undisturbed(holder)
    }
}
