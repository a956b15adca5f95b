//! A diverged directory brought back to another member's history by pg_rewind, which copies only what differs.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_core::{Incarnation, Lsn, Timeline};
use tokio::sync::watch;

use crate::blocking::blocking;
use crate::control::{self, ControlError};
use crate::directory::{Change, DirectoryError, Operation};
use crate::diverged::{self, CountError, DivergedWal};
use crate::durable::{self, FileError};
use crate::history;
use crate::layout::Layout;
use crate::progress::{self, Progress};
use crate::tools::{Tools, ToolsError};
use crate::upstream::Upstream;
use crate::wal_end::{WalEnd, WalEndError, wal_end};

const APPLICATION_NAME: &str = "mainstay_rewind";

const PROGRAM: &str = "pg_rewind";

/// The database that the replication role may read files through.
const DATABASE: &str = "postgres";

/// Why the rewind failed. Once the mark is set the directory can only be cloned.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error("cannot rewind to {member}")]
    Tool {
        member: String,
        #[source]
        source: ToolsError,
    },
    #[error(
        "pg_rewind found nothing to do, though WAL up to {end} lies behind the fork at {fork}: clone the directory"
    )]
    NothingDone { end: Lsn, fork: Lsn },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    WalEnd(#[from] WalEndError),
    #[error(transparent)]
    Count(#[from] CountError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// What to rewind to.
#[derive(Clone, Debug)]
pub struct RewindOptions {
    /// The source. It must have completed a checkpoint on its newest timeline, or pg_rewind takes it for unchanged.
    pub upstream: Upstream,
    /// The last timeline that the directory has in common with the lineage, and where the lineage left it.
    pub common_timeline: Timeline,
    pub fork: Lsn,
    /// The cluster's, as the record has it.
    pub system_identifier: u64,
    /// Give up when nothing happened for so long. It must be longer than a crash recovery of the directory takes.
    pub stall_timeout: Duration,
}

/// What a rewind did.
#[derive(Clone, Debug)]
pub struct Rewound {
    pub incarnation: Incarnation,
    pub moved_bytes: u64,
    /// Transactions that had committed here only, acknowledged or not.
    pub diverged_commits: u64,
    /// Where the abandoned WAL was kept, and why not, if it was not.
    pub kept_wal: Result<Option<PathBuf>, String>,
}

/// Rewinds the directory. PostgreSQL must be down here; the passfile must be there.
///
/// Dropping the future kills pg_rewind; the directory stays marked.
pub async fn rewind(
    tools: &Tools,
    layout: &Layout,
    options: &RewindOptions,
    progress: &watch::Sender<Progress>,
) -> Result<Rewound, RewindError> {
    let end = wal_end(tools, layout, None, options.stall_timeout).await?;
    let (common, fork) = (options.common_timeline, options.fork);
    let abandoned = abandoned_wal(tools, layout, (common, fork), end).await?;
    let diverged_commits = count(tools, layout, &abandoned, options.stall_timeout).await?;
    let change = Change::begin(tools, layout, Operation::Rewind, Some(&options.upstream.member)).await?;
    let kept_wal = keep(layout, abandoned).await;
    let files = layout.clone();
    blocking(move || write_recovery_configuration(&files)).await?;
    let signal = layout.data().join("standby.signal");
    // pg_rewind first brings a crashed directory to a clean end by a single-user server, which refuses to be a standby.
    blocking(move || durable::remove(&signal)).await?;
    let messages =
        progress::run(PROGRAM, rewind_command(tools, layout, options), options.stall_timeout, progress)
            .await
            .map_err(|source| RewindError::Tool { member: options.upstream.member.to_string(), source })?;
    if messages.contains("no rewind required") && end.end > options.fork {
        return Err(RewindError::NothingDone { end: end.end, fork: options.fork });
    }
    let moved_bytes = progress.borrow().done_bytes;
    let incarnation = change.complete(Some(options.system_identifier)).await?;
    Ok(Rewound { incarnation, moved_bytes, diverged_commits, kept_wal })
}

/// WAL that the lineage has left, and that a clone is about to remove.
#[derive(Clone, Debug)]
pub struct Abandoned {
    /// Transactions that had committed here only, acknowledged or not.
    pub commits: u64,
    /// Where it was kept, and why not, if it was not; `None`: there was none.
    pub kept_wal: Result<Option<PathBuf>, String>,
}

/// Counts and keeps what the directory holds beyond `fork`, where its WAL left the lineage on the timeline `common`.
/// PostgreSQL must be down here.
pub async fn keep_abandoned(
    tools: &Tools,
    layout: &Layout,
    (common, fork): (Timeline, Lsn),
    timeout: Duration,
) -> Result<Abandoned, RewindError> {
    let end = wal_end(tools, layout, None, timeout).await?;
    let abandoned = abandoned_wal(tools, layout, (common, fork), end).await?;
    let commits = count(tools, layout, &abandoned, timeout).await?;
    Ok(Abandoned { commits, kept_wal: keep(layout, abandoned).await })
}

async fn count(
    tools: &Tools,
    layout: &Layout,
    abandoned: &[DivergedWal],
    timeout: Duration,
) -> Result<u64, RewindError> {
    let mut commits = 0;
    for wal in abandoned {
        commits += diverged::count_commits(tools, layout, *wal, timeout).await?;
    }
    Ok(commits)
}

fn rewind_command(tools: &Tools, layout: &Layout, options: &RewindOptions) -> tokio::process::Command {
    let source = options.upstream.connection_string(layout, APPLICATION_NAME, Some(DATABASE));
    let mut command = tools.command(PROGRAM, layout.root());
    command.arg("--target-pgdata").arg(layout.data());
    command.arg(format!("--source-server={source}"));
    command.arg(format!("--config-file={}", recovery_configuration(layout).display()));
    command.arg("--progress");
    command
}

/// The configuration of the single-user server that pg_rewind runs first.
fn recovery_configuration(layout: &Layout) -> PathBuf {
    layout.configuration_dir().join("rewind.conf")
}

/// The checkpoint at the end of that recovery must not remove the WAL around the fork, which pg_rewind reads next.
fn write_recovery_configuration(layout: &Layout) -> Result<(), FileError> {
    const TEXT: &[u8] = b"include 'postgresql.conf'\nwal_keep_size = '1TB'\n";
    durable::write(&recovery_configuration(layout), TEXT, layout.configuration_access())?;
    Ok(())
}

/// The stretches behind the fork: on the common timeline, and on others that were opened here since.
async fn abandoned_wal(
    tools: &Tools,
    layout: &Layout,
    (common_timeline, left_at): (Timeline, Lsn),
    end: WalEnd,
) -> Result<Vec<DivergedWal>, RewindError> {
    let segment_bytes = control::read(tools, layout).await?.wal_segment_bytes;
    let pg_wal = layout.pg_wal();
    let history = blocking(move || history::read(&pg_wal, end.timeline)).await.unwrap_or_default();
    let mut abandoned = Vec::new();
    for (index, fork) in history.iter().enumerate().filter(|(_, fork)| fork.timeline >= common_timeline) {
        let from = fork.begin.max(left_at);
        let to = history.get(index + 1).map_or(end.end, |next| next.begin);
        if from < to {
            abandoned.push(DivergedWal { timeline: fork.timeline, from, to, segment_bytes });
        }
    }
    Ok(abandoned)
}

/// Keeping the WAL must not keep the member from coming back: a failure is reported, not fatal.
async fn keep(layout: &Layout, abandoned: Vec<DivergedWal>) -> Result<Option<PathBuf>, String> {
    let layout = layout.clone();
    let kept = blocking(move || {
        let mut directory = None;
        for wal in abandoned {
            directory = Some(diverged::keep_wal(&layout, wal)?);
        }
        Ok::<_, diverged::DivergedError>(directory)
    })
    .await;
    kept.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        let problem = format!("{error}{cause}");
        tracing::warn!(problem, "the abandoned WAL was not kept");
        problem
    })
}
