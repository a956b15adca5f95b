//! Benches: the same faults again and again, with figures instead of bars.

pub mod failover;
pub mod hog;
pub mod idle;
pub mod sql;
pub mod starve;
pub mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::{GapClient, Through};
use crate::cluster::Cluster;
use crate::network::Index;
use crate::{clock, interrupt};

/// Before each event the client must have been writing for so long without a pause.
const BASELINE: Duration = Duration::from_secs(2);
const BASELINE_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A pause in acknowledgements that is no outage.
const PAUSE: Duration = Duration::from_millis(500);

/// What every bench needs.
#[derive(Clone, Debug)]
pub struct Options {
    pub index: Index,
    pub binary: PathBuf,
    pub members: u8,
    /// A JSON line for each result.
    pub out: Option<PathBuf>,
}

/// A new client that writes steadily.
fn steady_client(cluster: &Cluster) -> Result<GapClient> {
    let servers = cluster.data_members().map(|member| crate::sql::application(&member.site)).collect();
    let number = i64::try_from(clock::now().0).unwrap_or(i64::MAX);
    let client = GapClient::start(number, servers, Through::Postgres, None)?;
    let deadline = clock::now().plus(BASELINE_PATIENCE);
    let steady = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
        let now = clock::now();
        let since = client.history().steady_since(now, PAUSE)?;
        (now.since(since) >= BASELINE).then_some(())
    })?;
    steady.context("the client does not get to write without pauses before the event")?;
    Ok(client)
}
