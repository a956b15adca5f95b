//! Whatever writes without the lease of the record's epoch is ended before anything else is thought of.

use std::time::Duration;

use super::{Memory, Verdict, holds};
use crate::action::{Action, Kill};
use crate::mutant::{Mutant, mutated};
use crate::reason::Reason;
use crate::view::{Server, View};

/// A guard that was killed is replaced, and what it left ended, within this.
const USELESS_PATIENCE: Duration = Duration::from_secs(4);

/// PostgreSQL left recovery, but the guard did not open it.
pub(super) fn promoted_by_outside_hand(view: &View, _: &mut Memory) -> Option<Verdict> {
    let running = view.running()?;
    let stray = running.opened.is_none() && running.in_recovery == Some(false);
    if !stray || mutated(Mutant::StrayPrimaryTolerated) {
        return None;
    }
    let why = Kill::PromotedByOutsideHand;
    Verdict::act(Reason::Killing { why }, Action::Kill { why })
}

/// It was opened under an epoch that the record has left behind, or gave to another.
pub(super) fn epoch_over(view: &View, _: &mut Memory) -> Option<Verdict> {
    let opened = view.running()?.opened?;
    let tenure = view.record.tenure();
    let current = tenure.is_some_and(|tenure| tenure.epoch == opened && tenure.holder == view.me);
    // After a restart the record may lag behind what the guard was told under it.
    if current || opened > view.record.epoch || mutated(Mutant::OldEpochTolerated) {
        return None;
    }
    let why = Kill::EpochOver;
    Verdict::act(Reason::Killing { why }, Action::Kill { why })
}

/// After a restart of this process the record is applied again from its beginning, and for a moment shows what was long
/// ago: nothing is decided on it before a majority has confirmed how far it goes.
pub(super) fn record_behind(view: &View, _: &mut Memory) -> Option<Verdict> {
    let opened_later =
        view.running().and_then(|running| running.opened).filter(|opened| *opened > view.record.epoch);
    if opened_later.is_none() && view.confirmed.is_some() || mutated(Mutant::RecordNotRead) {
        return None;
    }
    let epoch = opened_later.unwrap_or(view.record.epoch);
    Verdict::act(Reason::ReadingRecord { epoch }, Action::ReadRecord)
}

pub(super) fn nothing_left_yet(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if view.server != Server::Ending {
        return None;
    }
    Some(Verdict { reason: Reason::NothingLeftYet, actions: give_up_useless_lease(view, memory) })
}

/// Processes in the hands of a stalled disk may never die, and a guard may never start. Whoever holds the lease meanwhile
/// keeps everybody else from opening: then it runs out.
pub(super) fn give_up_useless_lease(view: &View, memory: &Memory) -> Vec<Action> {
    let useless = memory.unsure_since.is_some_and(|since| view.now.since(since) >= USELESS_PATIENCE);
    let epoch = view.record.epoch;
    if useless && holds(view) && view.holds_lease() { vec![Action::Relinquish { epoch }] } else { Vec::new() }
}
