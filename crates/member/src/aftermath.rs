//! What a member that is gone has left running, ended in its stead.

use std::time::Duration;

use mainstay_guard::{ClientError, GuardClient, GuardEvent, StopMode};

use crate::clock;
use crate::configuration::Configuration;
use crate::{sql_proxy, vip};

/// How long PostgreSQL may take to stop before it is killed: as long as when the member stops it.
const STOP_PATIENCE_MS: u64 = 10_000;
/// What was sent SIGKILL goes at once, unless a disk holds it; the guard goes on waiting for that.
const EMPTY_PATIENCE: Duration = Duration::from_millis(STOP_PATIENCE_MS + 3_000);

/// Stops PostgreSQL of a member that does not run any more, and its guard. Answers whether there was a guard.
///
/// # Errors
/// A guard is there and does not do as it is told.
pub async fn stop_what_is_left(configuration: &Configuration) -> Result<bool, ClientError> {
    vip::end_running(configuration).await;
    sql_proxy::end(configuration).await;
    let directory = configuration.directory.join("guard");
    let (guard, mut events, _) = match GuardClient::connect(&directory, clock::now().0).await {
        Ok(connected) => connected,
        Err(ClientError::NoGuard { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let empty = guard.stop(StopMode::Fast, STOP_PATIENCE_MS).await?;
    if !empty {
        let ended = async {
            while let Some(event) = events.recv().await {
                if matches!(event, GuardEvent::Empty { .. } | GuardEvent::Died | GuardEvent::Lost) {
                    return;
                }
            }
        };
        // The guard is told to go in any case: it goes once nothing is left.
        let _ = tokio::time::timeout(EMPTY_PATIENCE, ended).await;
    }
    match guard.quit(true).await {
        Ok(()) | Err(ClientError::Lost) => Ok(true),
        Err(error) => Err(error),
    }
}
