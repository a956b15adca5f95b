//! What a member tells the planes beside it: where applications are to be sent, and who they may be.
//!
//! Asked for on the control socket, or from another machine with a token for it (`GET /v1/sql/routes`, `GET /v1/sql/roles`), as JSON. Fields are only ever added.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where applications go. A plane that has asked at `t` may send writes by it until `t + lease_ms`, and no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// Changes whenever anything but `lease_ms` and the lags does. Only to be compared for equality.
    pub version: u64,
    pub cluster: String,
    /// The newest epoch that the member knows.
    pub epoch: u64,
    /// The primary that lets applications in; `None` while there is none.
    pub primary: Option<Route>,
    /// For how long `primary` may be relied upon, in milliseconds; 0 for not at all.
    pub lease_ms: u64,
    /// Standbys that let readers in.
    #[serde(default)]
    pub standbys: Vec<Route>,
    /// Where the members that have a certificate for it answer HTTP: whoever asks from another machine asks the next one when one
    /// does not answer.
    #[serde(default)]
    pub apis: Vec<SocketAddr>,
    /// Where the SQL proxies of the members take clients, but for the one that asks: a request to cancel may be for a client of
    /// theirs.
    #[serde(default)]
    pub proxies: Vec<SocketAddr>,
    /// Why there is no primary, or what is the matter, in a sentence; empty if all is well.
    #[serde(default)]
    pub reason: String,
}

/// One PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub member: String,
    pub host: IpAddr,
    pub port: u16,
    /// The directory of its Unix socket, if it runs on the machine of the member that answers.
    #[serde(default)]
    pub socket_dir: Option<PathBuf>,
    /// How far it is behind, in bytes of WAL; `None` if that is not known. 0 for a primary.
    #[serde(default)]
    pub lag_bytes: Option<u64>,
    /// Whether its flush counts towards acknowledging commits.
    #[serde(default)]
    pub is_sync: bool,
}

/// Everybody who may log in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    pub roles: Vec<Role>,
}

/// A row of `pg_authid` that may log in. Whoever has `verifier` can check a password, and cannot log in with it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    /// `rolpassword`: `SCRAM-SHA-256$…`, `md5…`, or nothing.
    #[serde(default)]
    pub verifier: Option<String>,
    #[serde(default)]
    pub is_superuser: bool,
    /// `rolvaliduntil` in milliseconds since 1970; `None` for ever.
    #[serde(default)]
    pub valid_until_unix_ms: Option<i64>,
}

impl std::fmt::Debug for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Role").field("name", &self.name).finish_non_exhaustive()
    }
}
