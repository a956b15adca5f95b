//! Members that come, lag, and go.

use std::collections::BTreeSet;

use mainstay_consensus::{MembershipChange, ProposeError, Reconcile, Role, Settings, reconcile};

use crate::cluster::{Cluster, settings};

fn few(raft_id: u64) -> Settings {
    Settings { compact_after_entries: 5, keep_entries: 2, ..settings(raft_id) }
}

fn change(cluster: &mut Cluster, id: u128, changes: &[MembershipChange]) {
    let leader = cluster.leader().expect("a leader");
    cluster.replica(leader).propose_membership(id, changes).unwrap_or_else(|error| panic!("{error}"));
    cluster.settle();
    let done = &cluster.done[&leader].memberships;
    let mine = done.iter().find(|done| done.id == Some(id)).expect("applied");
    assert_eq!(mine.result, Ok(()));
    cluster.tick(4);
}

#[test]
fn a_lagging_member_installs_a_snapshot() {
    let mut cluster = Cluster::with_settings(&[1, 2, 3], few);
    cluster.elect();
    cluster.propose(1, 1, b"seen by all");
    cluster.cut = [3].into();
    for id in 2..40 {
        cluster.propose(1, id, format!("missed {id}").as_bytes());
    }
    cluster.cut.clear();
    cluster.done.clear();
    cluster.tick(30);
    assert!(cluster.done[&3].restored);
    assert_eq!(cluster.journal(3), cluster.journal(1));
    assert_eq!(cluster.journal(3).len(), 39);
    // It is durable, and what follows it comes from the log.
    cluster.propose(1, 50, b"after");
    cluster.crash(3, 2);
    let report = cluster.open(3);
    assert!(report.snapshot_index > 20, "{report:?}");
    cluster.tick(5);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut cluster = Cluster::with_settings(&[1, 2, 3], few);
    cluster.elect();
    cluster.cut = [3].into();
    for id in 2..40 {
        cluster.propose(1, id, b"missed");
    }
    // Back, but every message to it that is larger than a heartbeat is lost.
    cluster.cut.clear();
    for _ in 0..30 {
        for raft_id in 1..=3 {
            cluster.replica(raft_id).tick();
            cluster.ready(raft_id);
        }
        for packet in std::mem::take(&mut cluster.packets) {
            if packet.to == 3 && packet.bytes.len() > 200 {
                continue;
            }
            let _ = cluster.replica(packet.to).step(packet.from, &packet.bytes);
            cluster.ready(packet.to);
        }
    }
    assert!(!cluster.done.get(&3).is_some_and(|done| done.restored));
    cluster.tick(60);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn a_new_member_comes_as_learner_and_becomes_a_voter() {
    for compacts in [false, true] {
        let mut cluster = Cluster::with_settings(&[1, 2, 3], if compacts { few } else { settings });
        cluster.elect();
        for id in 0..12 {
            cluster.propose(1, id, format!("early {id}").as_bytes());
        }
        cluster.add(4, &[]);
        // Not a member yet: it neither campaigns nor hears anything.
        cluster.tick(60);
        assert_eq!(
            (cluster.replicas[&4].status().term, cluster.replicas[&4].status().role),
            (1, Role::Follower)
        );
        change(&mut cluster, 100, &[MembershipChange::AddLearner(4)]);
        cluster.tick(10);
        assert_eq!(cluster.journal(4), cluster.journal(1), "compacts: {compacts}");
        assert_eq!(cluster.replicas[&4].status().learners, [4]);
        change(&mut cluster, 101, &[MembershipChange::AddVoter(4)]);
        for raft_id in 1..=4 {
            assert_eq!(cluster.replicas[&raft_id].status().voters, [1, 2, 3, 4]);
        }
        // Its vote counts, also after a restart: three of four.
        cluster.crash(4, 5);
        cluster.open(4);
        cluster.cut = [3].into();
        cluster.tick(3);
        cluster.propose(2, 200, b"with the new one");
        assert!(cluster.journal(4).contains(&b"with the new one".to_vec()));
        cluster.cut = [3, 4].into();
        cluster.propose(1, 201, b"without a majority");
        assert!(!cluster.journal(1).contains(&b"without a majority".to_vec()));
    }
}

#[test]
fn a_member_is_replaced_in_one_step() {
    let mut cluster = Cluster::with_settings(&[1, 2, 3], few);
    cluster.elect();
    for id in 0..12 {
        cluster.propose(1, id, b"early");
    }
    cluster.cut = [3].into();
    cluster.add(4, &[]);
    change(&mut cluster, 100, &[MembershipChange::AddLearner(4)]);
    change(&mut cluster, 101, &[MembershipChange::Remove(3), MembershipChange::AddVoter(4)]);
    for raft_id in [1, 2, 4] {
        let status = cluster.replicas[&raft_id].status();
        assert_eq!((status.voters, status.voters_outgoing), (vec![1, 2, 4], vec![]), "member {raft_id}");
    }
    // The membership holds after restarts, from snapshot and log.
    for raft_id in [1, 2, 4] {
        cluster.crash(raft_id, 40 + raft_id);
        cluster.open(raft_id);
    }
    let leader = cluster.elect();
    cluster.propose(leader, 300, b"later");
    for raft_id in [1, 2, 4] {
        assert_eq!(cluster.replicas[&raft_id].status().voters, [1, 2, 4]);
        assert!(cluster.journal(raft_id).contains(&b"later".to_vec()));
    }
    // The removed one, back and unaware, disturbs nobody.
    let terms = |cluster: &Cluster| [1, 2, 4].map(|raft_id| cluster.replicas[&raft_id].status().term);
    let before = terms(&cluster);
    cluster.cut.clear();
    cluster.tick(200);
    assert_eq!(terms(&cluster), before);
    assert_eq!(cluster.leader(), Some(leader));
    assert!(!cluster.journal(3).contains(&b"later".to_vec()));
}

#[test]
fn a_leader_that_removes_itself_steps_down() {
    for changes in [
        vec![MembershipChange::Remove(1)],
        vec![MembershipChange::AddLearner(1)],
        vec![MembershipChange::Remove(1), MembershipChange::AddVoter(4)],
    ] {
        let mut cluster = Cluster::new(&[1, 2, 3]);
        cluster.elect();
        cluster.add(4, &[]);
        change(&mut cluster, 1, &[MembershipChange::AddLearner(4)]);
        cluster.replica(1).propose_membership(2, &changes).unwrap();
        cluster.settle();
        assert_eq!(cluster.replicas[&1].status().role, Role::Follower, "{changes:?}");
        let leader = cluster.elect();
        assert_ne!(leader, 1);
        cluster.propose(leader, 3, b"without it");
        assert!(cluster.journal(2).contains(&b"without it".to_vec()));
        let status = cluster.replicas[&leader].status();
        assert!(!status.voters.contains(&1) && status.voters_outgoing.is_empty(), "{status:?}");
    }
}

#[test]
fn impossible_changes_are_refused_at_once() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    for changes in [
        vec![],
        vec![MembershipChange::AddVoter(0)],
        vec![MembershipChange::AddVoter(4), MembershipChange::Remove(4)],
        vec![MembershipChange::Remove(1), MembershipChange::Remove(2), MembershipChange::Remove(3)],
    ] {
        let result = cluster.replica(1).propose_membership(1, &changes);
        assert!(matches!(result, Err(ProposeError::Membership { .. })), "{changes:?}");
    }
    let add = [MembershipChange::AddLearner(9)];
    assert_eq!(cluster.replica(2).propose_membership(1, &add), Err(ProposeError::NotLeader { leader: 1 }));
    cluster.replica(1).propose_membership(1, &add).unwrap();
    let other = [MembershipChange::AddLearner(8)];
    assert_eq!(cluster.replica(1).propose_membership(2, &other), Err(ProposeError::Busy));
}

/// Takes the steps that the leader finds, one after the other, until it finds none.
fn reconciled(cluster: &mut Cluster, voters: &[u64], members: &[u64]) {
    let voters: BTreeSet<u64> = voters.iter().copied().collect();
    let members: BTreeSet<u64> = members.iter().copied().collect();
    for id in 1000..1040 {
        cluster.tick(20);
        let Some(leader) = cluster.leader() else { continue };
        match reconcile(&cluster.replicas[&leader].status(), &voters, &members) {
            Some(Reconcile::Change(changes)) => {
                let proposed = cluster.replica(leader).propose_membership(id, &changes);
                assert_eq!(proposed, Ok(()), "{changes:?}");
            }
            Some(Reconcile::HandOver(to)) => cluster.replica(leader).transfer_leader(to).unwrap(),
            None => {}
        }
        cluster.settle();
    }
    let status = cluster.replicas[&cluster.leader().expect("a leader")].status();
    assert_eq!(status.voters.iter().copied().collect::<BTreeSet<u64>>(), voters);
    assert!(voters.contains(&status.raft_id) && status.voters_outgoing.is_empty());
    let learners: BTreeSet<u64> = status.learners.into_iter().collect();
    assert_eq!(learners, &members - &voters);
}

#[test]
fn one_member_becomes_three_and_the_first_leaves_them() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    cluster.propose(1, 1, b"alone");
    cluster.add(2, &[]);
    cluster.add(3, &[]);
    reconciled(&mut cluster, &[1], &[1, 2]);
    reconciled(&mut cluster, &[1, 2, 3], &[1, 2, 3]);
    assert_eq!(cluster.journal(3), cluster.journal(1));
    reconciled(&mut cluster, &[2, 3], &[1, 2, 3]);
    reconciled(&mut cluster, &[3], &[3]);
    cluster.propose(3, 2, b"alone again");
    assert!(cluster.journal(3).contains(&b"alone again".to_vec()));
}

#[test]
fn a_newcomer_that_never_comes_up_stops_nobody() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    let to = BTreeSet::from([1, 2]);
    for (id, expected) in [(1, Some(Reconcile::Change(vec![MembershipChange::AddLearner(2)]))), (2, None)] {
        let next = reconcile(&cluster.replicas[&1].status(), &to, &to);
        assert_eq!(next, expected);
        if let Some(Reconcile::Change(changes)) = next {
            change(&mut cluster, id, &changes);
        }
    }
    cluster.propose(1, 9, b"goes on");
    assert!(cluster.journal(1).contains(&b"goes on".to_vec()));
}
