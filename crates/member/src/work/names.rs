//! Changing who acknowledges commits, with proof that PostgreSQL acts on it.
//!
//! A connection that shows the new value proves nothing about the others: each walsender releases waiting commits by
//! its own copy, and backends wait at all only once the checkpointer has read that there are names.

use std::time::Duration;

use mainstay_core::Lsn;
use mainstay_core::sync::SyncSet;
use mainstay_postgres::session::{self, Session};
use mainstay_postgres::upstream::application_name;

use super::Outcome;
use super::open::flushed_by;
use crate::clock;
use crate::machinery::{Machinery, QUICK_LOOK, WorkError, failed};

/// A walsender that has not moved by then is ended: it may hold the old names.
const WALSENDER_PATIENCE: Duration = Duration::from_millis(500);
/// Past this a CHECKPOINT settles whether the checkpointer has read the names.
const CHECKPOINTER_PATIENCE: Duration = Duration::from_millis(300);
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn set(machinery: &Machinery, sync: &SyncSet) -> Result<Outcome, WorkError> {
    let generation = machinery.write_configuration(Machinery::names(sync), None).await?;
    machinery.reload(generation).await?;
    if sync.is_lone() {
        // Fewer acknowledgements than before: whoever still waits for more is safe.
        return Ok(Outcome::Names(sync.clone()));
    }
    let session = machinery.session().await?;
    walsenders_have_moved_on(&session).await?;
    checkpointer_has_read(machinery, &session).await?;
    everything_is_flushed(&session, sync).await?;
    if !machinery.is_newest(generation) {
        return Err(WorkError("another configuration was written meanwhile".to_owned()));
    }
    Ok(Outcome::Names(sync.clone()))
}

/// A record written after the change is acknowledged through every walsender of ours: each has passed its main loop,
/// where it reads its configuration, since. One that does not is ended.
async fn walsenders_have_moved_on(session: &Session) -> Result<(), WorkError> {
    let position = session.emit_wal_message().await.map_err(failed)?;
    let deadline = clock::now().plus(WALSENDER_PATIENCE);
    loop {
        let observed = session.observe().await.map_err(failed)?;
        let names: Vec<String> = observed
            .walsenders
            .iter()
            .map(|sender| sender.application_name.clone())
            .filter(|name| name.starts_with("ms_"))
            .collect();
        let behind: Vec<i32> = flushed_by(&observed, &names)
            .filter(|(_, flushed)| *flushed < position)
            .map(|(pid, _)| pid)
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        if clock::now() > deadline {
            session.terminate_backends(&behind).await.map_err(failed)?;
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
}

/// From no names to some: commits wait only once the checkpointer has said so in shared memory. It has if it sleeps
/// now, for a pending signal would have woken it.
async fn checkpointer_has_read(machinery: &Machinery, session: &Session) -> Result<(), WorkError> {
    let deadline = clock::now().plus(CHECKPOINTER_PATIENCE);
    while clock::now() < deadline {
        if is_asleep(session).await? {
            return Ok(());
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
    session::checkpoint(&machinery.server, CHECKPOINT_PATIENCE).await.map_err(failed)
}

/// Asleep in its main loop or between writes, and not woken between two looks.
async fn is_asleep(session: &Session) -> Result<bool, WorkError> {
    let Some(before) = session.checkpointer().await.map_err(failed)? else { return Ok(false) };
    let first = sleeping_switches(before.pid);
    let Some(after) = session.checkpointer().await.map_err(failed)? else { return Ok(false) };
    let waits = matches!(after.wait_event.as_deref(), Some("CheckpointerMain" | "CheckpointWriteDelay"));
    Ok(waits && after.pid == before.pid && first.is_some() && first == sleeping_switches(before.pid))
}

/// How often a sleeping process has gone to sleep; `None` if it does not sleep.
fn sleeping_switches(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let sleeps = field("State:")?.starts_with('S');
    let switches = field("voluntary_ctxt_switches:")?.parse().ok()?;
    sleeps.then_some(switches)
}

/// Everything that was inserted until now is flushed by `k` of the voters, whoever acknowledged it.
async fn everything_is_flushed(session: &Session, sync: &SyncSet) -> Result<(), WorkError> {
    let names: Vec<String> =
        sync.voters.iter().map(|voter| application_name(&voter.member, voter.incarnation)).collect();
    let inserted = session.observe().await.map_err(failed)?.insert.unwrap_or(Lsn(u64::MAX));
    loop {
        let observed = session.observe().await.map_err(failed)?;
        let mut reached: Vec<&String> = names
            .iter()
            .filter(|name| {
                flushed_by(&observed, std::slice::from_ref(name)).any(|(_, flushed)| flushed >= inserted)
            })
            .collect();
        reached.dedup();
        if reached.len() >= sync.k as usize {
            return Ok(());
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
}
