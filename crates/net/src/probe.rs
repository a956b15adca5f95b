//! Whether a port can be reached, and if not, in which of the ways that have different remedies.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::socket;

/// What became of an attempt to connect. Its text says what to look at, without the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Something listens there. What it is, only talking to it would show.
    Open,
    /// The machine answers, and nothing listens on the port; some firewalls answer in its place.
    Refused,
    /// Nothing came back: the machine is off, or a firewall drops the packets.
    NoAnswer,
    /// This machine or a router knows no way there, or a firewall says so.
    NoRoute,
    /// This machine itself could not try; the system's text.
    NotTried(String),
}

impl Reachability {
    pub fn is_open(&self) -> bool {
        *self == Reachability::Open
    }

    fn of(error: &io::Error) -> Reachability {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => Reachability::Refused,
            Some(Errno::ETIMEDOUT) => Reachability::NoAnswer,
            Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN) => {
                Reachability::NoRoute
            }
            // What a rule of this machine's own firewall looks like from within.
            Some(Errno::EPERM | Errno::EACCES) => {
                Reachability::NotTried("this machine's own firewall does not let it out".to_owned())
            }
            _ => Reachability::NotTried(error.to_string()),
        }
    }
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reachability::Open => "open",
            Reachability::Refused => {
                "connection refused: see that Mainstay runs there and listens on this port"
            }
            Reachability::NoAnswer => {
                "no answer: see that the machine is up and that no firewall is in between"
            }
            Reachability::NoRoute => "no route there: see the address, the network and firewalls that reject",
            Reachability::NotTried(error) => return write!(f, "this machine could not try: {error}"),
        })
    }
}

/// Connects to a TCP port and closes the connection at once; what listens there hears nothing.
pub async fn probe(address: SocketAddr, limit: Duration) -> Reachability {
    match connect(address, limit).await {
        Ok(_) => Reachability::Open,
        Err(failed) => failed,
    }
}

/// A connection, or what was in its way.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, Reachability> {
    match timeout(limit, socket::connect(address)).await {
        Ok(connected) => connected.map_err(|error| Reachability::of(&error)),
        Err(_) => Err(Reachability::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_system_has_its_remedy() {
        let of = |errno: Errno| Reachability::of(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(of(Errno::ECONNREFUSED), Reachability::Refused);
        assert_eq!(of(Errno::ETIMEDOUT), Reachability::NoAnswer);
        // Also what a firewall says that rejects with ICMP.
        assert_eq!(of(Errno::EHOSTUNREACH), Reachability::NoRoute);
        assert_eq!(of(Errno::ENETUNREACH), Reachability::NoRoute);
        assert!(of(Errno::EPERM).to_string().contains("own firewall"));
        assert!(matches!(of(Errno::EMFILE), Reachability::NotTried(_)));
    }
}
