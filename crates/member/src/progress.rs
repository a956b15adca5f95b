//! How far a copy of the data directory is, for whoever waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_core::Now;
use mainstay_core::action::Job;
use mainstay_core::view::View;
use mainstay_postgres::Progress;
use tokio::sync::watch;

use crate::clock;
use crate::status::ProgressStatus;

/// Less than this says nothing about the speed of the rest.
const TELLING_MS: u64 = 2_000;

/// Of the newest clone or rewind.
pub(crate) struct Headway {
    newest: watch::Sender<Progress>,
    /// On the boot clock.
    began_ns: AtomicU64,
}

impl Default for Headway {
    fn default() -> Headway {
        Headway { newest: watch::channel(Progress::default()).0, began_ns: AtomicU64::new(0) }
    }
}

impl Headway {
    /// Another one begins; it tells its progress here.
    pub(crate) fn begin(&self) -> &watch::Sender<Progress> {
        self.newest.send_replace(Progress::default());
        self.began_ns.store(clock::now().0, Ordering::Relaxed);
        &self.newest
    }

    /// Of the one that is under way, if one is.
    pub(crate) fn of(&self, view: &View) -> Option<ProgressStatus> {
        matches!(view.job, Some(Job::Clone { .. } | Job::Rewind { .. })).then(|| {
            let progress = *self.newest.borrow();
            let began = Now(self.began_ns.load(Ordering::Relaxed));
            let took_ms = u64::try_from(view.now.since(began).as_millis()).unwrap_or(u64::MAX);
            status(progress, took_ms)
        })
    }
}

fn status(progress: Progress, took_ms: u64) -> ProgressStatus {
    let Progress { done_bytes, total_bytes } = progress;
    let left = total_bytes.saturating_sub(done_bytes);
    let telling = done_bytes > 0 && took_ms >= TELLING_MS && total_bytes > 0;
    let seconds_left = telling.then(|| {
        let ms = u128::from(left) * u128::from(took_ms) / u128::from(done_bytes);
        u64::try_from(ms.div_ceil(1_000)).unwrap_or(u64::MAX)
    });
    ProgressStatus { done_bytes, total_bytes, seconds_left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let progress = |done_bytes, total_bytes| Progress { done_bytes, total_bytes };
        assert_eq!(status(progress(25, 100), 10_000).seconds_left, Some(30));
        assert_eq!(status(progress(100, 100), 10_000).seconds_left, Some(0));
        assert_eq!(status(progress(0, 100), 10_000).seconds_left, None);
        assert_eq!(status(progress(50, 100), 100).seconds_left, None, "too soon to tell");
        assert_eq!(status(progress(50, 0), 10_000).seconds_left, None, "nobody knows how much it is");
    }
}
