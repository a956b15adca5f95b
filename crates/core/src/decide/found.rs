//! Before there is anything to hold: no record, no guard, no data.

use super::{Memory, Verdict, fence, is_data_member};
use crate::action::{Action, Job};
use crate::reason::Reason;
use crate::record::{Command, Phase};
use crate::view::{Directory, Server, View};
use crate::vocabulary::MemberId;

pub(super) fn record_unknown(view: &View, _: &mut Memory) -> Option<Verdict> {
    if view.record.format == 0 { Verdict::wait(Reason::RecordUnknown) } else { None }
}

pub(super) fn witness(view: &View, _: &mut Memory) -> Option<Verdict> {
    if is_data_member(view) { None } else { Verdict::wait(Reason::Witness) }
}

pub(super) fn server_unknown(view: &View, memory: &mut Memory) -> Option<Verdict> {
    if view.server != Server::Unknown && view.directory != Directory::Unknown {
        return None;
    }
    Some(Verdict { reason: Reason::ServerUnknown, actions: fence::give_up_useless_lease(view, memory) })
}

/// The first data member, by priority and then by name, makes the data; and only while there is none anywhere.
pub(super) fn found_here(view: &View, _: &mut Memory) -> Option<Verdict> {
    if view.record.phase != Phase::Unfounded || founder(view)? != view.me {
        return None;
    }
    match &view.directory {
        Directory::Valid { incarnation, system_identifier } => {
            let command = Command::Found {
                member: view.me.clone(),
                incarnation: *incarnation,
                system_identifier: *system_identifier,
            };
            Verdict::act(Reason::FoundingHere, Action::Propose(command))
        }
        Directory::Foreign { why } => Verdict::wait(Reason::ForeignDirectory { why: why.clone() }),
        _ => Verdict::act(Reason::FoundingHere, Action::Run(Job::Initdb)),
    }
}

pub(super) fn wait_for_founder(view: &View, _: &mut Memory) -> Option<Verdict> {
    match view.record.phase {
        Phase::Unfounded => Verdict::wait(Reason::WaitingForFounder { founder: founder(view)? }),
        _ => None,
    }
}

fn founder(view: &View) -> Option<MemberId> {
    let priority = |member: &MemberId| view.record.members.get(member).map_or(0, |row| row.priority);
    view.record
        .data_members()
        .min_by_key(|member| (std::cmp::Reverse(priority(member)), (*member).clone()))
        .cloned()
}
