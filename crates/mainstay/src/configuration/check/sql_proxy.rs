//! The proxy that pools clients' connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_member::configuration::MemberRow;
use mainstay_sql::{DatabaseSettings, HbaRule, PoolMode, Settings, UserSettings};
use toml::Spanned;

use super::{Checked, at, duration};
use crate::configuration::raw;

/// A longer one is a mistake of the unit.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
const MOST_CONNECTIONS: u32 = 1_000_000;

pub(super) fn check(raw: Option<&Spanned<raw::SqlProxy>>, own: &MemberRow) -> Checked<Option<Settings>> {
    raw.map(|table| check_table(table, Some(own), Settings::default())).transpose()
}

/// `own` is the member on this machine, if there is one.
pub(super) fn check_table(
    table: &Spanned<raw::SqlProxy>,
    own: Option<&MemberRow>,
    default: Settings,
) -> Checked<Settings> {
    let raw = table.get_ref();
    let listen = match &raw.listen {
        Some(value) => address("listen", value)?,
        None => default.listen,
    };
    let listen_readonly = match &raw.listen_readonly {
        Some(value) if value.get_ref().is_empty() => None,
        Some(value) => Some(address("listen_readonly", value)?),
        None => default.listen_readonly,
    };
    let span = |value: &Option<Spanned<String>>| value.as_ref().map_or(table.span(), Spanned::span);
    let places = [
        ("listen", Some(listen), span(&raw.listen)),
        ("listen_readonly", listen_readonly, span(&raw.listen_readonly)),
    ];
    for (key, wanted, span) in places {
        let taken = wanted.zip(own).and_then(|(wanted, own)| taken_by(own, wanted).map(|by| (wanted, by)));
        if let Some((wanted, by)) = taken {
            let message = format!("{key} \"{wanted}\" is taken by this member's {by}; name another port");
            return Err(super::Problem { span: Some(span), message });
        }
    }
    if listen_readonly.is_some_and(|readonly| overlap(listen, readonly)) {
        let span = Some(span(&raw.listen_readonly));
        let message =
            format!("listen_readonly is where listen is, {listen}; name another port, or \"\" for none");
        return Err(super::Problem { span, message });
    }
    let settings = Settings { listen, listen_readonly, ..of_table(raw, default)? };
    for (name, raw) in &raw.databases {
        if settings.databases.get(name).is_some_and(|database| !fits(&settings, database)) {
            let value = raw.min_pool_size.as_ref().or(raw.pool_size.as_ref());
            return Err(too_small(value.map_or(table.span(), Spanned::span)));
        }
    }
    if !fits(&settings, &DatabaseSettings::default()) {
        return Err(too_small(raw.min_pool_size.as_ref().map_or(table.span(), Spanned::span)));
    }
    Ok(settings)
}

/// Whether as many connections may be open as are to be kept open.
fn fits(settings: &Settings, database: &DatabaseSettings) -> bool {
    let least = database.min_pool_size.unwrap_or(settings.min_pool_size);
    least <= database.pool_size.unwrap_or(settings.default_pool_size)
}

fn too_small(span: std::ops::Range<usize>) -> super::Problem {
    let message =
        "min_pool_size is more than the pool may have; raise the pool's size, or lower it".to_owned();
    super::Problem { span: Some(span), message }
}

fn rule(line: &Spanned<String>, has_authority: bool) -> Checked<HbaRule> {
    let rule: HbaRule = line.get_ref().parse().map_err(|why| at(line, why))?;
    if rule.asks_for_certificate() && !has_authority {
        let message = "this rule asks clients for a certificate; name the CA of theirs by client_tls_ca_file";
        return Err(at(line, message.to_owned()));
    }
    Ok(rule)
}

/// The proxy reads it as PostgreSQL's user, from wherever it was started.
fn authority(value: &Spanned<PathBuf>) -> Checked<PathBuf> {
    let path = value.get_ref();
    if !path.is_absolute() {
        return Err(at(
            value,
            format!("client_tls_ca_file {path:?} is no absolute path; begin it with \"/\""),
        ));
    }
    Ok(path.clone())
}

fn of_table(raw: &raw::SqlProxy, default: Settings) -> Checked<Settings> {
    Ok(Settings {
        pool_mode: pool_mode(raw.pool_mode.as_ref())?.unwrap_or_default(),
        log_min_duration: time("log_min_duration", raw.log_min_duration.as_ref())?,
        client_tls_ca_file: raw.client_tls_ca_file.as_ref().map(authority).transpose()?,
        hba: raw
            .hba
            .iter()
            .map(|line| rule(line, raw.client_tls_ca_file.is_some()))
            .collect::<Checked<_>>()?,
        databases: each(&raw.databases, database)?,
        users: each(&raw.users, user)?,
        ..with_times(raw, with_numbers(raw, default)?)?
    })
}

fn with_numbers(raw: &raw::SqlProxy, default: Settings) -> Checked<Settings> {
    let limit = |key, value: &Option<Spanned<i64>>, default| {
        Ok(number(key, value.as_ref(), 0..=MOST_CONNECTIONS)?.unwrap_or(default))
    };
    Ok(Settings {
        default_pool_size: pool_size("default_pool_size", raw.default_pool_size.as_ref())?
            .unwrap_or(default.default_pool_size),
        max_client_conn: number("max_client_conn", raw.max_client_conn.as_ref(), 1..=MOST_CONNECTIONS)?
            .unwrap_or(default.max_client_conn),
        workers: number("workers", raw.workers.as_ref(), 0..=256)?.unwrap_or(default.workers),
        min_pool_size: limit("min_pool_size", &raw.min_pool_size, default.min_pool_size)?,
        reserve_pool_size: limit("reserve_pool_size", &raw.reserve_pool_size, default.reserve_pool_size)?,
        max_db_connections: limit("max_db_connections", &raw.max_db_connections, default.max_db_connections)?,
        max_user_connections: limit(
            "max_user_connections",
            &raw.max_user_connections,
            default.max_user_connections,
        )?,
        max_db_client_connections: limit(
            "max_db_client_connections",
            &raw.max_db_client_connections,
            default.max_db_client_connections,
        )?,
        max_user_client_connections: limit(
            "max_user_client_connections",
            &raw.max_user_client_connections,
            default.max_user_client_connections,
        )?,
        ..default
    })
}

fn with_times(raw: &raw::SqlProxy, default: Settings) -> Checked<Settings> {
    let time =
        |key, value: &Option<Spanned<String>>, default| Ok(time(key, value.as_ref())?.unwrap_or(default));
    Ok(Settings {
        reserve_pool_timeout: time(
            "reserve_pool_timeout",
            &raw.reserve_pool_timeout,
            default.reserve_pool_timeout,
        )?,
        client_login_timeout: time(
            "client_login_timeout",
            &raw.client_login_timeout,
            default.client_login_timeout,
        )?,
        server_connect_timeout: time(
            "server_connect_timeout",
            &raw.server_connect_timeout,
            default.server_connect_timeout,
        )?,
        server_login_retry: time("server_login_retry", &raw.server_login_retry, default.server_login_retry)?,
        cancel_wait_timeout: time(
            "cancel_wait_timeout",
            &raw.cancel_wait_timeout,
            default.cancel_wait_timeout,
        )?,
        query_wait_timeout: time("query_wait_timeout", &raw.query_wait_timeout, default.query_wait_timeout)?,
        server_idle_timeout: time(
            "server_idle_timeout",
            &raw.server_idle_timeout,
            default.server_idle_timeout,
        )?,
        server_lifetime: time("server_lifetime", &raw.server_lifetime, default.server_lifetime)?,
        client_tcp_user_timeout: time(
            "client_tcp_user_timeout",
            &raw.client_tcp_user_timeout,
            default.client_tcp_user_timeout,
        )?,
        client_idle_timeout: time(
            "client_idle_timeout",
            &raw.client_idle_timeout,
            default.client_idle_timeout,
        )?,
        idle_transaction_timeout: time(
            "idle_transaction_timeout",
            &raw.idle_transaction_timeout,
            default.idle_transaction_timeout,
        )?,
        transaction_timeout: time(
            "transaction_timeout",
            &raw.transaction_timeout,
            default.transaction_timeout,
        )?,
        query_timeout: time("query_timeout", &raw.query_timeout, default.query_timeout)?,
        ..default
    })
}

fn each<Raw, Settings>(
    raw: &BTreeMap<String, Raw>,
    check: impl Fn(&Raw) -> Checked<Settings>,
) -> Checked<BTreeMap<String, Settings>> {
    raw.iter().map(|(name, raw)| Ok((name.clone(), check(raw)?))).collect()
}

fn database(raw: &raw::SqlProxyDatabase) -> Checked<DatabaseSettings> {
    let limit = |key, value: &Option<Spanned<i64>>| number(key, value.as_ref(), 0..=MOST_CONNECTIONS);
    Ok(DatabaseSettings {
        pool_mode: pool_mode(raw.pool_mode.as_ref())?,
        pool_size: pool_size("pool_size", raw.pool_size.as_ref())?,
        min_pool_size: limit("min_pool_size", &raw.min_pool_size)?,
        reserve_pool_size: limit("reserve_pool_size", &raw.reserve_pool_size)?,
        server_lifetime: time("server_lifetime", raw.server_lifetime.as_ref())?,
        max_db_connections: limit("max_db_connections", &raw.max_db_connections)?,
        max_db_client_connections: limit("max_db_client_connections", &raw.max_db_client_connections)?,
    })
}

fn user(raw: &raw::SqlProxyUser) -> Checked<UserSettings> {
    let limit = |key, value: &Option<Spanned<i64>>| number(key, value.as_ref(), 0..=MOST_CONNECTIONS);
    Ok(UserSettings {
        pool_mode: pool_mode(raw.pool_mode.as_ref())?,
        pool_size: pool_size("pool_size", raw.pool_size.as_ref())?,
        reserve_pool_size: limit("reserve_pool_size", &raw.reserve_pool_size)?,
        max_user_connections: limit("max_user_connections", &raw.max_user_connections)?,
        max_user_client_connections: limit("max_user_client_connections", &raw.max_user_client_connections)?,
    })
}

fn address(key: &str, value: &Spanned<String>) -> Checked<SocketAddr> {
    let text = value.get_ref();
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        Ok(_) => Err(at(value, format!("{key} {text:?} needs a port between 1 and 65535"))),
        Err(_) => Err(at(
            value,
            format!(
                "{key} {text:?} is not an IP address with a port, such as \"0.0.0.0:6432\" or \"[::]:6432\""
            ),
        )),
    }
}

/// Which of the member's own ports cannot be listened on beside `wanted`.
fn taken_by(own: &MemberRow, wanted: SocketAddr) -> Option<&'static str> {
    let ports = [("address", Some(own.address)), ("postgres", own.postgres), ("http", Some(own.http))];
    ports.into_iter().find(|(_, port)| port.is_some_and(|port| overlap(port, wanted))).map(|(name, _)| name)
}

/// Whether a socket on one keeps the other from being listened on. `[::]` takes IPv4 too, as Linux has it.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers =
        |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port() && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
}

fn pool_mode(value: Option<&Spanned<String>>) -> Checked<Option<PoolMode>> {
    let Some(value) = value else { return Ok(None) };
    match value.get_ref().as_str() {
        "session" => Ok(Some(PoolMode::Session)),
        "transaction" => Ok(Some(PoolMode::Transaction)),
        "statement" => Ok(Some(PoolMode::Statement)),
        other => Err(at(
            value,
            format!("pool_mode {other:?} is none of \"transaction\", \"session\" and \"statement\""),
        )),
    }
}

fn pool_size(key: &str, value: Option<&Spanned<i64>>) -> Checked<Option<u32>> {
    number(key, value, 1..=10_000)
}

fn number(key: &str, value: Option<&Spanned<i64>>, may_be: RangeInclusive<u32>) -> Checked<Option<u32>> {
    let Some(value) = value else { return Ok(None) };
    match u32::try_from(*value.get_ref()).ok().filter(|number| may_be.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let (least, most) = may_be.into_inner();
            Err(at(value, format!("{key} {} is not between {least} and {most}", value.get_ref())))
        }
    }
}

fn time(key: &str, value: Option<&Spanned<String>>) -> Checked<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let length = duration(value)?;
    if length > LONGEST {
        let message =
            format!("{key} {:?} is longer than 30 days; write \"0s\" for no limit", value.get_ref());
        return Err(at(value, message));
    }
    Ok(Some(length))
}
