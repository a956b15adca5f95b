//! Virtual addresses that follow the primary: who may hold them.
//!
//! They belong to the holder of the lease, from its grant on and not only once applications are let in: whoever comes
//! meanwhile is turned away at once and asks again, where without a holder nobody would answer him; a SQL proxy beside the
//! holder keeps him. They go before the epoch is ended, as PostgreSQL does, since the next holder may take them then.

use serde::{Deserialize, Serialize};

use crate::record::{EndCause, Phase};
use crate::view::View;
use crate::vocabulary::Epoch;

/// What this member may hold the addresses by, for as long as its lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub epoch: Epoch,
    /// The last holder has not said that it let them go: its time is over, but whether its machine keeps time is worth a
    /// question on the network.
    pub careful: bool,
}

/// The newest epoch of which this process knows that no earlier process of this member has proposed its end: it has asked for the
/// grant itself (`asked_here`), or PostgreSQL is open under it, which is over before an end is proposed.
///
/// A process that was started anew may find the lease running in its guard, and a record that does not show yet what the one
/// before it has done last. (The simulation found this.)
pub fn known(view: &View, asked_here: bool, before: Epoch) -> Epoch {
    let own = view.record.tenure().filter(|tenure| tenure.holder == view.me).map(|tenure| tenure.epoch);
    let opened = view.running().and_then(|running| running.opened);
    own.filter(|epoch| asked_here || opened == Some(*epoch)).map_or(before, |epoch| epoch.max(before))
}

/// Whether the addresses belong here now, by the newest epoch that is [`known`]. Never for two members at once, since no two hold
/// the lease.
pub fn claim(view: &View, known: Epoch) -> Option<Claim> {
    let record = &view.record;
    let tenure = record.tenure().filter(|tenure| tenure.holder == view.me && tenure.epoch == known)?;
    if !view.holds_lease() {
        return None;
    }
    let silent = matches!(record.last_end, Some(EndCause::Expired { .. } | EndCause::Recovered { .. }));
    // Of grants that nothing came of the record does not keep how they ended.
    let unopened = record.unopened.iter().any(|before| before.epoch < tenure.epoch);
    Some(Claim { epoch: tenure.epoch, careful: record.phase == Phase::Granted && (silent || unopened) })
}

/// The newest epoch under which no address may be here any more, whatever comes. `relinquished` is the newest whose lease
/// this process has given up.
pub fn over(view: &View, relinquished: Epoch) -> Epoch {
    let record = &view.record;
    let may_hold = record.tenure().is_some_and(|tenure| tenure.holder == view.me);
    if may_hold && relinquished < record.epoch {
        Epoch(record.epoch.0.saturating_sub(1))
    } else {
        record.epoch
    }
}
