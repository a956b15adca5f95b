//! Following the record in who belongs to the cluster: links, and the members of the replicated log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_consensus::{Reconcile, reconcile};
use mainstay_core::MemberId;
use mainstay_core::record::Record;
use mainstay_core::view::MemberState;

use super::RaftInput;
use crate::event::Message;
use crate::mutant::ShellMutant;
use crate::world::World;

/// How long a member that has left is still spoken with.
const FAREWELL: Duration = Duration::from_secs(3);
/// Between two steps of the log's own members.
const RECONCILE_PAUSE: Duration = Duration::from_millis(200);

impl World {
    /// Whether `machine` knows the other machine as that replica, by whose key it would be known.
    pub(crate) fn is_linked(&self, machine: usize, other: usize, raft_id: u64) -> bool {
        let (place, name) = (&self.machines[machine], &self.machines[other].id);
        let now = self.local_now(machine);
        let left = |member: &super::Member| {
            let mut left = member.left.iter();
            left.any(|(id, was, at)| id == name && *was == raft_id && now.since(*at) < FAREWELL)
        };
        let heard_of = |member: &super::Member| member.heard_of.get(name) == Some(&raft_id);
        place.files.roster.get(name) == Some(&raft_id)
            || place.member.as_ref().is_some_and(|member| left(member) || heard_of(member))
    }

    /// The record has changed: so have those that this member speaks with. One that is not in it any more stops.
    pub(super) fn follow_roster(&mut self, machine: usize) {
        let now = self.local_now(machine);
        let record = std::sync::Arc::clone(&self.member(machine).view.record);
        if record.format == 0 {
            return;
        }
        let newest = record.members.iter().map(|(name, row)| (name.clone(), row.raft_id)).collect();
        let before = std::mem::replace(&mut self.machines[machine].files.roster, newest);
        let newest = self.machines[machine].files.roster.clone();
        let member = self.member(machine);
        member
            .heard_of
            .retain(|name, raft_id| *raft_id >= record.membership.next_raft_id && !newest.contains_key(name));
        for (name, raft_id) in before {
            if newest.get(&name) != Some(&raft_id) {
                member.view.peers.remove(&name);
                member.left.push((name, raft_id, now));
            }
        }
        let own = self.machines[machine].raft_id.expect("a member has one");
        let me = &self.machines[machine].id;
        if record.membership.next_raft_id > own && record.members.get(me).is_none_or(|row| row.raft_id != own)
        {
            self.note(machine, || "has been taken out of the cluster".to_owned());
            self.retire(machine);
        }
    }

    /// One that was away while others joined does not know them, nor they the way to it: whoever has a newer record says who
    /// they are.
    pub(super) fn tell_roster(&mut self, machine: usize, to: &MemberId, state: &MemberState) {
        if self.mutated(ShellMutant::RosterNotTold) {
            return;
        }
        let record = &self.member(machine).view.record;
        let ids_given = record.membership.next_raft_id;
        let Some(to) = self.machine_of(to).filter(|_| state.ids_given < ids_given) else { return };
        let roster = self.machines[machine].files.roster.clone();
        self.send(machine, to, Message::Roster { ids_given, roster });
    }

    /// Only names that the record here does not know: what they say counts for nothing yet, but the log can come from them.
    pub(super) fn hear_roster(&mut self, machine: usize, ids_given: u64, roster: &BTreeMap<MemberId, u64>) {
        let known = self.machines[machine].files.roster.clone();
        let member = self.member(machine);
        if member.view.record.membership.next_raft_id < ids_given {
            let unknown = roster.iter().filter(|(name, _)| !known.contains_key(*name));
            member.heard_of = unknown.map(|(name, raft_id)| (name.clone(), *raft_id)).collect();
        }
    }

    /// It stops, and stays so.
    fn retire(&mut self, machine: usize) {
        let life = self.member(machine).life;
        self.queue.push(self.now, crate::event::Event::Fault(crate::fault::Fault::Retire { machine, life }));
    }

    pub(super) fn votes_in_the_log(&mut self, machine: usize, removed: &MemberId) -> bool {
        if self.mutated(ShellMutant::RemovedWhileItVotes) {
            return false;
        }
        let member = self.member(machine);
        let row = member.view.record.members.get(removed);
        let status = member.raft.as_ref().map(|replica| replica.status());
        row.zip(status).is_some_and(|(row, status)| {
            status.voters.contains(&row.raft_id) || status.voters_outgoing.contains(&row.raft_id)
        })
    }

    /// As leader: the next step of the log's own members towards those of the record.
    pub(super) fn reconcile_members(&mut self, machine: usize) {
        let now = self.local_now(machine);
        let member = self.member(machine);
        let record = &member.view.record;
        let recently = member.reconciled.is_some_and(|at| now.since(at) < RECONCILE_PAUSE);
        let Some(replica) = member.raft.as_ref().filter(|_| record.format >= 2 && !recently) else { return };
        let (voters, members) = (ids(record, |votes| votes), ids(record, |_| true));
        let Some(step) = reconcile(&replica.status(), &voters, &members) else { return };
        member.reconciled = Some(now);
        member.next_number += 1;
        let id = u128::from(member.next_number);
        let input = match step {
            Reconcile::Change(changes) => RaftInput::Change { id, changes },
            Reconcile::HandOver(to) => RaftInput::HandOver { to },
        };
        self.raft_input(machine, input);
    }
}

fn ids(record: &Record, wanted: impl Fn(bool) -> bool) -> BTreeSet<u64> {
    record.members.values().filter(|row| wanted(row.votes)).map(|row| row.raft_id).collect()
}
