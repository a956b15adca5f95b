//! What the operator says of the proxy, checked and complete: the table `[sql_proxy]` of `mainstay.toml`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hba::HbaRule;
use crate::source::Source;

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where clients of the primary are taken.
    pub listen: SocketAddr,
    /// Where clients of the standbys are; `None`: nowhere.
    pub listen_readonly: Option<SocketAddr>,
    pub pool_mode: PoolMode,
    /// Server connections for each pair of database and role.
    pub default_pool_size: u32,
    /// As many are kept open while the pair has clients.
    pub min_pool_size: u32,
    /// As many more are opened when a client has waited for `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    pub reserve_pool_timeout: Duration,
    /// Server connections of a database, and of a role; 0: no limit. All limits are of the whole process.
    pub max_db_connections: u32,
    pub max_user_connections: u32,
    pub max_client_conn: u32,
    /// Clients of a database, and of a role; 0: no limit.
    pub max_db_client_connections: u32,
    pub max_user_client_connections: u32,
    /// For a client to say who it is, and to be greeted.
    pub client_login_timeout: Duration,
    /// For a server to be reached and logged in at.
    pub server_connect_timeout: Duration,
    /// The pause after a login that has failed.
    pub server_login_retry: Duration,
    /// A request to cancel that cannot be passed on in this time is dropped.
    pub cancel_wait_timeout: Duration,
    /// How long a client waits for a server connection, also while there is no primary.
    pub query_wait_timeout: Duration,
    /// A server connection that nobody has used for so long is closed.
    pub server_idle_timeout: Duration,
    /// One that is so old is closed when it is next free.
    pub server_lifetime: Duration,
    pub client_idle_timeout: Duration,
    /// A client whose kernel does not answer for so long is gone with its machine, or the way to it.
    #[serde(default = "client_tcp_user_timeout")]
    pub client_tcp_user_timeout: Duration,
    pub idle_transaction_timeout: Duration,
    pub transaction_timeout: Duration,
    pub query_timeout: Duration,
    /// A statement that takes longer is logged; `None`: none is.
    pub log_min_duration: Option<Duration>,
    /// Threads that serve clients; 0: see [`Settings::worker_threads`].
    pub workers: u32,
    /// The CA that clients' certificates are held to, PEM; `None`: clients are not asked for any.
    #[serde(default)]
    pub client_tls_ca_file: Option<PathBuf>,
    /// Who may come from where; the first that fits decides. None: everybody with a password.
    pub hba: Vec<HbaRule>,
    /// What is otherwise for a database, by its name; with `@ro` for its readers alone.
    pub databases: BTreeMap<String, DatabaseSettings>,
    /// What is otherwise for a role. It counts more than what is said of the database.
    pub users: BTreeMap<String, UserSettings>,
}

/// What is otherwise for one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSettings {
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<u32>,
    pub min_pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub server_lifetime: Option<Duration>,
    pub max_db_connections: Option<u32>,
    pub max_db_client_connections: Option<u32>,
}

/// What is otherwise for one role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSettings {
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub max_user_connections: Option<u32>,
    pub max_user_client_connections: Option<u32>,
}

/// What holds for one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    pub(crate) pool_mode: PoolMode,
    pub(crate) pool_size: u32,
    pub(crate) min_pool_size: u32,
    pub(crate) reserve_pool_size: u32,
    pub(crate) server_lifetime: Duration,
    pub(crate) max_db_connections: u32,
    pub(crate) max_user_connections: u32,
    pub(crate) max_db_client_connections: u32,
    pub(crate) max_user_client_connections: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        let on_port = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Settings {
            listen: on_port(6432),
            listen_readonly: Some(on_port(6433)),
            pool_mode: PoolMode::default(),
            default_pool_size: 20,
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: Duration::from_secs(5),
            max_db_connections: 0,
            max_user_connections: 0,
            max_db_client_connections: 0,
            max_user_client_connections: 0,
            client_login_timeout: Duration::from_secs(60),
            server_connect_timeout: Duration::from_secs(15),
            // PgBouncer waits for 15 s; here a login fails because a failover is under way.
            server_login_retry: Duration::from_millis(50),
            cancel_wait_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::ZERO,
            max_client_conn: 10_000,
            query_wait_timeout: Duration::from_secs(30),
            server_idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3_600),
            client_idle_timeout: Duration::ZERO,
            client_tcp_user_timeout: client_tcp_user_timeout(),
            idle_transaction_timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
            log_min_duration: None,
            workers: 0,
            client_tls_ca_file: None,
            hba: Vec::new(),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }
}

/// What a member says nothing of that is older than the setting.
fn client_tcp_user_timeout() -> Duration {
    Duration::from_secs(120)
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
        let authority = self.client_tls_ca_file.as_ref();
        let readonly = self.listen_readonly.map_or_else(String::new, |address| address.to_string());
        vec![
            ("listen", self.listen.to_string()),
            ("listen_readonly", readonly),
            ("pool_mode", self.pool_mode.name().to_owned()),
            ("default_pool_size", self.default_pool_size.to_string()),
            ("min_pool_size", self.min_pool_size.to_string()),
            ("reserve_pool_size", self.reserve_pool_size.to_string()),
            ("reserve_pool_timeout", seconds(self.reserve_pool_timeout)),
            ("max_db_connections", self.max_db_connections.to_string()),
            ("max_user_connections", self.max_user_connections.to_string()),
            ("max_db_client_connections", self.max_db_client_connections.to_string()),
            ("max_user_client_connections", self.max_user_client_connections.to_string()),
            ("client_login_timeout", seconds(self.client_login_timeout)),
            ("server_connect_timeout", seconds(self.server_connect_timeout)),
            ("server_login_retry", seconds(self.server_login_retry)),
            ("cancel_wait_timeout", seconds(self.cancel_wait_timeout)),
            ("transaction_timeout", seconds(self.transaction_timeout)),
            ("max_client_conn", self.max_client_conn.to_string()),
            ("query_wait_timeout", seconds(self.query_wait_timeout)),
            ("server_idle_timeout", seconds(self.server_idle_timeout)),
            ("server_lifetime", seconds(self.server_lifetime)),
            ("client_idle_timeout", seconds(self.client_idle_timeout)),
            ("client_tcp_user_timeout", seconds(self.client_tcp_user_timeout)),
            ("idle_transaction_timeout", seconds(self.idle_transaction_timeout)),
            ("query_timeout", seconds(self.query_timeout)),
            (
                "log_min_duration",
                self.log_min_duration.map_or_else(|| "-1".to_owned(), |limit| limit.as_millis().to_string()),
            ),
            ("workers", self.worker_threads().to_string()),
            ("client_tls_ca_file", authority.map_or_else(String::new, |path| path.display().to_string())),
        ]
    }

    /// What only a new process takes, as one text.
    pub fn identity(&self) -> String {
        format!("{} {:?} {}", self.listen, self.listen_readonly, self.workers)
    }

    /// The names of what is otherwise in `new`: what a running process takes, and what only a new one does.
    pub(crate) fn changes(&self, new: &Settings) -> (Vec<String>, Vec<String>) {
        let pairs = self.list().into_iter().zip(new.list());
        let mut names: Vec<String> =
            pairs.filter(|(old, new)| old != new).map(|((name, _), _)| name.to_owned()).collect();
        let tables = [
            ("hba", self.hba != new.hba),
            ("databases", self.databases != new.databases),
            ("users", self.users != new.users),
        ];
        names.extend(tables.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name.to_owned()));
        names.into_iter().partition(|name| !TAKES_RESTART.contains(&name.as_str()))
    }

    pub(crate) fn of_pool(&self, database: &str, is_read_only: bool, user: &str) -> PoolSettings {
        let for_readers = is_read_only.then(|| self.databases.get(&format!("{database}@ro"))).flatten();
        let of_database = for_readers.or_else(|| self.databases.get(database)).copied().unwrap_or_default();
        let of_user = self.users.get(user).copied().unwrap_or_default();
        let or = |first: Option<u32>, second: Option<u32>, all: u32| first.or(second).unwrap_or(all);
        PoolSettings {
            pool_mode: of_user.pool_mode.or(of_database.pool_mode).unwrap_or(self.pool_mode),
            pool_size: or(of_user.pool_size, of_database.pool_size, self.default_pool_size),
            min_pool_size: of_database.min_pool_size.unwrap_or(self.min_pool_size),
            reserve_pool_size: or(
                of_user.reserve_pool_size,
                of_database.reserve_pool_size,
                self.reserve_pool_size,
            ),
            server_lifetime: of_database.server_lifetime.unwrap_or(self.server_lifetime),
            max_db_connections: of_database.max_db_connections.unwrap_or(self.max_db_connections),
            max_user_connections: of_user.max_user_connections.unwrap_or(self.max_user_connections),
            max_db_client_connections: of_database
                .max_db_client_connections
                .unwrap_or(self.max_db_client_connections),
            max_user_client_connections: of_user
                .max_user_client_connections
                .unwrap_or(self.max_user_client_connections),
        }
    }

    /// How many threads serve clients: by itself half of the processors, since PostgreSQL needs the rest, and at least one.
    pub fn worker_threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.workers > 0 { self.workers as usize } else { (processors() / 2).max(1) }
    }
}

/// Where the proxy finds what it needs on its machine.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Who tells where statements go, and who may log in.
    pub source: Source,
    /// What clients are shown: PostgreSQL's own certificate and key, PEM, readable by PostgreSQL's user and renewed in place.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The cluster's CA, by which the servers' certificates are checked.
    pub authority: PathBuf,
}

/// Waits for no longer than the limit, which is none if it is zero.
pub(crate) async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Option<T> {
    if limit.is_zero() { Some(what.await) } else { tokio::time::timeout(limit, what).await.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named() {
        let old = Settings::default();
        let users = [("a".to_owned(), UserSettings::default())].into();
        let new = Settings { min_pool_size: 1, workers: 9, users, ..Settings::default() };
        let (changed, restart) = old.changes(&new);
        assert_eq!(
            (changed, restart),
            (vec!["min_pool_size".into(), "users".into()], vec!["workers".into()])
        );
        assert_ne!(old.identity(), new.identity());
        assert_eq!(old.identity(), Settings { min_pool_size: 1, ..Settings::default() }.identity());
    }

    #[test]
    fn a_role_counts_more_than_its_database() {
        let database =
            |pool_size| DatabaseSettings { pool_size: Some(pool_size), ..DatabaseSettings::default() };
        let user = UserSettings { pool_size: Some(3), ..UserSettings::default() };
        let settings = Settings {
            databases: [("app".to_owned(), database(1)), ("app@ro".to_owned(), database(2))].into(),
            users: [("batch".to_owned(), user)].into(),
            ..Settings::default()
        };
        let size = |database, is_read_only, user| settings.of_pool(database, is_read_only, user).pool_size;
        assert_eq!((size("app", false, "u"), size("app", true, "u"), size("app", true, "batch")), (1, 2, 3));
        assert_eq!((size("other", false, "u"), size("other", true, "batch")), (20, 3));
    }
}
