//! Clients and servers, one by one.

use super::super::Value;
use crate::snapshot::{Addresses, ClientSeen, ServerSeen, Snapshot};

/// What all have, and what else.
macro_rules! columns {
    ($($more:literal),*) => {
        &[
            "type",
            "user",
            "database",
            "state",
            "addr",
            "port",
            "local_addr",
            "local_port",
            "connect_time",
            "request_time",
            "wait",
            "wait_us",
            "close_needed",
            "ptr",
            "link",
            "remote_pid",
            "tls",
            "application_name",
            $($more,)*
        ]
    };
}

pub(super) const SOCKETS: &[&str] = columns!();
pub(super) const CLIENTS: &[&str] = columns!("id", "activity");
pub(super) const SERVERS: &[&str] = columns!("member", "epoch");

fn addresses(addresses: &Addresses) -> [Value; 4] {
    let ends = [addresses.remote, addresses.local];
    let [remote, local] = ends.map(|end| {
        let ip = end.map_or_else(|| "unix".to_owned(), |end| end.ip().to_string());
        [Value::from(ip), Value::from(u64::from(end.map_or(0, |end| end.port())))]
    });
    let ([ip, port], [local_ip, local_port]) = (remote, local);
    [ip, port, local_ip, local_port]
}

fn client_id(pid: i32) -> u64 {
    u64::from(pid.unsigned_abs())
}

fn client_socket(seen: &ClientSeen) -> Vec<Value> {
    let mut row = vec!["C".into(), seen.whose.user.as_str().into(), seen.whose.name().into()];
    row.push(seen.state.into());
    row.extend(addresses(&seen.addresses));
    let (link, remote_pid) = seen.link.clone().unwrap_or_default();
    row.extend([
        seen.connected.as_str().into(),
        seen.asked.as_str().into(),
        seen.wait.as_secs().into(),
        u64::from(seen.wait.subsec_micros()).into(),
        Value::Number(0),
        client_id(seen.pid).to_string().into(),
        link.into(),
        client_id(remote_pid).into(),
        if seen.is_encrypted { "TLS" } else { "" }.into(),
        seen.application_name.as_str().into(),
    ]);
    row
}

pub(super) fn client(seen: &ClientSeen) -> Vec<Value> {
    let mut row = client_socket(seen);
    row.extend([client_id(seen.pid).into(), seen.activity.into()]);
    row
}

fn server_socket(seen: &ServerSeen) -> Vec<Value> {
    let mut row = vec!["S".into(), seen.whose.user.as_str().into(), seen.whose.name().into()];
    row.push(if seen.is_active { "active" } else { "idle" }.into());
    row.extend(addresses(&seen.addresses));
    row.extend([
        seen.connected.as_str().into(),
        seen.asked.as_str().into(),
        Value::Number(0),
        Value::Number(0),
        seen.is_to_close.into(),
        seen.id.as_str().into(),
        seen.link.map_or_else(String::new, |pid| client_id(pid).to_string()).into(),
        client_id(seen.pid).into(),
        "".into(),
        "".into(),
    ]);
    row
}

pub(super) fn server(seen: &ServerSeen) -> Vec<Value> {
    let mut row = server_socket(seen);
    row.extend([seen.member.as_str().into(), seen.epoch.into()]);
    row
}

pub(super) fn sockets(seen: &Snapshot) -> Vec<Vec<Value>> {
    seen.clients.iter().map(client_socket).chain(seen.servers.iter().map(server_socket)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_begin_with_the_same_columns() {
        assert_eq!(CLIENTS[..SOCKETS.len()], *SOCKETS);
        assert_eq!(SERVERS[..SOCKETS.len()], *SOCKETS);
    }
}
