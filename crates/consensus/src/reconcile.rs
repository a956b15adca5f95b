//! Raft's membership follows the machine's: what a leader does next so that both name the same members.
//!
//! To be asked again after each answer, as long as this replica leads. It is a function of where the replica stands and of
//! what the machine says, so a step that was lost is simply found again, and two leaders in a row do not contradict each
//! other. Raft ids are never given twice, so a step that comes late is undone by the next one.

use std::collections::BTreeSet;

use crate::membership::MembershipChange;
use crate::replica::{Role, Status};

/// What a leader does next about the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconcile {
    /// These changes, in one proposal.
    Change(Vec<MembershipChange>),
    /// Another voter has to lead, because this one is losing its vote.
    HandOver(u64),
}

/// The next step towards `voters`, with a vote, and the other `members`, without one; `None` when there is nothing to do
/// now.
///
/// - A newcomer gets its vote once it has stored what this leader has applied: one that never comes up stops nobody.
/// - Until the last newcomer has, no member that is to stay loses its vote, so that there are never fewer votes than need be.
/// - A leader that is to lose its vote hands over before.
#[must_use]
pub fn reconcile(status: &Status, voters: &BTreeSet<u64>, members: &BTreeSet<u64>) -> Option<Reconcile> {
    if status.role != Role::Leader || !status.voters_outgoing.is_empty() || voters.is_empty() {
        return None;
    }
    let vote_now: BTreeSet<u64> = status.voters.iter().copied().collect();
    let there = || status.voters.iter().chain(&status.learners).copied();
    let caught_up = |id: &u64| *id == status.raft_id || status.caught_up.contains(id);
    let leader_stays = voters.contains(&status.raft_id);
    if !leader_stays && let Some(heir) = voters.iter().find(|id| vote_now.contains(id) && caught_up(id)) {
        return Some(Reconcile::HandOver(*heir));
    }
    let all_ready = voters.iter().all(|id| vote_now.contains(id) || caught_up(id));
    let mut changes = Vec::new();
    for id in members.union(voters) {
        if !there().any(|there| there == *id) {
            changes.push(MembershipChange::AddLearner(*id));
        } else if voters.contains(id) && !vote_now.contains(id) && caught_up(id) {
            changes.push(MembershipChange::AddVoter(*id));
        } else if !voters.contains(id) && vote_now.contains(id) && all_ready && leader_stays {
            changes.push(MembershipChange::AddLearner(*id));
        }
    }
    let strangers = there().filter(|id| !members.contains(id) && !voters.contains(id));
    changes.extend(strangers.filter(|id| *id != status.raft_id).map(MembershipChange::Remove));
    (!changes.is_empty()).then_some(Reconcile::Change(changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use MembershipChange::{AddLearner, AddVoter, Remove};

    fn leader(voters: &[u64], learners: &[u64], caught_up: &[u64]) -> Status {
        Status {
            raft_id: 1,
            leader: Some(1),
            term: 1,
            role: Role::Leader,
            commit: 9,
            applied: 9,
            first_index: 1,
            last_index: 9,
            voters: voters.to_vec(),
            voters_outgoing: Vec::new(),
            learners: learners.to_vec(),
            caught_up: caught_up.to_vec(),
            log_bytes: 0,
        }
    }

    fn next(status: &Status, voters: &[u64], learners: &[u64]) -> Option<Reconcile> {
        let voters: BTreeSet<u64> = voters.iter().copied().collect();
        let members = voters.iter().chain(learners).copied().collect();
        reconcile(status, &voters, &members)
    }

    fn change(changes: &[MembershipChange]) -> Option<Reconcile> {
        Some(Reconcile::Change(changes.to_vec()))
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(next(&leader(&[1, 2, 3], &[4], &[2, 3, 4]), &[1, 2, 3], &[4]), None);
        let follower = Status { role: Role::Follower, ..leader(&[1, 2], &[], &[]) };
        assert_eq!(next(&follower, &[1], &[]), None);
        let joint = Status { voters_outgoing: vec![1, 2], ..leader(&[1], &[], &[]) };
        assert_eq!(next(&joint, &[1, 2, 3], &[]), None, "one change at a time");
        assert_eq!(next(&leader(&[1], &[], &[]), &[], &[]), None, "the record is not known yet");
    }

    #[test]
    fn newcomers_listen_first_and_vote_once_they_have_caught_up() {
        assert_eq!(next(&leader(&[1], &[], &[]), &[1], &[2, 3]), change(&[AddLearner(2), AddLearner(3)]));
        assert_eq!(next(&leader(&[1], &[], &[]), &[1, 2, 3], &[]), change(&[AddLearner(2), AddLearner(3)]));
        assert_eq!(next(&leader(&[1], &[2, 3], &[2]), &[1, 2, 3], &[]), change(&[AddVoter(2)]));
        assert_eq!(next(&leader(&[1], &[2, 3], &[]), &[1, 2, 3], &[]), None);
        let both = change(&[AddVoter(2), AddVoter(3)]);
        assert_eq!(next(&leader(&[1], &[2, 3], &[2, 3]), &[1, 2, 3], &[]), both);
    }

    #[test]
    fn nobody_who_stays_loses_a_vote_before_the_newcomer_has_one() {
        assert_eq!(next(&leader(&[1, 2, 3], &[4], &[2, 3]), &[1, 2, 4], &[3]), None);
        let swap = change(&[AddLearner(3), AddVoter(4)]);
        assert_eq!(next(&leader(&[1, 2, 3], &[4], &[2, 3, 4]), &[1, 2, 4], &[3]), swap);
        assert_eq!(next(&leader(&[1, 2, 3], &[4], &[2]), &[1, 2, 4], &[]), change(&[Remove(3)]));
        assert_eq!(
            next(&leader(&[1, 2, 3], &[4], &[2, 4]), &[1, 2, 4], &[]),
            change(&[AddVoter(4), Remove(3)]),
            "a dead member is replaced in one step"
        );
    }

    #[test]
    fn a_leader_hands_over_before_it_loses_its_vote() {
        let hand_over = |to| Some(Reconcile::HandOver(to));
        assert_eq!(next(&leader(&[1, 2, 3], &[], &[3]), &[2, 3], &[1]), hand_over(3));
        assert_eq!(next(&leader(&[1, 2, 3], &[], &[2, 3]), &[2, 3], &[]), hand_over(2));
        assert_eq!(next(&leader(&[1, 2, 3], &[], &[]), &[2, 3], &[]), None, "nobody is fit to lead");
        // Another one alone is to vote: it gets its vote first.
        assert_eq!(next(&leader(&[1], &[2], &[]), &[2], &[1]), None);
        assert_eq!(next(&leader(&[1], &[2], &[2]), &[2], &[1]), change(&[AddVoter(2)]));
        assert_eq!(next(&leader(&[1, 2], &[], &[2]), &[2], &[1]), hand_over(2));
        let second = Status { raft_id: 2, ..leader(&[1, 2], &[], &[1]) };
        assert_eq!(next(&second, &[2], &[1]), change(&[AddLearner(1)]));
        assert_eq!(next(&second, &[2], &[]), change(&[Remove(1)]));
    }
}
