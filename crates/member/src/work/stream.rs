//! Standing by: starting, streaming from a primary, and leaving an epoch for good.

use std::time::Duration;

use mainstay_core::lineage::Extent;
use mainstay_core::view::{Scan, Upstream};
use mainstay_core::{Epoch, Lsn, MemberId};
use mainstay_postgres::hba::Gate;
use mainstay_postgres::{history, seal, upstream, wal_end};

use super::Outcome;
use crate::machinery::{Machinery, Postmaster, WorkError, blocking, failed};
use crate::promise::durably;

const SEAL_PATIENCE: Duration = Duration::from_secs(5);
/// Reading a whole checkpoint's worth of WAL from a slow disk.
const SCAN_PATIENCE: Duration = Duration::from_secs(300);

/// Starts as a standby that streams from nobody.
pub(super) async fn start(machinery: &Machinery) -> Result<Outcome, WorkError> {
    machinery.write_configuration(machinery.standby_names(), None).await?;
    machinery.write_gate(Gate::Shut).await?;
    machinery.start().await?;
    machinery.wait_ready().await?;
    Ok(Outcome::Done)
}

/// Leaves `epoch` and all before it for good, and looks at what was received.
pub(super) async fn seal(machinery: &Machinery, epoch: Epoch) -> Result<Outcome, WorkError> {
    let promises = machinery.promises.clone();
    let promise = move || {
        promises.seal(epoch)?;
        promises.follow_nobody()
    };
    durably("the promise to leave an epoch", promise).await.map_err(failed)?;
    let guard = machinery.guard()?;
    let status = guard.status().await.map_err(failed)?;
    let postmaster = status.postmaster.map(|_| Postmaster(guard));
    let (settings, files) = machinery.sealed_settings().await;
    let version = machinery.tools()?.version();
    seal::seal(&machinery.layout, version, &settings, postmaster.as_ref(), SEAL_PATIENCE)
        .await
        .map_err(failed)?;
    drop(files);
    let replayed = match postmaster {
        // A server that is starting or hung does not say; then the scan begins at the last checkpoint.
        Some(_) => replay_position(machinery).await.ok(),
        None => None,
    };
    let scan = scan(machinery, replayed).await?;
    Ok(Outcome::Sealed { epoch, scan })
}

async fn replay_position(machinery: &Machinery) -> Result<Lsn, WorkError> {
    let observed = machinery.session().await?.observe().await.map_err(failed)?;
    observed.replay.ok_or_else(|| WorkError("the server does not replay".to_owned()))
}

async fn scan(machinery: &Machinery, replayed: Option<Lsn>) -> Result<Scan, WorkError> {
    let incarnation = machinery.incarnation()?;
    let end = wal_end::wal_end(machinery.tools()?, &machinery.layout, replayed, SCAN_PATIENCE)
        .await
        .map_err(failed)?;
    let pg_wal = machinery.layout.pg_wal();
    let history = blocking(move || history::read(&pg_wal, end.timeline)).await?.map_err(failed)?;
    let replayed = replayed.unwrap_or(Lsn::ZERO);
    Ok(Scan { extent: Extent { history, end: end.end }, replayed, incarnation })
}

/// Streams from the primary of `epoch`. That what is held here may follow it was compared before.
pub(super) async fn follow(
    machinery: &Machinery,
    member: &MemberId,
    epoch: Epoch,
) -> Result<Outcome, WorkError> {
    let source = machinery.source(member, epoch)?;
    let incarnation = machinery.incarnation()?;
    let promises = machinery.promises.clone();
    let to_follow = Upstream { member: member.clone(), epoch };
    durably("whom to follow", move || promises.follow(&to_follow, incarnation)).await.map_err(failed)?;
    let from = machinery.stream_from(source, incarnation);
    machinery.write_configuration(machinery.standby_names(), Some(from)).await?;
    machinery.write_gate(Gate::Open).await?;
    write_passfile(machinery).await?;
    let running = machinery.guard()?.status().await.map_err(failed)?.postmaster.is_some();
    if running {
        machinery.guard()?.reload().await.map_err(failed)?;
        // A server whose replay somebody has paused asks for no walreceiver.
        if let Ok(session) = machinery.session().await {
            session.resume_replay().await.map_err(failed)?;
        }
    } else {
        machinery.start().await?;
    }
    Ok(Outcome::Done)
}

pub(super) async fn write_passfile(machinery: &Machinery) -> Result<(), WorkError> {
    let (layout, password) =
        (machinery.layout.clone(), machinery.configuration.postgresql.replication_password.clone());
    machinery.write(move || upstream::write_passfile(&layout, &password)).await?.map_err(failed)?;
    Ok(())
}
