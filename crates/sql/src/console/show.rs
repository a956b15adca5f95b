//! What `SHOW` shows. Columns have PgBouncer's names, so that what watches it finds them; those that it does not have come last.

mod sockets;
mod stats;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mainstay_pgwire::backend::Report;

use super::{HELP, Table, Value};
use crate::settings::PoolMode;
use crate::snapshot::{PoolSeen, Snapshot};
use crate::worker::Worker;
use sockets::{CLIENTS, SERVERS, SOCKETS, client, server, sockets};
use stats::{STATS, STATS_TOTALS, averages, by_database, counts, stats, totals};

pub(super) async fn show(worker: &Rc<Worker>, what: &str) -> Result<Table, Report> {
    let seen = Snapshot::of_all(&worker.shared.crew).await;
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
    "RELOAD",
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
        seen.settings.pool_mode.name().into(),
        seen.idle.into(),
        u64::from(seen.settings.pool_size).into(),
    ]
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
    let (routes, all) = (worker.routing.routes(), worker.settings());
    let mut pools: BTreeMap<String, Vec<&PoolSeen>> = BTreeMap::new();
    for pool in &seen.pools {
        pools.entry(pool.whose.name()).or_default().push(pool);
    }
    let row = |(name, pools): (String, Vec<&PoolSeen>)| {
        let first = pools[0];
        let settings = all.of_pool(&first.whose.database, first.whose.is_read_only, "");
        let standby = routes.standbys.first().filter(|_| first.whose.is_read_only);
        let route = standby.or(routes.primary.as_ref());
        vec![
            name.into(),
            route.map(|route| route.host.to_string()).into(),
            route.map_or(0, |route| u64::from(route.port)).into(),
            first.whose.database.as_str().into(),
            Value::Null,
            u64::from(settings.pool_size).into(),
            u64::from(settings.min_pool_size).into(),
            u64::from(settings.reserve_pool_size).into(),
            settings.server_lifetime.as_secs().into(),
            settings.pool_mode.name().into(),
            u64::from(settings.max_db_connections).into(),
            pools.iter().map(|pool| servers(pool)).sum::<usize>().into(),
            u64::from(settings.max_db_client_connections).into(),
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

fn users(worker: &Worker, seen: &Snapshot) -> Vec<Vec<Value>> {
    let settings = worker.settings();
    let mut users: BTreeMap<&str, (usize, usize, u32, u32)> = BTreeMap::new();
    for pool in &seen.pools {
        let limits = (pool.settings.max_user_connections, pool.settings.max_user_client_connections);
        let (all_servers, all_clients, most_servers, most_clients) =
            users.entry(&pool.whose.user).or_default();
        (*all_servers, *all_clients) = (*all_servers + servers(pool), *all_clients + clients(pool));
        (*most_servers, *most_clients) = limits;
    }
    let row = |(name, (servers, clients, most_servers, most_clients)): (&str, _)| {
        let own = settings.users.get(name).copied().unwrap_or_default();
        let (servers, clients): (usize, usize) = (servers, clients);
        let number = |number: Option<u32>| Value::from(number.map(u64::from));
        vec![
            name.into(),
            number(own.pool_size),
            number(own.reserve_pool_size),
            own.pool_mode.map(PoolMode::name).into(),
            number(Some(most_servers)),
            servers.into(),
            number(Some(most_clients)),
            clients.into(),
        ]
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
    worker.settings().list().into_iter().zip(defaults).map(row).collect()
}
