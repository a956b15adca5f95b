//! What a SQL proxy tells the member beside it of itself: asked for on the proxy's own socket, as JSON. Fields are only ever
//! added.

use serde::{Deserialize, Serialize};

/// One proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SqlStatus {
    pub pid: u32,
    /// For how long it has run.
    pub uptime_ms: u64,
    /// Whether writes wait because there is no primary that may be sent anything.
    pub holds: bool,
    /// Why, in a sentence; empty if they do not.
    pub reason: String,
    pub epoch: u64,
    /// The member that writes go to.
    pub primary: Option<String>,
    /// Those that readers go to.
    pub standbys: Vec<String>,
    /// Whether an administrator has paused all of it.
    pub paused: bool,
    pub clients: u64,
    pub max_client_conn: u64,
    pub pools: Vec<SqlPool>,
}

/// The connections of one role to one database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SqlPool {
    pub database: String,
    pub user: String,
    /// `rw` or `ro`.
    pub access: String,
    pub pool_mode: String,
    pub pool_size: u64,
    pub paused: bool,
    pub disabled: bool,
    pub clients_active: u64,
    pub clients_idle: u64,
    pub clients_waiting: u64,
    pub servers_active: u64,
    pub servers_idle: u64,
    pub servers_login: u64,
    /// How long the first in line has waited.
    pub longest_wait_us: u64,
    pub transactions: u64,
    pub queries: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub servers_lost: u64,
    /// In the last one to two minutes.
    pub transactions_per_second: f64,
    pub queries_per_second: f64,
    pub transaction: SqlLatency,
    pub query: SqlLatency,
    /// Of all transactions, also those that have waited for nothing.
    pub wait: SqlLatency,
}

/// How long something takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlLatency {
    /// Since the start.
    pub count: u64,
    pub sum_us: u64,
    /// How many took less than 1 µs, 2 µs, 4 µs and so on, and not less than the bound before.
    pub powers_of_two_us: Vec<u64>,
    /// In the last one to two minutes, within 4 %.
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
}
