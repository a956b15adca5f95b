//! `vip`: virtual addresses.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_guard::CompanionLock;
use mainstay_member::status::{AddressStatus, Status};
use mainstay_member::vip;
use mainstay_vip::{Answer, Holder};

use crate::cli::{ConfigOptions, SharedOptions};
use crate::output::{part, println};
use crate::{client, configuration};

pub(crate) async fn status(options: &SharedOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config)?;
    let status = client::any_status(&configuration).await?;
    if options.json {
        println!("{}", serde_json::to_string(&status.addresses)?);
    } else {
        part(&words(&status));
    }
    Ok(ExitCode::SUCCESS)
}

fn words(status: &Status) -> String {
    if status.addresses.is_empty() {
        return "There are no virtual addresses; [[vip]] in the members' files makes them.\n".to_owned();
    }
    let mut text = format!(
        "{:<24} {:<8} {:<10} {:<15} {:>8}  {}\n",
        "address", "follows", "member", "interface", "held", "last gap"
    );
    for row in &status.addresses {
        let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), length);
        let _ = writeln!(
            text,
            "{:<24} {:<8} {:<10} {:<15} {:>8}  {}",
            row.address.to_string(),
            row.follows,
            row.member.as_ref().map_or("nobody", |member| member.as_str()),
            row.interface.as_deref().unwrap_or("-"),
            time(row.held_ms),
            time(row.gap_ms),
        );
    }
    for row in &status.addresses {
        if let Some(other) = &row.claimed_by {
            let _ = writeln!(text, "! {} is claimed by {other}, another machine", row.address);
        }
        for (member, error) in &row.errors {
            let _ = writeln!(text, "! {} on {member}: {error}", row.address);
        }
    }
    text
}

/// One line of `status`; nothing where there are none.
pub(crate) fn line(addresses: &[AddressStatus]) -> String {
    let words = |row: &AddressStatus| match (&row.member, &row.interface) {
        (Some(member), Some(interface)) => {
            let gap = row.gap_ms.map_or_else(String::new, |ms| format!(", last gap {}", length(ms)));
            format!("{} at {member} ({interface}{gap})", row.address)
        }
        (Some(member), None) => format!("{} at {member}", row.address),
        (None, _) => format!("{} at nobody", row.address),
    };
    if addresses.is_empty() {
        return String::new();
    }
    let all: Vec<String> = addresses.iter().map(words).collect();
    format!("Virtual addresses: {}\n", all.join(", "))
}

fn length(ms: u64) -> String {
    let time = Duration::from_millis(ms);
    match time.as_secs() {
        0..120 => format!("{:.2} s", time.as_secs_f64()),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// No runtime, and one thread: it gives up what it may do beside holding addresses.
pub(crate) fn hold(options: &ConfigOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config)?;
    let orders = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    orders.peer_addr().context("the member starts this process, with its orders on standard input")?;
    let lock = vip::lock_file(&configuration);
    let locked = CompanionLock::take(&lock, &format!("{}\n", std::process::id()));
    let locked = locked.with_context(|| format!("cannot lock {}", lock.display()))?;
    let Some(_held_while_it_runs) = locked else {
        bail!("the virtual addresses of {} are held by another process already", configuration.me);
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    if !mainstay_vip::keep_network_only()? {
        return Ok(cannot(orders));
    }
    let holder =
        Holder::new(configuration.addresses.clone()).context("the kernel gives no netlink socket")?;
    mainstay_vip::serve(holder, orders)?;
    Ok(ExitCode::SUCCESS)
}

/// The member is told why, and the rest of the cluster works.
fn cannot(mut orders: UnixStream) -> ExitCode {
    let error = "CAP_NET_ADMIN and CAP_NET_RAW are missing; run the member as root, or with \
                 AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in its unit";
    let answer = Answer { error: Some(error.to_owned()), ..Answer::default() };
    let line = serde_json::to_string(&answer).unwrap_or_default();
    // Whoever has gone needs no answer.
    let _ = writeln!(orders, "{line}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(member: Option<&str>) -> AddressStatus {
        AddressStatus {
            address: "10.0.0.100".parse().unwrap(),
            follows: "primary".to_owned(),
            member: member.map(|name| mainstay_core::MemberId::new(name).unwrap()),
            interface: member.map(|_| "eth0".to_owned()),
            held_ms: member.map(|_| 90_000_000),
            gap_ms: member.map(|_| 124),
            claimed_by: None,
            errors: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn one_line_says_where_they_are() {
        assert_eq!(line(&[]), "");
        let found = line(&[row(Some("m1")), row(None)]);
        assert_eq!(
            found,
            "Virtual addresses: 10.0.0.100 at m1 (eth0, last gap 0.12 s), 10.0.0.100 at nobody\n"
        );
    }

    #[test]
    fn lengths_are_read_by_people() {
        assert_eq!(
            [0, 124, 119_990, 600_000, 90_000_000, 400_000_000].map(length),
            ["0.00 s", "0.12 s", "119.99 s", "10 min", "25 h", "4 d"]
        );
    }
}
