//! What `init` and `join` share: questions, addresses, secrets, ports.

use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Asks on a terminal; elsewhere, and with `--yes`, the defaults stand.
pub(crate) struct Ask {
    interactive: bool,
}

impl Ask {
    pub(crate) fn new(yes: bool) -> Ask {
        Ask { interactive: !yes && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() }
    }

    /// A line of text. What was `given` on the command line is not asked.
    pub(crate) fn text(&self, what: &str, why: &str, given: Option<&str>, default: &str) -> Result<String> {
        if let Some(given) = given {
            return Ok(given.to_owned());
        }
        if !self.interactive {
            return Ok(default.to_owned());
        }
        crate::output::part(&format!("{what} ({why}) [{default}]: "));
        std::io::stdout().flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
        let line = line.trim();
        Ok(if line.is_empty() { default.to_owned() } else { line.to_owned() })
    }

    /// Whether the operator types `word`; without a terminal `--yes` is wanted.
    pub(crate) fn confirm(&self, question: &str, word: &str, yes: bool) -> Result<bool> {
        if yes {
            return Ok(true);
        }
        if !self.interactive {
            bail!("{question}; say so with --yes");
        }
        crate::output::part(&format!("{question}. Type {word} to go on: "));
        std::io::stdout().flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
        Ok(line.trim() == word)
    }
}

/// The address from which this machine would reach `target`, or the network at large. Nothing is sent.
pub(crate) fn own_address(target: Option<SocketAddr>) -> Option<IpAddr> {
    // TEST-NET-1, RFC 5737: nobody is there; the kernel only looks up which way it would go.
    let target = target.unwrap_or(SocketAddr::from(([192, 0, 2, 1], 9)));
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// A /24 or /64 around the address: what most sites have.
pub(crate) fn network_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) if address.is_loopback() => "127.0.0.0/8".to_owned(),
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) if address.is_loopback() => "::1/128".to_owned(),
        IpAddr::V6(address) => {
            let s = address.segments();
            format!("{:x}:{:x}:{:x}:{:x}::/64", s[0], s[1], s[2], s[3])
        }
    }
}

/// Fails if another program has one of the ports, or the machine has not the address.
pub(crate) fn check_ports(addresses: &[SocketAddr]) -> Result<()> {
    for address in addresses {
        if let Err(error) = TcpListener::bind(address) {
            bail!("{address} cannot be listened on: {error}; free it, or choose another address or port");
        }
    }
    Ok(())
}

/// Lines for nftables' input chain.
pub(crate) fn firewall_lines(ports: &[(u16, &str)]) -> Vec<String> {
    ports
        .iter()
        .map(|(port, what)| {
            format!("nft add rule inet filter input tcp dport {port} accept comment \\\"mainstay: {what}\\\"")
        })
        .collect()
}

/// A directory that may be there already.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// A new file that only its owner may read.
pub(crate) fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}; is this machine a member already?", path.display()))?;
    writeln!(file, "{secret}").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.sync_all()?)
}

/// Letters and digits from the kernel's random numbers.
pub(crate) fn random_text(length: usize) -> Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0; length];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot read random numbers")?;
    std::io::Read::read_exact(&mut source, &mut bytes)?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_around_an_address() {
        for (address, network) in [
            ("10.1.2.3", "10.1.2.0/24"),
            ("127.0.0.1", "127.0.0.0/8"),
            ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(network_of(address.parse().expect("an address")), network);
        }
    }
}
