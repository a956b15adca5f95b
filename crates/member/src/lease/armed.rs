//! The guard is told how long it may let PostgreSQL go on.

use std::path::PathBuf;

use mainstay_core::{Epoch, Now};
use mainstay_guard::{Armer, ClientError};
use tokio::sync::watch;
use tracing::warn;

/// Keeps the guard's deadline up with the renewals: the newest only, however slow the guard is to answer.
pub(super) async fn keep(
    directory: PathBuf,
    mut deadline: watch::Receiver<Option<(Epoch, Now)>>,
    mut generation: watch::Receiver<u64>,
) {
    let mut armer: Option<Armer> = None;
    loop {
        tokio::select! {
            changed = deadline.changed() => if changed.is_err() { return },
            changed = generation.changed() => {
                if changed.is_err() {
                    return;
                }
                armer = None;
            }
        }
        let Some((epoch, until)) = *deadline.borrow_and_update() else { continue };
        if armer.is_none() {
            let generation = *generation.borrow_and_update();
            armer = Armer::connect(&directory, generation).await.ok();
        }
        let Some(connected) = armer.as_mut() else { continue };
        if let Err(error) = connected.arm(epoch.0, until.0).await {
            warn!(%epoch, %error, "the guard was not told how long the lease lasts");
            if !matches!(error, ClientError::Refused(_) | ClientError::Timeout { .. }) {
                armer = None;
            }
        }
    }
}
