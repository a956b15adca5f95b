//! Whether the cluster would survive what is planned. If not, nothing is done.

use anyhow::{Context, Result, bail};
use mainstay_core::record::Kind;
use mainstay_core::{Epoch, MemberId};
use mainstay_member::Configuration;
use mainstay_member::status::{MemberStatus, Role, Status};

use super::Plan;
use crate::cli::{DrillFault, DrillScope};

/// Members tell each other something four times a second.
const SILENT_MS: u64 = 2_000;

/// The cluster as it was, and what is to happen.
pub(super) struct Before {
    pub(super) epoch: Epoch,
    pub(super) primary: MemberId,
    /// Whose processes are hit; `None` for a switchover.
    pub(super) hit: Option<MemberId>,
    pub(super) hits_primary: bool,
    /// Whether the member that is hit runs on another machine.
    pub(super) elsewhere: bool,
    /// The postmaster and the other processes of the member that is hit.
    pub(super) pid: Option<u32>,
    pub(super) member_pid: Option<u32>,
    pub(super) guard_pid: Option<u32>,
    pub(super) data_directory: std::path::PathBuf,
    /// What is going to be done, and what was.
    pub(super) announcement: String,
    pub(super) done: String,
}

/// One primary that lets applications in, and every other member at its work.
pub(super) fn whole(status: &Status) -> Result<()> {
    if status.primary.is_none() || !status.writable {
        bail!("nobody can write: {}", status.reason);
    }
    for row in &status.members {
        let is_heard = row.name == status.member || row.heard_ms.is_some_and(|ms| ms < SILENT_MS);
        if !is_heard {
            bail!("{} is not heard", row.name);
        }
        let is_primary = Some(&row.name) == status.primary.as_ref();
        if row.kind == Kind::Data && !is_primary && !(row.role == Role::Standby && row.sync) {
            bail!("{} is {} and acknowledges no commits", row.name, row.role.as_str());
        }
    }
    Ok(())
}

/// Refuses what the cluster would not survive.
pub(super) fn check(configuration: &Configuration, plan: &Plan, status: &Status) -> Result<Before> {
    let not_now = "the cluster is not whole, so no drill now; see `mainstay verify`";
    whole(status).context(not_now)?;
    let primary = status.primary.clone().context(not_now)?;
    let standbys = status.members.iter().filter(|row| row.role == Role::Standby && row.sync).count();
    if standbys == 0 {
        bail!("no standby acknowledges commits, so nobody could take over; add one first");
    }
    if plan.fault == DrillFault::Switchover {
        return Ok(planned(plan, status, primary));
    }
    let hit = plan.member.clone().unwrap_or_else(|| primary.clone());
    let row = status.members.iter().find(|row| row.name == hit);
    let row = row.with_context(|| {
        let names: Vec<&str> = status.members.iter().map(|row| row.name.as_str()).collect();
        format!("there is no member {hit}; there are {}", names.join(", "))
    })?;
    if plan.fault == DrillFault::Cut && hit == configuration.me {
        bail!(
            "who is cut off can measure nothing; run this on another member's machine: mainstay drill cut --member {hit}"
        );
    }
    if plan.fault == DrillFault::Cut && plan.length(configuration) <= configuration.lease {
        bail!(
            "a cut that is over before the lease is shows nothing; give --for more than {:?}",
            configuration.lease
        );
    }
    may_be_hit(plan, status, row)?;
    let hits_primary = hit == primary;
    Ok(Before { elsewhere: hit != configuration.me, ..hitting(plan, status, row, primary, hits_primary) })
}

/// The same on the machine that is hit, at the word of another one, which measures it.
pub(super) fn ordered(configuration: &Configuration, plan: &Plan, status: &Status) -> Result<Before> {
    let not_now = "the cluster is not whole, so no drill now; see `mainstay verify`";
    whole(status).context(not_now)?;
    let primary = status.primary.clone().context(not_now)?;
    let row = status.members.iter().find(|row| row.name == configuration.me).context(not_now)?;
    may_be_hit(plan, status, row)?;
    let hits_primary = primary == configuration.me;
    Ok(hitting(plan, status, row, primary, hits_primary))
}

/// Whether there is something to hit, and enough without it.
fn may_be_hit(plan: &Plan, status: &Status, row: &MemberStatus) -> Result<()> {
    let hit = &row.name;
    if row.kind == Kind::Witness && plan.fault != DrillFault::Cut {
        bail!("{hit} is a witness and has no PostgreSQL; name a data member with --member");
    }
    let voters = status.members.iter().filter(|row| row.votes).count();
    let left = status.members.iter().filter(|row| row.votes && row.name != *hit).count();
    let whole_member = plan.scope == DrillScope::Member && plan.fault == DrillFault::Kill;
    if (whole_member || plan.fault == DrillFault::Cut) && left <= voters / 2 {
        bail!(
            "without {hit} {left} of {voters} voters would be left, no majority; add a third member or a witness"
        );
    }
    Ok(())
}

fn planned(plan: &Plan, status: &Status, primary: MemberId) -> Before {
    let to = plan.member.as_ref().map_or("the best standby", MemberId::as_str);
    Before {
        epoch: status.epoch,
        announcement: format!("{primary} hands over to {to}; writes wait for less than a second."),
        done: format!("switchover from {primary} to {to} asked for"),
        primary,
        hit: None,
        hits_primary: true,
        elsewhere: false,
        pid: None,
        member_pid: None,
        guard_pid: None,
        data_directory: std::path::PathBuf::new(),
    }
}

fn hitting(
    plan: &Plan,
    status: &Status,
    row: &MemberStatus,
    primary: MemberId,
    hits_primary: bool,
) -> Before {
    let hit = &row.name;
    let what = match (plan.fault, plan.scope) {
        (DrillFault::Freeze, _) => "PostgreSQL's postmaster is stopped in its tracks (SIGSTOP)",
        (DrillFault::Cut, _) => "the network to the other members is cut",
        (_, DrillScope::Member) => "the member, its guard and PostgreSQL are killed (kill -9)",
        _ => "PostgreSQL is killed (kill -9)",
    };
    let role = if hits_primary { "the primary" } else { "a standby" };
    let effect =
        if hits_primary { "writes stop until another member has taken over" } else { "writes go on" };
    Before {
        epoch: status.epoch,
        announcement: format!("On {hit}, {role}, {what}; {effect}."),
        done: format!("on {hit}, {role}, {what}"),
        primary,
        hit: Some(hit.clone()),
        hits_primary,
        elsewhere: false,
        pid: row.postgres.as_ref().and_then(|postgres| postgres.pid),
        member_pid: row.pid,
        guard_pid: row.guard_pid,
        data_directory: row.postgres.as_ref().map(|postgres| postgres.data_dir.clone()).unwrap_or_default(),
    }
}
