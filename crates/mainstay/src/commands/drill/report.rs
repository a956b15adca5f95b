//! What came of a drill, against what was wanted.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use mainstay_core::{Epoch, MemberId, Now};
use mainstay_member::Configuration;
use mainstay_member::status::Status;
use serde::Serialize;

use super::Plan;
use super::precheck::Before;
use crate::output::println;
use crate::writer::{Checked, Writer};

/// What a failover takes beside the lease: the others seal, agree and promote.
const BESIDE_LEASE: Duration = Duration::from_secs(1);

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    cluster: String,
    /// `kill`, `freeze` or `switchover`.
    fault: &'static str,
    /// Whose processes were hit; `null` for a switchover.
    member: Option<MemberId>,
    primary_before: MemberId,
    primary: Option<MemberId>,
    epoch_before: Epoch,
    epoch: Epoch,
    /// The longest time without an acknowledgement.
    write_gap_ms: u64,
    goal_ms: u64,
    /// Acknowledged rows, and how many of them are not there or there twice.
    rows: u64,
    lost: u64,
    twice: u64,
    /// From the fault until every standby acknowledged again; `null` if that did not happen.
    whole_ms: Option<u64>,
    /// The goal was met, nothing was lost, and the cluster is whole.
    ok: bool,
}

impl Report {
    #[allow(clippy::too_many_arguments, reason = "all that was seen, put together once")]
    pub(super) fn new(
        configuration: &Configuration,
        plan: &Plan,
        before: &Before,
        status: &Status,
        at: Now,
        writer: &Writer,
        checked: Checked,
        whole: Option<Duration>,
    ) -> Report {
        let gap = writer.tally().longest_gap(at).map_or(Duration::ZERO, |(begin, end)| end.since(begin));
        let goal = plan.goal.unwrap_or(configuration.lease + BESIDE_LEASE);
        let (write_gap_ms, goal_ms) = (milliseconds(gap), milliseconds(goal));
        let nothing_lost = checked.lost + checked.twice == 0;
        Report {
            cluster: configuration.cluster.clone(),
            fault: plan.fault.as_str(),
            member: before.hit.clone(),
            primary_before: before.primary.clone(),
            primary: status.primary.clone(),
            epoch_before: before.epoch,
            epoch: status.epoch,
            write_gap_ms,
            goal_ms,
            rows: checked.rows,
            lost: checked.lost,
            twice: checked.twice,
            whole_ms: whole.map(milliseconds),
            ok: nothing_lost && write_gap_ms <= goal_ms && whole.is_some(),
        }
    }

    /// A goal that was missed makes the exit code 1.
    pub(super) fn show(&self, json: bool) -> Result<ExitCode> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            self.print();
        }
        Ok(if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print(&self) {
        let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1000.0);
        let primary = self.primary.as_ref().map_or("nobody", MemberId::as_str);
        println!("\nprimary    {} before, {primary} now (epoch {})", self.primary_before, self.epoch);
        let met = if self.write_gap_ms <= self.goal_ms { "met" } else { "MISSED" };
        println!("write gap  {}; the goal of {} is {met}", seconds(self.write_gap_ms), seconds(self.goal_ms));
        println!("rows       {} acknowledged, {} lost, {} twice", self.rows, self.lost, self.twice);
        match self.whole_ms {
            Some(ms) => println!("whole      after {}", seconds(ms)),
            None => {
                println!(
                    "whole      NOT: see what is missing with `mainstay verify`, and start what does not run"
                )
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
