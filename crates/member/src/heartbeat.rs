//! When the main loop last turned, for those who must not believe what a loop that hangs has said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_core::Now;

use crate::clock;

/// Set by the main loop in each turn, at least ten times a second; read by whoever answers.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// A loop that is about to start counts as alive.
    pub(crate) fn new() -> Heartbeat {
        Heartbeat(Arc::new(AtomicU64::new(clock::now().0)))
    }

    /// The loop turns.
    pub(crate) fn beat(&self, now: Now) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    /// How long ago it did.
    pub(crate) fn age(&self, now: Now) -> Duration {
        now.since(Now(self.0.load(Ordering::Relaxed)))
    }
}
