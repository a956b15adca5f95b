//! What the operator says of the proxy, checked and complete: the table `[sql_proxy]` of `mainstay.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// When the client goes.
    Session,
    /// At the end of each transaction.
    #[default]
    Transaction,
    /// At the end of each statement; transactions of several are refused.
    Statement,
}

/// A length of time of zero means that there is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients of the primary are taken.
    pub listen: SocketAddr,
    /// Where clients of the standbys are; `None`: nowhere.
    pub listen_readonly: Option<SocketAddr>,
    pub pool_mode: PoolMode,
    /// Server connections for each pair of database and role.
    pub default_pool_size: u32,
    pub max_client_conn: u32,
    /// How long a client waits for a server connection, also while there is no primary.
    pub query_wait_timeout: Duration,
    /// A server connection that nobody has used for so long is closed.
    pub server_idle_timeout: Duration,
    /// One that is so old is closed when it is next free.
    pub server_lifetime: Duration,
    pub client_idle_timeout: Duration,
    pub idle_transaction_timeout: Duration,
    pub query_timeout: Duration,
    /// Threads that serve clients; 0: see [`Settings::worker_threads`].
    pub workers: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        let on_port = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Settings {
            listen: on_port(6432),
            listen_readonly: Some(on_port(6433)),
            pool_mode: PoolMode::default(),
            default_pool_size: 20,
            max_client_conn: 10_000,
            query_wait_timeout: Duration::from_secs(30),
            server_idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3_600),
            client_idle_timeout: Duration::ZERO,
            idle_transaction_timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
            workers: 0,
        }
    }
}

/// What only a new process takes.
pub(crate) const TAKES_RESTART: [&str; 3] = ["listen", "listen_readonly", "workers"];

impl PoolMode {
    pub fn name(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

impl Settings {
    /// All of it by name, times in seconds, as PgBouncer shows its own.
    pub(crate) fn list(&self) -> Vec<(&'static str, String)> {
        let seconds = |duration: Duration| {
            let whole = duration.as_secs();
            if duration.subsec_millis() == 0 { whole.to_string() } else { duration.as_secs_f64().to_string() }
        };
        let readonly = self.listen_readonly.map_or_else(String::new, |address| address.to_string());
        vec![
            ("listen", self.listen.to_string()),
            ("listen_readonly", readonly),
            ("pool_mode", self.pool_mode.name().to_owned()),
            ("default_pool_size", self.default_pool_size.to_string()),
            ("max_client_conn", self.max_client_conn.to_string()),
            ("query_wait_timeout", seconds(self.query_wait_timeout)),
            ("server_idle_timeout", seconds(self.server_idle_timeout)),
            ("server_lifetime", seconds(self.server_lifetime)),
            ("client_idle_timeout", seconds(self.client_idle_timeout)),
            ("idle_transaction_timeout", seconds(self.idle_transaction_timeout)),
            ("query_timeout", seconds(self.query_timeout)),
            ("workers", self.worker_threads().to_string()),
        ]
    }

    /// How many threads serve clients: by itself half of the processors, since PostgreSQL needs the rest, and at least one.
    pub fn worker_threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.workers > 0 { self.workers as usize } else { (processors() / 2).max(1) }
    }
}

/// Where the proxy finds what it needs on its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The member's control socket.
    pub control_socket: PathBuf,
    /// What clients are shown: PostgreSQL's own certificate and key, PEM, readable by PostgreSQL's user and renewed in place.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The cluster's CA, by which the servers' certificates are checked.
    pub authority: PathBuf,
}
