//! `kill`: a member dies whole, as if its machine had lost power, and everybody can watch what happens.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mainstay_core::reason::Reason;
use mainstay_core::{MemberId, Now};
use mainstay_member::explain::Explanation;
use nix::sys::signal::Signal;

use super::place::{MemberPlace, Place};
use super::{processes, verbs};
use crate::output::println;
use crate::writer::{Tally, Through, Writer};

const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const BASELINE: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A cluster that has not come back by then has a reason, and says it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(place: &Place, member: &MemberPlace) -> Result<ExitCode> {
    let pids = processes::all(member);
    if pids.is_empty() {
        bail!("{} does not run", member.name);
    }
    let status = place.status().await?;
    let was_primary = status.primary.as_ref() == Some(&member.name);
    // An application on another machine would take the next of its proxies; this one begins with one that lives on.
    let targets = verbs::proxies(&status, Some(&member.name))?;
    let writer = Writer::start(targets, Through::SqlProxy, super::WRITER_TABLE, WRITE_INTERVAL).await?;
    tokio::time::sleep(BASELINE).await;
    let killed_at = mainstay_member::now();
    processes::signal(&processes::all(member), Signal::SIGKILL)?;
    let last = writer.tally().acknowledged.keys().last().copied().unwrap_or(0);
    println!(
        "  0.00 s  {} killed (kill -9: member, guard, SQL proxy, PostgreSQL); last acknowledged row {}",
        member.name,
        grouped(last)
    );
    let survivors: Vec<&MemberPlace> =
        place.members.iter().filter(|other| other.name != member.name).collect();
    watch(&survivors, &writer, killed_at, was_primary).await?;
    tokio::time::sleep(BASELINE).await;
    report(&writer, killed_at).await
}

/// Prints what the survivors decide, until writes are back.
async fn watch(survivors: &[&MemberPlace], writer: &Writer, killed_at: Now, was_primary: bool) -> Result<()> {
    let begun = Instant::now();
    let mut printed = BTreeSet::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let mut lines = Vec::new();
        for member in survivors {
            let explanations: Vec<Explanation> = member.control()?.explain(60).await.unwrap_or_default();
            for explanation in explanations.iter().filter(|explanation| explanation.view.now >= killed_at) {
                for reason in &explanation.decision.reasons {
                    if let Some(line) = line(&member.name, reason) {
                        lines.push((explanation.view.now, line));
                    }
                }
            }
        }
        lines.sort();
        for (at, line) in lines {
            if printed.insert(line.clone()) {
                println!("{:>6.2}    {line}", at.since(killed_at).as_secs_f64());
            }
        }
        let back = writer
            .tally()
            .acknowledged
            .iter()
            .find(|(_, at)| at.since(killed_at) > Duration::from_millis(100))
            .map(|(id, at)| (*id, *at));
        if let Some((id, at)) = back {
            println!(
                "{:>6.2}    first write acknowledged: row {}",
                at.since(killed_at).as_secs_f64(),
                grouped(id)
            );
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let hint = if was_primary { "; see why with: ./demo explain" } else { "" };
            bail!("writes did not come back within {PATIENCE:?}{hint}");
        }
    }
}

/// What of a member's reasons tells the story.
fn line(member: &MemberId, reason: &Reason) -> Option<String> {
    match reason {
        Reason::LeaseRunOut { .. } => Some(reason.to_string()),
        Reason::Chosen { .. } => Some(format!("{member} chosen: {reason}")),
        Reason::RecordingOpening { epoch, timeline, .. } => {
            Some(format!("{member} promoted: epoch {epoch}, timeline {timeline}"))
        }
        Reason::Following { member: upstream, .. } => Some(format!("{member} streams from {upstream}")),
        Reason::Degrading { .. } | Reason::NotProven { .. } => Some(format!("{member}: {reason}")),
        _ => None,
    }
}

async fn report(writer: &Writer, killed_at: Now) -> Result<ExitCode> {
    let checked = writer.check().await?;
    let away =
        writer.tally().longest_gap(killed_at).map_or(0.0, |(begin, end)| end.since(begin).as_secs_f64());
    println!(
        "Writes were away {away:.2} s. Checked {} acknowledged rows: {} lost, {} twice.",
        grouped(checked.rows),
        checked.lost,
        checked.twice
    );
    println!("{}", connection_words(&writer.tally()));
    Ok(if checked.lost + checked.twice == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What an application would have noticed, beside the pause.
fn connection_words(tally: &Tally) -> String {
    let connection = match tally.reconnected {
        0 => "kept its connection".to_owned(),
        1 => "had to connect again".to_owned(),
        times => format!("had to connect again {times} times"),
    };
    let under_way = match tally.unknown {
        0 => "no commit was left open".to_owned(),
        1 => "1 commit under way is open (08007)".to_owned(),
        count => format!("{count} commits under way are open (08007)"),
    };
    let errors = if tally.failed == 1 { "1 error".to_owned() } else { format!("{} errors", tally.failed) };
    format!("The writer {connection}: {errors} for new work, {under_way}.")
}

/// 1240 as `1,240`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
