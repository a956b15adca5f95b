//! `slots`: every data member keeps one for each other, none is lost, and those of the primary move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mainstay_core::{Lsn, MemberId};
use mainstay_postgres::upstream::slot_name;
use tokio_postgres::Client;

use super::ground::Ground;
use super::line::Line;

/// A walreceiver reports what it has flushed at once, and at least every second.
const MOVING: Duration = Duration::from_secs(4);
/// The member makes a slot that is missing anew within two seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

struct Slot {
    is_active: bool,
    restart: Option<Lsn>,
    wal_status: Option<String>,
}

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for keeper in ground.data_members() {
        match look(ground, keeper).await {
            Ok(found) => lines.extend(found.into_iter().map(|line| line.of(keeper))),
            Err(error) => {
                let remedy = super::replay::unheard(ground, keeper);
                lines
                    .push(Line::fail(format!("its slots cannot be looked at: {error:#}"), remedy).of(keeper));
            }
        }
    }
    if ground.data_members().count() < 2 { vec![Line::skip("one data member needs no slots")] } else { lines }
}

async fn look(ground: &Ground, keeper: &MemberId) -> Result<Vec<Line>> {
    let client = ground.sql(keeper).await?;
    let is_primary = ground.primary() == Some(keeper);
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text";
    let row = client.query_one(sql, &[]).await?;
    let position: String = row.try_get(0)?;
    let position: Lsn = position.parse().ok().context("a WAL position that is not understood")?;
    let mut good = Vec::new();
    let mut lines = Vec::new();
    for member in ground.data_members().filter(|member| *member != keeper) {
        match verdict(ground, client, member, is_primary.then_some(position)).await? {
            None => good.push(slot_name(member)),
            Some(line) => lines.push(line),
        }
    }
    if !good.is_empty() {
        let what = if is_primary { "in use, and move with the WAL" } else { "kept for a takeover" };
        lines.insert(0, Line::ok(format!("{}: {what}", good.join(", "))));
    }
    Ok(lines)
}

/// What is wrong with the slot for `member`, if anything. On the primary it must reach `until`.
async fn verdict(
    ground: &Ground,
    client: &Client,
    member: &MemberId,
    until: Option<Lsn>,
) -> Result<Option<Line>> {
    let name = slot_name(member);
    let begun = Instant::now();
    loop {
        let slot = find(client, &name).await?;
        let is_late = begun.elapsed() > MOVING;
        match (&slot, until) {
            (Some(slot), _) if slot.wal_status.as_deref() == Some("lost") => {
                return Ok(Some(Line::fail(
                    format!("slot {name} has lost WAL that {member} needs (max_slot_wal_keep_size)"),
                    format!(
                        "{member} is cloned anew when it comes back: start it, and see that its disk has room"
                    ),
                )));
            }
            (Some(slot), Some(until)) if slot.is_active && slot.restart >= Some(until) => return Ok(None),
            (Some(slot), None) if slot.restart.is_some() => return Ok(None),
            (Some(slot), Some(_)) if is_late && !slot.is_active => {
                return Ok(Some(Line::fail(
                    format!("slot {name} is not in use: {member} does not stream"),
                    super::replay::unheard(ground, member),
                )));
            }
            (Some(_), _) if is_late => {
                return Ok(Some(Line::fail(
                    format!("slot {name} does not move: it keeps all WAL since"),
                    format!(
                        "see that {member}'s disk and the network keep up; `mainstay status` shows its lag"
                    ),
                )));
            }
            (None, _) if is_late => {
                return Ok(Some(Line::fail(
                    format!("slot {name} is missing, and its member does not make it anew"),
                    "see why with: mainstay explain, and the member's log",
                )));
            }
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

async fn find(client: &Client, name: &str) -> Result<Option<Slot>> {
    let sql = "SELECT active, restart_lsn::text, wal_status FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
    let restart: Option<String> = row.try_get(1)?;
    Ok(Some(Slot {
        is_active: row.try_get(0)?,
        restart: restart.and_then(|text| text.parse().ok()),
        wal_status: row.try_get(2)?,
    }))
}
