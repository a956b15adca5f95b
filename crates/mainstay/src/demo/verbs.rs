//! The small verbs of a running demo.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_member::explain::Explanation;
use mainstay_member::status::{MemberStatus, Status};
use nix::sys::signal::Signal;

use super::place::{MemberPlace, Place};
use super::processes;
use crate::cli::DrillFault;
use crate::commands::drill::{self as drill_command, Plan};
use crate::commands::{
    explain as explain_command, psql as psql_command, status as status_command,
    switchover as switchover_command, verify as verify_command,
};
use crate::output::println;
use crate::target::Target;

/// PostgreSQL's clean stop, with its checkpoint, and the end of the lease.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub(super) async fn status(place: &Place, watch: bool, json: bool) -> Result<ExitCode> {
    status_command::show(watch, json, async || place.status().await).await
}

pub(super) async fn psql(place: &Place, arguments: &[String]) -> Result<ExitCode> {
    psql_command::exec(&urls_of(&place.status().await?).0, None, arguments)
}

/// Where applications write and read: through the SQL proxies, once a member that answers knows of them.
pub(super) fn urls_of(status: &Status) -> (String, String) {
    let endpoints = &status.endpoints;
    let through = |proxies: &Option<String>, direct: &String| proxies.as_ref().unwrap_or(direct).clone();
    (through(&endpoints.sql_rw, &endpoints.rw), through(&endpoints.sql_ro, &endpoints.ro))
}

/// Every SQL proxy of the demo but that of `without`, for a client that writes.
pub(super) fn proxies(status: &Status, without: Option<&MemberId>) -> Result<Vec<Target>> {
    let url = status.endpoints.sql_rw.as_ref().context("no member has a SQL proxy; see `demo status`")?;
    let wanted = |row: &&MemberStatus| status.members.len() == 1 || Some(&row.name) != without;
    let rows = status.members.iter().filter(wanted);
    let addresses = rows.filter_map(|row| row.sql_proxy.as_ref()?.address);
    addresses.map(|address| Target::of_url_at(url, address)).collect()
}

pub(super) async fn urls(place: &Place, json: bool) -> Result<ExitCode> {
    let status = place.status().await?;
    let ((writes, reads), endpoints) = (urls_of(&status), status.endpoints);
    if json {
        println!("{}", serde_json::to_string_pretty(&endpoints)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("writes   {writes}");
    println!("reads    {reads}");
    println!("without the SQL proxies:");
    for (member, url) in &endpoints.members {
        println!("{member:<8} {url}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn start(place: &Place, member: &MemberPlace) -> Result<ExitCode> {
    processes::start(member)?;
    println!("{} is starting; watch it with: ./demo status --watch{}", member.name, place.flag());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn stop_one(_: &Place, member: &MemberPlace) -> Result<ExitCode> {
    let begun = Instant::now();
    stop(member).await?;
    println!(
        "{} is stopped, after {:.1} s; nothing acknowledged is lost",
        member.name,
        begun.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// Asks the member to stop, and waits until none of its processes is left.
pub(super) async fn stop(member: &MemberPlace) -> Result<()> {
    let Some(pid) = processes::member_pid(member) else {
        let left = processes::all(member);
        if left.is_empty() {
            bail!("{} does not run", member.name);
        }
        // A member that was killed alone: what it left is ended with it.
        return end(member).await;
    };
    processes::signal(&[pid], Signal::SIGTERM)?;
    let begun = Instant::now();
    while processes::member_pid(member).is_some() {
        if begun.elapsed() > STOP_PATIENCE {
            return end(member).await;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    end(member).await
}

/// Ends whatever is left of the member.
pub(super) async fn end(member: &MemberPlace) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = processes::all(member);
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > STOP_PATIENCE {
            bail!("{} processes of {} do not end", left.len(), member.name);
        }
        processes::signal(&left, Signal::SIGKILL)?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

pub(super) async fn stop_all(place: &Place) -> Result<ExitCode> {
    remove(place).await?;
    println!("the demo in {} is stopped and removed", place.directory.display());
    Ok(ExitCode::SUCCESS)
}

/// Stops every member and removes the directory.
pub(super) async fn remove(place: &Place) -> Result<()> {
    let mut members: Vec<Vec<_>> = Vec::new();
    for member in &place.members {
        members.push(processes::all(member));
    }
    // A frozen member hears SIGTERM only once it goes on.
    for pids in &members {
        processes::signal(pids, Signal::SIGCONT)?;
    }
    let mut stopping = tokio::task::JoinSet::new();
    for member in place.members.clone() {
        stopping.spawn(async move {
            if processes::all(&member).is_empty() { Ok(()) } else { stop(&member).await }
        });
    }
    while let Some(stopped) = stopping.join_next().await {
        stopped??;
    }
    std::fs::remove_dir_all(&place.directory)
        .with_context(|| format!("cannot remove {}", place.directory.display()))
}

pub(super) fn freeze(place: &Place, member: &MemberPlace) -> Result<ExitCode> {
    let pids = processes::all(member);
    if pids.is_empty() {
        bail!("{} does not run", member.name);
    }
    processes::signal(&pids, Signal::SIGSTOP)?;
    println!(
        "{} is frozen: {} processes have stopped in their tracks; let it go on with: ./demo thaw {}{}",
        member.name,
        pids.len(),
        member.name,
        place.flag()
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn thaw(place: &Place, member: &MemberPlace) -> Result<ExitCode> {
    let pids = processes::all(member);
    if pids.is_empty() {
        bail!("{0} does not run; start it with: ./demo start {0}{1}", member.name, place.flag());
    }
    processes::signal(&pids, Signal::SIGCONT)?;
    println!("{} goes on", member.name);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn switchover(place: &Place, to: Option<MemberId>, json: bool) -> Result<ExitCode> {
    if let Some(to) = &to {
        place.member(to)?;
    }
    let member = place.status().await?.member;
    let control = place.member(&member)?.control()?;
    let asked = Instant::now();
    let answer = switchover_command::ask(&control, to).await?;
    let status = switchover_command::wait(&answer, async || place.status().await).await?;
    switchover_command::report(&answer, &status, asked.elapsed(), json)
}

/// As on the machine of the first member that runs.
pub(super) async fn verify(place: &Place, only: &[String], json: bool) -> Result<ExitCode> {
    let running = place.members.iter().find(|member| processes::member_pid(member).is_some());
    let member = running.or(place.members.first()).context("the demo has no members")?;
    let report = verify_command::examine(member.configuration()?, only).await?;
    verify_command::show(&report, json)
}

/// As on the machine of the one that is hit.
pub(super) async fn drill(place: &Place, plan: Plan) -> Result<ExitCode> {
    let status = place.status().await?;
    let hit = match (&plan.member, plan.fault) {
        (Some(member), DrillFault::Kill | DrillFault::Freeze | DrillFault::Cut) => member.clone(),
        _ => status.primary.context("there is no primary; see why with `status`")?,
    };
    drill_command::carry_out(&place.member(&hit)?.configuration()?, &plan, true).await
}

pub(super) async fn explain(place: &Place, last: usize, json: bool) -> Result<ExitCode> {
    let mut all: Vec<(MemberId, Explanation)> = Vec::new();
    for member in &place.members {
        let explanations: Result<Vec<Explanation>> = member.control()?.explain(last).await;
        match explanations {
            Ok(list) => all.extend(list.into_iter().map(|item| (member.name.clone(), item))),
            Err(error) if !json => eprintln!("{}: {error:#}", member.name),
            Err(_) => {}
        }
    }
    all.sort_by_key(|(_, explanation)| explanation.view.now);
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(&all.into_iter().map(|(_, item)| item).collect::<Vec<_>>())?
        );
        return Ok(ExitCode::SUCCESS);
    }
    for (member, explanation) in &all {
        crate::output::part(&format!("{member:<4}"));
        explain_command::print_one(explanation);
    }
    Ok(ExitCode::SUCCESS)
}
