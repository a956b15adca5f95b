//! A machine's `CLOCK_BOOTTIME`: begins with the machine, runs a little too fast or too slow, never jumps.

use mainstay_core::Now;

use crate::queue::{SECOND, Time};

const PER_MILLION: u64 = 1_000_000;
/// The core allows 8 % each way.
pub(crate) const RATE_ERROR_MAX: u64 = 80_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    real: Time,
    local: u64,
    /// Local nanoseconds per million real ones.
    rate: u64,
}

impl Clock {
    /// A machine that booted at `real`, `up` nanoseconds ago by its own clock.
    pub(crate) fn booted(real: Time, rate: u64) -> Clock {
        // A machine has been up for a while when its first process asks.
        Clock { real, local: 5 * SECOND, rate }
    }

    pub(crate) fn now(&self, real: Time) -> Now {
        Now(self.local + real.saturating_sub(self.real) * self.rate / PER_MILLION)
    }

    /// The real time at which this clock, at the rate of now, shows `local` or more.
    pub(crate) fn shows_at(&self, local: Now) -> Time {
        let ahead = local.0.saturating_sub(self.local);
        self.real + (ahead * PER_MILLION).div_ceil(self.rate)
    }

    /// How long a local span takes.
    pub(crate) fn real_span(&self, local: u64) -> Time {
        local * PER_MILLION / self.rate
    }

    pub(crate) fn set_rate(&mut self, real: Time, rate: u64) {
        self.local = self.now(real).0;
        self.real = real;
        self.rate = rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_it_is_said_to_be() {
        for rate in [920_000, 999_937, 1_000_000, 1_080_000] {
            let mut clock = Clock::booted(7, rate);
            clock.set_rate(3 * SECOND + 11, PER_MILLION + RATE_ERROR_MAX);
            let deadline = Now(clock.now(4 * SECOND).0 + 2_370_000_001);
            let at = clock.shows_at(deadline);
            assert!(clock.now(at) >= deadline && clock.now(at - 3) < deadline);
        }
    }
}
