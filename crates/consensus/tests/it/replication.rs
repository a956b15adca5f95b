//! What a healthy cluster does.

use mainstay_consensus::{Heard, ProposeError, Role};

use crate::cluster::Cluster;

#[test]
fn proposals_from_leader_and_follower_are_applied_everywhere_with_their_ids() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    assert_eq!(cluster.elect(), 1);
    cluster.propose(1, 100, b"from the leader");
    cluster.propose(2, 200, b"from a follower");
    for raft_id in 1..=3 {
        assert_eq!(cluster.journal(raft_id), [b"from the leader".to_vec(), b"from a follower".to_vec()]);
        let ids: Vec<u128> = cluster.done[&raft_id].applied.iter().map(|applied| applied.id).collect();
        assert_eq!(ids, [100, 200]);
    }
    let status = cluster.replicas[&3].status();
    assert_eq!((status.leader, status.role, status.voters), (Some(1), Role::Follower, vec![1, 2, 3]));
    assert_eq!(status.applied, status.commit);
}

#[test]
fn without_a_leader_nothing_is_proposed() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    assert_eq!(cluster.replica(1).propose(1, b"x".to_vec()), Err(ProposeError::NoLeader));
    assert_eq!(cluster.replica(1).read_index(1), Err(ProposeError::NoLeader));
    cluster.elect();
    let bytes = mainstay_consensus::PROPOSAL_BYTES_MAX + 1;
    assert_eq!(cluster.replica(1).propose(1, vec![0; bytes]), Err(ProposeError::TooLarge { bytes }));
    assert_eq!(cluster.replica(2).transfer_leader(3), Err(ProposeError::NotLeader { leader: 1 }));
}

#[test]
fn a_repeated_proposal_is_applied_once_also_across_a_snapshot_and_a_restart() {
    fn settings(raft_id: u64) -> mainstay_consensus::Settings {
        mainstay_consensus::Settings {
            compact_after_entries: 2,
            keep_entries: 0,
            ..crate::cluster::settings(raft_id)
        }
    }
    let mut cluster = Cluster::with_settings(&[1, 2, 3], settings);
    cluster.elect();
    for id in [7, 8, 7, 9] {
        cluster.propose(2, id, format!("proposal {id}").as_bytes());
    }
    cluster.crash(3, 1);
    cluster.open(3);
    cluster.propose(1, 8, b"again");
    cluster.tick(3);
    let expected: Vec<Vec<u8>> = [7, 8, 9].map(|id| format!("proposal {id}").into_bytes()).to_vec();
    for raft_id in 1..=3 {
        assert_eq!(cluster.journal(raft_id), expected, "member {raft_id}");
    }
}

#[test]
fn a_read_waits_for_a_majority_and_for_what_was_committed_before_it() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.propose(1, 1, b"before");
    for raft_id in 1..=3 {
        cluster.replica(raft_id).read_index(40 + raft_id).unwrap();
        cluster.settle();
        let read = cluster.done[&raft_id].reads[0];
        assert_eq!(read.context, 40 + raft_id);
        assert!(read.index >= 3 && cluster.replicas[&raft_id].status().applied >= read.index);
    }
    cluster.cut = [2, 3].into();
    cluster.replica(1).read_index(50).unwrap();
    cluster.settle();
    assert!(cluster.done[&1].reads.iter().all(|read| read.context != 50), "read without a majority");
}

#[test]
fn a_cut_off_leader_steps_down_and_its_uncommitted_entry_goes() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.cut = [1].into();
    cluster.replica(1).propose(5, b"alone".to_vec()).unwrap();
    cluster.ready(1);
    cluster.tick(60);
    assert_ne!(cluster.replicas[&1].status().role, Role::Leader);
    assert_eq!(cluster.leader(), Some(2));
    cluster.propose(2, 6, b"majority");
    let term = cluster.replicas[&2].status().term;
    cluster.cut.clear();
    cluster.tick(30);
    assert_eq!(cluster.leader(), Some(2), "healing changed the leader");
    assert_eq!(cluster.replicas[&2].status().term, term, "healing raised the term");
    for raft_id in 1..=3 {
        assert_eq!(cluster.journal(raft_id), [b"majority".to_vec()], "member {raft_id}");
    }
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.replica(1).transfer_leader(3).unwrap();
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
    cluster.propose(1, 1, b"after");
    assert_eq!(cluster.journal(2), [b"after".to_vec()]);
}

#[test]
fn a_step_tells_whom_it_heard() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.replica(1).tick();
    cluster.replica(1).tick();
    cluster.ready(1);
    let heartbeat = cluster.packets.iter().find(|packet| packet.to == 2).unwrap().clone();
    cluster.packets.clear();
    assert_eq!(cluster.replica(2).step(1, &heartbeat.bytes).unwrap(), Heard::Leader);
    cluster.ready(2);
    let answer = cluster.packets.pop().unwrap();
    assert_eq!(cluster.replica(1).step(2, &answer.bytes).unwrap(), Heard::Follower);
    // The sender that the transport names is the one that counts.
    assert!(cluster.replica(1).step(3, &answer.bytes).is_err());
}

#[test]
fn a_sole_voter_leads_alone_and_comes_back() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    cluster.propose(1, 1, b"one");
    cluster.crash(1, 3);
    cluster.open(1);
    cluster.elect();
    cluster.propose(1, 2, b"two");
    assert_eq!(cluster.journal(1), [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_whole_cluster_comes_back_from_a_power_cut() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    for id in 0..20 {
        cluster.propose(1 + u64::try_from(id % 3).unwrap(), id, &[id as u8; 100]);
    }
    for raft_id in 1..=3 {
        cluster.crash(raft_id, 70 + raft_id);
    }
    for raft_id in 1..=3 {
        assert_eq!(cluster.open(raft_id).torn_bytes, 0, "everything was synced");
    }
    cluster.elect();
    for raft_id in 1..=3 {
        assert_eq!(cluster.journal(raft_id).len(), 20);
    }
}

#[test]
fn appends_in_a_row_share_one_sync() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    for id in 0..10 {
        cluster.replica(1).propose(id, b"x".to_vec()).unwrap();
        cluster.ready(1);
    }
    let packets: Vec<_> = cluster.packets.drain(..).filter(|packet| packet.to == 2).collect();
    assert!(packets.len() >= 10);
    let before = cluster.disks[&2].syncs();
    for packet in packets {
        cluster.replica(2).step(1, &packet.bytes).unwrap();
    }
    cluster.ready(2);
    assert_eq!(cluster.disks[&2].syncs() - before, 1);
}

#[test]
fn proposals_and_answers_in_a_row_share_one_sync_at_the_leader() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.propose(1, 1, b"x");
    cluster.replica(1).propose(2, b"x".to_vec()).unwrap();
    cluster.ready(1);
    for packet in std::mem::take(&mut cluster.packets) {
        cluster.replica(packet.to).step(1, &packet.bytes).unwrap();
        cluster.ready(packet.to);
    }
    let answers = std::mem::take(&mut cluster.packets);
    assert_eq!(answers.len(), 2);
    let before = cluster.disks[&1].syncs();
    for (id, answer) in (3..).zip(answers) {
        cluster.replica(1).propose(id, b"x".to_vec()).unwrap();
        cluster.replica(1).step(answer.from, &answer.bytes).unwrap();
    }
    cluster.ready(1);
    assert_eq!(cluster.disks[&1].syncs() - before, 1);
    cluster.settle();
    assert_eq!(cluster.journal(3).len(), 4);
}

#[test]
fn an_idle_cluster_does_not_write() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.tick(5);
    let syncs = |cluster: &Cluster| -> u64 { cluster.disks.values().map(|disk| disk.syncs()).sum() };
    let before = syncs(&cluster);
    cluster.tick(100);
    assert_eq!(syncs(&cluster), before);
}
