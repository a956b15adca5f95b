//! Who belongs to the cluster: the record's format rises, voters change, and members that leave are let go, one step at a time.

use std::collections::BTreeSet;

use super::{Memory, Verdict, holds};
use crate::action::Action;
use crate::reason::Reason;
use crate::record::{Command, FORMAT, Record};
use crate::view::View;
use crate::vocabulary::MemberId;

/// The first format that knows of changes of the members.
const MEMBERS_CHANGE: u32 = 2;

/// Every member has said lately that it reads a newer format: then the record may be written in it.
pub(super) fn raise_format(view: &View, _: &mut Memory) -> Option<Verdict> {
    let record = &view.record;
    if !view.leads || record.format == 0 || record.format >= FORMAT {
        return None;
    }
    let others = record.members.keys().filter(|member| **member != view.me);
    let known = others.map(|member| view.fresh_peer(member).map_or(0, |peer| peer.format));
    let to = known.min().unwrap_or(FORMAT).min(FORMAT);
    if to <= record.format {
        return None;
    }
    Verdict::act(Reason::RaisingFormat { to }, Action::Propose(Command::RaiseFormat { to }))
}

/// The holder's renewals were answered by the new voters and the old ones: the old ones need not be asked any more.
pub(super) fn settle_voters(view: &View, _: &mut Memory) -> Option<Verdict> {
    let serial = view.record.membership.serial;
    let outgoing: Vec<MemberId> = view.record.outgoing().cloned().collect();
    let rests = view.lease.is_some_and(|lease| lease.rests_on == Some(serial));
    if outgoing.is_empty() || !holds(view) || !view.holds_lease() || !rests {
        return None;
    }
    let reason = Reason::SettlingVoters { outgoing };
    Verdict::act(reason, Action::Propose(Command::SettleVoters { serial }))
}

/// A member that leaves, and neither votes nor acknowledges commits any more, is let go.
pub(super) fn remove_left(view: &View, _: &mut Memory) -> Option<Verdict> {
    let record = &view.record;
    if !view.leads || record.format < MEMBERS_CHANGE {
        return None;
    }
    let member = record.members.keys().find(|member| record.may_be_removed(member))?.clone();
    let reason = Reason::RemovingMember { member: member.clone() };
    Verdict::act(reason, Action::Propose(Command::Remove { member }))
}

pub(super) fn change_voters(view: &View, _: &mut Memory) -> Option<Verdict> {
    let record = &view.record;
    if !view.leads
        || record.format < MEMBERS_CHANGE
        || !record.is_open()
        || record.outgoing().next().is_some()
    {
        return None;
    }
    let current: BTreeSet<MemberId> = record.voters().cloned().collect();
    let voters = wanted_voters(view, record);
    if voters == current || voters.is_empty() {
        return None;
    }
    let list = |voters: &BTreeSet<MemberId>| voters.iter().cloned().collect();
    let reason = Reason::ChangingVoters { from: list(&current), to: list(&voters) };
    let serial = record.membership.serial;
    Verdict::act(reason, Action::Propose(Command::SetVoters { serial, voters }))
}

/// Everyone who stays: those that vote already, and the others once they have the record. Of two only one votes, the
/// primary: two voters are less available than one.
fn wanted_voters(view: &View, record: &Record) -> BTreeSet<MemberId> {
    let votes = |member: &MemberId| record.members.get(member).is_some_and(|row| row.votes);
    let staying: Vec<&MemberId> = record.staying().map(|(member, _)| member).collect();
    if let [one, other] = staying[..] {
        let primary = record.primary().filter(|primary| [one, other].contains(primary));
        return primary.into_iter().filter(|primary| has_record(view, primary)).cloned().collect();
    }
    staying.into_iter().filter(|member| votes(member) || has_record(view, member)).cloned().collect()
}

/// Whether the member has applied the record, by its own word.
fn has_record(view: &View, member: &MemberId) -> bool {
    *member == view.me || view.fresh_peer(member).is_some_and(|peer| peer.format >= MEMBERS_CHANGE)
}
