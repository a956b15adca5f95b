//! Which parameters are fixed, which have a default of ours, and what the operator may say.

use std::collections::BTreeMap;

use super::ConfigurationError;
use crate::tools::Version;

/// A parameter whose value is fixed.
struct Fixed {
    name: &'static str,
    value: &'static str,
    reason: &'static str,
    /// The first major version that knows it.
    since: u32,
}

const fn fixed_since(name: &'static str, value: &'static str, since: u32, reason: &'static str) -> Fixed {
    Fixed { name, value, reason, since }
}

const fn fixed_value(name: &'static str, value: &'static str, reason: &'static str) -> Fixed {
    Fixed { name, value, reason, since: 0 }
}

const DURABILITY: &str = "acknowledged commits would not survive a power cut";
const FAILOVER: &str = "the bounds for failover rest on its value";
const NETWORK: &str = "lost connections must be noticed within the bounds for failover";
const REWIND: &str = "pg_rewind needs it";
const GUARD: &str = "the guard alone starts, opens and ends PostgreSQL";
const RECOVERY: &str = "Mainstay decides what a standby replays";

const FIXED: &[Fixed] = &[
    fixed_value("fsync", "on", DURABILITY),
    fixed_value("full_page_writes", "on", DURABILITY),
    fixed_value("data_sync_retry", "off", "a failed fsync must end the server: what it lost is unknown"),
    fixed_value("restart_after_crash", "off", GUARD),
    fixed_since(
        "allow_alter_system",
        "off",
        17,
        "the configuration is Mainstay's: set parameters in its file",
    ),
    fixed_value("logging_collector", "off", "the guard writes the log"),
    fixed_value("log_destination", "stderr", "the guard writes the log"),
    fixed_value("cluster_name", "", "Mainstay reads process titles, in which it would appear"),
    fixed_value("update_process_title", "on", "Mainstay reads process titles"),
    fixed_value("hot_standby", "on", "a standby is observed through sessions"),
    fixed_value("wal_log_hints", "on", REWIND),
    fixed_value("recovery_target_timeline", "latest", RECOVERY),
    fixed_value("wal_retrieve_retry_interval", "100ms", FAILOVER),
    fixed_value("wal_receiver_status_interval", "1s", FAILOVER),
    fixed_value("wal_receiver_timeout", "5s", NETWORK),
    fixed_value("wal_sender_timeout", "5s", NETWORK),
    fixed_value("tcp_keepalives_idle", "2s", NETWORK),
    fixed_value("tcp_keepalives_interval", "1s", NETWORK),
    fixed_value("tcp_keepalives_count", "3", NETWORK),
    fixed_value("client_connection_check_interval", "1s", NETWORK),
    fixed_value("max_standby_streaming_delay", "1s", FAILOVER),
    fixed_value("max_standby_archive_delay", "1s", FAILOVER),
    fixed_value("hot_standby_feedback", "on", FAILOVER),
    fixed_value("recovery_prefetch", "try", FAILOVER),
    // A crash start in 0.33 s instead of 0.89 s: the default walks the whole directory.
    fixed_value("recovery_init_sync_method", "syncfs", FAILOVER),
    fixed_since("idle_replication_slot_timeout", "0", 18, "members' slots are Mainstay's to drop"),
];

/// Parameters that Mainstay sets to values of its own, or keeps at PostgreSQL's default.
const REFUSED: &[(&str, &str)] = &[
    ("archive_cleanup_command", RECOVERY),
    ("config_file", GUARD),
    ("data_directory", "the data directory is set in Mainstay's own file"),
    ("external_pid_file", GUARD),
    ("hba_file", "lines for pg_hba.conf are set in Mainstay's own file"),
    ("ident_file", "Mainstay writes pg_ident.conf"),
    ("include", "parameters are set in Mainstay's own file"),
    ("include_dir", "parameters are set in Mainstay's own file"),
    ("include_if_exists", "parameters are set in Mainstay's own file"),
    ("listen_addresses", "the address is set in Mainstay's own file"),
    ("port", "the port is set in Mainstay's own file"),
    ("primary_conninfo", RECOVERY),
    ("primary_slot_name", RECOVERY),
    ("promote_trigger_file", GUARD),
    ("recovery_end_command", RECOVERY),
    ("recovery_min_apply_delay", RECOVERY),
    ("recovery_target", RECOVERY),
    ("recovery_target_action", RECOVERY),
    ("recovery_target_inclusive", RECOVERY),
    ("recovery_target_lsn", RECOVERY),
    ("recovery_target_name", RECOVERY),
    ("recovery_target_time", RECOVERY),
    ("recovery_target_xid", RECOVERY),
    ("restore_command", RECOVERY),
    ("ssl", "members connect to each other through TLS"),
    ("ssl_ca_file", "members connect to each other through TLS"),
    ("ssl_cert_file", "members connect to each other through TLS"),
    ("ssl_key_file", "members connect to each other through TLS"),
    ("synchronous_standby_names", "Mainstay decides who must confirm a commit"),
    ("unix_socket_directories", "Mainstay connects through its own socket"),
    ("unix_socket_group", "Mainstay connects through its own socket"),
    ("unix_socket_permissions", "Mainstay connects through its own socket"),
];

/// Our defaults where they differ from PostgreSQL's, or where initdb would have written a line.
const DEFAULTS: &[(&str, &str)] = &[
    ("checkpoint_timeout", "5min"),
    ("datestyle", "iso, mdy"),
    ("default_text_search_config", "pg_catalog.english"),
    ("lc_messages", "C"),
    ("lc_monetary", "C.UTF-8"),
    ("lc_numeric", "C.UTF-8"),
    ("lc_time", "C.UTF-8"),
    ("log_checkpoints", "on"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    ("log_timezone", "Etc/UTC"),
    ("max_connections", "100"),
    ("max_replication_slots", "20"),
    // A slot of a member that stays away must not fill the disk (and so end the primary).
    ("max_slot_wal_keep_size", "16GB"),
    ("max_wal_senders", "20"),
    ("max_wal_size", "1GB"),
    // Each segment kept for reuse is renamed and synced during a promotion.
    ("min_wal_size", "80MB"),
    ("password_encryption", "scram-sha-256"),
    ("shared_buffers", "128MB"),
    // Mainstay's own sessions must get in when applications hold all others.
    ("superuser_reserved_connections", "5"),
    ("synchronous_commit", "on"),
    ("timezone", "Etc/UTC"),
    // The slots keep what standbys need; a rewind copies all of the source's WAL, so no more of it than useful.
    ("wal_keep_size", "64MB"),
    ("wal_level", "replica"),
];

/// Parameters of the operator's that only some values are good for.
const RESTRICTED: &[(&str, &[&str], &str)] = &[
    ("wal_level", &["replica", "logical"], "replication needs `replica` or `logical`"),
    (
        "synchronous_commit",
        &["on", "remote_apply"],
        "below `on` acknowledged commits can be lost in a failover; single sessions and roles may choose less",
    ),
];

/// Parameters of the operator's that have a lowest value.
const LEAST: &[(&str, u32, &str)] = &[
    ("max_wal_senders", 10, "members need at least 10"),
    ("max_replication_slots", 10, "members need at least 10"),
    ("superuser_reserved_connections", 3, "Mainstay's own sessions need at least 3"),
];

/// Whether Mainstay sets or bounds the parameter, so that `ALTER SYSTEM` must not.
pub fn is_managed(name: &str) -> bool {
    let restricted = RESTRICTED.iter().map(|(name, _, _)| *name);
    let bounded = LEAST.iter().map(|(name, _, _)| *name);
    reason_for_protection(name).is_some()
        || restricted.chain(bounded).any(|managed| managed.eq_ignore_ascii_case(name))
}

/// Why the parameter is protected; `None` if it is not. Names are compared as PostgreSQL does, without case.
pub fn reason_for_protection(name: &str) -> Option<&'static str> {
    let same = |protected: &str| protected.eq_ignore_ascii_case(name);
    let fixed = FIXED.iter().find(|fixed| same(fixed.name)).map(|fixed| fixed.reason);
    fixed.or_else(|| REFUSED.iter().find(|(refused, _)| same(refused)).map(|(_, reason)| *reason))
}

/// Whether the parameter is a fixed one, with this value.
pub(crate) fn sets_the_same(name: &str, value: &str) -> bool {
    let boolean = |text: &str| match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => "on".to_owned(),
        "off" | "false" | "no" | "0" => "off".to_owned(),
        other => other.to_owned(),
    };
    FIXED.iter().any(|fixed| fixed.name.eq_ignore_ascii_case(name) && boolean(fixed.value) == boolean(value))
}

pub(super) fn fixed(version: Version) -> impl Iterator<Item = (&'static str, &'static str)> {
    FIXED.iter().filter(move |fixed| fixed.since <= version.major).map(|fixed| (fixed.name, fixed.value))
}

pub(super) fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    DEFAULTS.iter().copied()
}

/// Checks the operator's parameters. Returns them under lower-case names.
pub(super) fn check(
    parameters: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ConfigurationError> {
    let mut checked = BTreeMap::new();
    for (given, value) in parameters {
        let name = given.to_ascii_lowercase();
        if !is_name(&name) {
            return Err(ConfigurationError::Name { name: given.clone() });
        }
        if let Some(reason) = reason_for_protection(&name) {
            return Err(ConfigurationError::Protected { name, reason });
        }
        if value.chars().any(char::is_control) {
            return Err(ConfigurationError::ControlCharacter { name });
        }
        if let Some(reason) = reason_against(&name, value) {
            return Err(ConfigurationError::Value { name, value: value.clone(), reason });
        }
        if checked.insert(name.clone(), value.clone()).is_some() {
            return Err(ConfigurationError::Duplicate { name });
        }
    }
    Ok(checked)
}

fn reason_against(name: &str, value: &str) -> Option<&'static str> {
    let restricted = RESTRICTED.iter().find(|(restricted, _, _)| *restricted == name);
    let bad_choice =
        restricted.filter(|(_, allowed, _)| !allowed.contains(&value.to_ascii_lowercase().as_str()));
    let least = LEAST.iter().find(|(least, _, _)| *least == name);
    let too_low =
        least.filter(|(_, least, _)| value.trim().parse::<u32>().is_ok_and(|number| number < *least));
    bad_choice.map(|(_, _, reason)| *reason).or(too_low.map(|(_, _, reason)| *reason))
}

/// `name` or `extension.name`.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    let mut parts = name.split('.');
    parts.by_ref().take(2).all(is_part) && parts.next().is_none()
}
