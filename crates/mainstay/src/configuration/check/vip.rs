//! `[[vip]]`: virtual addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_member::configuration::MemberRow;
use mainstay_vip::Rule;
use toml::Spanned;

use super::{Checked, Problem, at, raw};

/// The kernel counts an address's life in whole seconds, and one of these has to be left after a renewal that came late.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);
/// `IFNAMSIZ` without its terminator.
const LONGEST_INTERFACE_BYTES: usize = 15;

pub(super) fn check(
    rows: &[Spanned<raw::Vip>],
    members: &BTreeMap<MemberId, MemberRow>,
    is_witness: bool,
    lease: Duration,
) -> Checked<Vec<Rule>> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    if is_witness {
        return Err(at(first, "a witness is never the primary; take [[vip]] out of its file".to_owned()));
    }
    if lease < SHORTEST_LEASE {
        let message = "[[vip]] needs a lease of \"3s\" or longer: the kernel, which takes the address away where nobody else \
                       does, counts its life in whole seconds";
        return Err(at(first, message.to_owned()));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for row in rows {
        let rule = check_row(row.get_ref(), members)?;
        if rules.iter().any(|before| before.address == rule.address) {
            return Err(at(
                &row.get_ref().address,
                format!("vip.address {} stands twice in the file", rule.address),
            ));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn check_row(row: &raw::Vip, members: &BTreeMap<MemberId, MemberRow>) -> Checked<Rule> {
    if let Some(follows) = row.follows.as_ref().filter(|follows| follows.get_ref() != "primary") {
        let message = format!("vip.follows {:?} is not known; there is \"primary\"", follows.get_ref());
        return Err(at(follows, message));
    }
    let address = address(&row.address)?;
    let is_own = |row: &MemberRow| {
        [Some(row.address), row.postgres, Some(row.http)].iter().flatten().any(|known| known.ip() == address)
    };
    if let Some((name, _)) = members.iter().find(|(_, row)| is_own(row)) {
        let message = format!(
            "vip.address {address} is {name}'s own; a virtual address is one that no machine has by itself"
        );
        return Err(at(&row.address, message));
    }
    Ok(Rule { address, interface: row.interface.as_ref().map(interface).transpose()? })
}

fn address(value: &Spanned<String>) -> Checked<IpAddr> {
    let text = value.get_ref();
    let problem = |why: &str| -> Problem { at(value, format!("vip.address {text:?} {why}")) };
    let Ok(address) = text.parse::<IpAddr>() else {
        let host = text.split_once('/').map(|(host, _)| host).filter(|host| host.parse::<IpAddr>().is_ok());
        return Err(match host {
            Some(host) => problem(&format!(
                "has a prefix length; write {host:?}: the address alone is put on the interface"
            )),
            None => problem("is no IPv4 or IPv6 address; write for example \"10.0.0.100\""),
        });
    };
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() || is_broadcast {
        return Err(problem("is no address that clients on other machines can reach"));
    }
    Ok(address)
}

fn interface(value: &Spanned<String>) -> Checked<String> {
    let name = value.get_ref();
    let is_name = (1..=LONGEST_INTERFACE_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_name {
        return Ok(name.clone());
    }
    Err(at(value, format!("vip.interface {name:?} is no name of an interface; `ip -br link` lists them")))
}
