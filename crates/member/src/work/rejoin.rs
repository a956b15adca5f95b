//! Coming back: undoing diverged WAL, or copying everything.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_core::lineage;
use mainstay_core::{Epoch, MemberId};
use mainstay_postgres::clone::{self, CloneOptions};
use mainstay_postgres::rewind::{self, RewindOptions};
use mainstay_postgres::upstream::{Upstream, slot_name};
use mainstay_postgres::{history, wal_end};
use tracing::{info, warn};

use super::Outcome;
use super::stream::write_passfile;
use crate::machinery::{Machinery, WorkError, blocking, failed};

/// A copy that moves nothing for so long has lost its source.
const STALL_PATIENCE: Duration = Duration::from_secs(60);
/// pg_rewind first brings a crashed directory to a clean end, in silence.
const REWIND_PATIENCE: Duration = Duration::from_secs(900);
/// What is only nice to have must not keep a member from coming back.
const KEEP_PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn clone(
    machinery: &Machinery,
    member: &MemberId,
    epoch: Epoch,
) -> Result<Outcome, WorkError> {
    let (upstream, system_identifier) = prepare(machinery, member, epoch).await?;
    let options = CloneOptions {
        upstream,
        slot: slot_name(machinery.me()),
        system_identifier,
        stall_timeout: STALL_PATIENCE,
    };
    keep_what_is_removed(machinery).await;
    let progress = machinery.progress.begin();
    clone::clone(machinery.tools()?, &machinery.layout, &options, progress).await.map_err(failed)?;
    info!(bytes = progress.borrow().done_bytes, %member, "cloned");
    Ok(Outcome::Done)
}

pub(super) async fn rewind(
    machinery: &Machinery,
    member: &MemberId,
    epoch: Epoch,
) -> Result<Outcome, WorkError> {
    let (upstream, system_identifier) = prepare(machinery, member, epoch).await?;
    let common = common_timeline(machinery).await?;
    let options = RewindOptions {
        upstream,
        common_timeline: common.timeline,
        fork: common.begin,
        system_identifier,
        stall_timeout: REWIND_PATIENCE,
    };
    let progress = machinery.progress.begin();
    let rewound =
        rewind::rewind(machinery.tools()?, &machinery.layout, &options, progress).await.map_err(failed)?;
    info!(bytes = rewound.moved_bytes, %member, "rewound");
    tell_of_undone(rewound.diverged_commits, rewound.kept_wal);
    Ok(Outcome::Done)
}

/// A clone removes what the directory holds. What of it the cluster does not have is kept, if it can still be read.
async fn keep_what_is_removed(machinery: &Machinery) {
    let kept = async {
        let common = common_timeline(machinery).await?;
        let place = (common.timeline, common.begin);
        rewind::keep_abandoned(machinery.tools()?, &machinery.layout, place, KEEP_PATIENCE)
            .await
            .map_err(failed)
    };
    match kept.await {
        Ok(abandoned) => tell_of_undone(abandoned.commits, abandoned.kept_wal),
        Err(error) => info!("no WAL of this directory is kept: {error}"),
    }
}

fn tell_of_undone(transactions: u64, kept_wal: Result<Option<PathBuf>, String>) {
    if transactions > 0 {
        let kept_wal = kept_wal.ok().flatten().map(|path| path.display().to_string());
        warn!(transactions, kept_wal, "committed here only, never acknowledged by enough voters: undone");
    }
}

/// Ends the server. The sealed configuration is on disk before the copy: whatever happens, it is never started as something
/// else.
async fn prepare(
    machinery: &Machinery,
    member: &MemberId,
    epoch: Epoch,
) -> Result<(Upstream, u64), WorkError> {
    let upstream = machinery.source(member, epoch)?;
    let system_identifier = system_identifier(machinery)?;
    machinery.is_replaceable(epoch).await?;
    machinery.end_server().await?;
    machinery.write_configuration(machinery.standby_names(), None).await?;
    write_passfile(machinery).await?;
    Ok((upstream, system_identifier))
}

fn system_identifier(machinery: &Machinery) -> Result<u64, WorkError> {
    let record = machinery.record.borrow();
    record.system_identifier.ok_or_else(|| WorkError("the cluster has no data yet".to_owned()))
}

/// The last timeline that the directory shares with the lineage; its `begin` here is where the lineage left it.
async fn common_timeline(machinery: &Machinery) -> Result<lineage::Fork, WorkError> {
    let end = wal_end::wal_end(machinery.tools()?, &machinery.layout, None, REWIND_PATIENCE)
        .await
        .map_err(failed)?;
    let pg_wal = machinery.layout.pg_wal();
    let history = blocking(move || history::read(&pg_wal, end.timeline)).await?.map_err(failed)?;
    let extent = lineage::Extent { history, end: end.end };
    let record = machinery.record.borrow().clone();
    let standing = lineage::compare(&record.lineage, &extent);
    let shared =
        record.lineage.iter().zip(&extent.history).take_while(|(ours, theirs)| ours == theirs).last();
    match shared {
        Some((fork, _)) => Ok(lineage::Fork { timeline: fork.timeline, begin: standing.position }),
        None => Err(WorkError("no timeline is shared with the cluster".to_owned())),
    }
}
