//! The one source of chance: a seeded generator that is the same everywhere.

use crate::queue::{MS, Time};

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        // Neighbouring seeds must not begin alike.
        let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x5851_F42D_4C95_7F2D);
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        // 53 bits, as many as a float holds exactly.
        let bits = self.next() >> 11;
        (bits as f64) < probability * (1u64 << 53) as f64
    }

    /// A span of time from `low` to `high` milliseconds, each magnitude as likely as the next: mostly short, rarely long.
    pub(crate) fn span_ms(&mut self, low: u64, high: u64) -> Time {
        let (low, high) = (low.max(1) * MS, high.max(low.max(1)) * MS);
        let doublings = u64::from((high / low).ilog2());
        let at_least = low << self.below(doublings + 1);
        (at_least + self.below(at_least)).min(high)
    }
}
