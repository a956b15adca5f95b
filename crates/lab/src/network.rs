//! A private network: a bridge and one namespace for each member. The client sits on the bridge.
//!
//! Nothing here reaches any other network: there is no default route, and the names carry the lab's index, so that several
//! labs run side by side.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::program::{feed, run, try_run};

/// What belongs to one lab: its index stands in every name and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index(u8);

impl Index {
    /// 0 to 99: the names of interfaces must stay within 15 bytes.
    pub fn new(number: u8) -> Result<Index> {
        if number > 99 {
            bail!("index {number} is too large; choose one of 0 to 99");
        }
        Ok(Index(number))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn bridge(self) -> String {
        format!("msl{}", self.0)
    }

    /// The namespace of the member in `place` (1 is the first).
    pub fn namespace(self, place: u8) -> String {
        format!("msl{}n{place}", self.0)
    }

    /// The bridge's end of the member's cable.
    fn port(self, place: u8) -> String {
        format!("msl{}v{place}", self.0)
    }

    pub fn address(self, place: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, place)
    }

    /// Every address of this lab.
    pub fn network(self) -> String {
        format!("10.99.{}.0/24", self.0)
    }
}

/// Whether this machine lets us make a network namespace: the reason, if not.
pub fn possible() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root can make network namespaces; run the lab as root");
    }
    let name = format!("msl-try-{}", std::process::id());
    run("ip", &["netns", "add", &name]).context("network namespaces cannot be made here")?;
    run("ip", &["netns", "del", &name]).map(|_| ())
}

/// The bridge and the namespaces of `members` members; taken down when dropped.
#[derive(Debug)]
pub struct Network {
    index: Index,
    members: u8,
    kept: bool,
}

impl Network {
    pub fn create(index: Index, members: u8) -> Result<Network> {
        // From here on a failure takes down what there is.
        let network = Network { index, members, kept: false };
        let bridge = index.bridge();
        let mut outside = format!(
            "link add {bridge} type bridge\naddr add {}/24 dev {bridge}\nlink set {bridge} up\n",
            index.address(254)
        );
        for place in 1..=members {
            let (namespace, port) = (index.namespace(place), index.port(place));
            outside.push_str(&format!(
                "netns add {namespace}\n\
                 link add {port} type veth peer name eth0 netns {namespace}\n\
                 link set {port} master {bridge} up\n"
            ));
        }
        feed("ip", &["-batch", "-"], &outside)?;
        for place in 1..=members {
            let inside =
                format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", index.address(place));
            feed("ip", &["-n", &index.namespace(place), "-batch", "-"], &inside)?;
        }
        Ok(network)
    }

    pub fn index(&self) -> Index {
        self.index
    }

    /// From now on it outlives this value: processes in a namespace without a name could not be found again.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// The member's own end sees its link go down.
    pub fn set_link(&self, place: u8, up: bool) -> Result<()> {
        run("ip", &["link", "set", &self.index.port(place), if up { "up" } else { "down" }]).map(|_| ())
    }

    /// Packets vanish while the member still sees its link up.
    pub fn set_attached(&self, place: u8, attached: bool) -> Result<()> {
        let port = self.index.port(place);
        let bridge = self.index.bridge();
        let arguments: &[&str] = if attached {
            &["link", "set", &port, "master", &bridge]
        } else {
            &["link", "set", &port, "nomaster"]
        };
        run("ip", arguments).map(|_| ())
    }

    /// What the member in place `from` sends to the others vanishes, one way.
    pub fn blackhole(&self, from: u8, to: &[u8], cut: bool) -> Result<()> {
        let verb = if cut { "add" } else { "del" };
        let lines: String = to
            .iter()
            .map(|place| format!("route {verb} blackhole {}/32\n", self.index.address(*place)))
            .collect();
        feed("ip", &["-n", &self.index.namespace(from), "-batch", "-"], &lines).map(|_| ())
    }

    /// What `from` sends to the TCP port of the member in place `of` has no answer, as where a firewall drops packets.
    ///
    /// Done by the routing policy, which every kernel with namespaces has: there is no way back for the port's answers.
    pub fn set_port(&self, of: u8, port: u16, from: u8, open: bool) -> Result<()> {
        let verb = if open { "del" } else { "add" };
        let rule = format!(
            "rule {verb} to {}/32 ipproto tcp sport {port} pref 100 blackhole\n",
            self.index.address(from)
        );
        feed("ip", &["-n", &self.index.namespace(of), "-batch", "-"], &rule).map(|_| ())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.kept {
            remove(self.index, self.members);
        }
    }
}

/// Takes down whatever there is of this lab's network. No process may be left in it.
pub fn remove(index: Index, members: u8) {
    for place in 1..=members {
        try_run("ip", &["netns", "del", &index.namespace(place)]);
        try_run("ip", &["link", "del", &index.port(place)]);
    }
    try_run("ip", &["link", "del", &index.bridge()]);
}

/// A command that runs inside a namespace. `ip netns exec` would mount another /sys over the one with the control groups.
pub fn inside(namespace: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new(NSENTER);
    command.arg(way_inside(namespace)).arg(program);
    command
}

pub const NSENTER: &str = "/usr/bin/nsenter";

/// What [`NSENTER`] is told.
pub fn way_inside(namespace: &str) -> String {
    format!("--net=/run/netns/{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_the_kernels_fifteen_bytes() {
        let index = Index::new(99).unwrap();
        assert!(index.port(9).len() <= 15 && index.bridge().len() <= 15);
        assert!(Index::new(100).is_err());
        assert_eq!(index.address(254).to_string(), "10.99.99.254");
    }
}
