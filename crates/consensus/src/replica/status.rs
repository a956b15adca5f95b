//! Where a replica stands.

use raft::StateRole;

use super::Replica;
use crate::disk::Disk;
use crate::machine::Machine;

/// The role in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Where the replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its own id.
    pub raft_id: u64,
    /// The leader that it knows of.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Its role.
    pub role: Role,
    /// The last entry known to be committed.
    pub commit: u64,
    /// The last entry applied to the machine.
    pub applied: u64,
    /// The first entry still in the log.
    pub first_index: u64,
    /// The last entry in the log.
    pub last_index: u64,
    /// The voters, in order.
    pub voters: Vec<u64>,
    /// During a joint change of membership the voters before it, whose majority is needed, too; else empty.
    pub voters_outgoing: Vec<u64>,
    /// The members without a vote, in order.
    pub learners: Vec<u64>,
    /// As leader: the other members that are there and have stored what is applied here, in order; else empty.
    pub caught_up: Vec<u64>,
    /// Size of the log's file.
    pub log_bytes: u64,
}

/// Whom a stepped message proves to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nobody in particular.
    Nobody,
    /// The sender, as the leader that this replica follows.
    Leader,
    /// The sender, as a member that follows this leader.
    Follower,
}

impl<D: Disk, M: Machine> Replica<D, M> {
    /// Where it stands.
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        let members = raft.prs().conf().to_conf_state();
        let sorted = |mut ids: Vec<u64>| {
            ids.sort_unstable();
            ids
        };
        Status {
            raft_id: raft.id,
            leader: (raft.leader_id != raft::INVALID_ID).then_some(raft.leader_id),
            term: raft.term,
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            commit: raft.raft_log.committed,
            applied: self.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            voters: sorted(members.voters),
            voters_outgoing: sorted(members.voters_outgoing),
            learners: sorted(members.learners),
            caught_up: self.caught_up(),
            log_bytes: self.file.bytes(),
        }
    }

    fn caught_up(&self) -> Vec<u64> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        let there = others.filter(|(_, peer)| peer.recent_active && peer.matched >= self.applied);
        let mut ids: Vec<u64> = there.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}
