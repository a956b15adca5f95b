//! What the log says of a change of who may write.

use mainstay_core::record::{Phase, Record};
use tracing::info;

/// One line for each change of who may write.
pub(super) fn note_change(before: &Record, after: &Record) {
    match (&after.phase, after.newest_tenure()) {
        (Phase::Open, Some(tenure)) => {
            info!(epoch = after.epoch.0, timeline = tenure.timeline.0, "{} is the primary", tenure.holder);
        }
        (Phase::Granted, Some(tenure)) => info!(epoch = after.epoch.0, "{} is to take over", tenure.holder),
        (Phase::Ended { cause }, _) if before.format != 0 => {
            info!(epoch = after.epoch.0, "the epoch has ended: {cause}")
        }
        _ => {}
    }
}
