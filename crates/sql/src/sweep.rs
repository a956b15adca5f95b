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

/// Looks for connections whose other side is gone with its machine.
pub(crate) struct Watch {
    diagnosis: Diagnosis,
    /// When it has looked last.
    servers: Cell<Instant>,
    clients: Cell<Instant>,
}

impl Watch {
    pub(crate) fn new() -> Watch {
        let now = Instant::now();
        Watch { diagnosis: Diagnosis::new(), servers: Cell::new(now), clients: Cell::new(now) }
    }

    /// A few times within `silence`: each look costs the kernel a little for every connection.
    fn is_due(looked: &Cell<Instant>, silence: Duration, now: Instant) -> bool {
        let is_due = !silence.is_zero() && now.duration_since(looked.get()) >= silence / 8;
        if is_due {
            looked.set(now);
        }
        is_due
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
        self.end_silent(now);
    }

    fn end_silent(&self, now: Instant) {
        let watch = &self.watch;
        if Watch::is_due(&watch.servers, SERVER_SILENCE, now) {
            let is_silent = |backend: &Backend| {
                matches!(backend.place, Place::Tcp(_))
                    && watch.diagnosis.is_silent(&Addresses::of(backend.descriptor), SERVER_SILENCE)
            };
            self.pools().iter().for_each(|pool| pool.end_if(is_silent, "its machine does not answer"));
        }
        let silence = self.settings().client_tcp_user_timeout;
        if Watch::is_due(&watch.clients, silence, now) {
            for entry in self.clients() {
                if watch.diagnosis.is_silent(&Addresses::of(entry.descriptor), silence) {
                    entry.abandon();
                }
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
