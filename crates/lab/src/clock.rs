//! The clock of everything that the lab measures: the same one that members decide by.

use mainstay_core::Now;
use nix::time::{ClockId, clock_gettime};

/// This machine's `CLOCK_BOOTTIME`, so that times of clients can be held against times in `explain`.
pub fn now() -> Now {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Now(seconds * 1_000_000_000 + nanoseconds)
}
