//! The clock of leases.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in nanoseconds: it counts on while the machine sleeps, as the lease does.
pub fn now_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        // Linux has had it since 2.6.39. Without a clock nothing may be held: every deadline has passed.
        return u64::MAX;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(u64::MAX);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec()).unwrap_or(0))
}
