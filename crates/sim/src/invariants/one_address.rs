//! No two kernels have the virtual address at once.

use crate::world::World;

impl World {
    /// It was just put on `machine`.
    pub(crate) fn check_one_address(&mut self, machine: usize) {
        let has = |other: &usize| {
            let place = &self.machines[*other];
            place.address.is_some_and(|(_, until)| place.now(self.now) < until)
        };
        if let Some(other) = (0..self.machines.len()).filter(|other| *other != machine).find(has) {
            let epochs = [other, machine].map(|place| self.machines[place].address.map(|(epoch, _)| epoch.0));
            self.violated("one_address", || {
                format!("machines {other} and {machine} have the address at once, under epochs {epochs:?}")
            });
        }
    }
}
