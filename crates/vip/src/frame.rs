//! The packets by which machines on one segment tell who has an address: ARP (RFC 826, 5227) and neighbour discovery (RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERNET_ARP: [u8; 2] = [0x08, 0x06];
const ETHERNET_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet and IPv4, with the lengths of their addresses.
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const TARGET_LINK_ADDRESS: u8 = 2;
const ICMPV6: u8 = 58;
/// A router would have lowered it: so the packet is from this segment.
const HOP_LIMIT: u8 = 255;

/// Says that `address` is at `mac` now. Of ARP both forms, since some machines learn from one of them only.
pub(crate) fn announcements(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![
            arp(ARP_REQUEST, (mac, address), ([0; 6], address)),
            // Linux takes a reply for an announcement only where the target's hardware address is the sender's.
            arp(ARP_REPLY, (mac, address), (mac, address)),
        ],
        IpAddr::V6(address) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            // Override, so that what neighbours knew before does not count.
            vec![neighbour(mac, (address, all_nodes), ADVERTISEMENT, 0x20, address, Some(mac))]
        }
    }
}

/// Asks who has `address`, without claiming it.
pub(crate) fn probe(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(ARP_REQUEST, (mac, Ipv4Addr::UNSPECIFIED), ([0; 6], address)),
        IpAddr::V6(address) => {
            let [.., x, y, z] = address.octets();
            let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z];
            let way = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::from(group));
            neighbour(mac, way, SOLICITATION, 0, address, None)
        }
    }
}

/// The hardware address and the address that an ARP frame's sender says are its own. A probe claims nothing.
pub(crate) fn arp_claim(frame: &[u8]) -> Option<(Mac, IpAddr)> {
    let body = frame.get(14..42)?;
    if frame[12..14] != ETHERNET_ARP || body[..6] != ARP_KIND {
        return None;
    }
    let mac: Mac = body[8..14].try_into().ok()?;
    let address: [u8; 4] = body[14..18].try_into().ok()?;
    let address = Ipv4Addr::from(address);
    (!address.is_unspecified()).then_some((mac, IpAddr::V4(address)))
}

/// The same of an ICMPv6 message, as a raw socket has it: without the header of IPv6.
pub(crate) fn advertisement_claim(message: &[u8]) -> Option<(Mac, IpAddr)> {
    if message.len() < 24 || message[0] != ADVERTISEMENT || message[1] != 0 {
        return None;
    }
    let target: [u8; 16] = message[8..24].try_into().ok()?;
    let mut options = &message[24..];
    while let [kind, units, ..] = options {
        let length = usize::from(*units) * 8;
        if length == 0 || options.len() < length {
            return None;
        }
        if *kind == TARGET_LINK_ADDRESS && length == 8 {
            return Some((options[2..8].try_into().ok()?, IpAddr::V6(Ipv6Addr::from(target))));
        }
        options = &options[length..];
    }
    None
}

pub(crate) fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(sender.0);
    frame.extend(ETHERNET_ARP);
    frame.extend(ARP_KIND);
    frame.extend([0, operation]);
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

fn neighbour(
    mac: Mac,
    (from, to): (Ipv6Addr, Ipv6Addr),
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    link: Option<Mac>,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    if let Some(link) = link {
        message.extend([TARGET_LINK_ADDRESS, 1]);
        message.extend(link);
    }
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let sum = checksum(&from, &to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let [.., a, b, c, d] = to.octets();
    let mut frame = vec![0x33, 0x33, a, b, c, d];
    frame.extend(mac);
    frame.extend(ETHERNET_IPV6);
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, HOP_LIMIT]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// RFC 4443, section 2.3: over a pseudo-header and the message, whose own field is 0.
fn checksum(from: &Ipv6Addr, to: &Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let all = from.octets().into_iter().chain(to.octets()).chain(length).chain([0, 0, 0, ICMPV6]);
    let bytes: Vec<u8> = all.chain(message.iter().copied()).collect();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_announcement_of_arp_is_a_claim_and_a_probe_is_none() {
        let address: IpAddr = "10.0.0.9".parse().unwrap();
        for frame in announcements(address, MAC) {
            assert_eq!(frame.len(), 42);
            assert_eq!(arp_claim(&frame), Some((MAC, address)));
        }
        assert_eq!(arp_claim(&probe(address, MAC)), None);
    }

    #[test]
    fn a_neighbour_advertisement_has_a_checksum_that_adds_up() {
        let address: Ipv6Addr = "fd00::9".parse().unwrap();
        let frame = announcements(address.into(), MAC).remove(0);
        assert_eq!(frame.len(), 86);
        let message = &frame[54..];
        assert_eq!(advertisement_claim(message), Some((MAC, address.into())));
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        // The sum over a message that has its checksum is all ones.
        assert_eq!(checksum(&address, &to, message), 0);
        assert_eq!(&frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    }

    #[test]
    fn a_solicitation_goes_to_the_group_of_the_address() {
        let frame = probe("fd00::1:2345:6789".parse().unwrap(), MAC);
        assert_eq!(&frame[..6], [0x33, 0x33, 0xff, 0x45, 0x67, 0x89]);
        assert_eq!(advertisement_claim(&frame[54..]), None);
    }

    #[test]
    fn bytes_of_strangers_do_no_harm() {
        let whole = announcements("fd00::9".parse().unwrap(), MAC).remove(0);
        for end in 54..whole.len() {
            assert_eq!(advertisement_claim(&whole[54..end]), None);
        }
        let mut endless = whole[54..].to_vec();
        endless[25] = 0;
        assert_eq!(advertisement_claim(&endless), None);
        assert_eq!(arp_claim(&[0; 41]), None);
        assert_eq!(arp_claim(&[0; 42]), None);
    }
}
