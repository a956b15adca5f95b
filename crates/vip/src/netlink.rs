//! Addresses of interfaces, by the kernel's routing socket (`rtnetlink(7)`).
//!
//! Three messages are all that is needed of it: so they are written here, and no library for the whole is linked into a
//! process that holds privileges.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `IFA_PROTO` of the addresses that we add, so that they are known again after a crash: a number that no other program of
/// iproute2's list uses. Since Linux 5.18.
pub const TAG: u8 = 77;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Of `struct nlmsghdr`, `struct ifaddrmsg` and `struct rtattr`.
const HEADER: usize = 16;
const MESSAGE: usize = 8;
const ATTRIBUTE: usize = 4;
/// The kernel answers at once, unless it is busy with interfaces.
const PATIENCE_S: i64 = 1;

/// An address that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub address: IpAddr,
    pub interface: u32,
    pub prefix: u8,
    /// By [`TAG`] it is ours.
    pub tag: u8,
    /// Seconds that are left of its life; `u32::MAX` for ever.
    pub valid_s: u32,
}

#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// # Errors
    /// The kernel has no such socket for us.
    pub fn open() -> io::Result<Netlink> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Adds `address`, or gives it another `lifetime_s`, after which the kernel removes it. It gets no route and is no
    /// source of connections by itself.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN` the kind is `PermissionDenied`.
    pub fn hold(&mut self, address: IpAddr, interface: u32, lifetime_s: u32) -> io::Result<()> {
        let mut body = header_of(address, interface);
        attribute(&mut body, IFA_FLAGS, &(IFA_F_NODAD | IFA_F_NOPREFIXROUTE).to_ne_bytes());
        attribute(&mut body, IFA_PROTO, &[TAG]);
        // Of IPv6, deprecated addresses take connections and begin none.
        let preferred_s = if address.is_ipv6() { 0 } else { lifetime_s };
        let lifetimes = [preferred_s, lifetime_s, 0, 0].map(u32::to_ne_bytes).concat();
        attribute(&mut body, IFA_CACHEINFO, &lifetimes);
        self.order(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    /// Removes `address`; that it is not there is well.
    ///
    /// # Errors
    /// As [`Netlink::hold`].
    pub fn remove(&mut self, address: IpAddr, interface: u32) -> io::Result<()> {
        let body = header_of(address, interface);
        match self.order(RTM_DELADDR, 0, &body) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
            // The interface is gone, and its addresses with it.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// All addresses of this machine. Needs no privilege.
    ///
    /// # Errors
    /// The kernel's answer does not come, or cannot be read.
    pub fn addresses(&mut self) -> io::Result<Vec<Found>> {
        self.send(RTM_GETADDR, NLM_F_DUMP, &[0; MESSAGE])?;
        let mut found = Vec::new();
        loop {
            for (kind, body) in self.receive()? {
                match kind {
                    RTM_NEWADDR => found.extend(read(&body)),
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => result(&body)?,
                    _ => {}
                }
            }
        }
    }

    fn order(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        loop {
            for (kind, body) in self.receive()? {
                if kind == NLMSG_ERROR {
                    return result(&body);
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        // The kernel is 0, and fills in the sender.
        message.extend([0; 4]);
        message.extend(body);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// The parts of one datagram that answer the newest request.
    fn receive(&mut self) -> io::Result<Vec<(u16, Vec<u8>)>> {
        // The kernel's datagrams are at most 32 KiB.
        let mut buffer = vec![0; 64 << 10];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        let mut parts = Vec::new();
        while rest.len() >= HEADER {
            let length = word(rest, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            if length < HEADER || length > rest.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of netlink is torn"));
            }
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if word(rest, 8) == Some(self.sequence) {
                parts.push((kind, rest[HEADER..length].to_vec()));
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(parts)
    }
}

fn header_of(address: IpAddr, interface: u32) -> Vec<u8> {
    let (family, prefix) = if address.is_ipv6() { (AF_INET6, 128) } else { (AF_INET, 32) };
    // Flags are in an attribute of their own; scope 0 is the whole world.
    let mut body = vec![family, prefix, 0, 0];
    body.extend(interface.to_ne_bytes());
    match address {
        IpAddr::V4(address) => {
            attribute(&mut body, IFA_LOCAL, &address.octets());
            attribute(&mut body, IFA_ADDRESS, &address.octets());
        }
        IpAddr::V6(address) => {
            attribute(&mut body, IFA_LOCAL, &address.octets());
            attribute(&mut body, IFA_ADDRESS, &address.octets());
        }
    }
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// 0 says that it was done; otherwise the negative number of an error.
fn result(body: &[u8]) -> io::Result<()> {
    match word(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of netlink is torn")),
    }
}

fn read(body: &[u8]) -> Option<Found> {
    let prefix = *body.get(1)?;
    let interface = word(body, 4)?;
    let (mut local, mut address, mut tag, mut valid_s) = (None, None, 0, u32::MAX);
    let mut rest = &body[MESSAGE..];
    while rest.len() >= ATTRIBUTE {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if length < ATTRIBUTE || length > rest.len() {
            return None;
        }
        let value = &rest[ATTRIBUTE..length];
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            IFA_ADDRESS => address = ip(value),
            IFA_LOCAL => local = ip(value),
            IFA_PROTO => tag = *value.first()?,
            IFA_CACHEINFO => valid_s = word(value, 4)?,
            _ => {}
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    // On links between two points the address is the other end's.
    Some(Found { address: local.or(address)?, interface, prefix, tag, valid_s })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
