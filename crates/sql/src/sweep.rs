//! What a worker looks at now and then: limits of time, and what nobody needs any more.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::dial::{Place, SERVER_SILENCE};
use crate::server::Backend;
use crate::silence::Diagnosis;
use crate::snapshot::Addresses;
use crate::worker::{Activity, Worker};

/// How fine timeouts are.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Looks for connections whose other side is gone with its machine.
pub(crate) struct Watch {
    diagnosis: Diagnosis,
    turn: Cell<usize>,
}

impl Watch {
    pub(crate) fn new() -> Watch {
        Watch { diagnosis: Diagnosis::new(), turn: Cell::new(0) }
    }

    /// Whether a connection of this number is looked at now: each is eight times within `silence`, and of thousands a few at once.
    fn is_turn_of(&self, number: usize, silence: Duration) -> bool {
        let turns = (silence / 8).as_millis() / SWEEP_INTERVAL.as_millis();
        let turns = usize::try_from(turns).unwrap_or(usize::MAX).max(1);
        self.turn.get() % turns == number % turns
    }
}

impl Worker {
    pub(crate) fn sweep(self: &Rc<Worker>, now: Instant) {
        for pool in self.pools() {
            pool.sweep(self, now);
            pool.counters.sweep(now);
        }
        self.forget_unused();
        self.sweep_clients(now);
        self.end_doubtful(now);
        self.end_silent();
    }

    fn end_silent(&self) {
        let watch = &self.watch;
        watch.turn.set(watch.turn.get().wrapping_add(1));
        if watch.is_turn_of(0, SERVER_SILENCE) {
            let is_silent = |backend: &Backend| {
                matches!(backend.place, Place::Tcp(_))
                    && watch.diagnosis.is_silent(&Addresses::of(backend.descriptor), SERVER_SILENCE)
            };
            self.pools().iter().for_each(|pool| pool.end_if(is_silent, "its machine does not answer"));
        }
        let (silence, workers) = (self.settings().client_tcp_user_timeout, self.shared.crew.size());
        if silence.is_zero() {
            return;
        }
        for entry in self.clients() {
            // The worker's own number is in it.
            let number = usize::try_from(entry.pid).unwrap_or_default() / workers.max(1);
            if watch.is_turn_of(number, silence)
                && watch.diagnosis.is_silent(&Addresses::of(entry.descriptor), silence)
            {
                entry.abandon();
            }
        }
    }

    /// Every name makes a pool, also that of a database that does not exist.
    fn forget_unused(&self) {
        let mut pools = self.pools.borrow_mut();
        let before = pools.len();
        pools.retain(|_, pool| Rc::strong_count(pool) > 1 || pool.was_used());
        if pools.len() < before {
            self.shared.quotas.forget_unused();
        }
    }

    /// Transactions that were held since the lease could not be believed any more are not held for longer than clients wait.
    fn end_doubtful(&self, now: Instant) {
        let patience = self.settings().query_wait_timeout;
        if !patience.is_zero() && self.routing.doubted_for(now) > patience {
            self.pools().iter().for_each(|pool| {
                pool.end_writers(
                    "the member beside the proxy cannot tell whether the primary still holds its lease",
                )
            });
        }
    }

    fn sweep_clients(&self, now: Instant) {
        let over = |limit: Duration, since: Instant| !limit.is_zero() && now.duration_since(since) > limit;
        let settings = self.settings();
        for entry in self.clients().iter().filter(|entry| !entry.is_walsender) {
            let since = entry.since.get();
            let is_begun = matches!(entry.activity.get(), Activity::Runs | Activity::InTransaction);
            if is_begun && over(settings.transaction_timeout, entry.transaction_began.get()) {
                entry.end(crate::refusal::killed("transaction_timeout"));
            }
            match entry.activity.get() {
                Activity::Idle if over(settings.client_idle_timeout, since) => {
                    entry.end(crate::refusal::killed("client_idle_timeout"));
                }
                Activity::InTransaction if over(settings.idle_transaction_timeout, since) => {
                    entry.end(crate::refusal::killed("idle_transaction_timeout"));
                }
                Activity::Runs if over(settings.query_timeout, since) => {
                    entry.end(crate::refusal::killed("query_timeout"));
                }
                _ => {}
            }
        }
    }
}
