//! How long things take: counted in buckets that grow with what they hold, so that a percentile is right within 4 %.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Each doubling is divided into 16 buckets of the same width.
const BITS: u32 = 4;
/// Up to 2^32 µs, an hour and more; what takes longer is counted as that.
const BUCKETS: usize = ((32 - BITS as usize) + 1) << BITS;
const DOUBLINGS: usize = 33;

/// Of one thread. To add to it takes no clock, no lock and no memory.
pub(crate) struct Histogram {
    /// Of the period that is under way.
    current: Box<[Cell<u32>; BUCKETS]>,
    /// Of the one before.
    last: RefCell<Vec<u32>>,
    /// Since the start, by doublings.
    ever: Box<[Cell<u64>; DOUBLINGS]>,
}

/// The same, as it was at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    recent: Vec<u32>,
    pub(crate) ever: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            current: Box::new([const { Cell::new(0) }; BUCKETS]),
            last: RefCell::default(),
            ever: Box::new([const { Cell::new(0) }; DOUBLINGS]),
        }
    }
}

fn bucket(micros: u32) -> usize {
    if micros < 1 << BITS {
        return micros as usize;
    }
    let shift = micros.ilog2() - BITS;
    (((shift + 1) << BITS) + ((micros >> shift) & ((1 << BITS) - 1))) as usize
}

/// The middle of what a bucket holds.
fn middle(bucket: usize) -> u64 {
    let (doubling, part) = (bucket >> BITS, (bucket & ((1 << BITS) - 1)) as u64);
    match doubling.checked_sub(1) {
        None => part,
        Some(shift) => (((1 << BITS) + part) << shift) + ((1 << shift) >> 1),
    }
}

impl Histogram {
    #[inline]
    pub(crate) fn add(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let counted = &self.current[bucket(micros)];
        counted.set(counted.get().saturating_add(1));
        let counted = &self.ever[micros.checked_ilog2().map_or(0, |power| power as usize + 1)];
        counted.set(counted.get() + 1);
    }

    /// Begins another period.
    pub(crate) fn turn(&self) {
        let ended = self.current.iter().map(|counted| counted.replace(0)).collect();
        self.last.replace(ended);
    }

    pub(crate) fn times(&self) -> Times {
        let mut recent: Vec<u32> = self.current.iter().map(Cell::get).collect();
        add(&mut recent, &self.last.borrow(), u32::saturating_add);
        Times { recent, ever: self.ever.iter().map(Cell::get).collect() }
    }
}

fn add<T: Copy + Default>(sums: &mut Vec<T>, more: &[T], plus: fn(T, T) -> T) {
    sums.resize(sums.len().max(more.len()), T::default());
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = plus(*sum, *more));
}

impl Times {
    pub(crate) fn add(&mut self, other: &Times) {
        add(&mut self.recent, &other.recent, u32::saturating_add);
        add(&mut self.ever, &other.ever, u64::saturating_add);
    }

    /// How many were counted lately.
    pub(crate) fn recent(&self) -> u64 {
        self.recent.iter().copied().map(u64::from).sum()
    }

    /// The time in microseconds below which so many thousandths are. `at_once` took no time, and are not counted here.
    pub(crate) fn percentile(&self, thousandths: u64, at_once: u64) -> u64 {
        let total = self.recent() + at_once;
        let rank = (total * thousandths).div_ceil(1000).max(1);
        let mut below = at_once;
        for (at, counted) in self.recent.iter().enumerate() {
            if below >= rank {
                break;
            }
            below += u64::from(*counted);
            if below >= rank {
                return middle(at);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_bucket_near_it() {
        for micros in (0..5_000).chain((0..32).map(|power| 1 << power)).chain([u32::MAX]) {
            let middle = middle(bucket(micros));
            let off = middle.abs_diff(u64::from(micros));
            assert!(off * 100 <= u64::from(micros) * 4, "{micros} is told as {middle}");
        }
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_of_this_period_and_the_last() {
        let histogram = Histogram::default();
        (1..=1_000).for_each(|micros| histogram.add(Duration::from_micros(micros * 100)));
        let near = |times: &Times, thousandths, expected: u64| {
            let found = times.percentile(thousandths, 0);
            assert!(found.abs_diff(expected) * 100 <= expected * 4, "{thousandths}: {found}, not {expected}");
        };
        let times = histogram.times();
        near(&times, 500, 50_000);
        near(&times, 950, 95_000);
        near(&times, 990, 99_000);
        histogram.turn();
        near(&histogram.times(), 500, 50_000);
        histogram.turn();
        assert_eq!(histogram.times().percentile(500, 0), 0);
        assert_eq!(histogram.times().ever.iter().sum::<u64>(), 1_000);
        // Half of all took no time.
        assert_eq!(times.percentile(500, 1_000), 0);
        near(&Times { ever: Vec::new(), ..times.clone() }, 990, 99_000);
        assert!(times.percentile(950, 1_000) > 80_000);
    }

    #[test]
    fn threads_are_added_up() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.add(Duration::from_micros(3));
        two.add(Duration::from_micros(3));
        two.add(Duration::from_hours(2));
        let mut sum = Times::default();
        sum.add(&one.times());
        sum.add(&two.times());
        assert_eq!((sum.recent(), sum.ever[2], sum.ever[32]), (3, 2, 1));
    }
}
