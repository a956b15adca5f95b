//! A client that writes numbered rows, and knows of each whether it was acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::Now;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::Client;
use tokio_postgres::error::Severity;

use crate::target::Target;

const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long somebody who takes writes is looked for before and after the measurement.
const WRITABLE_PATIENCE: Duration = Duration::from_secs(15);
const STATEMENT_PATIENCE: Duration = Duration::from_secs(2);
/// Through a SQL proxy, which holds statements while there is no primary: longer than its own `query_wait_timeout`.
const PROXY_STATEMENT_PATIENCE: Duration = Duration::from_secs(35);
/// The pause between attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What it is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Postgres,
    /// An error does not end the connection, unless it says so.
    SqlProxy,
}

/// What became of the rows so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) attempted: u64,
    /// The rows that were acknowledged, by number, and when.
    pub(crate) acknowledged: BTreeMap<u64, Now>,
    /// Refused: certainly not there.
    pub(crate) failed: u64,
    /// No answer, or 08007: may be there.
    pub(crate) unknown: u64,
    /// How often it had to connect again.
    pub(crate) reconnected: u64,
}

impl Tally {
    /// The longest time without an acknowledgement since `since`, up to the newest one.
    pub(crate) fn longest_gap(&self, since: Now) -> Option<(Now, Now)> {
        let mut times: Vec<Now> = self.acknowledged.values().copied().collect();
        times.sort_unstable();
        let pairs = times.windows(2).map(|pair| (pair[0], pair[1])).filter(|(_, end)| *end >= since);
        pairs.max_by_key(|(begin, end)| end.since(*begin))
    }
}

/// How the acknowledged rows compare with what is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) rows: u64,
    pub(crate) lost: u64,
    pub(crate) twice: u64,
}

/// A writer at work; it stops when dropped.
pub(crate) struct Writer {
    id: i64,
    targets: Vec<Target>,
    table: &'static str,
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    /// Starts to write a row every `interval` into `table`, which it makes, to whichever of `targets` takes writes.
    pub(crate) async fn start(
        targets: Vec<Target>,
        through: Through,
        table: &'static str,
        interval: Duration,
    ) -> Result<Writer> {
        let client = find(&targets).await?;
        client
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {table} (writer bigint, id bigint, at timestamptz DEFAULT clock_timestamp())",
            ))
            .await?;
        let id = i64::try_from(mainstay_member::now().0).unwrap_or(i64::MAX);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let work = Work { id, targets: targets.clone(), through, tally: Arc::clone(&tally) };
        let task = tokio::spawn(work.write(table, interval, client));
        Ok(Writer { id, targets, table, tally, task })
    }

    /// Stops, and removes the table.
    pub(crate) async fn remove(self) -> Result<()> {
        self.task.abort();
        let client = find(&self.targets).await?;
        Ok(client.batch_execute(&format!("DROP TABLE IF EXISTS {}", self.table)).await?)
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares every row acknowledged so far with the table.
    pub(crate) async fn check(&self) -> Result<Checked> {
        let acknowledged = self.tally().acknowledged;
        let client = find(&self.targets).await?;
        let rows = client
            .query(
                &format!("SELECT id, count(*) FROM {} WHERE writer = $1 GROUP BY id", self.table),
                &[&self.id],
            )
            .await?;
        let mut found: BTreeMap<u64, i64> = BTreeMap::new();
        for row in rows {
            found.insert(row.get::<_, i64>(0).unsigned_abs(), row.get(1));
        }
        let lost = acknowledged.keys().filter(|id| !found.contains_key(id)).count() as u64;
        let twice = found.values().filter(|count| **count > 1).count() as u64;
        Ok(Checked { rows: acknowledged.len() as u64, lost, twice })
    }
}

struct Work {
    id: i64,
    targets: Vec<Target>,
    through: Through,
    tally: Arc<Mutex<Tally>>,
}

impl Work {
    async fn write(self, table: &'static str, interval: Duration, client: Client) {
        let sql = format!("INSERT INTO {table} (writer, id) VALUES ($1, $2)");
        let patience = match self.through {
            Through::Postgres => STATEMENT_PATIENCE,
            Through::SqlProxy => PROXY_STATEMENT_PATIENCE,
        };
        let mut client = Some(client);
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut id = 0;
        loop {
            tick.tick().await;
            let Some(connected) = &client else {
                client = Some(connect(&self.targets).await);
                self.lock().reconnected += 1;
                continue;
            };
            id += 1;
            let number = i64::try_from(id).unwrap_or(i64::MAX);
            let row: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&self.id, &number];
            let result = tokio::time::timeout(patience, connected.execute(&sql, &row)).await;
            let mut tally = self.lock();
            tally.attempted = id;
            let error = match result {
                Ok(Ok(_)) => {
                    tally.acknowledged.insert(id, mainstay_member::now());
                    continue;
                }
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let said = error.as_ref().and_then(|error| error.as_db_error());
            match said.is_some_and(|said| was_refused(said.code().code())) {
                true => tally.failed += 1,
                false => tally.unknown += 1,
            }
            let goes_on = said.is_some_and(|said| said.parsed_severity() == Some(Severity::Error));
            if self.through == Through::Postgres || !goes_on {
                client = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing was executed for certain. A server that ends the session may have committed before, and 08007 says that
/// nobody knows; 57P03 comes before anything is begun.
fn was_refused(code: &str) -> bool {
    code == "57P03" || code != "08007" && !code.starts_with("57")
}

async fn find(targets: &[Target]) -> Result<Client> {
    tokio::time::timeout(WRITABLE_PATIENCE, connect(targets)).await.context("nobody takes writes")
}

/// A connection to the first of `targets` that takes writes. Each is tried again and again on its own: one that does not
/// answer keeps no other waiting.
async fn connect(targets: &[Target]) -> Client {
    let mut attempts = JoinSet::new();
    for target in targets {
        let target = target.clone();
        attempts.spawn(async move {
            loop {
                match tokio::time::timeout(CONNECT_PATIENCE, writable(&target)).await {
                    Ok(Some(client)) => return client,
                    _ => tokio::time::sleep(RETRY_PAUSE).await,
                }
            }
        });
    }
    loop {
        match attempts.join_next().await {
            Some(Ok(client)) => return client,
            // A task ends without a client only when the program does.
            _ => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

async fn writable(target: &Target) -> Option<Client> {
    let client = target.connect("mainstay writer", CONNECT_PATIENCE).await.ok()?;
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.ok()?;
    let in_recovery: bool = row.get(0);
    (!in_recovery).then_some(client)
}

#[cfg(test)]
mod tests {
    use super::was_refused;

    #[test]
    fn only_what_was_certainly_not_done_counts_as_refused() {
        assert!(["40001", "57P03", "25006"].iter().all(|code| was_refused(code)));
        assert!(!["08007", "57P01", "57014"].iter().any(|code| was_refused(code)));
    }
}
