//! `write`, `read` and `refused`: what a careful person would try first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use tokio_postgres::Client;

use super::ground::{CONNECT_PATIENCE, Ground, PURPOSE};
use super::line::Line;
use super::row::Written;
use crate::target::Target;

/// Replication takes milliseconds; a standby that a long query holds up replays within a second.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(4);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// `read_only_sql_transaction`.
const READ_ONLY: &str = "25006";

/// Creates a table with a row on the primary.
pub(super) async fn write(ground: &Ground) -> Vec<Line> {
    let remedy = "see `mainstay status` for why, and `mainstay explain` for what is being done";
    let line = match ground.written().await {
        Ok(written) => Line::ok(format!(
            "a table and a row were written as {}, acknowledged after {} ms",
            written.user,
            written.took.as_millis()
        ))
        .of(&written.primary),
        Err(why) if why.contains("run it there") => Line::skip(why),
        Err(why) => {
            let line = Line::fail(format!("no row can be written: {why}"), remedy);
            ground.primary().map_or(line.clone(), |primary| line.of(primary))
        }
    };
    vec![line]
}

/// Reads the row on every standby.
pub(super) async fn read(ground: &Ground) -> Vec<Line> {
    let written = match ground.written().await {
        Ok(written) => written,
        Err(_) => return vec![Line::skip("no row was written: see `write`")],
    };
    let mut lines = Vec::new();
    for standby in ground.standbys() {
        let line = match read_on(ground, written, standby).await {
            Ok(()) => Line::ok("the row was read"),
            Err(error) => {
                let line = format!("the row cannot be read: {error:#}");
                Line::fail(line, super::replay::remedy(ground, standby).await)
            }
        };
        lines.push(line.of(standby));
    }
    if lines.is_empty() { vec![Line::skip("there is no standby")] } else { lines }
}

async fn read_on(ground: &Ground, written: &Written, standby: &MemberId) -> Result<()> {
    let own;
    let client = if written.in_postgres {
        ground.sql(standby).await?
    } else {
        own = application(ground, standby).await?;
        &own
    };
    let begun = Instant::now();
    let sql = format!("SELECT 1 FROM {}", written.table);
    loop {
        // The table arrives with its row.
        match client.query_opt(&sql, &[]).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(_) if begun.elapsed() < ARRIVAL_PATIENCE => {
                tokio::time::sleep(LOOK_INTERVAL).await
            }
            _ => bail!("it has not arrived within {} s", ARRIVAL_PATIENCE.as_secs()),
        }
    }
}

async fn application(ground: &Ground, standby: &MemberId) -> Result<Client> {
    let target = Target::application(&ground.configuration, &ground.roster, standby, ground.tls()?)?;
    target.context("there is no application's role")?.connect(PURPOSE, CONNECT_PATIENCE).await
}

/// Tries to write on every standby: PostgreSQL must say that it is read-only.
pub(super) async fn refused(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for standby in ground.standbys() {
        let line = match try_to_write(ground, standby).await {
            Ok(code) if code == READ_ONLY => {
                Line::ok(format!("a write was refused with SQLSTATE {READ_ONLY}"))
            }
            Ok(code) => Line::fail(
                format!("a write was answered with SQLSTATE {code}, not {READ_ONLY}: it is no standby"),
                format!("let nobody write there, and see why with: mainstay explain, on {standby}"),
            ),
            Err(error) => Line::fail(
                format!("no write can be tried: {error:#}"),
                super::replay::remedy(ground, standby).await,
            ),
        };
        lines.push(line.of(standby));
    }
    if lines.is_empty() { vec![Line::skip("there is no standby")] } else { lines }
}

/// A statement that needs no object: it is refused before rights are looked at. Should it succeed, nobody else sees it,
/// and it goes with the connection.
async fn try_to_write(ground: &Ground, standby: &MemberId) -> Result<String> {
    let client = ground.sql(standby).await?;
    match client.batch_execute("CREATE TEMPORARY TABLE mainstay_verify_refused (id int)").await {
        Ok(()) => Ok("00000".to_owned()),
        Err(error) => match error.code() {
            Some(code) => Ok(code.code().to_owned()),
            None => Err(error.into()),
        },
    }
}
