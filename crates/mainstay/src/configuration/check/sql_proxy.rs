//! The proxy that pools clients' connections.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use mainstay_member::configuration::MemberRow;
use mainstay_sql::{PoolMode, Settings};
use toml::Spanned;

use super::{Checked, at, duration};
use crate::configuration::raw;

/// A longer one is a mistake of the unit.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn check(raw: Option<&Spanned<raw::SqlProxy>>, own: &MemberRow) -> Checked<Option<Settings>> {
    let Some(table) = raw else { return Ok(None) };
    let raw = table.get_ref();
    let default = Settings::default();
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
        let taken = wanted.and_then(|wanted| taken_by(own, wanted).map(|by| (wanted, by)));
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
    let time = |key, value: &Option<Spanned<String>>, default| time(key, value.as_ref(), default);
    Ok(Some(Settings {
        listen,
        listen_readonly,
        pool_mode: pool_mode(raw.pool_mode.as_ref())?,
        default_pool_size: number(
            "default_pool_size",
            raw.default_pool_size.as_ref(),
            1..=10_000,
            default.default_pool_size,
        )?,
        max_client_conn: number(
            "max_client_conn",
            raw.max_client_conn.as_ref(),
            1..=1_000_000,
            default.max_client_conn,
        )?,
        query_wait_timeout: time("query_wait_timeout", &raw.query_wait_timeout, default.query_wait_timeout)?,
        server_idle_timeout: time(
            "server_idle_timeout",
            &raw.server_idle_timeout,
            default.server_idle_timeout,
        )?,
        server_lifetime: time("server_lifetime", &raw.server_lifetime, default.server_lifetime)?,
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
        query_timeout: time("query_timeout", &raw.query_timeout, default.query_timeout)?,
        workers: number("workers", raw.workers.as_ref(), 0..=256, default.workers)?,
    }))
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

fn pool_mode(value: Option<&Spanned<String>>) -> Checked<PoolMode> {
    let Some(value) = value else { return Ok(PoolMode::default()) };
    match value.get_ref().as_str() {
        "session" => Ok(PoolMode::Session),
        "transaction" => Ok(PoolMode::Transaction),
        "statement" => Ok(PoolMode::Statement),
        other => Err(at(
            value,
            format!("pool_mode {other:?} is none of \"transaction\", \"session\" and \"statement\""),
        )),
    }
}

fn number(
    key: &str,
    value: Option<&Spanned<i64>>,
    may_be: RangeInclusive<u32>,
    default: u32,
) -> Checked<u32> {
    let Some(value) = value else { return Ok(default) };
    match u32::try_from(*value.get_ref()).ok().filter(|number| may_be.contains(number)) {
        Some(number) => Ok(number),
        None => {
            let (least, most) = may_be.into_inner();
            Err(at(value, format!("{key} {} is not between {least} and {most}", value.get_ref())))
        }
    }
}

fn time(key: &str, value: Option<&Spanned<String>>, default: Duration) -> Checked<Duration> {
    let Some(value) = value else { return Ok(default) };
    let length = duration(value)?;
    if length > LONGEST {
        let message =
            format!("{key} {:?} is longer than 30 days; write \"0s\" for no limit", value.get_ref());
        return Err(at(value, message));
    }
    Ok(length)
}
