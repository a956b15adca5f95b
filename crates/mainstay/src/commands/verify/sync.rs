//! `sync`: who acknowledges commits is who the record says, and they do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mainstay_core::{Lsn, MemberId};
use mainstay_member::status::Role;
use mainstay_postgres::upstream::parse_application_name;
use tokio_postgres::Client;

use super::ground::Ground;
use super::line::Line;

/// A change of the set takes PostgreSQL and the record a moment.
const SETTLING: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What the primary says of one standby that streams.
struct Stream {
    sync_state: Option<String>,
    flushed: Option<Lsn>,
}

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let primary = match ground.require_primary() {
        Ok(primary) => primary.clone(),
        Err(error) => return vec![Line::skip(format!("{error:#}"))],
    };
    if ground.data_members().count() < 2 {
        return vec![Line::skip("one data member: nobody else can acknowledge commits")];
    }
    match look(ground, &primary).await {
        Ok(lines) => lines,
        Err(error) => {
            let remedy = super::replay::unheard(ground, &primary);
            vec![Line::fail(format!("the primary cannot be asked: {error:#}"), remedy).of(&primary)]
        }
    }
}

async fn look(ground: &Ground, primary: &MemberId) -> Result<Vec<Line>> {
    let client = ground.sql(primary).await?;
    let status = ground.status.as_ref().context("no member answers")?;
    let mut lines = vec![names(ground, primary, client).await?.of(primary)];
    let written = ground.written().await.as_ref().ok().filter(|written| written.primary == *primary);
    let begun = Instant::now();
    let mut seen = streams(client).await?;
    if let Some(written) = written {
        // It was acknowledged, so k of them hold it; all others are a moment behind.
        let holds = |seen: &BTreeMap<MemberId, Stream>| {
            seen.values().all(|stream| stream.flushed.is_some_and(|flushed| flushed >= written.lsn))
        };
        while !holds(&seen) && begun.elapsed() < SETTLING {
            tokio::time::sleep(LOOK_INTERVAL).await;
            seen = streams(client).await?;
        }
    }
    for standby in ground.standbys() {
        let in_record = status.members.iter().any(|row| row.name == *standby && row.sync);
        let line =
            standby_line(ground, standby, in_record, seen.get(standby), written.map(|written| written.lsn));
        lines.push(line.of(standby));
    }
    Ok(lines)
}

/// Names in PostgreSQL are those of the record.
async fn names(ground: &Ground, primary: &MemberId, client: &Client) -> Result<Line> {
    let begun = Instant::now();
    loop {
        let row = client.query_one("SELECT current_setting('synchronous_standby_names')", &[]).await?;
        let found: String = row.try_get(0)?;
        let (wanted, acknowledgements) = match wanted(ground).await {
            Ok(wanted) => wanted,
            // A busy member may answer late once.
            Err(error) if begun.elapsed() > SETTLING => return Err(error),
            Err(_) => continue,
        };
        if found == wanted && acknowledgements == 0 {
            return Ok(Line::fail(
                "the primary alone acknowledges commits: they are lost with its disk",
                "bring a standby back: `mainstay status` says which is missing, and why",
            ));
        }
        if found == wanted {
            return Ok(Line::ok(format!("PostgreSQL waits for what the record says: {found}")));
        }
        if begun.elapsed() > SETTLING {
            return Ok(Line::fail(
                format!(
                    "PostgreSQL has synchronous_standby_names = {found:?}, but the record has {wanted:?}"
                ),
                format!("see why it is not set with: mainstay explain, on {primary}"),
            ));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What the record says now, by the member that knows most.
async fn wanted(ground: &Ground) -> Result<(String, u32)> {
    let configuration = &ground.configuration;
    let fresh = crate::client::any_status(configuration).await?;
    Ok((fresh.synchronous_standby_names, fresh.acknowledgements))
}

fn standby_line(
    ground: &Ground,
    standby: &MemberId,
    in_record: bool,
    stream: Option<&Stream>,
    written: Option<Lsn>,
) -> Line {
    let Some(stream) = stream else {
        let why = if ground.role(standby) == Role::Standby {
            "it follows, but not the primary"
        } else {
            "it does not stream"
        };
        return Line::fail(why, super::replay::unheard(ground, standby));
    };
    if !in_record {
        return Line::fail(
            "it streams, but its flush does not count",
            format!(
                "a standby is counted once it has caught up; see why not with: mainstay explain, on {standby}"
            ),
        );
    }
    match (stream.sync_state.as_deref(), stream.flushed, written) {
        (None, _, _) => {
            Line::skip("the replication role may not see it in this cluster: run it on the primary")
        }
        (Some("quorum"), Some(flushed), Some(written)) if flushed < written => Line::fail(
            format!("it has not flushed a row that was written {} s ago", SETTLING.as_secs()),
            "see that its disk and the network keep up; `mainstay status` shows its lag",
        ),
        (Some("quorum"), Some(flushed), Some(_)) => {
            Line::ok(format!("in the quorum, and has flushed the row that was written (to {flushed})"))
        }
        (Some("quorum"), _, _) => Line::ok("in the quorum"),
        (Some(other), _, _) => Line::fail(
            format!("PostgreSQL counts it as {other:?}, the record as one of the quorum"),
            "see why with: mainstay explain, on the primary",
        ),
    }
}

async fn streams(client: &Client) -> Result<BTreeMap<MemberId, Stream>> {
    let sql = "SELECT application_name, sync_state, flush_lsn::text FROM pg_stat_replication
        WHERE application_name IS NOT NULL AND state IS DISTINCT FROM 'backup'";
    let mut seen = BTreeMap::new();
    for row in client.query(sql, &[]).await? {
        let (name, sync_state, flushed): (String, Option<String>, Option<String>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if let Some((member, _)) = parse_application_name(&name) {
            seen.insert(member, Stream { sync_state, flushed: flushed.and_then(|text| text.parse().ok()) });
        }
    }
    Ok(seen)
}
