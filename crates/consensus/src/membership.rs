//! Who takes part: changes of membership, and which memberships are possible at all.

use std::collections::BTreeSet;

use prost::Message as _;
use raft_proto::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};

/// One step of a change of membership. Several in one proposal take effect together, through joint consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// Adds a voter, or makes a learner one.
    AddVoter(u64),
    /// Adds a member that receives everything and does not vote, or takes a voter's vote.
    AddLearner(u64),
    /// Removes a member; its Raft id must never come back.
    Remove(u64),
}

impl MembershipChange {
    fn raft_id(self) -> u64 {
        match self {
            Self::AddVoter(id) | Self::AddLearner(id) | Self::Remove(id) => id,
        }
    }
}

/// Turns the changes into Raft's own, after checking them against the members as they are.
pub(crate) fn propose(changes: &[MembershipChange], now: &ConfState) -> Result<ConfChangeV2, String> {
    let mut ids = BTreeSet::new();
    if changes.is_empty() {
        return Err("it changes nothing".to_owned());
    }
    for change in changes {
        let id = change.raft_id();
        if id == 0 || id > crate::message::NUMBER_MAX {
            return Err(format!("{id} is no Raft id"));
        }
        if !ids.insert(id) {
            return Err(format!("Raft id {id} occurs twice"));
        }
    }
    let mut voters: BTreeSet<u64> = now.voters.iter().copied().collect();
    let mut change = ConfChangeV2::default();
    for step in changes {
        let id = step.raft_id();
        let kind = match step {
            MembershipChange::AddVoter(_) => ConfChangeType::AddNode,
            MembershipChange::AddLearner(_) => ConfChangeType::AddLearnerNode,
            MembershipChange::Remove(_) => ConfChangeType::RemoveNode,
        };
        if kind == ConfChangeType::AddNode {
            voters.insert(id)
        } else {
            voters.remove(&id)
        };
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        change.changes.push(single);
    }
    if voters.is_empty() {
        return Err("no voter would be left".to_owned());
    }
    Ok(change)
}

/// Decodes a change of membership from the log or from a peer. An entry that fails here changes nothing, at
/// every member alike.
pub(crate) fn decode(entry: &Entry) -> Result<ConfChangeV2, String> {
    if EntryType::from_i32(entry.entry_type) != Some(EntryType::EntryConfChangeV2) {
        return Err("a change of membership in an unknown form".to_owned());
    }
    let change = ConfChangeV2::decode(entry.data.as_slice()).map_err(|error| error.to_string())?;
    let known = |single: &ConfChangeSingle| ConfChangeType::from_i32(single.change_type).is_some();
    match ConfChangeTransition::from_i32(change.transition) {
        Some(ConfChangeTransition::Auto) if change.changes.iter().all(known) => Ok(change),
        _ => Err("a change of membership of an unknown kind".to_owned()),
    }
}

/// Whether `members` names `raft_id` in any role.
pub(crate) fn contains(members: &ConfState, raft_id: u64) -> bool {
    members.voters.contains(&raft_id)
        || members.voters_outgoing.contains(&raft_id)
        || members.learners.contains(&raft_id)
}

/// Whether Raft can be in this membership; anything else would stop it.
pub(crate) fn check(members: &ConfState) -> Result<(), String> {
    let set = |name: &str, ids: &[u64]| -> Result<BTreeSet<u64>, String> {
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        if set.len() != ids.len() || set.contains(&0) {
            return Err(format!("the {name} {ids:?} name 0 or one twice"));
        }
        Ok(set)
    };
    let voters = set("voters", &members.voters)?;
    let outgoing = set("outgoing voters", &members.voters_outgoing)?;
    let learners = set("learners", &members.learners)?;
    let next = set("next learners", &members.learners_next)?;
    if voters.is_empty() {
        return Err("there is no voter".to_owned());
    }
    if !learners.is_disjoint(&voters) || !learners.is_disjoint(&outgoing) {
        return Err("a learner is a voter, too".to_owned());
    }
    if !next.is_subset(&outgoing) || !next.is_disjoint(&voters) {
        return Err("a next learner is no outgoing voter".to_owned());
    }
    if members.auto_leave && outgoing.is_empty() {
        return Err("a membership that is not joint is to be left".to_owned());
    }
    Ok(())
}
