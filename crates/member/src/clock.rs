//! The one clock that decisions use: `CLOCK_BOOTTIME`, which goes on while the machine sleeps and is never set.

use mainstay_core::Now;
use nix::time::{ClockId, clock_gettime};

/// This machine's `CLOCK_BOOTTIME`.
pub fn now() -> Now {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Now(seconds * 1_000_000_000 + nanoseconds)
}

/// Milliseconds since 1970, for people, and for what they have set a time for.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
