//! Starting a demo, and the live view of it.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_member::status::{MemberStatus, Role, Status};
use tokio::signal::unix::{SignalKind, signal};

use super::kill::grouped;
use super::place::Place;
use super::steps::Steps;
use super::{check, create, processes, verbs};
use crate::cli::DemoOptions;
use crate::commands::status::{bytes_words, render};
use crate::output::println;
use crate::writer::{Checked, Through, Writer};

/// Cloning a new, empty cluster takes a second or two.
const READY_PATIENCE: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const VIEW_INTERVAL: Duration = Duration::from_millis(500);
/// Every acknowledged row is looked up this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

const LEGEND: &str = "\
epoch     counts the grants of the right to write: each new primary has a new one
timeline  PostgreSQL's number for the history that a promotion begins
lag       WAL that the standby has not flushed yet
sync      yes: a commit is acknowledged once this standby, or another with yes, has flushed it";

pub(super) async fn run(options: &DemoOptions, directory: &Path) -> Result<ExitCode> {
    let mut steps = Steps::new(options.json);
    create::check_ports(options.port_base, options.members)?;
    let place = Place::make(directory, options.members, options.port_base)?;
    let title = match options.members {
        1 => "Mainstay demo: one PostgreSQL member on this machine (loopback only)".to_owned(),
        n => format!("Mainstay demo: {n} PostgreSQL members on this machine (loopback only)"),
    };
    steps.title(&title);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminates = signal(SignalKind::terminate())?;
    let started = tokio::select! {
        started = start(&place, options, &mut steps) => started,
        _ = interrupts.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminates.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let status = match started {
        Ok(status) => status,
        Err(error) => {
            let log = last_lines(&place);
            verbs::remove(&place).await?;
            return Err(error.context(format!("the demo did not start{log}")));
        }
    };
    if options.detach {
        return detached(&place, &status, options.json);
    }
    let shown = tokio::select! {
        shown = show(&place, &status, &title) => shown,
        _ = interrupts.recv() => Ok(()),
        _ = terminates.recv() => Ok(()),
    };
    println!("\nstopping");
    verbs::remove(&place).await?;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn start(place: &Place, options: &DemoOptions, steps: &mut Steps) -> Result<Status> {
    let begun = Instant::now();
    create::create(place, options.port_base).await?;
    for member in &place.members {
        processes::start(member)?;
    }
    let status = wait_ready(place, begun).await?;
    steps.done("members", &members_words(place, &status), begun);
    let begun = Instant::now();
    let words = check::run(&status).await?;
    steps.done("check", &words, begun);
    Ok(status)
}

async fn wait_ready(place: &Place, begun: Instant) -> Result<Status> {
    loop {
        for member in &place.members {
            let gone = begun.elapsed() > Duration::from_secs(2) && processes::member_pid(member).is_none();
            if gone {
                bail!("{} has ended", member.name);
            }
        }
        match place.status().await {
            Ok(status) if is_ready(&status) => return Ok(status),
            Ok(status) if begun.elapsed() > READY_PATIENCE => {
                bail!("not ready within {READY_PATIENCE:?}: {}", status.reason)
            }
            Err(error) if begun.elapsed() > READY_PATIENCE => return Err(error),
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// One primary that lets applications in, all others streaming and acknowledging, and a SQL proxy beside each.
fn is_ready(status: &Status) -> bool {
    let standbys =
        status.members.iter().filter(|row| row.role == Role::Standby && row.sync && row.lag_bytes.is_some());
    let has_proxy = |row: &MemberStatus| row.sql_proxy.as_ref().is_some_and(|proxy| proxy.pid.is_some());
    status.writable && status.members.iter().all(has_proxy) && standbys.count() + 1 == status.members.len()
}

fn members_words(place: &Place, status: &Status) -> String {
    let words = place.members.iter().map(|member| {
        if status.primary.as_ref() == Some(&member.name) {
            format!("{} created", member.name)
        } else {
            format!("{} cloned {}", member.name, bytes_words(directory_bytes(&member.data_directory())))
        }
    });
    words.collect::<Vec<_>>().join(" · ")
}

/// The size of all files below `directory`, WAL apart; what cannot be read counts as nothing.
fn directory_bytes(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && entry.file_name() == "pg_wal" => 0,
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn detached(place: &Place, status: &Status, json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(status)?);
    } else {
        println!("{}", render(status).trim_end());
        let (writes, reads) = verbs::urls_of(status);
        println!("\nwrites   {writes}\nreads    {reads}");
        println!("It runs on in {}. End it with: ./demo stop{}", place.directory.display(), place.flag());
    }
    Ok(ExitCode::SUCCESS)
}

/// The last lines of the members' logs, for an error message.
fn last_lines(place: &Place) -> String {
    let mut text = String::new();
    for member in &place.members {
        let log = std::fs::read_to_string(member.directory.join("log/member.log")).unwrap_or_default();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR") || line.starts_with("mainstay:"))
            .collect();
        for line in lines.iter().rev().take(3).rev() {
            text.push_str(&format!("\n  {}: {line}", member.name));
        }
    }
    text
}

/// Shows the cluster and a writer until interrupted.
async fn show(place: &Place, status: &Status, title: &str) -> Result<()> {
    let targets = verbs::proxies(status, None)?;
    let writer = Writer::start(targets, Through::SqlProxy, super::WRITER_TABLE, WRITE_INTERVAL)
        .await
        .context("the writer did not start")?;
    let terminal = std::io::stdout().is_terminal();
    let mut checked = Checked::default();
    let mut checked_at = Instant::now();
    let mut before = (Instant::now(), 0);
    let mut last_text = String::new();
    loop {
        tokio::time::sleep(VIEW_INTERVAL).await;
        if checked_at.elapsed() >= CHECK_INTERVAL {
            checked_at = Instant::now();
            if let Ok(newest) = writer.check().await {
                checked = newest;
            }
        }
        let acknowledged = writer.tally().acknowledged.len() as u64;
        let rate = (acknowledged - before.1) as f64 / before.0.elapsed().as_secs_f64();
        before = (Instant::now(), acknowledged);
        let table = match place.status().await {
            Ok(status) => render(&status),
            Err(error) => format!("{error:#}\n"),
        };
        let writer_line = format!(
            "writer: {rate:.0} commits/s, {} acknowledged, {} lost, {} twice",
            grouped(acknowledged),
            checked.lost,
            checked.twice
        );
        let text = format!("{table}{writer_line}");
        let flag = place.flag();
        if terminal {
            crate::output::part(&format!(
                "\x1b[H\x1b[2J{title}\n\n{text}\n\n{LEGEND}\n\nIn another terminal: ./demo kill m1{flag} · ./demo start m1{flag} · ./demo switchover{flag} · ./demo explain{flag}\nCtrl-C stops and removes everything.\n"
            ));
        } else if table != last_text {
            println!("{text}");
            last_text = table;
        }
    }
}
