//! A standby stops streaming for good: what it has received then is all that it will ever have of the ended epoch.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::blocking::blocking;
use crate::children::{Child, ChildKind, PostmasterControl};
use crate::configuration::{self, ServerSettings};
use crate::durable::{self, FileError};
use crate::layout::Layout;
use crate::tools::Version;

/// A walreceiver ends 3 to 4 ms after its signal.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Why the standby is not sealed. What was done stays done; trying again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum SealError<E: std::error::Error + 'static> {
    #[error("cannot {action} PostgreSQL while sealing it")]
    Control {
        action: &'static str,
        #[source]
        source: E,
    },
    #[error("walreceiver {pid} is still there after {timeout:?}")]
    StillReceiving { pid: i32, timeout: Duration },
    #[error(transparent)]
    File(#[from] FileError),
}

/// Seals the standby: from `Ok` on no byte of WAL comes in until a passfile is written again.
///
/// The order leaves no gap: without the passfile a walreceiver that is yet to connect cannot authenticate, and one
/// that has read it shows its title already. The reload alone would do nothing while replay is paused or blocked.
/// SIGTERM lets the walreceiver flush what it has received.
///
/// `settings` are the server's; their upstream is left out. With PostgreSQL down `control` is `None`. `timeout` is for
/// the walreceiver; a stalled disk holds the seal up for as long as it lasts.
pub async fn seal<C: PostmasterControl>(
    layout: &Layout,
    version: Version,
    settings: &ServerSettings,
    control: Option<&C>,
    timeout: Duration,
) -> Result<(), SealError<C::Error>> {
    let deadline = Instant::now() + timeout;
    let sealed = ServerSettings { upstream: None, ..settings.clone() };
    let files = layout.clone();
    blocking(move || empty_files(&files, version, &sealed)).await?;
    let Some(control) = control else { return Ok(()) };
    control.reload().await.map_err(|source| SealError::Control { action: "reload", source })?;
    // Standbys of this standby hang on to the ended epoch too. They may come back, but nothing new comes for them.
    let children = list(control).await?;
    terminate(control, &children, ChildKind::Walsender).await?;
    let mut signalled: Vec<i32> = Vec::new();
    let mut children = children;
    loop {
        let receivers = pids(&children, ChildKind::Walreceiver);
        let Some(pid) = receivers.first().copied() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(SealError::StillReceiving { pid, timeout });
        }
        // Each walreceiver is signalled once: it is flushing, and a second signal says nothing new.
        let new: Vec<i32> = receivers.into_iter().filter(|pid| !signalled.contains(pid)).collect();
        if !new.is_empty() {
            send(control, &new).await?;
            signalled.extend(new);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        children = list(control).await?;
    }
}

/// Removes the passfile and empties `primary_conninfo`. The passfile alone makes the seal, so a full disk, on which
/// nothing can be written, does not hinder it.
fn empty_files(layout: &Layout, version: Version, sealed: &ServerSettings) -> Result<(), FileError> {
    let removed = std::fs::remove_file(layout.passfile());
    if let Err(source) = removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) }) {
        return Err(FileError::new("remove", &layout.passfile(), source));
    }
    // Writing the one file syncs the directory of both.
    if let Err(error) = configuration::write(layout, version, sealed) {
        tracing::warn!(%error, "sealing without a changed postgresql.conf");
        durable::sync_directory(&layout.configuration_dir())?;
    }
    Ok(())
}

async fn list<C: PostmasterControl>(control: &C) -> Result<Vec<Child>, SealError<C::Error>> {
    control.children().await.map_err(|source| SealError::Control { action: "list the processes of", source })
}

async fn terminate<C: PostmasterControl>(
    control: &C,
    children: &[Child],
    kind: ChildKind,
) -> Result<(), SealError<C::Error>> {
    let pids = pids(children, kind);
    if pids.is_empty() { Ok(()) } else { send(control, &pids).await }
}

async fn send<C: PostmasterControl>(control: &C, pids: &[i32]) -> Result<(), SealError<C::Error>> {
    control
        .terminate(pids)
        .await
        .map_err(|source| SealError::Control { action: "signal a process of", source })
}

fn pids(children: &[Child], kind: ChildKind) -> Vec<i32> {
    children.iter().filter(|child| child.kind() == kind).map(|child| child.pid).collect()
}
