//! What a running server says of itself to psql, run as the owner of its files.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::Running;
use crate::tools::{self, Tools};

const TIMEOUT: Duration = Duration::from_secs(15);

const QUERY: &str = "SELECT json_build_object(
    'prepared', (SELECT count(*) FROM pg_prepared_xacts),
    'standbys', (SELECT coalesce(json_agg(application_name ORDER BY 1), '[]') FROM (
        SELECT application_name::text FROM pg_stat_replication) s),
    'sessions', (SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
    'role_is_taken', EXISTS (SELECT FROM pg_roles WHERE rolname = 'mainstay' AND NOT rolsuper),
    'weaker', (SELECT coalesce(json_agg(t ORDER BY 1), '[]') FROM (
        SELECT concat_ws(' in ', coalesce(rolname, 'everybody'), datname) AS t
        FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase
        WHERE EXISTS (SELECT FROM unnest(setconfig) c WHERE c ~ '^synchronous_commit=(off|local|remote_write)')) w)
    )";

/// What only the running server knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlLook {
    /// Prepared transactions.
    pub prepared: u64,
    /// Application names of those who replicate from it.
    pub standbys: Vec<String>,
    /// Sessions of applications, which the restart will end.
    pub sessions: u64,
    /// There is a role `mainstay` that is no superuser.
    pub role_is_taken: bool,
    /// For whom `synchronous_commit` is weaker than it should be.
    pub weaker: Vec<String>,
}

pub(super) async fn look(tools: &Tools, running: &Running, owner: &str) -> Result<SqlLook, String> {
    let Some(socket_dir) = &running.socket_dir else {
        return Err("it has no Unix socket".to_owned());
    };
    let mut command = tools.command("psql", Path::new("/"));
    command.args(["-X", "-A", "-t", "-q", "-w", "-d", "postgres", "-U", owner, "-h"]).arg(socket_dir);
    command.args(["-p", &running.port.to_string(), "-c", QUERY]);
    let output = tools::run("psql", command, TIMEOUT).await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).map_err(|error| error.to_string())
}
