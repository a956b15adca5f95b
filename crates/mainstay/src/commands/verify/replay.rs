//! `replay`: standbys replay what they receive.

use anyhow::Result;
use mainstay_core::MemberId;
use mainstay_member::status::Role;

use super::ground::Ground;
use super::line::Line;

/// Two segments: more than a loaded standby is behind for long.
const LAG_BYTES: u64 = 32 << 20;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for standby in ground.standbys() {
        let lag = ground.status.as_ref().and_then(|status| {
            status.members.iter().find(|row| row.name == *standby).and_then(|row| row.lag_bytes)
        });
        let line = match is_paused(ground, standby).await {
            Ok(true) => Line::fail("replay is paused: what is read there grows old", resume(standby)),
            Ok(false) => match lag {
                Some(lag) if lag > LAG_BYTES => Line::warn(
                    format!("{} MB of WAL are not flushed there yet", lag >> 20),
                    "see that its disk and the network keep up with the primary",
                ),
                Some(lag) => Line::ok(format!("it replays, {lag} bytes behind")),
                None => Line::warn(
                    "it replays, but does not stream from the primary",
                    format!("see why with: mainstay explain, on {standby}"),
                ),
            },
            Err(error) => Line::fail(format!("it cannot be asked: {error:#}"), unheard(ground, standby)),
        };
        lines.push(line.of(standby));
    }
    if lines.is_empty() { vec![Line::skip("there is no standby")] } else { lines }
}

async fn is_paused(ground: &Ground, standby: &MemberId) -> Result<bool> {
    let client = ground.sql(standby).await?;
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

fn resume(standby: &MemberId) -> String {
    format!("on {standby}, as its superuser: SELECT pg_wal_replay_resume()")
}

/// What to do about a standby on which something does not arrive or cannot be asked.
pub(super) async fn remedy(ground: &Ground, standby: &MemberId) -> String {
    match is_paused(ground, standby).await {
        Ok(true) => format!("replay is paused; {}", resume(standby)),
        Ok(false) => format!("see what keeps it with: mainstay explain, on {standby}"),
        Err(_) => unheard(ground, standby),
    }
}

pub(super) fn unheard(ground: &Ground, member: &MemberId) -> String {
    match ground.role(member) {
        Role::Unknown | Role::Stopped => {
            format!(
                "{member} is not heard: see that its machine is up and Mainstay runs there (mainstay run)"
            )
        }
        Role::Rejoining | Role::Starting => {
            format!("{member} is on its way back; try again when `mainstay status` shows it as standby")
        }
        _ => format!("see {member}'s log, below its directory in log/postgresql.log"),
    }
}
