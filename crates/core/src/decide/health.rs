//! A primary that lives but does not work: stopped, hung, or on a disk that is full or does not answer.

use std::time::Duration;

use super::{Memory, Verdict, holds_open};
use crate::action::{Action, Kill};
use crate::election;
use crate::reason::Reason;
use crate::record::{EndCause, HeldBack};
use crate::sync::Voter;
use crate::view::{PeerServer, View};
use crate::vocabulary::MemberId;

/// A stopped postmaster answers nobody; 1.5 s tell it from one that a debugger looks at briefly.
const STOPPED_PATIENCE: Duration = Duration::from_millis(1_500);
/// A sleeping postmaster that does not answer a fresh connection.
const SILENT_PATIENCE: Duration = Duration::from_secs(4);
/// A postmaster that is waiting for a CPU is slow, not hung.
const STARVED_PATIENCE: Duration = Duration::from_secs(20);
/// A write counts as hung only when its device completed nothing for so long: slow disks complete something.
const DISK_PATIENCE: Duration = Duration::from_secs(5);
/// What fills a disk may be a query's temporary files, which go when it fails.
const FULL_PATIENCE: Duration = Duration::from_secs(5);
/// Stepping down for this cause helps at most once a minute; if it is the load, another primary would hang as well.
const STEP_DOWN_PAUSE: Duration = Duration::from_secs(60);

pub(super) fn hung(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if !holds_open(view) || !view.holds_lease() {
        return None;
    }
    let epoch = view.record.epoch;
    let what = symptom(view, memory)?;
    if view.record.paused().is_some() {
        return Verdict::wait(Reason::HungWhilePaused { what });
    }
    let paused = memory.stepped_down_at.is_some_and(|at| view.now.since(at) < STEP_DOWN_PAUSE);
    if paused || !somebody_else_can(view, None) {
        return Verdict::wait(Reason::HungButNobodyElse { what });
    }
    memory.stepped_down_at = Some(view.now);
    memory.ending = Some((epoch, EndCause::Hung { what: what.clone() }));
    Some(Verdict {
        reason: Reason::Hung { what },
        // Processes on a stalled disk cannot die: then the lease runs out instead.
        actions: vec![Action::Relinquish { epoch }, Action::Kill { why: Kill::Hung }],
    })
}

fn symptom(view: &View, memory: &Memory) -> Option<String> {
    let health = &view.health;
    if let Some(since) = health.silent_since {
        let silent = view.now.since(since);
        let (patience, state) = match health.postmaster_state {
            Some('T' | 't') => (STOPPED_PATIENCE, "PostgreSQL is stopped (SIGSTOP)"),
            Some('R') => (STARVED_PATIENCE, "PostgreSQL is starved of CPU"),
            _ => (SILENT_PATIENCE, "PostgreSQL does not answer"),
        };
        if silent >= patience {
            return Some(format!(
                "{state}: no answer to a fresh connection for {:.1} s",
                silent.as_secs_f64()
            ));
        }
    }
    if let (Some(write), Some(device)) = (health.write_waits_since, health.device_idle_since) {
        let device_idle = view.now.since(device);
        if view.now.since(write) >= DISK_PATIENCE && device_idle >= DISK_PATIENCE {
            return Some(format!("the disk has completed nothing for {:.1} s", device_idle.as_secs_f64()));
        }
    }
    // PostgreSQL fails every write that needs room, and stays up.
    let full = memory.full_since.is_some_and(|since| view.now.since(since) >= FULL_PATIENCE);
    full.then(|| "its disk is full".to_owned())
}

/// A voter that was heard lately, follows this epoch and is fit; `named`, if that is said.
pub(super) fn somebody_else_can(view: &View, named: Option<&MemberId>) -> bool {
    let Some(sync) = view.record.sync() else {
        return false;
    };
    let may = |voter: &Voter| match named {
        Some(named) => *named == voter.member,
        None => election::held_back(&view.record, &voter.member).is_none_or(|why| why == HeldBack::Paused),
    };
    sync.voters.iter().filter(|voter| may(voter)).any(|voter| {
        view.fresh_peer(&voter.member).is_some_and(|peer| {
            peer.incarnation == Some(voter.incarnation)
                && peer.server == PeerServer::Standby
                && peer.epoch == view.record.epoch
                && peer.unfit.is_none()
        })
    })
}

/// Why this member should rather not be promoted, if anything.
pub fn unfit(view: &View, memory: &Memory) -> Option<String> {
    if view.health.disk_full {
        return Some("too little room for WAL on its disk".to_owned());
    }
    let stalled = |since: crate::vocabulary::Now| view.now.since(since) >= Duration::from_secs(1);
    if view.health.write_waits_since.is_some_and(stalled) {
        return Some("its disk does not answer".to_owned());
    }
    let minute = Duration::from_secs(60);
    let crashes = memory.crashes.values().filter(|at| view.now.since(**at) < minute).count();
    (crashes >= 3).then(|| format!("PostgreSQL crashed {crashes} times within a minute"))
}
