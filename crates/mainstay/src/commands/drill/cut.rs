//! Cutting this machine off from the other members, and the certainty that it does not stay so.
//!
//! One rule of the routing policy for each of their addresses: what this machine sends there vanishes, and where the kernel looks
//! for the way back (`rp_filter`, as Debian has it) also what comes from there. Nothing else of the machine is touched. The rules have a
//! number of their own, by which anybody finds them: this process, one that was started before it to take them back if this one
//! is gone, and every member that starts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_member::Configuration;
use mainstay_member::roster;
use nix::unistd::geteuid;

use crate::cli::HealOptions;

/// Looked at before the table in which the routes are, and nobody else's.
const PREFERENCE: &str = "28731";
/// Rules of more addresses than a cluster has.
const MOST_RULES: usize = 64;
/// When the other process takes the rules back that should be gone.
const SPARE: Duration = Duration::from_secs(3);

/// The addresses of the other members; each has one for its members' port, PostgreSQL and HTTP, or several.
pub(super) fn addresses(configuration: &Configuration) -> Result<BTreeSet<IpAddr>> {
    if !geteuid().is_root() {
        bail!("the member of {} does not run as root, and cannot cut its network", configuration.me);
    }
    let roster = roster::load(configuration)?;
    let of = |row: &mainstay_core::record::Member| {
        [Some(row.address), row.postgres, row.http]
            .into_iter()
            .flatten()
            .map(|address| address.ip())
            .collect::<Vec<_>>()
    };
    let own: BTreeSet<IpAddr> =
        roster.get(&configuration.me).map(of).unwrap_or_default().into_iter().collect();
    let mut others = BTreeSet::new();
    for (name, row) in roster.iter().filter(|(name, _)| **name != configuration.me) {
        let shared = of(row).into_iter().find(|address| own.contains(address) || address.is_loopback());
        if let Some(shared) = shared {
            bail!("{name} is reached at {shared}, which is this machine: there is no network to cut");
        }
        others.extend(of(row));
    }
    Ok(others)
}

/// Cuts, waits, and takes it back.
pub(super) fn cut(addresses: &BTreeSet<IpAddr>, length: Duration) -> Result<()> {
    let mut other = Command::new(std::env::current_exe()?);
    other.args(["heal", "--after-ms", &(length + SPARE).as_millis().to_string()]);
    other.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // It is there for when this process is not.
    let mut other = other.spawn().context("cannot start the process that heals the network")?;
    let cut = addresses.iter().try_for_each(add);
    if cut.is_ok() {
        std::thread::sleep(length);
    }
    if heal_now() == addresses.len() {
        // All is taken back: the other would only take back what the next drill cuts.
        let _ = other.kill();
        let _ = other.wait();
    }
    cut
}

fn add(address: &IpAddr) -> Result<()> {
    let (family, bits) = family(address);
    let to = format!("{address}/{bits}");
    let rule = [family, "rule", "add", "to", &to, "pref", PREFERENCE, "blackhole"];
    let output = Command::new("ip").args(rule).stdin(Stdio::null()).output();
    let output = output.context("`ip` cannot be run; install iproute2")?;
    if !output.status.success() {
        bail!("the way to {address} cannot be cut: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn family(address: &IpAddr) -> (&'static str, u8) {
    if address.is_ipv4() { ("-4", 32) } else { ("-6", 128) }
}

/// Takes every rule of ours back; how many there were.
pub(super) fn heal_now() -> usize {
    let mut removed = 0;
    for family in ["-4", "-6"] {
        for _ in 0..MOST_RULES {
            let mut command = Command::new("ip");
            // Of that kind only: the number may be somebody else's too.
            command.args([family, "rule", "del", "pref", PREFERENCE, "blackhole"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            match command.status() {
                Ok(status) if status.success() => removed += 1,
                _ => break,
            }
        }
    }
    removed
}

/// The hidden verb: heals after a while.
pub(crate) fn heal(options: &HealOptions) -> ExitCode {
    std::thread::sleep(Duration::from_millis(options.after_ms));
    heal_now();
    ExitCode::SUCCESS
}

/// A member that starts looks for what a drill may have left, and waits for nothing.
pub(crate) fn heal_in_passing() {
    if geteuid().is_root() {
        std::thread::spawn(|| match heal_now() {
            0 => {}
            removed => tracing::warn!(removed, "a drill had cut the network and left it so; it is healed"),
        });
    }
}
