//! The operator stops the member.

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::record::EndCause;
use tracing::{debug, info};

use super::{Ended, MainLoop};
use crate::clock;

/// How long PostgreSQL may take to stop before it is killed.
const STOP_PATIENCE_MS: u64 = 10_000;
/// How long the end of the epoch may take to be committed once nothing runs any more.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(3);

impl MainLoop {
    /// The operator stops this member: PostgreSQL comes to a clean end, and the lease is given back at once.
    pub(super) fn begin_to_stop(&mut self) {
        if self.under_way.stopping_since.is_some() {
            return;
        }
        info!("stopping");
        self.under_way.stopping_since = Some(clock::now());
        self.machinery.sql_proxy.stop();
        self.run_lane.call_off();
        self.upkeep_lane.call_off();
        if self.facts.record.primary() == Some(&self.facts.me) {
            self.machinery.handing_over.announce(self.facts.record.epoch);
            self.memory.ending = Some((self.facts.record.epoch, EndCause::Switchover { to: None }));
        }
        let machinery = Arc::clone(&self.machinery);
        tokio::spawn(async move {
            if let Ok(guard) = machinery.guard()
                && let Err(error) = guard.stop(mainstay_guard::StopMode::Fast, STOP_PATIENCE_MS).await
            {
                debug!(%error, "nothing to stop");
            }
            machinery.read_guard_again();
        });
    }

    pub(super) fn how_it_ended(&self) -> Ended {
        match &self.under_way.left_behind {
            Some(by) => Ended::LeftBehind { by: by.clone() },
            None if self.under_way.removed => Ended::Removed,
            None => Ended::Stopped,
        }
    }

    pub(super) fn has_stopped(&self) -> bool {
        let Some(since) = self.under_way.stopping_since else { return false };
        let waited = clock::now().since(since);
        let running = self
            .facts
            .guard
            .status
            .as_ref()
            .is_some_and(|status| status.phase != mainstay_guard::Phase::Empty);
        let holds = self.facts.record.tenure().is_some_and(|tenure| tenure.holder == self.facts.me);
        if running {
            return waited > Duration::from_millis(STOP_PATIENCE_MS) + FAREWELL_PATIENCE;
        }
        !holds || waited > Duration::from_millis(STOP_PATIENCE_MS) + FAREWELL_PATIENCE * 2
    }
}
