//! Ctrl-C and SIGTERM: every wait of the lab ends with an error, and what was built is taken down on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use mainstay_core::Now;
use tokio::signal::unix::{SignalKind, signal};

use crate::clock;

static ASKED: AtomicBool = AtomicBool::new(false);

/// How long a pause may take to notice an interrupt.
const SLICE: Duration = Duration::from_millis(50);

/// From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the process.
pub fn listen() -> Result<()> {
    let runtime = crate::sql::runtime();
    let _inside = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind)?;
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                ASKED.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(())
}

/// Fails once somebody has asked to stop.
pub fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps; fails early when interrupted.
pub fn pause(duration: Duration) -> Result<()> {
    let end = clock::now().plus(duration);
    loop {
        check()?;
        let left = clock::now().until(end);
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// Looks until `look` finds something, or until `deadline` (`None`). It looks at least once.
pub fn wait_until<T>(
    deadline: Now,
    interval: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    loop {
        check()?;
        if let Some(found) = look() {
            return Ok(Some(found));
        }
        if clock::now() >= deadline {
            return Ok(None);
        }
        pause(interval)?;
    }
}
