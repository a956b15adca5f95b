//! The socket by which the member beside the proxy sees into it and gives it orders: one line each, answered in JSON.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mainstay_net::sql_status::{SqlLatency, SqlPool, SqlStatus};
use mainstay_pgwire::backend::Report;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::console::command::{Command, Interruption};
use crate::counters::{Latencies, Totals};
use crate::histogram::Times;
use crate::pool::Access;
use crate::settings::Settings;
use crate::snapshot::{PoolSeen, Snapshot, Whose};
use crate::source::Source;
use crate::worker::{Shared, Worker};

/// An order is a line; a longer one is none.
const MOST_LINE_BYTES: u64 = 4 << 20;
/// A member that does not say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an order is answered with; the status is answered with itself.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(&'static str),
    Failed(String),
    /// What has changed, and what takes a new process.
    Reloaded {
        changed: Vec<String>,
        restart: Vec<String>,
    },
}

/// Answers, for ever.
pub(crate) async fn serve(socket: Option<std::os::unix::net::UnixListener>, shared: Shared) {
    let begun = Instant::now();
    let listener = socket.map(|socket| {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    });
    match listener {
        Some(Ok(listener)) => loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    tokio::spawn(async move { answer(stream, &shared, begun).await });
                }
                Err(error) => {
                    warn!(%error, "the member's question is not taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        },
        Some(Err(error)) => warn!(%error, "the member cannot ask"),
        None => {}
    }
    std::future::pending().await
}

async fn answer(stream: UnixStream, shared: &Shared, begun: Instant) -> Option<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading.take(MOST_LINE_BYTES));
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, reading.read_line(&mut line)).await.ok()?.ok()?;
    let answer = match line.trim() {
        "STATUS" => serde_json::to_vec(&status(shared, begun).await),
        line => {
            let mut rest = [0; 1];
            let interrupted = async {
                let _ = reading.read(&mut rest).await;
                Interruption::Gone
            };
            serde_json::to_vec(&order(shared, line, interrupted).await?)
        }
    };
    let written: io::Result<()> = writing.write_all(&answer.ok()?).await;
    written.ok()
}

/// `None` if whoever gave it has gone meanwhile.
async fn order(
    shared: &Shared,
    line: &str,
    interrupted: impl Future<Output = Interruption>,
) -> Option<Answer> {
    if let Some(settings) = line.strip_prefix("RELOAD ") {
        return Some(match serde_json::from_str(settings) {
            Ok(settings) => take(shared, settings).await,
            Err(error) => Answer::Failed(format!("the settings cannot be read: {error}")),
        });
    }
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let command = words.split_first().and_then(|(verb, operands)| Command::parse(verb, operands));
    let Some(command) = command else { return Some(Answer::Failed(format!("there is no order {line:?}"))) };
    Some(match command.execute(shared, interrupted).await? {
        Ok(tag) => Answer::Done(tag),
        Err(report) => Answer::Failed(in_one_line(&report)),
    })
}

/// Has the settings read again, by whoever reads them: the member on this machine, which gives them to us, or ourselves.
pub(crate) async fn reload(shared: &Shared) -> Result<(), String> {
    match &shared.source {
        Source::Member(socket) => match crate::feed::ask_reload(socket).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "the member has not read its file ({error}); `mainstay reload` on this machine says more"
            )),
        },
        Source::Cluster(cluster) => match take(shared, cluster.read_settings()?).await {
            Answer::Failed(why) => Err(why),
            _ => Ok(()),
        },
    }
}

/// Takes other settings: nobody is sent away for it.
async fn take(shared: &Shared, mut new: Settings) -> Answer {
    let Some(old) = shared.crew.ask(|worker| worker.settings()).await.into_iter().next() else {
        return Answer::Failed("the SQL proxy is ending".to_owned());
    };
    let (changed, restart) = old.changes(&new);
    (new.listen, new.listen_readonly, new.workers) = (old.listen, old.listen_readonly, old.workers);
    if let Some(encryption) = &shared.client_tls {
        encryption.set_clients(new.client_tls_ca_file.as_deref());
        if let Err(error) = encryption.renew() {
            encryption.set_clients(old.client_tls_ca_file.as_deref());
            return Answer::Failed(format!("{error}; the settings are as they were"));
        }
    }
    let new = Arc::new(new);
    shared.crew.ask(move |worker| worker.take_settings(&new)).await;
    if !changed.is_empty() || !restart.is_empty() {
        info!(?changed, ?restart, "the settings were read again");
    }
    Answer::Reloaded { changed, restart }
}

fn in_one_line(report: &Report) -> String {
    let rest = report.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("{}{rest}", report.message)
}

async fn status(shared: &Shared, begun: Instant) -> SqlStatus {
    let seen = Snapshot::of_all(&shared.crew).await;
    let mut latencies: BTreeMap<Whose, Latencies> = BTreeMap::new();
    for (whose, more) in shared.crew.ask(latencies_of).await.into_iter().flatten() {
        latencies.entry(whose).or_default().add(&more);
    }
    let pool = |seen: &PoolSeen| pool(seen, &latencies.get(&seen.whose).cloned().unwrap_or_default());
    let pools = seen.pools.iter().filter(|pool| !crate::console::is_console(&pool.whose.database));
    let mut status = shared.crew.ask(routing).await.into_iter().next().unwrap_or_default();
    status.pid = std::process::id();
    status.uptime_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    status.clients = shared.clients.load(Ordering::Relaxed) as u64;
    status.pools = pools.map(pool).collect();
    status
}

/// What a worker knows of the cluster: all know the same.
fn routing(worker: &Rc<Worker>) -> SqlStatus {
    let routes = worker.routing.routes();
    let holds = !worker.routing.is_usable(Access::ReadWrite, worker.tick());
    let reason = worker.routing.reason();
    let is_unknown = holds && reason.is_empty();
    SqlStatus {
        holds,
        reason: if is_unknown { "no member has said yet where the primary is".to_owned() } else { reason },
        epoch: routes.epoch,
        primary: routes.primary.map(|route| route.member),
        standbys: routes.standbys.into_iter().map(|route| route.member).collect(),
        paused: worker.halts.is_all_paused(),
        max_client_conn: worker.settings().max_client_conn.into(),
        ..SqlStatus::default()
    }
}

fn latencies_of(worker: &Rc<Worker>) -> Vec<(Whose, Latencies)> {
    worker.pools().iter().map(|pool| (Whose::of(&pool.key), pool.counters.latencies())).collect()
}

fn pool(seen: &PoolSeen, latencies: &Latencies) -> SqlPool {
    let Totals { transactions, queries, received_bytes, sent_bytes, lost, .. } = seen.totals;
    let lately = latencies.lately;
    let by_second = |count: u64| count as f64 / lately.length.as_secs_f64().max(0.001);
    // Those that were given a server at once have waited too, for no time.
    let at_once = lately.counted.assigned.saturating_sub(latencies.wait.recent());
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    SqlPool {
        database: seen.whose.database.clone(),
        user: seen.whose.user.clone(),
        access: if seen.whose.is_read_only { "ro" } else { "rw" }.to_owned(),
        pool_mode: seen.settings.pool_mode.name().to_owned(),
        pool_size: seen.settings.pool_size.into(),
        paused: seen.is_paused,
        disabled: seen.is_disabled,
        clients_active: seen.active as u64,
        clients_idle: seen.idle as u64,
        clients_waiting: seen.waiting as u64,
        servers_active: seen.servers_active as u64,
        servers_idle: seen.servers_idle as u64,
        servers_login: seen.servers_login as u64,
        longest_wait_us: us(seen.longest_wait),
        transactions,
        queries,
        received_bytes,
        sent_bytes,
        servers_lost: lost,
        transactions_per_second: by_second(lately.counted.transactions),
        queries_per_second: by_second(lately.counted.queries),
        transaction: latency(&latencies.transaction, seen.totals.transactions_us, 0),
        query: latency(&latencies.query, seen.totals.queries_us, 0),
        wait: latency(&latencies.wait, seen.totals.waited_us, at_once),
    }
}

fn latency(times: &Times, sum_us: u64, at_once: u64) -> SqlLatency {
    let percentile = |thousandths| times.percentile(thousandths, at_once);
    SqlLatency {
        count: times.ever.iter().sum(),
        sum_us,
        powers_of_two_us: times.ever.clone(),
        p50_us: percentile(500),
        p95_us: percentile(950),
        p99_us: percentile(990),
    }
}
