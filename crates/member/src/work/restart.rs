//! Stopping PostgreSQL so that it starts again with another configuration.

use std::time::Duration;

use mainstay_guard::StopMode;
use mainstay_postgres::{control, lower};
use tracing::info;

use super::Outcome;
use super::switchover::{self, unless_gone};
use crate::machinery::{Machinery, WorkError, failed};

/// A standby's last restartpoint writes what a checkpoint would; then it is killed, and replays a little more.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// A standby. It is started again by the rules for one that died.
pub(super) async fn stop_standby(machinery: &Machinery, id: u64, number: u64) -> Result<Outcome, WorkError> {
    let kill_after_ms = u64::try_from(STOP_PATIENCE.as_millis()).unwrap_or(u64::MAX);
    unless_gone(machinery.guard()?.stop(StopMode::Fast, kill_after_ms).await)?;
    machinery.wait_empty().await?;
    Ok(Outcome::StoppedFor(id, number))
}

/// The primary, under its lease. Lowered parameters are noted in the directory while nobody else can be in it.
pub(super) async fn stop_in_place(machinery: &Machinery) -> Result<Outcome, WorkError> {
    switchover::stop(machinery, None).await?;
    if machinery.held().is_empty() {
        return Ok(Outcome::Done);
    }
    let tools = machinery.tools()?;
    let state = control::read(tools, &machinery.layout).await.map_err(failed)?.state;
    if state != control::ClusterState::ShutDown {
        // Killed on its way down. It comes back as it was, and lowering waits for another turn.
        info!("PostgreSQL did not end cleanly: it starts with the higher values again");
        return Ok(Outcome::Done);
    }
    machinery.write_without_holding().await?;
    let noted = lower::note_parameters(tools, &machinery.layout).await;
    machinery.look_at_least().await;
    noted.map_err(failed)?;
    Ok(Outcome::Done)
}
