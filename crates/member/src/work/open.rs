//! Becoming the primary: the names, the gate, the promotion by the guard, and letting applications in.

use std::time::Duration;

use mainstay_core::sync::SyncSet;
use mainstay_core::{Epoch, Lsn, Timeline};
use mainstay_postgres::children::{Child, ChildKind, PostmasterControl};
use mainstay_postgres::hba::Gate;
use mainstay_postgres::session::{self, Observation, Session};
use mainstay_postgres::{history, session::SessionError};

use super::Outcome;
use crate::clock;
use crate::machinery::{Machinery, Postmaster, QUICK_LOOK, WorkError, blocking, failed};

/// A promotion that replays nothing for so long is given up.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(5);
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(600);
/// Sessions that do not end by SIGTERM within this are in a system call that hangs.
pub(super) const SESSIONS_PATIENCE: Duration = Duration::from_secs(10);
/// Somebody else may have none such.
const OPENING_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn open(
    machinery: &Machinery,
    epoch: Epoch,
    timeline: Timeline,
    sync: &SyncSet,
) -> Result<Outcome, WorkError> {
    let guard = machinery.guard()?;
    let status = guard.status().await.map_err(failed)?;
    if status.opened != Some(epoch.0) {
        let session = machinery.wait_ready().await?;
        machinery.write_gate(Gate::Shut).await?;
        let generation = machinery.write_configuration(Machinery::names(sync), None).await?;
        machinery.reload(generation).await?;
        // A session from the time as a standby could write as soon as there is no recovery, before the record knows.
        end_sessions(&Postmaster(guard.clone()), &session, OPENING_PATIENCE).await?;
        session.resume_replay().await.map_err(failed)?;
        let pg_wal = machinery.layout.pg_wal();
        let dummies = blocking(move || missing_histories(&pg_wal, timeline)).await?;
        guard.open(epoch.0, dummies).await.map_err(failed)?;
        machinery.read_guard_again();
    }
    wait_promoted(machinery).await?;
    Ok(Outcome::Done)
}

/// The names of the history files to reserve, so that PostgreSQL chooses `timeline`: it takes the number after the newest.
/// Those below are reserved too where they are missing: a clone brings along only its own, and followers ask for every number.
fn missing_histories(pg_wal: &std::path::Path, timeline: Timeline) -> Vec<String> {
    let names = (2..timeline.0).map(|number| history::file_name(Timeline(number)));
    names.filter(|name| !pg_wal.join(name).exists()).collect()
}

async fn wait_promoted(machinery: &Machinery) -> Result<(), WorkError> {
    let session = machinery.session().await?;
    let (mut replayed, mut progress_at) = (Lsn::ZERO, clock::now());
    loop {
        match session.observe().await {
            Ok(observed) if !observed.in_recovery => return Ok(()),
            Ok(observed) => {
                let now = clock::now();
                let position = observed.replay.unwrap_or_default();
                if position > replayed {
                    (replayed, progress_at) = (position, now);
                }
                if now.since(progress_at) > PROGRESS_PATIENCE {
                    return Err(WorkError(format!(
                        "the promotion has replayed nothing since {replayed} for 5 s"
                    )));
                }
            }
            // It leaves recovery in just this moment.
            Err(SessionError::Statement { .. }) if !session.is_closed() => {}
            Err(error) => return Err(failed(error)),
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
}

/// Ends every session from before the opening, also those that have not authenticated yet, then lets applications in.
pub(super) async fn open_gate(machinery: &Machinery, epoch: Epoch) -> Result<Outcome, WorkError> {
    let postmaster = Postmaster(machinery.guard()?);
    let session = machinery.session().await?;
    end_sessions(&postmaster, &session, SESSIONS_PATIENCE).await?;
    machinery.write_gate(Gate::Open).await?;
    machinery.guard()?.reload().await.map_err(failed)?;
    machinery.handing_over.take_back();
    Ok(Outcome::GateOpen(epoch))
}

/// Ends all sessions but Mainstay's own and those of other members, and waits until they are gone.
///
/// The gate must be shut, and known to be read. Connections that were accepted before that and have not authenticated
/// yet would still get in: they are ended by process. Those that come later are refused by themselves.
pub(super) async fn end_sessions(
    postmaster: &Postmaster,
    session: &Session,
    patience: Duration,
) -> Result<(), WorkError> {
    let deadline = clock::now().plus(patience);
    let early: Vec<i32> = pids(&postmaster.children().await.map_err(failed)?, ChildKind::Unauthenticated);
    if !early.is_empty() {
        postmaster.terminate(&early).await.map_err(failed)?;
    }
    loop {
        let ended = session.terminate_application_sessions(&[]).await.map_err(failed)?;
        let children =
            if early.is_empty() { Vec::new() } else { postmaster.children().await.map_err(failed)? };
        let left = children.iter().filter(|child| early.contains(&child.pid)).count();
        if ended == 0 && left == 0 {
            return Ok(());
        }
        if clock::now() > deadline {
            return Err(WorkError(format!("{ended} sessions and {left} connections from before do not end")));
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
}

fn pids(children: &[Child], kind: ChildKind) -> Vec<i32> {
    children.iter().filter(|child| child.kind() == kind).map(|child| child.pid).collect()
}

pub(super) async fn checkpoint(machinery: &Machinery, epoch: Epoch) -> Result<Outcome, WorkError> {
    session::checkpoint(&machinery.server, CHECKPOINT_PATIENCE).await.map_err(failed)?;
    Ok(Outcome::Checkpointed(epoch))
}

/// The flush position of every walsender under one of `names`, by process.
pub(super) fn flushed_by<'a>(
    observed: &'a Observation,
    names: &'a [String],
) -> impl Iterator<Item = (i32, Lsn)> + 'a {
    let ours = observed.walsenders.iter().filter(|sender| names.contains(&sender.application_name));
    ours.map(|sender| (sender.pid, sender.flush_lsn.unwrap_or(Lsn::ZERO)))
}
