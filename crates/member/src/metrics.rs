//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use crate::status::{Role, Status};

/// Renders what this member knows. One sample per member where a member is meant.
pub(crate) fn render(status: &Status) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, samples: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value)];
    let members = |value: &dyn Fn(&crate::status::MemberStatus) -> Option<u64>| {
        let sample = |row| value(row).map(|value| (format!("{{member=\"{}\"}}", row.name), value));
        status.members.iter().filter_map(sample).collect::<Vec<_>>()
    };
    let own_role = status.members.iter().find(|row| row.name == status.member).map(|row| row.role);
    gauge("mainstay_epoch", "The newest epoch that was granted.", one(status.epoch.0));
    gauge("mainstay_writable", "Whether a primary lets applications in.", one(u64::from(status.writable)));
    gauge(
        "mainstay_primary",
        "Whether this member is the primary.",
        one(u64::from(own_role == Some(Role::Primary))),
    );
    gauge("mainstay_at_risk_bytes", "WAL lost if the primary's machine died now.", one(status.at_risk_bytes));
    if let Some(remaining) = status.lease.as_ref().and_then(|lease| lease.remaining_ms) {
        gauge("mainstay_lease_remaining_milliseconds", "Until the lease must be renewed.", one(remaining));
    }
    let serves =
        |row: &crate::status::MemberStatus| matches!(row.role, Role::Primary | Role::Standby | Role::Witness);
    gauge("mainstay_member_up", "Whether the member serves.", members(&|row| Some(u64::from(serves(row)))));
    gauge("mainstay_member_lag_bytes", "How far a standby is behind.", members(&|row| row.lag_bytes));
    gauge(
        "mainstay_member_sync",
        "Whether it acknowledges commits.",
        members(&|row| Some(u64::from(row.sync))),
    );
    gauge("mainstay_member_heard_milliseconds", "How long ago it was heard.", members(&|row| row.heard_ms));
    text
}
