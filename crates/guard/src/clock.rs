//! The clock of the lease: `CLOCK_BOOTTIME`, which nobody sets and which goes on while the machine sleeps.

use nix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds since the machine's boot, suspended time included. All deadlines of the guard are on this clock.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).expect("the time since boot is not negative");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("the kernel's nanoseconds are 0 to 999,999,999");
    seconds * 1_000_000_000 + nanoseconds
}
