//! Stopping the primary so that a chosen standby, if one is chosen, has everything.

use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_guard::{ClientError, Refusal, StopMode};
use mainstay_postgres::hba::Gate;
use mainstay_postgres::session::{self, Session};
use mainstay_postgres::upstream::parse_application_name;

use super::Outcome;
use super::open::{SESSIONS_PATIENCE, end_sessions};
use crate::clock;
use crate::machinery::{Machinery, Postmaster, QUICK_LOOK, WorkError, failed};

/// Before anything stops, so that the shutdown's own checkpoint has little to write.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(120);
/// The stop waits for every walsender; after this only for the target's.
const OTHERS_PATIENCE: Duration = Duration::from_millis(300);
/// How long it takes that the proxies of all members know that they are to begin no transaction: two hops and a wake-up.
const ANNOUNCED: Duration = Duration::from_millis(20);
/// Transactions of applications behind a proxy take milliseconds; nobody is to wait for one that takes longer.
const DRAIN_PATIENCE: Duration = Duration::from_millis(300);
/// Then it is killed, and the target is promoted by the normal proof.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn stop(machinery: &Machinery, to: Option<&MemberId>) -> Result<Outcome, WorkError> {
    let guard = machinery.guard()?;
    if guard.status().await.map_err(failed)?.phase == mainstay_guard::Phase::Empty {
        // Decided on once more before it was seen that it is done. To fail would take the switchover back.
        machinery.read_guard_again();
        return Ok(Outcome::Done);
    }
    session::checkpoint(&machinery.server, CHECKPOINT_PATIENCE).await.map_err(failed)?;
    let epoch = machinery.record.borrow().epoch;
    let attempt = machinery.handing_over.begin(epoch);
    let session = machinery.session().await?;
    if machinery.configuration.sql_proxy.is_some() {
        drain(&session).await?;
    }
    machinery.write_gate(Gate::Shut).await?;
    let names = machinery.record.borrow().sync().map(Machinery::names).unwrap_or_default();
    let generation = machinery.write_configuration(names, None).await?;
    machinery.reload(generation).await?;
    end_sessions(&Postmaster(guard.clone()), &session, SESSIONS_PATIENCE).await?;
    let observed = session.observe().await.map_err(failed)?;
    let others: Vec<i32> = observed
        .walsenders
        .iter()
        .filter(|sender| {
            parse_application_name(&sender.application_name).is_none_or(|(member, _)| Some(&member) != to)
        })
        .map(|sender| sender.pid)
        .collect();
    drop(session);
    let kill_after_ms = u64::try_from(STOP_PATIENCE.as_millis()).unwrap_or(u64::MAX);
    unless_gone(guard.stop(StopMode::Fast, kill_after_ms).await)?;
    let release_others_at = clock::now().plus(OTHERS_PATIENCE);
    let mut released = false;
    while guard.status().await.map_err(failed)?.phase != mainstay_guard::Phase::Empty {
        if !released && clock::now() >= release_others_at {
            unless_gone(guard.terminate(others.clone()).await)?;
            released = true;
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
    machinery.read_guard_again();
    attempt.done();
    Ok(Outcome::Done)
}

/// Waits until the proxies have let the transactions under way come to their end. Those that do not, are cut off.
async fn drain(session: &Session) -> Result<(), WorkError> {
    let give_up = clock::now().plus(DRAIN_PATIENCE);
    tokio::time::sleep(ANNOUNCED).await;
    while session.applications_in_transaction().await.map_err(failed)? > 0 && clock::now() < give_up {
        tokio::time::sleep(QUICK_LOOK).await;
    }
    Ok(())
}

/// The server may end by itself before it is told to: that is what was wanted.
pub(super) fn unless_gone<T>(told: Result<T, ClientError>) -> Result<(), WorkError> {
    match told {
        Ok(_) | Err(ClientError::Refused(Refusal::NotRunning)) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}
