//! A machine that is busy with other things is not a dead one: hogs on every core and on the disk, and no failover.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::hog::Hogs;
use super::{LOOK_INTERVAL, Options, steady_client};
use crate::cluster::Cluster;
use crate::files::{Plan, Site};
use crate::pgbench::{self, Load, Pgbench};
use crate::{check, clock, interrupt, suite};

/// Twice as many hogs as cores: members get their turn late, always.
const HOGS_PER_CORE: usize = 2;
const DISK_HOGS: usize = 2;
/// Load that a busy machine can still do.
const RATE: u32 = 50;
const WHOLE_PATIENCE: Duration = Duration::from_secs(120);

/// Counts the failovers in so much time; there is to be none.
pub fn run(options: &Options, duration: Duration) -> Result<()> {
    let mut cluster = Cluster::create(options.index, &options.binary, &Plan::new(options.members))?;
    cluster.prepare_pgbench()?;
    let sites: Vec<&Site> = cluster.data_members().map(|member| &member.site).collect();
    let mut load = Pgbench::start(pgbench::direct(&sites), &Load { rate: Some(RATE), ..Load::default() })?;
    let mut client = steady_client(&cluster)?;
    let before = cluster.status().context("nobody answers")?;
    let mark = clock::now();
    let cores = std::thread::available_parallelism()?.get();
    let hogs = Hogs::start(cores * HOGS_PER_CORE, DISK_HOGS, cluster.base())?;
    println!("{} CPU hogs and {DISK_HOGS} disk hogs on {cores} cores", cores * HOGS_PER_CORE);
    let mut alone = Duration::ZERO;
    let mut last = mark;
    let mut newest = before.epoch;
    interrupt::wait_until(mark.plus(duration), LOOK_INTERVAL * 25, || -> Option<()> {
        let now = clock::now();
        if let Some(status) = cluster.status() {
            newest = newest.max(status.epoch);
            if status.is_alone() {
                alone += now.since(last);
            }
        }
        last = now;
        None
    })?;
    drop(hogs);
    cluster.wait_whole(WHOLE_PATIENCE)?;
    load.stop();
    let history = client.stop();
    let gap = history.longest_gap(mark).context("the client wrote nothing")?.length();
    let verdict = check::rows(&cluster, client.number, &history)?;
    let failovers = newest.max(cluster.status().context("nobody answers")?.epoch) - before.epoch;
    println!(
        "{failovers} failovers in {:.0} s; longest pause {:.2} s; alone {:.1} s; {verdict}",
        duration.as_secs_f64(),
        gap.as_secs_f64(),
        alone.as_secs_f64()
    );
    if let Some(path) = &options.out {
        suite::append(
            path,
            &json!({
                "bench": "starve", "seconds": duration.as_secs_f64(), "failovers": failovers,
                "gap_s": gap.as_secs_f64(), "alone_s": alone.as_secs_f64(), "errors": verdict.errors(),
                "lost": verdict.lost.len(), "duplicated": verdict.duplicated.len(),
            }),
        )?;
    }
    ensure!(verdict.is_good(), "{verdict}");
    ensure!(failovers == 0, "{failovers} failovers, though nothing failed");
    Ok(())
}
