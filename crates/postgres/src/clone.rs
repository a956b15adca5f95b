//! A full copy of another member's directory by pg_basebackup.

use std::time::Duration;

use mainstay_core::Incarnation;
use tokio::sync::watch;

use crate::directory::{Change, DirectoryError, Operation};
use crate::layout::Layout;
use crate::progress::{self, Progress};
use crate::tools::{Tools, ToolsError, run};
use crate::upstream::Upstream;

/// Not one of the voters' names: while it is cloned a member confirms nothing.
const APPLICATION_NAME: &str = "mainstay_clone";

const PROGRAM: &str = "pg_basebackup";

/// A source that is not reached by then is tried again later.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the clone failed. The mark stays; trying again begins anew.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    #[error("cannot clone {member}")]
    Tool {
        member: String,
        #[source]
        source: ToolsError,
    },
    #[error("cannot reach {member} to clone it; nothing was touched here")]
    Unreachable {
        member: String,
        #[source]
        source: ToolsError,
    },
    #[error(
        "{member} is of another cluster: its system identifier is {found}, not {wanted}; nothing was touched here"
    )]
    OtherSystem { member: String, found: String, wanted: u64 },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// What to clone.
#[derive(Clone, Debug)]
pub struct CloneOptions {
    pub upstream: Upstream,
    /// A slot on the source, made beforehand: it keeps the WAL that is written meanwhile, and until the clone streams.
    pub slot: String,
    /// The cluster's, as the record has it.
    pub system_identifier: u64,
    /// Give up when nothing was copied for so long.
    pub stall_timeout: Duration,
}

/// Replaces the directory by a copy of the source's; what was in it is removed first. The passfile must be there.
///
/// Dropping the future kills pg_basebackup; the directory stays marked.
pub async fn clone(
    tools: &Tools,
    layout: &Layout,
    options: &CloneOptions,
    progress: &watch::Sender<Progress>,
) -> Result<Incarnation, CloneError> {
    check_source(tools, layout, options).await?;
    let change = Change::begin(tools, layout, Operation::Clone, Some(&options.upstream.member)).await?;
    change.wipe().await?;
    let mut command = tools.command(PROGRAM, layout.root());
    command.arg("--pgdata").arg(layout.data());
    command.arg("--dbname").arg(options.upstream.connection_string(layout, APPLICATION_NAME, None));
    command.arg(format!("--slot={}", options.slot));
    command.args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--verbose", "--no-password"]);
    if let Some(wal) = layout.wal() {
        command.arg("--waldir").arg(wal);
    }
    let copied = progress::run(PROGRAM, command, options.stall_timeout, progress).await;
    copied.map_err(|source| CloneError::Tool { member: options.upstream.member.to_string(), source })?;
    Ok(change.complete(Some(options.system_identifier)).await?)
}

/// What is here is removed only for a source that answers, lets this member in, and has the cluster's data.
async fn check_source(tools: &Tools, layout: &Layout, options: &CloneOptions) -> Result<(), CloneError> {
    const CLIENT: &str = "psql";
    let member = options.upstream.member.to_string();
    let mut command = tools.command(CLIENT, layout.root());
    let mut target = options.upstream.connection_string(layout, APPLICATION_NAME, None);
    target.push_str(" replication='true'");
    command.args(["-X", "-A", "-t", "-w", "-d"]).arg(target).args(["-c", "IDENTIFY_SYSTEM"]);
    let output = run(CLIENT, command, REACH_TIMEOUT)
        .await
        .map_err(|source| CloneError::Unreachable { member: member.clone(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.trim().split('|').next().unwrap_or_default().to_owned();
    if found == options.system_identifier.to_string() {
        return Ok(());
    }
    Err(CloneError::OtherSystem { member, found, wanted: options.system_identifier })
}
