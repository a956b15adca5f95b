//! What becomes of each setting of the section `[pgbouncer]`.

/// How a setting is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The same key with a number between these.
    Number(u32, u32),
    /// The same key with a time.
    Time,
    /// Looked at together with others.
    Special,
    /// There is no such key: why, and what to do instead.
    Gone(&'static str, &'static str),
}

pub(super) const NOTHING: &str = "Nothing is to be done.";
pub(super) const PEERS: &str = "a cancel finds the member's proxy that has its client by itself.";
const MOST: u32 = 1_000_000;

/// What becomes of it; `None`: PgBouncer has no such setting.
pub(super) fn fate(name: &str) -> Option<Fate> {
    limit(name).or_else(|| access(name)).or_else(|| machinery(name))
}

/// Sizes and times.
fn limit(name: &str) -> Option<Fate> {
    Some(match name {
        "max_client_conn" => Fate::Number(1, MOST),
        "default_pool_size" => Fate::Number(1, 10_000),
        "min_pool_size"
        | "reserve_pool_size"
        | "max_db_connections"
        | "max_user_connections"
        | "max_db_client_connections"
        | "max_user_client_connections" => Fate::Number(0, MOST),
        "reserve_pool_timeout"
        | "server_idle_timeout"
        | "server_connect_timeout"
        | "client_login_timeout"
        | "query_timeout"
        | "query_wait_timeout"
        | "cancel_wait_timeout"
        | "client_idle_timeout"
        | "idle_transaction_timeout"
        | "transaction_timeout" => Fate::Time,
        "listen_addr" | "listen_port" | "pool_mode" | "server_lifetime" | "auth_type" | "auth_file"
        | "client_tls_sslmode" | "client_tls_ca_file" | "server_reset_query" => Fate::Special,
        "server_login_retry" => Fate::Gone(
            "the proxy is told by its member when there is a new primary, and a pause after a failed login would only make a failover longer.",
            NOTHING,
        ),
        "suspend_timeout" => Fate::Gone("there is no SUSPEND.", NOTHING),
        "autodb_idle_timeout" => {
            Fate::Gone("a database needs no entry, and one that nobody uses costs nothing.", NOTHING)
        }
        _ => return None,
    })
}

/// Who gets in, and by what.
fn access(name: &str) -> Option<Fate> {
    Some(match name {
        "auth_user" | "auth_query" | "auth_dbname" => Fate::Gone(
            "the member beside the proxy reads roles and their passwords from PostgreSQL itself.",
            "Drop the function and the role that were made for it.",
        ),
        "auth_hba_file" => Fate::Gone(
            "the file is not read.",
            "Write its lines into `hba` of [sql_proxy]: host, hostssl and hostnossl, with scram-sha-256 or reject.",
        ),
        "auth_ident_file" => Fate::Gone(
            "names of users are not mapped.",
            "Let clients log in as the role that they are to be.",
        ),
        "auth_ldap_options" => Fate::Gone(
            "clients are authenticated by PostgreSQL's SCRAM passwords.",
            "Give those roles passwords in PostgreSQL.",
        ),
        "admin_users" | "stats_users" => Fate::Gone(
            "the console (database mainstay, or pgbouncer) is open to superusers.",
            "Use a superuser for it.",
        ),
        "client_tls_key_file" | "client_tls_cert_file" => Fate::Gone(
            "clients are shown PostgreSQL's own certificate, which Mainstay renews.",
            "Name another one by `server_certificate` and `server_key` of [tls].",
        ),
        "client_tls_protocols"
        | "client_tls_ciphers"
        | "client_tls13_ciphers"
        | "client_tls_ecdhcurve"
        | "client_tls_dheparams" => {
            Fate::Gone("TLS 1.2 and 1.3 are spoken, with modern ciphers only.", NOTHING)
        }
        name if name.starts_with("server_tls_") => Fate::Gone(
            "PostgreSQL on other machines is always reached by TLS, and its certificate is checked by the cluster's CA.",
            NOTHING,
        ),
        "ignore_startup_parameters" => {
            Fate::Gone("what a client sends at its start is set in its session, and not ignored.", NOTHING)
        }
        _ => return None,
    })
}

/// How it runs.
fn machinery(name: &str) -> Option<Fate> {
    Some(match name {
        "logfile" | "syslog" | "syslog_ident" | "syslog_facility" | "verbose" | "log_connections"
        | "log_disconnections" | "log_pooler_errors" | "log_stats" | "stats_period" => Fate::Gone(
            "the proxy's log is sql-proxy/sql-proxy.log of the member's directory, and its counters are in the console.",
            NOTHING,
        ),
        "pidfile" | "user" | "job_name" | "service_name" | "conffile" | "resolv_conf" => Fate::Gone(
            "the member starts the proxy, as PostgreSQL's user, and starts it again when it ends.",
            "Disable PgBouncer's service.",
        ),
        "unix_socket_dir" | "unix_socket_mode" | "unix_socket_group" => {
            Fate::Gone("the proxy listens on TCP alone.", "Let clients on its machine connect to 127.0.0.1.")
        }
        "server_reset_query_always" => Fate::Gone(
            "what a client has set is taken back before another one gets the server connection.",
            NOTHING,
        ),
        "server_check_query" | "server_check_delay" => Fate::Gone(
            "idle server connections are watched all the time, and one that ends is never handed out.",
            NOTHING,
        ),
        "server_fast_close" => {
            Fate::Gone("RECONNECT in the console ends each connection with its transaction.", NOTHING)
        }
        "server_round_robin" => {
            Fate::Gone("the connection used last is used next, so that the others can be closed.", NOTHING)
        }
        "track_extra_parameters" => Fate::Gone("every parameter that a client sets is followed.", NOTHING),
        "max_prepared_statements" => Fate::Gone(
            "prepared statements work in every pool mode, and a server connection keeps what was prepared on it.",
            NOTHING,
        ),
        "application_name_add_host" => Fate::Gone(
            "application_name reaches PostgreSQL as the client has set it.",
            "SHOW CLIENTS in the console tells the client's address, and SHOW SERVERS who uses which server process.",
        ),
        "disable_pqexec" => Fate::Gone(
            "queries of several statements are passed on.",
            "Revoke what a role must not do in PostgreSQL.",
        ),
        "query_wait_notify" => Fate::Gone("clients that wait are shown by SHOW POOLS only.", NOTHING),
        "peer_id" => Fate::Gone(PEERS, NOTHING),
        "so_reuseport" => Fate::Gone(
            "one proxy uses several threads.",
            "Set `workers` if half of the processors is not right.",
        ),
        name if name.starts_with("tcp_") => Fate::Gone(
            "the kernel's settings hold.",
            "Send clients away that have gone silent by client_idle_timeout.",
        ),
        name if name.starts_with("dns_") => {
            Fate::Gone("servers are reached by the addresses of [members], without DNS.", NOTHING)
        }
        "pkt_buf" | "max_packet_size" | "listen_backlog" | "sbuf_loopcnt" | "scram_iterations" => {
            Fate::Gone("it has no counterpart.", NOTHING)
        }
        _ => return None,
    })
}

/// What stands in for a way to authenticate clients; `None`: it is the one that the proxy has.
pub(super) fn auth_type(value: &str) -> Option<(&'static str, &'static str)> {
    const PASSWORDS: &str = "Give every role a SCRAM password in PostgreSQL, and the clients with it.";
    match value {
        "scram-sha-256" => None,
        "md5" | "plain" => Some((
            "passwords are SCRAM alone; a role whose password is stored as MD5 is refused.",
            "Set password_encryption = 'scram-sha-256' in PostgreSQL and give those roles their passwords again (\\password in psql).",
        )),
        "trust" | "any" => Some(("everybody is asked for a password.", PASSWORDS)),
        "cert" => Some((
            "a certificate stands beside a password, not for one: the proxy logs in to PostgreSQL with what the password proves.",
            PASSWORDS,
        )),
        "peer" => Some(("the client's user on the machine is not looked at.", PASSWORDS)),
        "hba" => Some((
            "the file of rules is not read.",
            "Write its lines into `hba` of [sql_proxy], each with scram-sha-256 or reject.",
        )),
        _ => Some(("clients are authenticated by PostgreSQL's SCRAM passwords.", PASSWORDS)),
    }
}

/// The rule that asks the same of clients' encryption; `None`: TLS is there for those who ask for it, and no more is asked.
pub(super) fn client_tls(mode: &str, is_named: bool) -> Option<String> {
    let option = match mode {
        "require" => "",
        "verify-ca" | "verify-full" if is_named => " clientcert=verify-full",
        "verify-ca" | "verify-full" => " clientcert=verify-ca",
        _ => return None,
    };
    Some(format!("hostssl all all all scram-sha-256{option}"))
}
