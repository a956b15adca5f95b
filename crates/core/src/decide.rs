//! Facts in, decision out: every tick re-decides from the whole view.
//!
//! Six ordered tables of small rules. In each the first rule that speaks wins, so a rule may rely on all those
//! above it having stayed silent.

mod ended;
mod expire;
mod fence;
mod follow;
mod found;
mod health;
mod hold;
mod members;
mod memory;
mod operate;
mod restart;
mod upkeep;

use std::time::Duration;

use crate::action::{Action, Job};
use crate::reason::Reason;
use crate::record::{Kind, Phase};
use crate::view::{Directory, View};

pub use health::unfit;
pub use memory::Memory;

use serde::{Deserialize, Serialize};

/// What to do, and why. Both lists are in the order of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub actions: Vec<Action>,
    /// The first is what the member is about; the others are what goes on beside it.
    pub reasons: Vec<Reason>,
}

/// What one rule says.
struct Verdict {
    reason: Reason,
    actions: Vec<Action>,
}

impl Verdict {
    fn wait(reason: Reason) -> Option<Verdict> {
        Some(Verdict { reason, actions: Vec::new() })
    }

    fn act(reason: Reason, action: Action) -> Option<Verdict> {
        Some(Verdict { reason, actions: vec![action] })
    }
}

type Rule = fn(&View, &mut Memory) -> Option<Verdict>;

/// What becomes of the local server and its directory.
const SERVER: &[Rule] = &[
    found::record_unknown,
    found::witness,
    found::server_unknown,
    fence::promoted_by_outside_hand,
    fence::epoch_over,
    fence::nothing_left_yet,
    fence::record_behind,
    found::found_here,
    found::wait_for_founder,
    hold::directory_lost,
    hold::grant_void,
    hold::record_opening,
    hold::opening_failed,
    hold::grant_unused,
    hold::promote,
    restart::keep_stopping,
    hold::server_died,
    operate::step_down,
    health::hung,
    hold::switch_over,
    restart::stop_in_place,
    hold::primary,
    ended::nothing_to_report,
    ended::seal,
    ended::report,
    ended::wait_for_reports,
    operate::held_back,
    ended::not_proven,
    ended::back_off_after_crashes,
    ended::request_grant,
    follow::wait_for_opening,
    follow::foreign_directory,
    follow::read_record,
    follow::go_on,
    follow::keep_changing,
    operate::reinit,
    operate::leave_stopped,
    restart::stop_standby,
    follow::keep_following,
    follow::clone_absent,
    follow::seal,
    follow::start_to_follow,
    follow::rewind,
    follow::clone_diverged,
];

/// What a voter of the store says of the lease.
const LEASE: &[Rule] = &[expire::lease_run_out];

/// Who belongs to the cluster and who votes.
const MEMBERS: &[Rule] =
    &[members::raise_format, members::settle_voters, members::remove_left, members::change_voters];

/// What operators have asked for.
const OPERATION: &[Rule] = &[
    operate::resume,
    operate::end_maintenance,
    operate::forget_reinit,
    operate::scheduled_switchover,
    operate::hand_over,
];

/// Who may not stream from an open primary. A table of its own: a stranger that connects again and again holds up
/// neither the gate nor the sync set.
const STRANGERS: &[Rule] = &[upkeep::end_strangers];

/// What an open primary does about sync set and gate.
const UPKEEP: &[Rule] =
    &[upkeep::read_record, upkeep::open_gate, upkeep::change_sync, upkeep::wait_for_gate, upkeep::checkpoint];

/// Restarts of PostgreSQL that an operator asked for.
const RESTARTS: &[Rule] =
    &[restart::standby_is_back, restart::ask_for_switchover, restart::turn_of_nobody, restart::give_turn];

/// Decides what the member does now. Total and deterministic; `memory` holds only since when things are as they are.
pub fn decide(view: &View, memory: &mut Memory) -> Decision {
    memory.observe(view);
    let mut decision = Decision::default();
    for table in [SERVER, LEASE, MEMBERS, OPERATION, STRANGERS, UPKEEP, RESTARTS] {
        if let Some(verdict) = table.iter().find_map(|rule| rule(view, memory)) {
            decision.reasons.push(verdict.reason);
            decision.actions.extend(verdict.actions);
        }
    }
    decision
}

/// A job that just failed is not tried again at once: 0.25 s, doubled with each failure in a row, at most 30 s; at most 2 s
/// for one that everybody waits for.
fn back_off(view: &View, job: &Job) -> Option<Verdict> {
    let failure = view.failure(|failed| failed.same_kind(job))?;
    let doublings = failure.count.saturating_sub(1).min(7);
    let urgent =
        matches!(job, Job::Open { .. } | Job::Start { .. } | Job::Seal { .. } | Job::OpenGate { .. });
    let longest = Duration::from_secs(if urgent { 2 } else { 30 });
    let pause = Duration::from_millis(250 << doublings).min(longest);
    if view.now.since(failure.at) >= pause {
        return None;
    }
    Verdict::wait(Reason::BackingOff { job: job.clone(), error: failure.error.clone() })
}

fn is_data_member(view: &View) -> bool {
    view.record.members.get(&view.me).is_some_and(|member| member.kind == Kind::Data)
}

/// Why the data directory is not one of this cluster's, if so: it is never touched and never spoken for.
fn foreign(view: &View) -> Option<String> {
    match &view.directory {
        Directory::Foreign { why } => Some(why.clone()),
        Directory::Valid { system_identifier, .. }
            if view.record.system_identifier.is_some_and(|ours| ours != *system_identifier) =>
        {
            Some(format!("it belongs to another cluster (system identifier {system_identifier})"))
        }
        _ => None,
    }
}

/// Whether the record's live tenure is this member's.
fn holds(view: &View) -> bool {
    view.record.tenure().is_some_and(|tenure| tenure.holder == view.me)
}

fn holds_granted(view: &View) -> bool {
    view.record.phase == Phase::Granted && holds(view)
}

fn holds_open(view: &View) -> bool {
    view.record.phase == Phase::Open && holds(view)
}

fn has_ended(view: &View) -> bool {
    matches!(view.record.phase, Phase::Ended { .. })
}
