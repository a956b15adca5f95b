//! `verify`: what a careful guide would have you type, as one command.
//!
//! Each check looks from outside, as a client or another member would; none relies on what a member says of itself where it
//! can be seen. They run all at once, each within its own limit, and leave nothing behind.

mod backups;
mod certificates;
mod clocks;
mod consensus;
mod disk;
mod files;
mod ground;
mod lease;
mod line;
mod parameters;
mod ports;
mod replay;
mod row;
mod slots;
mod sync;
mod tls;
mod versions;
mod write;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::VerifyOptions;
use crate::configuration;
use crate::output::println;
use ground::Ground;
use line::{Line, Outcome};

/// All checks together end within 30 s, with what comes before and after them.
const CHECK_PATIENCE: Duration = Duration::from_secs(20);

/// Every check and what it looks at, in the order of their lines.
pub(crate) const CHECKS: &[(&str, &str)] = &[
    ("consensus", "the log has a leader, and every voter is heard"),
    ("lease", "the primary holds the lease, and renews it"),
    ("ports", "every port of every member is reached, from here and from the others"),
    ("write", "a table and a row can be written on the primary"),
    ("read", "every standby shows the row"),
    ("refused", "every standby refuses a write, with SQLSTATE 25006"),
    ("replay", "no standby's replay is paused or far behind"),
    ("sync", "who acknowledges commits is who the record says, and they flush them"),
    ("slots", "every member keeps a slot for each other, and the primary's move"),
    ("tls-members", "standbys stream by TLS"),
    ("tls-clients", "clients are served by sslmode=verify-full, by name and by address"),
    ("certificates", "this machine's are of the cluster's CA, and do not end soon"),
    ("parameters", "fsync and the other protected parameters are in force"),
    ("checksums", "data pages have checksums"),
    ("disk", "every member's disk has room"),
    ("write-probe", "every member's disk takes small writes"),
    ("clocks", "the members' clocks agree"),
    ("versions", "all members run the same versions"),
    ("files", "nobody else may read this machine's keys and passwords"),
    ("backups", "the newest backup is young"),
];

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) cluster: String,
    /// Where it was run.
    pub(crate) member: MemberId,
    pub(crate) at_unix_ms: i64,
    /// Whether no line failed.
    pub(crate) ok: bool,
    pub(crate) failures: usize,
    pub(crate) milliseconds: u64,
    pub(crate) lines: Vec<Line>,
}

pub(crate) async fn run(options: &VerifyOptions) -> Result<ExitCode> {
    if options.list {
        return Ok(list(options.shared.json));
    }
    let configuration = configuration::load(&options.shared.config)?;
    if options.ends_with_input {
        end_with_input();
    }
    let report = examine(configuration, &options.only).await?;
    show(&report, options.shared.json)
}

/// Whoever asked holds the other end. That is closed when it dies, however it does; then nobody wants the report any more.
fn end_with_input() {
    std::thread::spawn(|| {
        // Nothing is ever written; what cannot be read has ended too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(i32::from(crate::FAILED));
    });
}

/// Prints the report; a failure makes the exit code 1.
pub(crate) fn show(report: &Report, json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print(report);
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(json: bool) -> ExitCode {
    if json {
        let rows: Vec<_> =
            CHECKS.iter().map(|(name, what)| serde_json::json!({ "check": name, "what": what })).collect();
        println!("{}", serde_json::Value::from(rows));
    } else {
        for (name, what) in CHECKS {
            println!("{name:<12} {what}");
        }
    }
    ExitCode::SUCCESS
}

/// Runs the checks named in `only`, or all if it is empty.
pub(crate) async fn examine(configuration: Configuration, only: &[String]) -> Result<Report> {
    let begun = Instant::now();
    let (cluster, member) = (configuration.cluster.clone(), configuration.me.clone());
    let at_unix_ms = ground::unix_ms();
    let ground = Arc::new(Ground::survey(configuration).await?);
    let wanted = CHECKS.iter().map(|(name, _)| *name).enumerate();
    let wanted = wanted.filter(|(_, name)| only.is_empty() || only.iter().any(|only| only == name));
    let mut running = JoinSet::new();
    for (place, name) in wanted {
        let ground = Arc::clone(&ground);
        running.spawn(async move { (place, bounded(name, &ground).await) });
    }
    let mut done: Vec<(usize, Vec<Line>)> = Vec::new();
    while let Some(finished) = running.join_next().await {
        done.extend(finished);
    }
    done.sort_by_key(|(place, _)| *place);
    let mut lines: Vec<Line> = done.into_iter().flat_map(|(_, lines)| lines).collect();
    if let Err(error) = ground.clean().await {
        let remedy = "a later `mainstay verify` removes it too";
        let mut line = Line::warn(format!("{error:#}"), remedy);
        line.check = "write";
        lines.push(line);
    }
    let failures = lines.iter().filter(|line| line.outcome == Outcome::Fail).count();
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Report { cluster, member, at_unix_ms, ok: failures == 0, failures, milliseconds, lines })
}

async fn bounded(name: &'static str, ground: &Ground) -> Vec<Line> {
    let lines = match tokio::time::timeout(CHECK_PATIENCE, carry_out(name, ground)).await {
        Ok(lines) => lines,
        Err(_) => vec![Line::fail(
            format!("not finished within {} s", CHECK_PATIENCE.as_secs()),
            "something hangs: see `ports` and `mainstay status`",
        )],
    };
    lines.into_iter().map(|line| Line { check: name, ..line }).collect()
}

async fn carry_out(name: &str, ground: &Ground) -> Vec<Line> {
    match name {
        "consensus" => consensus::run(ground).await,
        "lease" => lease::run(ground).await,
        "ports" => ports::run(ground).await,
        "write" => write::write(ground).await,
        "read" => write::read(ground).await,
        "refused" => write::refused(ground).await,
        "replay" => replay::run(ground).await,
        "sync" => sync::run(ground).await,
        "slots" => slots::run(ground).await,
        "tls-members" => tls::members(ground).await,
        "tls-clients" => tls::clients(ground).await,
        "certificates" => certificates::run(ground).await,
        "parameters" => parameters::run(ground).await,
        "checksums" => parameters::checksums(ground).await,
        "disk" => disk::free(ground).await,
        "write-probe" => disk::writes(ground).await,
        "clocks" => clocks::run(ground).await,
        "versions" => versions::run(ground).await,
        "files" => files::run(ground).await,
        "backups" => backups::run(ground).await,
        other => unreachable!("{other} is not among the checks"),
    }
}

fn print(report: &Report) {
    let names = report.lines.iter().filter_map(|line| line.member.as_ref());
    let width = names.map(|name| name.as_str().len()).max().unwrap_or(1);
    for line in &report.lines {
        let member = line.member.as_ref().map_or("-", MemberId::as_str);
        println!("{:<5} {:<12} {member:<width$}  {}", line.outcome, line.check, line.finding);
        if let Some(remedy) = &line.remedy {
            println!("{:1$}remedy: {remedy}", "", width + 21);
        }
    }
    let count = |outcome| report.lines.iter().filter(|line| line.outcome == outcome).count();
    println!(
        "\n{} ok, {} failed, {} warned, {} skipped, in {:.1} s",
        count(Outcome::Ok),
        count(Outcome::Fail),
        count(Outcome::Warn),
        count(Outcome::Skip),
        report.milliseconds as f64 / 1000.0
    );
}

/// A name of a check, for the command line.
pub(crate) fn known_check(text: &str) -> Result<String, String> {
    if CHECKS.iter().any(|(name, _)| *name == text) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
    Err(format!("there is no such check; there are: {}", names.join(", ")))
}
