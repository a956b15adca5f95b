//! How long a link waits: for an answer, and between attempts to connect.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

/// The slowest network between members that we are patient with. While a long frame is on its way a pong
/// cannot come back, so for every byte sent the silence may last that much longer.
const SLOWEST_BYTES_PER_MS: u64 = 1_000;

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LAST: Duration = Duration::from_millis(500);

/// Until when silence has an explanation.
#[derive(Debug)]
pub(super) struct Patience {
    start: Instant,
    until_ms: AtomicU64,
}

impl Patience {
    pub(super) fn new() -> Patience {
        Patience { start: Instant::now(), until_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Bytes are about to be written. They queue behind those written before.
    pub(super) fn extend(&self, bytes: usize) {
        self.extend_at(bytes, self.now_ms());
    }

    fn extend_at(&self, bytes: usize, now_ms: u64) {
        let from_ms = self.until_ms.load(Ordering::Relaxed).max(now_ms);
        self.until_ms.store(from_ms + bytes as u64 / SLOWEST_BYTES_PER_MS, Ordering::Relaxed);
    }

    pub(super) fn lasts(&self) -> bool {
        self.lasts_at(self.now_ms())
    }

    fn lasts_at(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms.load(Ordering::Relaxed)
    }
}

/// Grows from 50 ms to 500 ms.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: BACKOFF_FIRST }
    }
}

impl Backoff {
    /// Between a half and the whole of the current step, so that members do not call in step.
    pub(super) fn next_delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(BACKOFF_LAST);
        let mut random = [0; 1];
        // Without random numbers there is merely no jitter.
        let _ = SystemRandom::new().fill(&mut random);
        step - step / 2 * u32::from(random[0]) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_limit_with_jitter() {
        let mut backoff = Backoff::default();
        let mut step = BACKOFF_FIRST;
        for _ in 0..10 {
            let delay = backoff.next_delay();
            assert!(delay >= step / 2 && delay <= step, "{delay:?} of {step:?}");
            step = (step * 2).min(BACKOFF_LAST);
        }
        let delays: std::collections::HashSet<_> = (0..50).map(|_| backoff.next_delay()).collect();
        assert!(delays.len() > 10);
    }

    #[test]
    fn patience_lasts_as_long_as_the_slowest_network_needs() {
        let patience = Patience::new();
        patience.extend_at(100, 7);
        assert!(!patience.lasts_at(7), "pings give none");
        patience.extend_at(2_000_000, 7);
        patience.extend_at(1_000_000, 8);
        assert!(patience.lasts_at(3_006));
        assert!(!patience.lasts_at(3_007));
    }
}
