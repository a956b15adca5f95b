//! The file as it is written: every value with the place that it stands at.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::suggest::nearest;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cluster: Spanned<String>,
    pub(super) member: Spanned<String>,
    pub(super) directory: Option<Spanned<String>>,
    pub(super) lease: Option<Spanned<String>>,
    pub(super) on_crash: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) server_names: Vec<Spanned<String>>,
    pub(super) tls: Option<Tls>,
    #[serde(default)]
    pub(super) postgresql: Postgresql,
    #[serde(default)]
    pub(super) bootstrap: Bootstrap,
    #[serde(default, rename = "database")]
    pub(super) databases: Vec<Spanned<Database>>,
    #[serde(default)]
    pub(super) hooks: Hooks,
    #[serde(default, rename = "vip")]
    pub(super) vips: Vec<Spanned<Vip>>,
    pub(super) sql_proxy: Option<Spanned<SqlProxy>>,
    #[serde(default)]
    pub(super) verify: Verify,
    #[serde(default)]
    pub(super) demo: bool,
    #[serde(default, rename = "members")]
    pub(super) members: BTreeMap<String, Spanned<MemberTable>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) authority: Option<Spanned<String>>,
    pub(super) certificate: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) server_certificate: Option<Spanned<String>>,
    pub(super) server_key: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Postgresql {
    pub(super) bin_dir: Option<Spanned<String>>,
    pub(super) data_directory: Option<Spanned<String>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) hba: Option<Vec<Spanned<String>>>,
    pub(super) replication_password_file: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) defaults: BTreeMap<String, Spanned<toml::Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bootstrap {
    pub(super) database: Option<Spanned<String>>,
    pub(super) role: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hooks {
    pub(super) on_role_change: Option<Spanned<Vec<String>>>,
    pub(super) timeout: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vip {
    pub(super) address: Spanned<String>,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) follows: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    pub(super) every: Option<Spanned<String>>,
}

/// The file of a SQL proxy that runs alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyFile {
    pub(super) sql_proxy: Spanned<SqlProxy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlProxy {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) listen_readonly: Option<Spanned<String>>,
    pub(super) pool_mode: Option<Spanned<String>>,
    pub(super) reserve_pool_timeout: Option<Spanned<String>>,
    pub(super) client_login_timeout: Option<Spanned<String>>,
    pub(super) server_connect_timeout: Option<Spanned<String>>,
    pub(super) server_login_retry: Option<Spanned<String>>,
    pub(super) cancel_wait_timeout: Option<Spanned<String>>,
    pub(super) query_wait_timeout: Option<Spanned<String>>,
    pub(super) server_idle_timeout: Option<Spanned<String>>,
    pub(super) server_lifetime: Option<Spanned<String>>,
    pub(super) client_idle_timeout: Option<Spanned<String>>,
    pub(super) client_tcp_user_timeout: Option<Spanned<String>>,
    pub(super) idle_transaction_timeout: Option<Spanned<String>>,
    pub(super) transaction_timeout: Option<Spanned<String>>,
    pub(super) query_timeout: Option<Spanned<String>>,
    pub(super) log_min_duration: Option<Spanned<String>>,
    pub(super) default_pool_size: Option<Spanned<i64>>,
    pub(super) min_pool_size: Option<Spanned<i64>>,
    pub(super) reserve_pool_size: Option<Spanned<i64>>,
    pub(super) max_db_connections: Option<Spanned<i64>>,
    pub(super) max_user_connections: Option<Spanned<i64>>,
    pub(super) max_client_conn: Option<Spanned<i64>>,
    pub(super) max_db_client_connections: Option<Spanned<i64>>,
    pub(super) max_user_client_connections: Option<Spanned<i64>>,
    pub(super) workers: Option<Spanned<i64>>,
    pub(super) client_tls_ca_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) hba: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) databases: BTreeMap<String, SqlProxyDatabase>,
    #[serde(default)]
    pub(super) users: BTreeMap<String, SqlProxyUser>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlProxyDatabase {
    pub(super) pool_mode: Option<Spanned<String>>,
    pub(super) pool_size: Option<Spanned<i64>>,
    pub(super) min_pool_size: Option<Spanned<i64>>,
    pub(super) reserve_pool_size: Option<Spanned<i64>>,
    pub(super) server_lifetime: Option<Spanned<String>>,
    pub(super) max_db_connections: Option<Spanned<i64>>,
    pub(super) max_db_client_connections: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlProxyUser {
    pub(super) pool_mode: Option<Spanned<String>>,
    pub(super) pool_size: Option<Spanned<i64>>,
    pub(super) reserve_pool_size: Option<Spanned<i64>>,
    pub(super) max_user_connections: Option<Spanned<i64>>,
    pub(super) max_user_client_connections: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    pub(super) name: Spanned<String>,
    pub(super) owner: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) extensions: Vec<Spanned<String>>,
    pub(super) encoding: Option<Spanned<String>>,
    pub(super) locale: Option<Spanned<String>>,
    pub(super) networks: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) roles: Vec<DatabaseRole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DatabaseRole {
    pub(super) name: Spanned<String>,
    pub(super) access: Spanned<String>,
    pub(super) password_file: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberTable {
    pub(super) kind: Option<Spanned<String>>,
    pub(super) address: Spanned<String>,
    pub(super) postgres: Option<Spanned<String>>,
    pub(super) http: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) priority: Option<u32>,
}

/// Reads the syntax. An error has its line and says, for an unknown key, which known one is nearest.
pub(super) fn parse(text: &str) -> Result<File, (Option<usize>, String)> {
    parse_as(text)
}

pub(super) fn parse_proxy_alone(text: &str) -> Result<ProxyFile, (Option<usize>, String)> {
    parse_as(text)
}

fn parse_as<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, (Option<usize>, String)> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        (line, remedy(error.message()))
    })
}

/// serde says "unknown field `x`, expected one of `a`, `b`"; people want the nearest of these.
fn remedy(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), quoted.split_first()) {
        (true, Some((unknown, known))) => match nearest(unknown, known) {
            Some(near) => format!("unknown key \"{unknown}\"; did you mean \"{near}\"?"),
            None => format!("unknown key \"{unknown}\"; known here: {}", known.join(", ")),
        },
        _ => message.lines().next().unwrap_or(message).replace('`', "\""),
    }
}
