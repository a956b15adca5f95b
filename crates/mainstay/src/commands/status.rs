//! `status`: the cluster at a glance.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use mainstay_member::status::{MemberStatus, Role, Status, VerifyStatus};

use crate::cli::StatusOptions;
use crate::output::println;
use crate::{client, configuration};

pub(crate) async fn run(options: &StatusOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    show(options.watch, options.shared.json, async || client::any_status(&configuration).await).await
}

/// Shows what `status` answers, once or for ever.
pub(crate) async fn show(
    watch: bool,
    json: bool,
    status: impl AsyncFn() -> Result<Status>,
) -> Result<ExitCode> {
    loop {
        let text = match status().await {
            Ok(status) if json => serde_json::to_string_pretty(&status)?,
            Ok(status) => render(&status),
            Err(error) if watch => format!("{error:#}\n"),
            Err(error) => return Err(error),
        };
        if watch && std::io::stdout().is_terminal() {
            crate::output::part("\x1b[H\x1b[2J");
        }
        println!("{}", text.trim_end());
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The table, and under it what it means if the primary's machine died now.
pub(crate) fn render(status: &Status) -> String {
    let mut text = table(status);
    for row in &status.members {
        if let Some(progress) = &row.progress {
            let _ =
                writeln!(text, "{} is being copied: {}", row.name, super::reinit::progress_words(progress));
        }
    }
    text.push_str(&proxies(status));
    text.push_str(&super::vip::line(&status.addresses));
    let _ = writeln!(text, "{}", outlook(status));
    if let Some(verified) = &status.verified {
        let _ = writeln!(text, "{}", verified_words(verified, status.now_unix_ms));
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "! {warning}");
    }
    text
}

/// What the primary's schedule has found.
fn verified_words(verified: &VerifyStatus, now_unix_ms: u64) -> String {
    let minutes = now_unix_ms.saturating_sub(verified.at_unix_ms) / 60_000;
    let ago = match minutes {
        0 => "less than a minute ago".to_owned(),
        1..120 => format!("{minutes} min ago"),
        _ => format!("{} h ago", minutes / 60),
    };
    if verified.ok {
        return format!("Verified {ago}: no check failed.");
    }
    let failed = verified.failed.join(", ");
    format!("Verified {ago}: {} failed ({failed}); see: mainstay verify", verified.failures)
}

fn table(status: &Status) -> String {
    let mut text = String::from("member  role      epoch timeline        lag  sync  PostgreSQL\n");
    for row in &status.members {
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let lag = match (row.role, row.lag_bytes) {
            (Role::Standby, Some(bytes)) => bytes_words(bytes),
            _ => "-".to_owned(),
        };
        let sync = match row.role {
            Role::Primary => "-",
            _ if row.sync => "yes",
            _ => "no",
        };
        let _ = writeln!(
            text,
            "{:<7} {:<9} {:>5} {:>8} {:>10}  {:<4}  {}",
            row.name,
            row.role.as_str(),
            number(row.epoch.map(|epoch| epoch.0)),
            number(row.timeline.map(|timeline| u64::from(timeline.0))),
            lag,
            sync,
            postgres(row),
        );
    }
    text
}

/// Nothing where nobody is to run one.
fn proxies(status: &Status) -> String {
    let words = |row: &MemberStatus| {
        let proxy = row.sql_proxy.as_ref()?;
        let address = proxy.address.map_or_else(String::new, |address| format!(" {address}"));
        Some(match proxy.pid {
            Some(pid) => format!("{}{address} (pid {pid})", row.name),
            None => format!("{}{address} (down)", row.name),
        })
    };
    let all: Vec<String> = status.members.iter().filter_map(words).collect();
    if all.is_empty() { String::new() } else { format!("SQL proxy: {}\n", all.join(", ")) }
}

fn postgres(row: &MemberStatus) -> String {
    let Some(postgres) = &row.postgres else { return "-".to_owned() };
    let address =
        postgres.address.map_or_else(|| format!("port {}", postgres.port), |address| address.to_string());
    match postgres.pid {
        Some(pid) => format!("{address}  (pid {pid})"),
        None => format!("{address}  (down)"),
    }
}

pub(crate) fn bytes_words(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// What a person wants to know: is it writable, and what if the primary's machine died now.
fn outlook(status: &Status) -> String {
    let Some(primary) = &status.primary else { return format!("Nobody can write: {}.", why(status)) };
    if status.lease.as_ref().is_none_or(|lease| lease.remaining_ms.is_none()) {
        return format!("Nobody can write: {}.", why(status));
    }
    if !status.writable {
        return format!("{primary} does not let applications in yet: {}.", why(status));
    }
    let lease_s = status.lease.as_ref().map_or(0, |lease| lease.length_ms.div_ceil(1000));
    if !status.members.iter().any(|row| row.sync && row.role == Role::Standby) {
        return format!(
            "If {primary}'s machine died now, nobody could take over: no standby acknowledges commits."
        );
    }
    let voters = status.members.iter().filter(|row| row.votes).count();
    let left = status.members.iter().filter(|row| row.votes && is_heard(row) && row.name != *primary).count();
    if left <= voters / 2 {
        return format!(
            "If {primary}'s machine died now, nobody could take over: {left} of {voters} voters would be left, no majority."
        );
    }
    format!(
        "If {primary}'s machine died now: {} lost, writes back in about {lease_s} s.",
        bytes_words(status.at_risk_bytes)
    )
}

fn is_heard(row: &MemberStatus) -> bool {
    !matches!(row.role, Role::Unknown | Role::Stopped)
}

/// What keeps it from being written: in the words of the primary, else of a member that could become it.
fn why(status: &Status) -> String {
    let row = |name: &mainstay_core::MemberId| status.members.iter().find(|row| row.name == *name);
    match status.primary.as_ref().and_then(row) {
        Some(primary) if is_heard(primary) => primary.reason.clone().unwrap_or_else(|| status.reason.clone()),
        Some(primary) if row(&status.member).is_some_and(|own| own.role == Role::Standby) => {
            format!("{}, the primary, is not heard", primary.name)
        }
        _ if row(&status.member).is_some_and(|own| own.role == Role::Witness) => {
            let data = status.members.iter().find(|row| is_heard(row) && row.role != Role::Witness);
            data.and_then(|row| row.reason.clone()).unwrap_or_else(|| status.reason.clone())
        }
        _ => status.reason.clone(),
    }
}
