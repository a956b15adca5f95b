//! A directory that is half changed is never started.

use crate::world::World;

impl World {
    /// A server was started on `machine`.
    pub(crate) fn check_directory_is_whole(&mut self, machine: usize) {
        let place = &self.machines[machine];
        if place.data.content.as_ref().is_some_and(|content| content.garbage) {
            let mark = place.files.mark;
            self.violated("whole_directory", || {
                format!("a server was started on a directory that is half changed ({mark:?})")
            });
        }
    }
}
