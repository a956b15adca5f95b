//! A client that writes numbered rows, and knows of each whether it was acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::Now;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::{Client, NoTls};

const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const STATEMENT_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What became of the rows so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) attempted: u64,
    /// The rows that were acknowledged, by number, and when.
    pub(super) acknowledged: BTreeMap<u64, Now>,
    /// Refused: certainly not there.
    pub(super) failed: u64,
    /// No answer: may be there.
    pub(super) unknown: u64,
}

impl Tally {
    /// The longest time without an acknowledgement since `since`, up to the newest one.
    pub(super) fn longest_gap(&self, since: Now) -> Option<(Now, Now)> {
        let mut times: Vec<Now> = self.acknowledged.values().copied().collect();
        times.sort_unstable();
        let pairs = times.windows(2).map(|pair| (pair[0], pair[1])).filter(|(_, end)| *end >= since);
        pairs.max_by_key(|(begin, end)| end.since(*begin))
    }
}

/// How the acknowledged rows compare with what is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) rows: u64,
    pub(super) lost: u64,
    pub(super) twice: u64,
}

/// A writer at work; it stops when dropped.
pub(super) struct Writer {
    id: i64,
    urls: Vec<String>,
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    /// Starts to write a row every `interval`, to whichever of `urls` takes writes.
    pub(super) async fn start(urls: Vec<String>, interval: Duration) -> Result<Writer> {
        let client = connect(&urls).await.context("nobody takes writes")?;
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS demo_rows (writer bigint, id bigint, at timestamptz DEFAULT clock_timestamp())",
            )
            .await?;
        let id = i64::try_from(mainstay_member::now().0).unwrap_or(i64::MAX);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let task = tokio::spawn(write(id, urls.clone(), interval, Arc::clone(&tally), client));
        Ok(Writer { id, urls, tally, task })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares every row acknowledged so far with the table.
    pub(super) async fn check(&self) -> Result<Checked> {
        let acknowledged = self.tally().acknowledged;
        let client = connect(&self.urls).await.context("nobody takes writes")?;
        let rows = client
            .query("SELECT id, count(*) FROM demo_rows WHERE writer = $1 GROUP BY id", &[&self.id])
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

async fn write(writer: i64, urls: Vec<String>, interval: Duration, tally: Arc<Mutex<Tally>>, client: Client) {
    let mut client = Some(client);
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut id = 0;
    loop {
        tick.tick().await;
        let Some(connected) = &client else {
            client = connect(&urls).await;
            if client.is_none() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            continue;
        };
        id += 1;
        let number = i64::try_from(id).unwrap_or(i64::MAX);
        let row: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&writer, &number];
        let insert = connected.execute("INSERT INTO demo_rows (writer, id) VALUES ($1, $2)", &row);
        let result = tokio::time::timeout(STATEMENT_PATIENCE, insert).await;
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.attempted = id;
        match result {
            Ok(Ok(_)) => {
                tally.acknowledged.insert(id, mainstay_member::now());
                continue;
            }
            Ok(Err(error))
                if error.as_db_error().is_some_and(|error| !error.code().code().starts_with("57")) =>
            {
                tally.failed += 1;
            }
            _ => tally.unknown += 1,
        }
        client = None;
    }
}

/// A connection to the first of `urls` that takes writes; all are tried at once.
async fn connect(urls: &[String]) -> Option<Client> {
    let mut attempts = JoinSet::new();
    for url in urls {
        let url = url.clone();
        attempts.spawn(
            async move { tokio::time::timeout(CONNECT_PATIENCE, writable(&url)).await.ok().flatten() },
        );
    }
    while let Some(attempt) = attempts.join_next().await {
        if let Ok(Some(client)) = attempt {
            return Some(client);
        }
    }
    None
}

async fn writable(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(connection);
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.ok()?;
    let in_recovery: bool = row.get(0);
    (!in_recovery).then_some(client)
}
