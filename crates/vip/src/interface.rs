//! The interface that an address belongs on.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, SockaddrStorage};
use thiserror::Error;

use crate::frame::Mac;

/// `ARPHRD_ETHER` of `if_arp.h`: also bridges, bonds, VLANs, veths and what virtual machines have.
const ETHERNET: u16 = 1;

/// An Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    /// Up, with a carrier.
    pub is_running: bool,
    pub(crate) link: LinkAddr,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FindError {
    #[error("the interfaces cannot be listed: {0}")]
    List(#[from] nix::errno::Errno),
    #[error("there is no Ethernet interface {name}; there are: {known}; correct the row's \"interface\"")]
    NotThere { name: String, known: String },
    #[error("no interface has a network that {address} belongs to; write the row's \"interface\"")]
    NoNetwork { address: IpAddr },
    #[error("{names} all have a network that {address} belongs to; write the row's \"interface\"")]
    Several { address: IpAddr, names: String },
}

/// The interface `name`, or the one with a network that `address` belongs to.
///
/// # Errors
/// There is none, or not exactly one.
pub fn find(address: IpAddr, name: Option<&str>) -> Result<Interface, FindError> {
    let mut known: Vec<Interface> = Vec::new();
    let mut fitting: Vec<String> = Vec::new();
    for row in getifaddrs()? {
        let Some(socket) = row.address else { continue };
        if let Some(link) = socket.as_link_addr() {
            if link.hatype() == ETHERNET {
                known.push(Interface {
                    name: row.interface_name,
                    index: u32::try_from(link.ifindex()).unwrap_or(0),
                    mac: link.addr().unwrap_or_default(),
                    is_running: row.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
                    link: *link,
                });
            }
        } else if let (Some(own), Some(mask)) = (ip(&socket), row.netmask.as_ref().and_then(ip))
            && own != address
            && covers(own, mask, address)
            && !fitting.contains(&row.interface_name)
        {
            fitting.push(row.interface_name);
        }
    }
    let name = match (name, fitting.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [one]) => one.clone(),
        (None, []) => return Err(FindError::NoNetwork { address }),
        (None, several) => return Err(FindError::Several { address, names: several.join(" and ") }),
    };
    let names: Vec<&str> = known.iter().map(|interface| interface.name.as_str()).collect();
    let known_names = names.join(", ");
    let found = known.into_iter().find(|interface| interface.name == name);
    found.ok_or(FindError::NotThere { name, known: known_names })
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

fn covers(own: IpAddr, mask: IpAddr, address: IpAddr) -> bool {
    match (own, mask, address) {
        (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(address)) => own & mask == address & mask,
        (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(address)) => own & mask == address & mask,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_covers_its_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(ip("10.0.0.1"), ip("255.255.255.0"), ip("10.0.0.9")));
        assert!(!covers(ip("10.0.0.1"), ip("255.255.255.0"), ip("10.0.1.9")));
        assert!(!covers(ip("10.0.0.1"), ip("255.255.255.0"), ip("fd00::9")));
        assert!(covers(ip("fd00::1"), ip("ffff:ffff:ffff:ffff::"), ip("fd00::9")));
    }
}
