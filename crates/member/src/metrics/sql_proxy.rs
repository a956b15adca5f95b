//! The SQL proxy beside the member.

use std::time::Duration;

use mainstay_net::sql_status::{SqlLatency, SqlPool, SqlStatus};

use super::exposition::Exposition;

type Count = fn(&SqlPool) -> u64;

pub(super) fn render(proxy: &SqlStatus, text: &mut Exposition) {
    text.gauge("mainstay_sql_holds", "Whether writes wait in the SQL proxy because there is no primary.")
        .one(proxy.holds);
    text.gauge("mainstay_sql_clients", "Clients that are connected to it.").one(proxy.clients);
    text.gauge("mainstay_sql_clients_limit", "How many may be.").one(proxy.max_client_conn);
    states(&proxy.pools, text);
    counters(&proxy.pools, text);
    latencies(&proxy.pools, text);
}

/// The labels that tell pools apart.
fn own(pool: &SqlPool) -> [(&str, &str); 3] {
    [("database", &pool.database), ("user", &pool.user), ("access", &pool.access)]
}

fn with<'a>(pool: &'a SqlPool, more: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    [own(pool).as_slice(), &[more]].concat()
}

fn states(pools: &[SqlPool], text: &mut Exposition) {
    const CLIENTS: &[(&str, Count)] = &[
        ("active", |pool| pool.clients_active),
        ("idle", |pool| pool.clients_idle),
        ("waiting", |pool| pool.clients_waiting),
    ];
    const SERVERS: &[(&str, Count)] = &[
        ("active", |pool| pool.servers_active),
        ("idle", |pool| pool.servers_idle),
        ("login", |pool| pool.servers_login),
    ];
    const HALTED: &[(&str, Count)] =
        &[("paused", |pool| pool.paused.into()), ("disabled", |pool| pool.disabled.into())];
    let mut family = |name, help, states: &[(&str, Count)]| {
        let mut family = text.gauge(name, help);
        for pool in pools {
            for (state, count) in states {
                family.labelled(&with(pool, ("state", state)), count(pool));
            }
        }
    };
    family("mainstay_sql_pool_clients", "Clients of a pool, by what they do.", CLIENTS);
    family("mainstay_sql_pool_servers", "Server connections of a pool, by what they do.", SERVERS);
    family("mainstay_sql_pool_halted", "Whether an administrator has halted a pool.", HALTED);
    let mut sizes = text.gauge("mainstay_sql_pool_size", "How many server connections a pool may have.");
    pools.iter().for_each(|pool| sizes.labelled(&own(pool), pool.pool_size));
    let mut waits =
        text.gauge("mainstay_sql_pool_longest_wait_seconds", "How long the first in line has waited.");
    for pool in pools {
        waits.labelled_seconds(&own(pool), Duration::from_micros(pool.longest_wait_us));
    }
}

fn counters(pools: &[SqlPool], text: &mut Exposition) {
    let mut family = |name, help, count: Count| {
        let mut family = text.counter(name, help);
        pools.iter().for_each(|pool| family.labelled(&own(pool), count(pool)));
    };
    family("mainstay_sql_transactions_total", "Transactions that have ended.", |pool| pool.transactions);
    family("mainstay_sql_queries_total", "Queries that clients have sent.", |pool| pool.queries);
    family("mainstay_sql_received_bytes_total", "What clients have sent.", |pool| pool.received_bytes);
    family("mainstay_sql_sent_bytes_total", "What they were sent.", |pool| pool.sent_bytes);
    family("mainstay_sql_servers_lost_total", "Server connections that ended under a client.", |pool| {
        pool.servers_lost
    });
}

fn latencies(pools: &[SqlPool], text: &mut Exposition) {
    let mut family = |ever, recent, what: &str, of: fn(&SqlPool) -> &SqlLatency| {
        let mut family = text.histogram(ever, &format!("How long {what}, since the proxy's start."));
        for pool in pools {
            family.buckets(&own(pool), &of(pool).powers_of_two_us, of(pool).sum_us);
        }
        let mut family =
            text.gauge(recent, &format!("How long {what}: quantiles of the last one to two minutes."));
        for pool in pools {
            let latency = of(pool);
            for (quantile, us) in
                [("0.5", latency.p50_us), ("0.95", latency.p95_us), ("0.99", latency.p99_us)]
            {
                family.labelled_seconds(&with(pool, ("quantile", quantile)), Duration::from_micros(us));
            }
        }
    };
    let (ever, recent) = ("mainstay_sql_transaction_seconds", "mainstay_sql_transaction_recent_seconds");
    family(ever, recent, "transactions take", |pool| &pool.transaction);
    let (ever, recent) = ("mainstay_sql_query_seconds", "mainstay_sql_query_recent_seconds");
    family(ever, recent, "queries take", |pool| &pool.query);
    let (ever, recent) = ("mainstay_sql_wait_seconds", "mainstay_sql_wait_recent_seconds");
    family(ever, recent, "clients wait for a server connection", |pool| &pool.wait);
}
