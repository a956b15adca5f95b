//! Disks that fail and directories that went back in time.

use mainstay_consensus::{Failure, MembershipChange, OpenError, ProposeError, StepError};

use crate::cluster::{Cluster, open, settings};

#[test]
fn a_full_disk_silences_the_member_until_there_is_space() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.propose(1, 1, b"before");
    cluster.disks[&2].set_capacity(Some(0));
    cluster.propose(1, 2, b"while full");
    let failure = cluster.replicas[&2].failure().expect("poisoned").clone();
    assert_eq!(failure, Failure::NoSpace { file: "log" });
    assert!(
        failure.may_pass() && failure.to_string().contains("free space, the member votes again by itself")
    );
    assert_eq!(cluster.journal(1).len(), 2, "the other two are a majority");

    // It does nothing more: it neither campaigns nor answers.
    for _ in 0..100 {
        cluster.replica(2).tick();
        assert!(cluster.try_ready(2).is_err());
    }
    assert!(cluster.packets.iter().all(|packet| packet.from != 2));
    assert_eq!(cluster.replica(2).propose(3, b"x".to_vec()), Err(ProposeError::Failed(failure)));
    assert!(matches!(cluster.replica(2).step(1, b""), Err(StepError::Failed(_))));

    cluster.replicas.remove(&2);
    let disk = cluster.disks[&2].clone();
    assert!(matches!(open(&disk, settings(2)), Err(OpenError::Disk { .. })), "still full");
    disk.set_capacity(None);
    // What was cut off in the middle of a write is there, and is cut.
    cluster.open(2);
    cluster.tick(20);
    assert_eq!(cluster.journal(2), [b"before".to_vec(), b"while full".to_vec()]);
}

#[test]
fn a_failed_sync_silences_and_its_bytes_are_not_trusted() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.disks[&2].fail_syncs(1);
    cluster.cut = [3].into();
    cluster.propose(1, 1, b"needs member 2");
    assert!(matches!(cluster.replicas[&2].failure(), Some(Failure::Disk { file: "log", .. })));
    assert!(cluster.journal(1).is_empty(), "acknowledged by a member that did not store it");

    // The same process opens it again, acknowledges, and only then the power goes.
    cluster.replicas.remove(&2);
    cluster.open(2);
    cluster.tick(10);
    assert_eq!(cluster.journal(1).len(), 1);
    for seed in 0..20 {
        cluster.crash(2, seed);
        cluster.open(2);
        let status = cluster.replicas[&2].status();
        assert_eq!(
            status.last_index,
            cluster.replicas[&1].status().last_index,
            "seed {seed}: an entry is gone"
        );
    }
}

#[test]
fn a_leader_with_a_failed_disk_is_replaced() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.disks[&1].fail_syncs(1);
    cluster.propose(1, 1, b"may or may not survive");
    assert!(cluster.replicas[&1].failure().is_some());
    cluster.replicas.remove(&1);
    assert_eq!(cluster.elect(), 2);
    cluster.propose(3, 2, b"goes on");
    assert!(cluster.journal(2).contains(&b"goes on".to_vec()));
}

#[test]
fn an_old_copy_of_the_directory_is_found_out_and_never_votes_again() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.propose(1, 1, b"one");
    let old = cluster.disks[&2].image();
    cluster.propose(1, 2, b"two");
    cluster.replicas.remove(&2);
    cluster.disks.insert(2, old);
    cluster.open(2);
    cluster.tick(4);
    let failure = cluster.replicas[&2].failure().expect("found out").clone();
    assert!(matches!(failure, Failure::Reverted { .. }) && !failure.may_pass(), "{failure}");
    assert!(failure.to_string().contains("it must rejoin under a new Raft id"), "{failure}");
    let result = open(&cluster.disks[&2], settings(2)).map(|_| ());
    assert!(matches!(result, Err(OpenError::Retired { .. })), "{result:?}");
}

#[test]
fn a_leader_without_what_others_have_committed_is_found_out() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.propose(1, 1, b"one");
    let old = [cluster.disks[&1].image(), cluster.disks[&2].image()];
    for id in 2..6 {
        cluster.propose(1, id, b"more");
    }
    // Two of three go back in time together and elect one of them; the third knows better.
    for (raft_id, disk) in [1, 2].into_iter().zip(old) {
        cluster.replicas.remove(&raft_id);
        cluster.disks.insert(raft_id, disk);
        cluster.open(raft_id);
    }
    cluster.cut = [3].into();
    cluster.elect();
    cluster.cut.clear();
    cluster.tick(40);
    let failures: Vec<_> = cluster.replicas.values().filter_map(|replica| replica.failure()).collect();
    assert!(
        failures.iter().any(|failure| matches!(failure, Failure::Reverted { .. } | Failure::Diverged { .. })),
        "nobody noticed: {failures:?}"
    );
}

#[test]
fn a_sole_voter_is_silent_about_a_term_that_is_not_on_its_disk() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    cluster.add(2, &[]);
    cluster.replica(1).propose_membership(1, &[MembershipChange::AddLearner(2)]).unwrap();
    cluster.settle();
    cluster.tick(5);
    cluster.crash(1, 1);
    cluster.open(1);
    cluster.disks[&1].lose_power_after(0);
    while cluster.replicas[&1].failure().is_none() {
        cluster.replica(1).tick();
        let _ = cluster.try_ready(1);
        assert!(cluster.packets.is_empty(), "a learner hears of a term that its voter will forget");
    }
}

#[test]
fn a_vote_that_was_forgotten_is_found_out() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    let old = cluster.disks[&1].image();
    // Member 1 asks for votes and the answers are under way.
    for _ in 0..40 {
        cluster.replica(1).tick();
        cluster.ready(1);
        let packets = std::mem::take(&mut cluster.packets);
        for packet in packets {
            let _ = cluster.replica(packet.to).step(packet.from, &packet.bytes);
            cluster.ready(packet.to);
        }
        if cluster.replicas[&1].status().term > 1 {
            break;
        }
    }
    cluster.ready(1);
    for packet in std::mem::take(&mut cluster.packets) {
        let _ = cluster.replica(packet.to).step(packet.from, &packet.bytes);
        cluster.ready(packet.to);
    }
    let votes: Vec<_> = cluster.packets.drain(..).filter(|packet| packet.to == 1).collect();
    assert!(!votes.is_empty());
    cluster.replicas.remove(&1);
    cluster.disks.insert(1, old);
    cluster.open(1);
    for vote in votes {
        let _ = cluster.replica(1).step(vote.from, &vote.bytes);
    }
    assert!(matches!(cluster.replicas[&1].failure(), Some(Failure::Reverted { .. })));
}

#[test]
fn a_snapshot_that_cannot_be_read_does_not_reach_the_disk() {
    use prost::Message as _;
    use raft_proto::eraftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};

    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    let term = cluster.replicas[&2].status().term;
    let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let snapshot = Snapshot {
        data: b"\0\0\0\0 no journal".to_vec(),
        metadata: Some(SnapshotMetadata { conf_state: Some(members), index: 90, term }),
    };
    let mut message = Message { to: 2, from: 1, term, snapshot: Some(snapshot), ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let result = cluster.replica(2).step(1, &message.encode_to_vec());
    assert!(matches!(result, Err(StepError::Failed(Failure::Unreadable { .. }))), "{result:?}");
    let report = cluster.open(2);
    assert_eq!(report.snapshot_index, 1);
}
