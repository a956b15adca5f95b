//! The segment of one interface: what is announced on it, and who else claims an address.

use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};

use crate::frame::{self, Mac};
use crate::interface::Interface;

/// `ETH_P_ARP`: the socket is given nothing else.
const ARP: u16 = 0x0806;
/// What is waiting is read in parts of at most so many, so that a flood holds nothing up.
const MOST_AT_ONCE: usize = 256;

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) mac: Mac,
    address: IpAddr,
    /// Sends whole frames; of IPv4 it hears ARP.
    frames: Socket,
    /// Of IPv6: hears ICMPv6.
    messages: Option<Socket>,
}

impl Wire {
    /// Needs `CAP_NET_RAW`.
    pub(crate) fn open(interface: &Interface, address: IpAddr) -> io::Result<Wire> {
        let is_v6 = address.is_ipv6();
        // Without a protocol it hears nothing: all of IPv6 would be the machine's whole traffic.
        let protocol = if is_v6 { 0 } else { i32::from(ARP.to_be()) };
        let frames = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
        bind(frames.as_raw_fd(), &interface.link)?;
        frames.set_nonblocking(true)?;
        let messages = if is_v6 {
            let messages = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            messages.bind_device(Some(interface.name.as_bytes()))?;
            messages.set_nonblocking(true)?;
            Some(messages)
        } else {
            None
        };
        Ok(Wire { mac: interface.mac, address, frames, messages })
    }

    pub(crate) fn announce(&self) -> io::Result<()> {
        frame::announcements(self.address, self.mac).iter().try_for_each(|frame| self.send(frame))
    }

    pub(crate) fn probe(&self) -> io::Result<()> {
        self.send(&frame::probe(self.address, self.mac))
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.frames.send(frame).map(|_| ())
    }

    /// The newest other machine that has said, since the last call, that the address is its own.
    pub(crate) fn foreign_claim(&self) -> Option<Mac> {
        let mut buffer = [0; 2048];
        let mut claimed_by = None;
        for _ in 0..MOST_AT_ONCE {
            let heard = match &self.messages {
                Some(messages) => (&mut &*messages).read(&mut buffer),
                None => (&mut &self.frames).read(&mut buffer),
            };
            let Ok(length) = heard else { break };
            let claim = match self.messages {
                Some(_) => frame::advertisement_claim(&buffer[..length]),
                None => frame::arp_claim(&buffer[..length]),
            };
            let claim = claim.filter(|(mac, address)| *address == self.address && *mac != self.mac);
            claimed_by = claim.map(|(mac, _)| mac).or(claimed_by);
        }
        claimed_by
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.messages.as_ref().unwrap_or(&self.frames).as_fd()
    }
}
