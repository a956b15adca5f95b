//! L1: once everything is put right, there is a primary that acknowledges commits within bounds.

use crate::queue::{SECOND, Time};
use crate::world::World;

/// Leases, silence after restarts, back-off of jobs that failed before, crash loops.
const WITHIN: Time = 100 * SECOND;

impl World {
    /// Waits until a commit is acknowledged.
    pub(crate) fn expect_primary(&mut self) {
        let from = self.now;
        let again = self
            .run_while(WITHIN, |world| world.primary().is_some() && world.observer.acknowledged_at > from);
        // It may have come out meanwhile that a person must decide.
        if !again && !self.observer.excused {
            let phase = self.observer.record.phase.clone();
            let server = self.primary().and_then(|primary| self.machines[primary].server.as_ref());
            let server = server
                .map(|s| (s.loaded.hba, s.flushing, s.unflushed.len(), s.waiting.len(), s.sessions.len()));
            self.violated("primary_again", || {
                let within = WITHIN / SECOND;
                format!("{within} s after everything was put right no commit is acknowledged ({phase:?}, {server:?})")
            });
        }
    }
}
