//! What a cluster that does nothing takes: memory and CPU of each member's two processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Options;
use super::table::render;
use crate::cluster::Cluster;
use crate::files::Plan;
use crate::process::Kind;
use crate::{clock, interrupt, suite};

/// Clock ticks of process times have been 100 a second on every Linux of the last twenty years.
const TICKS_PER_SECOND: f64 = 100.0;
/// After the last checkpoint of the beginning.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures for so long, with so many witnesses beside the data members.
pub fn run(options: &Options, witnesses: u8, duration: Duration) -> Result<()> {
    let plan = Plan { witnesses, ..Plan::new(options.members) };
    let cluster = Cluster::create(options.index, &options.binary, &plan)?;
    interrupt::pause(SETTLE)?;
    let processes: Vec<(String, &str, i32)> = cluster
        .members
        .iter()
        .flat_map(|member| {
            [(Kind::Member, "member"), (Kind::Guard, "guard")].into_iter().filter_map(|(kind, word)| {
                let process = member.process(kind)?;
                Some((member.name().to_owned(), word, process.pid))
            })
        })
        .collect();
    let ticks = || processes.iter().map(|(_, _, pid)| ticks(*pid)).collect::<Result<Vec<u64>>>();
    let (before, begun) = (ticks()?, clock::now());
    interrupt::pause(duration)?;
    let (after, took) = (ticks()?, clock::now().since(begun).as_secs_f64());
    let mut rows = Vec::new();
    for ((member, kind, pid), (before, after)) in processes.iter().zip(before.iter().zip(&after)) {
        let (rss, pss) = memory(*pid)?;
        let cpu_percent = (after - before) as f64 / TICKS_PER_SECOND / took * 100.0;
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        rows.push(vec![format!("{member} {kind}"), mib(rss), mib(pss), format!("{cpu_percent:.2} %")]);
        if let Some(path) = &options.out {
            suite::append(
                path,
                &json!({
                    "bench": "idle", "member": member, "process": kind, "seconds": took,
                    "rss_bytes": rss, "pss_bytes": pss, "cpu_percent": cpu_percent,
                }),
            )?;
        }
    }
    println!("{}", render(&["process", "RSS", "PSS", "CPU"], &rows));
    Ok(())
}

/// User and system time since the process began.
fn ticks(pid: i32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended while it was measured"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(") ").context("the kernel's words")?.1.split_whitespace().collect();
    let field = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(field(11) + field(12))
}

/// Resident memory in bytes: all of it, and with what is shared counted in parts.
pub(super) fn memory(pid: i32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("the memory of process {pid} cannot be read"))?;
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let rss = kilobytes("Rss:").context("the kernel tells no Rss")?;
    let pss = kilobytes("Pss:").context("the kernel tells no Pss")?;
    Ok((rss * 1024, pss * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_memory() {
        let (rss, pss) = memory(std::process::id().cast_signed()).unwrap();
        assert!(rss >= pss && pss > 0);
        assert!(ticks(i32::MAX).is_err());
    }
}
