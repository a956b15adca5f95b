//! What `SHOW` shows. Columns have PgBouncer's names, so that what watches it finds them; those that it does not have come last.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mainstay_pgwire::backend::Report;

use super::{HELP, Table, Value};
use crate::counters::{During, Totals};
use crate::snapshot::{Addresses, ClientSeen, PoolSeen, ServerSeen, Snapshot};
use crate::worker::Worker;

pub(super) async fn show(worker: &Rc<Worker>, what: &str) -> Result<Table, Report> {
    let seen = Snapshot::of_all(worker).await;
    let (columns, rows): (&'static [&'static str], Vec<Vec<Value>>) = match what {
        "POOLS" => (POOLS, seen.pools.iter().map(pool).collect()),
        "CLIENTS" => (CLIENTS, seen.clients.iter().map(client).collect()),
        "SERVERS" => (SERVERS, seen.servers.iter().map(server).collect()),
        "SOCKETS" | "ACTIVE_SOCKETS" => (SOCKETS, sockets(&seen)),
        "STATS" => (STATS, by_database(&seen, stats)),
        "STATS_TOTALS" => (STATS_TOTALS, by_database(&seen, |totals, _| counts(totals))),
        "STATS_AVERAGES" => (STATS_TOTALS, by_database(&seen, |_, recent| averages(recent))),
        "TOTALS" => (&["name", "value"], totals(&seen)),
        "DATABASES" => (DATABASES, databases(worker, &seen)),
        "USERS" => (USERS, users(worker, &seen)),
        "LISTS" => (&["list", "items"], lists(worker, &seen)),
        "MEM" => (&["name", "size", "used", "free", "memtotal"], memory(&seen)),
        "STATE" => (&["key", "value"], state(worker)),
        "ROUTES" => (&["access", "member", "host", "port", "lag_bytes", "epoch"], routes(worker)),
        "CONFIG" => (&["key", "value", "default", "changeable"], config(worker)),
        "VERSION" => (&["version"], vec![vec![format!("Mainstay {}", env!("CARGO_PKG_VERSION")).into()]]),
        "HELP" => (&["command"], COMMANDS.iter().map(|command| vec![(*command).into()]).collect()),
        _ => {
            let message = format!("the console does not know SHOW {what}");
            return Err(Report::error("42601", message).hint(HELP));
        }
    };
    Ok(Table { columns, rows, tag: "SHOW" })
}

const COMMANDS: &[&str] = &[
    "SHOW HELP|CONFIG|DATABASES|USERS|POOLS|CLIENTS|SERVERS|SOCKETS|ROUTES|VERSION|STATE|LISTS|MEM",
    "SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS",
    "PAUSE [database]",
    "RESUME [database]",
    "DISABLE database",
    "ENABLE database",
    "RECONNECT [database]",
    "WAIT_CLOSE [database]",
    "KILL [database]",
    "KILL_CLIENT id",
    "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
];

const POOLS: &[&str] = &[
    "database",
    "user",
    "cl_active",
    "cl_waiting",
    "cl_active_cancel_req",
    "cl_waiting_cancel_req",
    "sv_active",
    "sv_active_cancel",
    "sv_being_canceled",
    "sv_idle",
    "sv_used",
    "sv_tested",
    "sv_login",
    "maxwait",
    "maxwait_us",
    "pool_mode",
    "cl_idle",
    "pool_size",
];

fn pool(seen: &PoolSeen) -> Vec<Value> {
    let none = || Value::Number(0);
    vec![
        seen.whose.name().into(),
        seen.whose.user.as_str().into(),
        // PgBouncer counts those that ask nothing among them.
        (seen.active + seen.idle).into(),
        seen.waiting.into(),
        none(),
        none(),
        seen.servers_active.into(),
        none(),
        none(),
        seen.servers_idle.into(),
        none(),
        none(),
        seen.servers_login.into(),
        seen.longest_wait.as_secs().into(),
        u64::from(seen.longest_wait.subsec_micros()).into(),
        seen.mode.name().into(),
        seen.idle.into(),
        seen.size.into(),
    ]
}

const SOCKETS: &[&str] = &[
    "type",
    "user",
    "database",
    "state",
    "addr",
    "port",
    "local_addr",
    "local_port",
    "connect_time",
    "request_time",
    "wait",
    "wait_us",
    "close_needed",
    "ptr",
    "link",
    "remote_pid",
    "tls",
    "application_name",
];
const CLIENTS: &[&str] = &[
    "type",
    "user",
    "database",
    "state",
    "addr",
    "port",
    "local_addr",
    "local_port",
    "connect_time",
    "request_time",
    "wait",
    "wait_us",
    "close_needed",
    "ptr",
    "link",
    "remote_pid",
    "tls",
    "application_name",
    "id",
    "activity",
];
const SERVERS: &[&str] = &[
    "type",
    "user",
    "database",
    "state",
    "addr",
    "port",
    "local_addr",
    "local_port",
    "connect_time",
    "request_time",
    "wait",
    "wait_us",
    "close_needed",
    "ptr",
    "link",
    "remote_pid",
    "tls",
    "application_name",
    "member",
    "epoch",
];

fn addresses(addresses: &Addresses) -> [Value; 4] {
    let ends = [addresses.remote, addresses.local];
    let [remote, local] = ends.map(|end| {
        let ip = end.map_or_else(|| "unix".to_owned(), |end| end.ip().to_string());
        [Value::from(ip), Value::from(u64::from(end.map_or(0, |end| end.port())))]
    });
    let ([ip, port], [local_ip, local_port]) = (remote, local);
    [ip, port, local_ip, local_port]
}

fn client_id(pid: i32) -> u64 {
    u64::from(pid.unsigned_abs())
}

fn client_socket(seen: &ClientSeen) -> Vec<Value> {
    let mut row = vec!["C".into(), seen.whose.user.as_str().into(), seen.whose.name().into()];
    row.push(seen.state.into());
    row.extend(addresses(&seen.addresses));
    let (link, remote_pid) = seen.link.clone().unwrap_or_default();
    row.extend([
        seen.connected.as_str().into(),
        seen.asked.as_str().into(),
        seen.wait.as_secs().into(),
        u64::from(seen.wait.subsec_micros()).into(),
        Value::Number(0),
        client_id(seen.pid).to_string().into(),
        link.into(),
        client_id(remote_pid).into(),
        if seen.is_encrypted { "TLS" } else { "" }.into(),
        seen.application_name.as_str().into(),
    ]);
    row
}

fn client(seen: &ClientSeen) -> Vec<Value> {
    let mut row = client_socket(seen);
    row.extend([client_id(seen.pid).into(), seen.activity.into()]);
    row
}

fn server_socket(seen: &ServerSeen) -> Vec<Value> {
    let mut row = vec!["S".into(), seen.whose.user.as_str().into(), seen.whose.name().into()];
    row.push(if seen.is_active { "active" } else { "idle" }.into());
    row.extend(addresses(&seen.addresses));
    row.extend([
        seen.connected.as_str().into(),
        seen.asked.as_str().into(),
        Value::Number(0),
        Value::Number(0),
        seen.is_to_close.into(),
        seen.id.as_str().into(),
        seen.link.map_or_else(String::new, |pid| client_id(pid).to_string()).into(),
        client_id(seen.pid).into(),
        "".into(),
        "".into(),
    ]);
    row
}

fn server(seen: &ServerSeen) -> Vec<Value> {
    let mut row = server_socket(seen);
    row.extend([seen.member.as_str().into(), seen.epoch.into()]);
    row
}

fn sockets(seen: &Snapshot) -> Vec<Vec<Value>> {
    seen.clients.iter().map(client_socket).chain(seen.servers.iter().map(server_socket)).collect()
}

const STATS: &[&str] = &[
    "database",
    "total_server_assignment_count",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "total_client_parse_count",
    "total_server_parse_count",
    "total_bind_count",
    "avg_server_assignment_count",
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
    "total_servers_lost",
];
const STATS_TOTALS: &[&str] = &[
    "database",
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
];

/// In the order of the columns.
fn counts(totals: Totals) -> Vec<u64> {
    vec![
        totals.assigned,
        totals.transactions,
        totals.queries,
        totals.received_bytes,
        totals.sent_bytes,
        totals.transactions_us,
        totals.queries_us,
        totals.waited_us,
        totals.client_parses,
        totals.server_parses,
        totals.binds,
    ]
}

/// By the second, but for the times of transactions and queries: these are of one each.
fn averages(During { counted, length }: During) -> Vec<u64> {
    let micros = length.as_micros().max(1);
    let by_second = |count: u64| u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX);
    let mut averages: Vec<u64> = counts(counted).into_iter().map(by_second).collect();
    averages[5] = counted.transactions_us.checked_div(counted.transactions).unwrap_or(0);
    averages[6] = counted.queries_us.checked_div(counted.queries).unwrap_or(0);
    averages
}

fn stats(totals: Totals, recent: During) -> Vec<u64> {
    let mut row = counts(totals);
    row.extend(averages(recent));
    row.push(totals.lost);
    row
}

/// One row for each database, of all its users.
fn by_database(seen: &Snapshot, row: impl Fn(Totals, During) -> Vec<u64>) -> Vec<Vec<Value>> {
    let mut sums: BTreeMap<String, (Totals, During)> = BTreeMap::new();
    for pool in &seen.pools {
        let (totals, recent) = sums.entry(pool.whose.name()).or_default();
        *totals = totals.plus(pool.totals);
        recent.counted = recent.counted.plus(pool.recent.counted);
        recent.length = recent.length.max(pool.recent.length);
    }
    let row = |(name, (totals, recent)): (String, (Totals, During))| {
        std::iter::once(name.into()).chain(row(totals, recent).into_iter().map(Value::from)).collect()
    };
    sums.into_iter().map(row).collect()
}

fn totals(seen: &Snapshot) -> Vec<Vec<Value>> {
    let sum = seen.pools.iter().fold(Totals::default(), |sum, pool| sum.plus(pool.totals));
    let names = STATS[1..].iter().map(|name| Value::from(*name));
    names.zip(counts(sum)).map(|(name, count)| vec![name, count.into()]).collect()
}

const DATABASES: &[&str] = &[
    "name",
    "host",
    "port",
    "database",
    "force_user",
    "pool_size",
    "min_pool_size",
    "reserve_pool_size",
    "server_lifetime",
    "pool_mode",
    "max_connections",
    "current_connections",
    "max_client_connections",
    "current_client_connections",
    "paused",
    "disabled",
];

fn servers(pool: &PoolSeen) -> usize {
    pool.servers_active + pool.servers_idle + pool.servers_login
}

fn clients(pool: &PoolSeen) -> usize {
    pool.active + pool.idle + pool.waiting
}

fn databases(worker: &Worker, seen: &Snapshot) -> Vec<Vec<Value>> {
    let routes = worker.routing.routes();
    let mut pools: BTreeMap<String, Vec<&PoolSeen>> = BTreeMap::new();
    for pool in &seen.pools {
        pools.entry(pool.whose.name()).or_default().push(pool);
    }
    let row = |(name, pools): (String, Vec<&PoolSeen>)| {
        let first = pools[0];
        let standby = routes.standbys.first().filter(|_| first.whose.is_read_only);
        let route = standby.or(routes.primary.as_ref());
        vec![
            name.into(),
            route.map(|route| route.host.to_string()).into(),
            route.map_or(0, |route| u64::from(route.port)).into(),
            first.whose.database.as_str().into(),
            Value::Null,
            first.size.into(),
            Value::Number(0),
            Value::Number(0),
            worker.settings.server_lifetime.as_secs().into(),
            first.mode.name().into(),
            Value::Number(0),
            pools.iter().map(|pool| servers(pool)).sum::<usize>().into(),
            Value::Number(0),
            pools.iter().map(|pool| clients(pool)).sum::<usize>().into(),
            first.is_paused.into(),
            first.is_disabled.into(),
        ]
    };
    pools.into_iter().map(row).collect()
}

const USERS: &[&str] = &[
    "name",
    "pool_size",
    "reserve_pool_size",
    "pool_mode",
    "max_user_connections",
    "current_connections",
    "max_user_client_connections",
    "current_client_connections",
];

fn users(_: &Worker, seen: &Snapshot) -> Vec<Vec<Value>> {
    let mut users: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for pool in &seen.pools {
        let (all_servers, all_clients) = users.entry(&pool.whose.user).or_default();
        (*all_servers, *all_clients) = (*all_servers + servers(pool), *all_clients + clients(pool));
    }
    let row = |(name, (servers, clients)): (&str, (usize, usize))| {
        let (none, null) = (Value::Number(0), || Value::Null);
        vec![name.into(), null(), null(), null(), none.clone(), servers.into(), none, clients.into()]
    };
    users.into_iter().map(row).collect()
}

fn lists(worker: &Worker, seen: &Snapshot) -> Vec<Vec<Value>> {
    let distinct = |texts: Vec<String>| texts.into_iter().collect::<BTreeSet<_>>().len();
    let databases = distinct(seen.pools.iter().map(|pool| pool.whose.name()).collect());
    let users = distinct(seen.pools.iter().map(|pool| pool.whose.user.clone()).collect());
    let connected = worker.shared.clients.load(std::sync::atomic::Ordering::Relaxed);
    let rows = [
        ("databases", databases),
        ("users", users),
        ("peers", 0),
        ("pools", seen.pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", seen.clients.len()),
        ("login_clients", connected.saturating_sub(seen.clients.len())),
        ("free_servers", 0),
        ("used_servers", seen.servers.len()),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    rows.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect()
}

/// Without what buffers hold while something is under way.
fn memory(seen: &Snapshot) -> Vec<Vec<Value>> {
    let sizes = [
        ("client", size_of::<crate::session::Session>(), seen.clients.len()),
        ("server", size_of::<crate::server::Server>(), seen.servers.len()),
        ("pool", size_of::<crate::pool::Pool>(), seen.pools.len()),
    ];
    let row = |(name, size, used): (&str, usize, usize)| {
        vec![name.into(), size.into(), used.into(), Value::Number(0), (size * used).into()]
    };
    sizes.into_iter().map(row).collect()
}

fn state(worker: &Worker) -> Vec<Vec<Value>> {
    let is_paused = worker.halts.is_all_paused();
    let says = |is_so: bool| Value::from(if is_so { "yes" } else { "no" });
    let rows = [("active", says(!is_paused)), ("paused", says(is_paused)), ("suspended", says(false))];
    rows.into_iter().map(|(key, value)| vec![key.into(), value]).collect()
}

fn routes(worker: &Worker) -> Vec<Vec<Value>> {
    let routes = worker.routing.routes();
    let primary = routes.primary.iter().map(|route| ("rw", route));
    let rows = primary.chain(routes.standbys.iter().map(|route| ("ro", route))).map(|(access, route)| {
        vec![
            access.into(),
            route.member.as_str().into(),
            route.host.to_string().into(),
            u64::from(route.port).into(),
            route.lag_bytes.into(),
            routes.epoch.into(),
        ]
    });
    rows.collect()
}

fn config(worker: &Worker) -> Vec<Vec<Value>> {
    let defaults = crate::Settings::default().list();
    let row = |((key, value), (_, default)): ((&str, String), (&str, String))| {
        let is_changeable = !crate::settings::TAKES_RESTART.contains(&key);
        vec![key.into(), value.into(), default.into(), if is_changeable { "yes" } else { "no" }.into()]
    };
    worker.settings.list().into_iter().zip(defaults).map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_column_has_its_value() {
        let totals = Totals::default();
        assert_eq!(1 + stats(totals, During::default()).len(), STATS.len());
        assert_eq!(1 + counts(totals).len(), STATS_TOTALS.len());
        assert_eq!(CLIENTS[..SOCKETS.len()], *SOCKETS);
        assert_eq!(SERVERS[..SOCKETS.len()], *SOCKETS);
    }

    #[test]
    fn averages_are_by_the_second_or_of_one() {
        let counted = Totals { queries: 40, queries_us: 4_000, sent_bytes: 100, ..Totals::default() };
        let row = averages(During { counted, length: Duration::from_secs(20) });
        assert_eq!((row[2], row[4], row[6]), (2, 5, 100));
    }
}
