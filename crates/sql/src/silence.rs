//! Whether the machine at the other end of a connection still answers, by what the kernel knows of it (`sock_diag(7)`).
//!
//! With `TCP_USER_TIMEOUT` the kernel would end such a connection by itself, and (since Linux 5.11) also one whose other side answers
//! and does not read: a client that is busy with the first rows of a long result, a COPY that waits for a lock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::snapshot::Addresses;

/// Asks the kernel of connections.
pub(crate) struct Diagnosis(Option<OwnedFd>);

/// What it knows of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// How often it has sent again what is not acknowledged, or asked whether there is room for more.
    attempts: u8,
    /// When the other side was heard last.
    heard: Duration,
}

/// `SOCK_DIAG_BY_FAMILY`: the kind of the question and of its answer.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO`: the attribute that holds a `struct tcp_info`.
const INFO: u16 = 2;
const TCP: u8 = 6;
/// `struct nlmsghdr`, and `struct inet_diag_msg` behind it.
const HEAD_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 72;

/// Whether it can be asked at all. Where a sandbox forbids it, or the kernel has not got that part, `TCP_USER_TIMEOUT` has to do.
pub(crate) fn can_be_asked() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    // The kernel says "not found" of a connection and of its own part alike, so it is asked of something that is there.
    let knows_a_listener = || {
        let local = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        known(&Diagnosis::new().ask(local.local_addr().ok()?, nobody)?)
    };
    *CAN.get_or_init(|| knows_a_listener().is_some())
}

impl Diagnosis {
    pub(crate) fn new() -> Diagnosis {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kind = (AddressFamily::Netlink, SockType::Datagram, SockProtocol::NetlinkSockDiag);
        Diagnosis(socket(kind.0, kind.1, flags, kind.2).ok())
    }

    /// Whether nothing has come from the other side for `silence`, though it should have answered.
    pub(crate) fn is_silent(&self, ends: &Addresses, silence: Duration) -> bool {
        let (Some(local), Some(remote)) = (ends.local, ends.remote) else { return false };
        let known = self.ask(local, remote).and_then(|answer| known(&answer));
        // One attempt may be on its way just now: a side that has no room is asked ever more seldom.
        known.is_some_and(|known| known.attempts >= 2 && known.heard >= silence)
    }

    /// The kernel's answer, also that there is no such connection.
    fn ask(&self, local: SocketAddr, remote: SocketAddr) -> Option<Vec<u8>> {
        let socket = self.0.as_ref()?.as_raw_fd();
        sendto(socket, &question(local, remote), &NetlinkAddr::new(0, 0), MsgFlags::empty()).ok()?;
        // It is there when the question has been sent.
        let mut answer = vec![0; 1024];
        let length = recv(socket, &mut answer, MsgFlags::empty()).ok()?;
        answer.truncate(length);
        Some(answer)
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    const IS_REQUEST: u16 = 1;
    const NO_COOKIE: [u8; 8] = [0xff; 8];
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let family = u8::try_from(family as i32).unwrap_or_default();
    let mut body = vec![family, TCP, 1 << (INFO - 1), 0];
    // In whatever state.
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        let mut address = [0; 16];
        match end.ip() {
            IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => address = ip.octets(),
        }
        body.extend(address);
    }
    // On any interface.
    body.extend(0u32.to_ne_bytes());
    body.extend(NO_COOKIE);
    let length = u32::try_from(HEAD_BYTES + body.len()).unwrap_or_default();
    let mut question = length.to_ne_bytes().to_vec();
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(IS_REQUEST.to_ne_bytes());
    // A sequence number and a port, of which nobody needs one.
    question.extend([0; 8]);
    question.extend(body);
    question
}

/// Reads an answer; `None` if the connection is gone.
fn known(answer: &[u8]) -> Option<Known> {
    let short = |bytes: &[u8], at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if short(answer, 4)? != BY_FAMILY {
        return None;
    }
    let mut attributes = answer.get(HEAD_BYTES + MESSAGE_BYTES..)?;
    loop {
        let (length, kind) = (usize::from(short(attributes, 0)?), short(attributes, 2)?);
        if kind == INFO {
            let info = attributes.get(4..length)?;
            let heard_ms = u32::from_ne_bytes(info.get(56..60)?.try_into().ok()?);
            let attempts = (*info.get(2)?).max(*info.get(3)?);
            return Some(Known { attempts, heard: Duration::from_millis(heard_ms.into()) });
        }
        // Each begins at a multiple of four; one without a length would never end.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_kernel_knows_who_answers() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6 has nothing to be asked of it.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            near.write_all(b"x").unwrap();
            far.read_exact(&mut [0]).unwrap();
            let (diagnosis, ends) = (Diagnosis::new(), Addresses::of(near.as_raw_fd()));
            let answer = diagnosis.ask(ends.local.unwrap(), ends.remote.unwrap()).unwrap();
            let found = known(&answer).unwrap();
            assert!(found.attempts == 0 && found.heard < Duration::from_secs(5), "{found:?}");
            assert!(!diagnosis.is_silent(&ends, Duration::ZERO));
        }
        assert!(can_be_asked());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(known(&Diagnosis::new().ask(nowhere, nowhere).unwrap()), None);
        assert_eq!(known(&[0; 200]), None);
    }
}
