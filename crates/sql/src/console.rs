//! The database `mainstay`, which is none: what PgBouncer's users know from theirs.

use std::collections::BTreeMap;
use std::rc::Rc;

use mainstay_pgwire::backend::{self, Report};
use tokio::time::Instant;

use crate::pool::{Access, Pool, PoolKey};
use crate::refusal;
use crate::server::next_message;
use crate::stream::Connection;
use crate::worker::{Activity, ClientEntry, Worker};

pub(crate) const DATABASE: &str = "mainstay";
pub(crate) const DATABASE_OF_PGBOUNCER: &str = "pgbouncer";

/// Superusers only: it shows who is connected from where, and ends sessions.
pub(crate) fn admit(worker: &Worker, user: &str) -> Result<(), Report> {
    let roles = worker.shared.roles.borrow().clone();
    match roles.as_ref().and_then(|roles| roles.get(user)) {
        Some(role) if role.is_superuser => Ok(()),
        _ => Err(Report::fatal("42501", format!("role \"{user}\" may not use the SQL proxy's console"))
            .hint("Log in as a superuser.")),
    }
}

/// What drivers want to hear before they say anything.
pub(crate) fn parameters() -> BTreeMap<Box<str>, Box<str>> {
    let version = format!("{} (Mainstay)", env!("CARGO_PKG_VERSION"));
    let pairs = [
        ("server_version", version.as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ];
    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Answers simple queries until the client goes.
pub(crate) async fn serve(worker: &Rc<Worker>, client: &mut Connection) -> Option<Report> {
    loop {
        let (kind, body) = next_message(client).await.ok()?;
        let mut answer = Vec::new();
        match kind {
            b'Q' => {
                let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned();
                match execute(worker, text.trim().trim_end_matches(';')) {
                    Ok(table) => table.push(&mut answer),
                    Err(report) => report.push(&mut answer),
                }
                backend::push_ready(&mut answer, backend::IDLE);
            }
            b'X' => return None,
            b'S' => backend::push_ready(&mut answer, backend::IDLE),
            _ => return Some(refusal::protocol_violation("the console takes simple queries only")),
        }
        client.queue(&answer);
        client.flush().await.ok()?;
    }
}

struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    tag: &'static str,
}

impl Table {
    fn push(&self, out: &mut Vec<u8>) {
        if !self.columns.is_empty() {
            backend::push_text_columns(out, &self.columns);
            for row in &self.rows {
                let values: Vec<Option<&str>> = row.iter().map(|value| Some(value.as_str())).collect();
                backend::push_row(out, &values);
            }
        }
        backend::push_command_complete(out, self.tag);
    }
}

const HELP: &str = "SHOW POOLS|CLIENTS|SERVERS|STATS|DATABASES|ROUTES|CONFIG|VERSION, KILL pid, RECONNECT";

fn execute(worker: &Rc<Worker>, text: &str) -> Result<Table, Report> {
    let words: Vec<String> = text.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["SHOW", what] => show(worker, what),
        ["KILL", pid] => {
            let client = pid
                .parse::<i32>()
                .ok()
                .and_then(|pid| worker.clients().into_iter().find(|entry| entry.pid == pid));
            let client = client.ok_or_else(|| {
                Report::error("42704", format!("there is no client {pid}"))
                    .hint("SHOW CLIENTS lists them by pid.")
            })?;
            client.end(refusal::killed("an administrator has ended it"));
            Ok(Table { columns: Vec::new(), rows: Vec::new(), tag: "KILL" })
        }
        ["RECONNECT"] => {
            worker.pools().iter().for_each(|pool| pool.reconnect(worker));
            Ok(Table { columns: Vec::new(), rows: Vec::new(), tag: "RECONNECT" })
        }
        _ => Err(Report::error("42601", format!("the console does not know {text:?}")).hint(HELP)),
    }
}

fn show(worker: &Rc<Worker>, what: &str) -> Result<Table, Report> {
    let (columns, rows): (&[&'static str], Vec<Vec<String>>) = match what {
        "POOLS" => (POOLS, pool_rows(worker)),
        "CLIENTS" => (CLIENTS, client_rows(worker)),
        "SERVERS" => (SERVERS, server_rows(worker)),
        "STATS" => (STATS, stats_rows(worker)),
        "DATABASES" => (DATABASES, database_rows(worker)),
        "ROUTES" => (&["access", "member", "host", "port", "lag_bytes", "epoch"], route_rows(worker)),
        "CONFIG" => (&["key", "value"], config_rows(worker)),
        "VERSION" => (&["version"], vec![vec![format!("Mainstay {}", env!("CARGO_PKG_VERSION"))]]),
        _ => {
            let message = format!("the console does not know SHOW {what}");
            return Err(Report::error("42601", message).hint(HELP));
        }
    };
    Ok(Table { columns: columns.to_vec(), rows, tag: "SHOW" })
}

const POOLS: &[&str] = &[
    "database",
    "user",
    "access",
    "cl_active",
    "cl_idle",
    "cl_waiting",
    "sv_active",
    "sv_idle",
    "sv_login",
    "maxwait",
    "maxwait_us",
    "pool_mode",
];
const CLIENTS: &[&str] = &["pid", "user", "database", "access", "state", "addr", "seconds", "link"];
const SERVERS: &[&str] = &["user", "database", "access", "member", "remote_pid", "epoch"];
const STATS: &[&str] = &[
    "database",
    "user",
    "access",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_wait_time",
    "total_servers_lost",
];
const DATABASES: &[&str] = &["name", "host", "port", "database", "pool_size", "pool_mode"];

/// The columns that tell whose pool a row is of.
fn whose(key: &PoolKey) -> Vec<String> {
    let access = if key.access == Access::ReadOnly { "ro" } else { "rw" };
    vec![key.database.to_string(), key.user.to_string(), access.to_owned()]
}

fn mode(worker: &Worker) -> String {
    format!("{:?}", worker.settings.pool_mode).to_ascii_lowercase()
}

fn client_rows(worker: &Worker) -> Vec<Vec<String>> {
    let now = Instant::now();
    let row = |entry: &Rc<ClientEntry>| {
        let state = match entry.activity.get() {
            Activity::Idle => "idle",
            Activity::Waits => "waiting",
            Activity::Runs => "active",
            Activity::InTransaction => "idle in transaction",
        };
        let link =
            entry.backend.borrow().as_ref().map(|backend| format!("{} {}", backend.member, backend.pid));
        let address = entry.address.map(|address| address.to_string());
        let mut row = vec![entry.pid.to_string()];
        row.extend(whose(&entry.key));
        row.swap(1, 2);
        row.extend([state.to_owned(), address.unwrap_or_default()]);
        row.extend([now.duration_since(entry.since.get()).as_secs().to_string(), link.unwrap_or_default()]);
        row
    };
    worker.clients().iter().map(row).collect()
}

fn server_rows(worker: &Worker) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for pool in worker.pools() {
        for backend in pool.backends() {
            let mut row = whose(&pool.key);
            row.swap(0, 1);
            row.extend([backend.member.clone(), backend.pid.to_string(), backend.epoch.to_string()]);
            rows.push(row);
        }
    }
    rows
}

fn stats_rows(worker: &Worker) -> Vec<Vec<String>> {
    let row = |pool: &Rc<Pool>| {
        let counters = &pool.counters;
        let numbers = [
            &counters.transactions,
            &counters.queries,
            &counters.received_bytes,
            &counters.sent_bytes,
            &counters.waited_us,
            &counters.lost,
        ];
        let mut row = whose(&pool.key);
        row.extend(numbers.iter().map(|number| number.get().to_string()));
        row
    };
    worker.pools().iter().map(row).collect()
}

fn database_rows(worker: &Worker) -> Vec<Vec<String>> {
    let mut names: Vec<String> = worker.pools().iter().map(|pool| pool.key.database.to_string()).collect();
    names.dedup();
    let routes = worker.routing.routes();
    let host = routes.primary.as_ref().map(|route| route.host.to_string()).unwrap_or_default();
    let port = routes.primary.as_ref().map(|route| route.port.to_string()).unwrap_or_default();
    let row = |name: String| {
        vec![name.clone(), host.clone(), port.clone(), name, worker.pool_size().to_string(), mode(worker)]
    };
    names.into_iter().map(row).collect()
}

fn pool_rows(worker: &Worker) -> Vec<Vec<String>> {
    let (now, clients) = (Instant::now(), worker.clients());
    let row = |pool: &Rc<Pool>| {
        let (idle, held, dialling, waiting) = pool.counts();
        let of_pool = |activity: &[Activity]| {
            let are =
                |entry: &&Rc<ClientEntry>| entry.key == pool.key && activity.contains(&entry.activity.get());
            clients.iter().filter(are).count()
        };
        let active = of_pool(&[Activity::Runs, Activity::InTransaction]);
        let wait = pool.longest_wait(now);
        let mut row = whose(&pool.key);
        let counts = [active, of_pool(&[Activity::Idle]), waiting, held, idle, dialling];
        row.extend(counts.map(|number| number.to_string()));
        row.extend([wait.as_secs().to_string(), wait.subsec_micros().to_string(), mode(worker)]);
        row
    };
    worker.pools().iter().map(row).collect()
}

fn route_rows(worker: &Worker) -> Vec<Vec<String>> {
    let routes = worker.routing.routes();
    let primary = routes.primary.iter().map(|route| ("rw", route));
    let rows = primary.chain(routes.standbys.iter().map(|route| ("ro", route))).map(|(access, route)| {
        let lag = route.lag_bytes.map_or_else(String::new, |bytes| bytes.to_string());
        let (host, port) = (route.host.to_string(), route.port.to_string());
        vec![access.to_owned(), route.member.clone(), host, port, lag, routes.epoch.to_string()]
    });
    rows.collect()
}

fn config_rows(worker: &Worker) -> Vec<Vec<String>> {
    let settings = &worker.settings;
    let seconds = |duration: std::time::Duration| duration.as_secs().to_string();
    let rows = [
        ("listen", settings.listen.to_string()),
        ("default_pool_size", settings.default_pool_size.to_string()),
        ("max_client_conn", settings.max_client_conn.to_string()),
        ("query_wait_timeout", seconds(settings.query_wait_timeout)),
        ("server_idle_timeout", seconds(settings.server_idle_timeout)),
        ("server_lifetime", seconds(settings.server_lifetime)),
        ("client_idle_timeout", seconds(settings.client_idle_timeout)),
        ("idle_transaction_timeout", seconds(settings.idle_transaction_timeout)),
        ("query_timeout", seconds(settings.query_timeout)),
        ("workers", settings.worker_threads().to_string()),
    ];
    rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect()
}
