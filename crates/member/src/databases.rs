//! The applications' databases and roles, brought to what the configuration says wherever this member is the open primary.
//!
//! A task with a session of its own: nothing of a failover waits for it, and what it finds is looked at anew from time to
//! time, so that nothing rests on an event that was missed.

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::Epoch;
use mainstay_postgres::application;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::machinery::{Machinery, failed};
use crate::status::{Role, Status};

/// After this long everything is compared again.
const INTERVAL: Duration = Duration::from_secs(300);
/// After a failure: a server that is busy, or that has just ceased to be the primary.
const RETRY: Duration = Duration::from_secs(10);
/// A database is made from a template's files, and an index on a large extension's tables takes its time.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(60);
/// Under which the warnings stand.
const SUBJECT: &str = "databases";

/// Looks for ever.
pub(crate) async fn run(machinery: Arc<Machinery>, mut status: watch::Receiver<Arc<Status>>) {
    if machinery.configuration.databases.is_empty() {
        return;
    }
    loop {
        let open = |status: &Arc<Status>| open_epoch(status).is_some();
        let Ok(epoch) = status.wait_for(open).await.map(|status| open_epoch(&status)) else { return };
        let pause = if bring(&machinery).await { INTERVAL } else { RETRY };
        let is_over = |status: &Arc<Status>| open_epoch(status) != epoch;
        // Another epoch is another server, and may lack what the last one was given.
        let _ = tokio::time::timeout(pause, status.wait_for(is_over)).await;
    }
}

/// The epoch in which this member lets applications in as the primary.
fn open_epoch(status: &Status) -> Option<Epoch> {
    let own = status.members.iter().find(|row| row.name == status.member)?;
    (own.role == Role::Primary && status.writable).then_some(status.epoch)
}

/// Answers whether it came to an end.
async fn bring(machinery: &Machinery) -> bool {
    let wanted = &machinery.configuration.databases;
    match application::apply(&machinery.server, wanted, STATEMENT_PATIENCE).await {
        Ok(report) => {
            for done in &report.done {
                info!("{done}");
            }
            machinery.note(SUBJECT, report.left);
            true
        }
        Err(error) => {
            let error = failed(error);
            warn!("the applications' databases are not all as the configuration says: {error}");
            machinery.note(SUBJECT, vec![format!("databases: {error}")]);
            false
        }
    }
}
