//! The row that is written on the primary, read on the standbys, and removed again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::{Lsn, MemberId};
use tokio_postgres::Client;

use super::ground::{CONNECT_PATIENCE, Ground, PURPOSE, unix_ms};
use crate::target::Target;

/// A commit takes milliseconds; a standby that is down is taken out of the set within seconds.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);
/// Everything of a run stands in a schema of its own, whose name says when it was made.
const SCHEMA: &str = "mainstay_verify_";
/// What an interrupted run has left is removed by a later one.
const LEFT_BEHIND_MS: i64 = 600_000;

/// A row on the primary.
pub(super) struct Written {
    pub(super) primary: MemberId,
    /// As whom it was written.
    pub(super) user: String,
    pub(super) took: Duration,
    /// The end of the WAL just after the commit.
    pub(super) lsn: Lsn,
    pub(super) table: String,
    /// Whether the role that replicates can read it: else the application must.
    pub(super) in_postgres: bool,
    schema: String,
    client: Client,
}

impl Written {
    pub(super) async fn write(ground: &Ground) -> Result<Written> {
        let primary = ground.require_primary()?.clone();
        let is_here = primary == ground.configuration.me;
        let target = if is_here {
            Target::local(&ground.configuration)?
        } else {
            Target::application(&ground.configuration, &ground.roster, &primary, ground.tls()?)?.with_context(|| {
                format!("the configuration has no [bootstrap] role with a password, so only {primary} can write: run it there")
            })?
        };
        let client = target.connect(PURPOSE, CONNECT_PATIENCE).await?;
        remove_left_behind(&client).await?;
        let schema = format!("{SCHEMA}{}", unix_ms());
        let table = format!("{schema}.written");
        let grant = if is_here {
            format!(
                "GRANT USAGE ON SCHEMA {schema} TO mainstay_replication; GRANT SELECT ON {table} TO mainstay_replication;"
            )
        } else {
            String::new()
        };
        // One transaction: a table without its row would be read as a lost row.
        let sql = format!(
            "BEGIN; CREATE SCHEMA {schema}; CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1); {grant} COMMIT"
        );
        let begun = Instant::now();
        let done = tokio::time::timeout(COMMIT_PATIENCE, client.batch_execute(&sql)).await;
        let took = begun.elapsed();
        let Ok(done) = done else {
            // The wait ends, the transaction stays: it is removed without waiting for anybody.
            let _ = target.cancel(&client).await;
            let _ = remove(&client, &schema).await;
            bail!("a commit was not acknowledged within {} s", COMMIT_PATIENCE.as_secs());
        };
        done?;
        let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        let lsn: String = row.get(0);
        let lsn = lsn.parse().ok().context("a WAL position that is not understood")?;
        let user = target.user().to_owned();
        Ok(Written { primary, user, took, lsn, table, in_postgres: is_here, schema, client })
    }

    pub(super) async fn remove(&self) -> Result<()> {
        remove(&self.client, &self.schema).await
    }
}

/// Waits for no standby: a cluster that acknowledges nothing must be left as clean as any.
async fn remove(client: &Client, schema: &str) -> Result<()> {
    let sql = format!("SET synchronous_commit = local; DROP SCHEMA IF EXISTS {schema} CASCADE");
    let removed = tokio::time::timeout(CONNECT_PATIENCE, client.batch_execute(&sql)).await;
    removed
        .with_context(|| format!("schema {schema} was not removed; run: DROP SCHEMA {schema} CASCADE"))??;
    Ok(())
}

async fn remove_left_behind(client: &Client) -> Result<()> {
    let rows = client
        .query("SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^mainstay_verify_[0-9]+$'", &[])
        .await?;
    for row in rows {
        let schema: String = row.get(0);
        let made: i64 = schema.trim_start_matches(SCHEMA).parse().unwrap_or(i64::MAX);
        if made < unix_ms() - LEFT_BEHIND_MS {
            remove(client, &schema).await?;
        }
    }
    client.batch_execute("RESET synchronous_commit").await?;
    Ok(())
}
