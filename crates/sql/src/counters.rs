//! What a pool counts.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::Instant;

use crate::histogram::{Histogram, Times};
use crate::worker::Activity;

/// Averages are over this long, as PgBouncer's `stats_period` has it.
const PERIOD: Duration = Duration::from_secs(60);

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of one thread. Nobody else writes or reads them, so they are plain cells.
        #[derive(Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Cell<u64>,)*
            transaction_times: Histogram,
            query_times: Histogram,
            wait_times: Histogram,
            period: RefCell<Option<Period>>,
        }

        /// The same, as they were at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Totals {
            $(pub(crate) $name: u64,)*
        }

        impl Counters {
            pub(crate) fn totals(&self) -> Totals {
                Totals { $($name: self.$name.get(),)* }
            }
        }

        impl Totals {
            pub(crate) fn plus(self, other: Totals) -> Totals {
                Totals { $($name: self.$name.wrapping_add(other.$name),)* }
            }

            fn minus(self, other: Totals) -> Totals {
                Totals { $($name: self.$name.wrapping_sub(other.$name),)* }
            }
        }
    };
}

counters! {
    transactions,
    queries,
    received_bytes,
    sent_bytes,
    waited_us,
    transactions_us,
    queries_us,
    /// How often a client was given a server.
    assigned,
    client_parses,
    server_parses,
    binds,
    lost,
    /// Clients that were let in.
    logins,
}

/// Adds to a counter.
pub(crate) fn count(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What was counted during a while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct During {
    pub(crate) counted: Totals,
    pub(crate) length: Duration,
}

/// How long things took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) transaction: Times,
    pub(crate) query: Times,
    pub(crate) wait: Times,
    /// What was counted while these were.
    pub(crate) lately: During,
}

impl Latencies {
    pub(crate) fn add(&mut self, other: &Latencies) {
        self.transaction.add(&other.transaction);
        self.query.add(&other.query);
        self.wait.add(&other.wait);
        self.lately.add(other.lately);
    }
}

impl During {
    /// What another thread has counted in about the same time.
    pub(crate) fn add(&mut self, other: During) {
        self.counted = self.counted.plus(other.counted);
        self.length = self.length.max(other.length);
    }
}

struct Period {
    began: Instant,
    at_begin: Totals,
    last: Option<During>,
}

impl Counters {
    /// A client does something else from now on. `began` is when its transaction has.
    #[inline]
    pub(crate) fn changed(
        &self,
        (before, since): (Activity, Instant),
        (after, now): (Activity, Instant),
        began: &Cell<Instant>,
    ) {
        match (before, after) {
            (Activity::Idle | Activity::Waits, Activity::Runs) => began.set(now),
            (Activity::Runs, Activity::InTransaction) => self.answered(now.duration_since(since)),
            (Activity::Runs, Activity::Idle) => {
                self.answered(now.duration_since(since));
                let took = now.duration_since(began.get());
                count(&self.transactions_us, micros(took));
                self.transaction_times.add(took);
            }
            _ => {}
        }
    }

    fn answered(&self, took: Duration) {
        count(&self.queries_us, micros(took));
        self.query_times.add(took);
    }

    pub(crate) fn waited(&self, waited: Duration) {
        count(&self.waited_us, micros(waited));
        self.wait_times.add(waited);
    }

    pub(crate) fn latencies(&self) -> Latencies {
        let lately = self.lately(Instant::now());
        Latencies {
            transaction: self.transaction_times.times(),
            query: self.query_times.times(),
            wait: self.wait_times.times(),
            lately,
        }
    }

    /// The last period and what there is of this one: what the histograms tell of.
    fn lately(&self, now: Instant) -> During {
        match self.period.borrow().as_ref() {
            None => During::default(),
            Some(period) => {
                let last = period.last.unwrap_or_default();
                let counted = last.counted.plus(self.totals().minus(period.at_begin));
                During { counted, length: last.length + now.duration_since(period.began) }
            }
        }
    }

    /// Ends the period when it is over.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut period = self.period.borrow_mut();
        let counted = self.totals();
        let Some(running) = period.as_mut() else {
            *period = Some(Period { began: now, at_begin: Totals::default(), last: None });
            return;
        };
        let length = now.duration_since(running.began);
        if length >= PERIOD {
            let last = Some(During { counted: counted.minus(running.at_begin), length });
            *running = Period { began: now, at_begin: counted, last };
            [&self.transaction_times, &self.query_times, &self.wait_times]
                .iter()
                .for_each(|times| times.turn());
        }
    }

    /// The last period that is over, or what there is of the first.
    pub(crate) fn recent(&self, now: Instant) -> During {
        match self.period.borrow().as_ref() {
            None => During::default(),
            Some(Period { last: Some(last), .. }) => *last,
            Some(Period { began, at_begin, last: None }) => {
                let counted = self.totals().minus(*at_begin);
                During { counted, length: now.duration_since(*began) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_of_the_last_whole_period() {
        let (counters, begin) = (Counters::default(), Instant::now());
        counters.sweep(begin);
        count(&counters.queries, 5);
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(counters.recent(at(10)).counted.queries, 5);
        assert_eq!(counters.recent(at(10)).length, Duration::from_secs(10));
        counters.sweep(at(60));
        count(&counters.queries, 7);
        assert_eq!(counters.recent(at(70)).counted.queries, 5);
        counters.sweep(at(120));
        assert_eq!(counters.recent(at(121)).counted.queries, 7);
        assert_eq!(counters.totals().queries, 12);
    }

    #[test]
    fn times_are_of_queries_and_transactions() {
        let (counters, begin) = (Counters::default(), Instant::now());
        let began = Cell::new(begin);
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        counters.changed((Activity::Waits, at(0)), (Activity::Runs, at(1)), &began);
        counters.changed((Activity::Runs, at(1)), (Activity::InTransaction, at(3)), &began);
        counters.changed((Activity::InTransaction, at(3)), (Activity::Runs, at(10)), &began);
        counters.changed((Activity::Runs, at(10)), (Activity::Idle, at(11)), &began);
        let totals = counters.totals();
        assert_eq!((totals.queries_us, totals.transactions_us), (3_000, 10_000));
    }
}
