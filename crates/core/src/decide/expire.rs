//! The lease of a holder that is not heard of any more.

use super::{Memory, Verdict};
use crate::action::Action;
use crate::mutant::{Mutant, mutated};
use crate::reason::Reason;
use crate::record::{Command, EndCause};
use crate::view::View;

/// A majority of the store's voters say, for good, that it has run out: the holder has stopped before that.
pub(super) fn lease_run_out(view: &View, _: &mut Memory) -> Option<Verdict> {
    let epoch = view.record.tenure()?.epoch;
    let voters = &view.run_out.voters;
    let agreed = view.record.has_majority(|voter| voters.contains(voter))
        || mutated(Mutant::ExpiryByMinority) && view.record.voters().any(|voter| voters.contains(voter));
    let serial = view.run_out.serial;
    let asked_these = serial == view.record.membership.serial || mutated(Mutant::OldWordsCount);
    if view.run_out.epoch != epoch || !asked_these || !agreed {
        return None;
    }
    let cause = EndCause::Expired { voters: voters.clone(), serial };
    let reason = Reason::LeaseRunOut { epoch, voters: voters.iter().cloned().collect() };
    Verdict::act(reason, Action::Propose(Command::End { epoch, cause }))
}
