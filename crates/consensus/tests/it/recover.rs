//! One replica goes on alone: with all that its log holds, as another one than before.

use mainstay_consensus::sim_disk::SimDisk;
use mainstay_consensus::{CreateError, Disk, OpenError, Role, Survey, begin_anew, create, survey};

use crate::cluster::{CLUSTER, Cluster, Journal, identity, open, settings};

fn seen(disk: &SimDisk) -> Survey<Journal> {
    survey(disk, Journal::default(), CLUSTER).expect("a replica's directory")
}

fn data(machine: &Journal) -> Vec<&[u8]> {
    machine.0.iter().map(|(_, data)| data.as_slice()).collect()
}

/// A follower that has stored an entry, and has not heard that a majority did.
fn follower_that_knows_less() -> (Cluster, SimDisk) {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    assert_eq!(cluster.elect(), 1);
    cluster.propose(1, 7, b"known");
    cluster.tick(4);
    // The append reaches 2, whose answer reaches nobody.
    cluster.replica(1).propose(8, b"agreed".to_vec()).expect("it leads");
    cluster.ready(1);
    for packet in std::mem::take(&mut cluster.packets).into_iter().filter(|packet| packet.to == 2) {
        cluster.replica(2).step(packet.from, &packet.bytes).expect("a message");
    }
    cluster.ready(2);
    let disk = cluster.disks[&2].clone();
    cluster.crash(2, 1);
    (cluster, disk)
}

#[test]
fn what_may_have_been_agreed_counts_as_agreed_and_reading_changes_nothing() {
    let (_, disk) = follower_that_knows_less();
    let before: Vec<_> = ["identity", "log", "snapshot"].map(|file| disk.read(file).unwrap()).into();
    let seen = seen(&disk);
    assert_eq!(data(&seen.machine), [b"known".as_slice(), b"agreed"]);
    assert!(seen.uncommitted >= 1, "{}", seen.uncommitted);
    let after: Vec<_> = ["identity", "log", "snapshot"].map(|file| disk.read(file).unwrap()).into();
    assert_eq!(before, after);
}

#[test]
fn it_leads_alone_and_is_deaf_to_its_old_peers() {
    let (mut old, disk) = follower_that_knows_less();
    let seen = seen(&disk);
    let mut fresh = SimDisk::new();
    let mut state = seen.machine.clone();
    state.0.push((0, b"changed".to_vec()));
    begin_anew(&mut fresh, &identity(1_000), &seen, &state).expect("an empty directory");
    let (mut replica, report) = open(&fresh, settings(1)).expect("it opens");
    assert_eq!((report.raft_id, report.entries), (1_000, 0));
    assert_eq!(data(replica.machine()), [b"known".as_slice(), b"agreed", b"changed"]);
    for _ in 0..50 {
        replica.tick();
        replica.ready(|message| panic!("there is nobody to tell {}", message.to)).expect("healthy");
    }
    let status = replica.status();
    assert_eq!((status.role, status.voters), (Role::Leader, vec![1_000]));
    assert!(status.term > seen.last.1 && status.last_index > seen.last.0);
    replica.propose(9, b"alone".to_vec()).expect("it leads");
    replica.ready(|_| ()).expect("healthy");
    assert_eq!(data(replica.machine()).last(), Some(&b"alone".as_slice()));

    // The old ones go on electing; nothing that they send to the member that they know is for this one.
    old.cut.clear();
    old.tick(60);
    let (term, applied) = (replica.status().term, replica.status().applied);
    for id in old.ids() {
        old.replica(id).tick();
        let mut messages = Vec::new();
        old.replica(id).ready(|message| messages.push(message)).expect("healthy");
        for message in messages.into_iter().filter(|message| message.to == 2) {
            let _ = replica.step(id, &message.bytes);
        }
    }
    replica.ready(|message| panic!("answered {}", message.to)).expect("healthy");
    let status = replica.status();
    assert_eq!((status.role, status.term, status.applied), (Role::Leader, term, applied));
}

#[test]
fn a_directory_with_anything_in_it_and_an_id_that_was_used_are_refused() {
    let (_, disk) = follower_that_knows_less();
    let seen = seen(&disk);
    let same = begin_anew(&mut SimDisk::new(), &identity(2), &seen, &seen.machine);
    assert!(matches!(same, Err(CreateError::Invalid { .. })), "{same:?}");
    let zero = begin_anew(&mut SimDisk::new(), &identity(0), &seen, &seen.machine);
    assert!(matches!(zero, Err(CreateError::Invalid { .. })), "{zero:?}");
    let mut used = SimDisk::new();
    create(&mut used, &identity(5), &[5], &[]).unwrap();
    let full = begin_anew(&mut used, &identity(9), &seen, &seen.machine);
    assert!(matches!(full, Err(CreateError::Exists { .. })), "{full:?}");
}

/// Half of it is never taken for a replica.
#[test]
fn power_lost_in_the_middle_leaves_nothing_that_opens() {
    let (_, disk) = follower_that_knows_less();
    let seen = seen(&disk);
    for writes in 0..3 {
        for seed in 0..8 {
            let mut fresh = SimDisk::new();
            fresh.lose_power_after(writes);
            begin_anew(&mut fresh, &identity(1_000), &seen, &seen.machine).expect_err("the power was off");
            fresh.crash(seed);
            match open(&fresh, settings(1)) {
                Ok((replica, _)) => {
                    assert_eq!(data(replica.machine()), data(&seen.machine), "whole, or not at all")
                }
                Err(OpenError::Absent | OpenError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_directory_that_lost_its_promises_is_not_begun_anew_from() {
    let (_, mut disk) = follower_that_knows_less();
    disk.replace("retired", b"it was reverted").unwrap();
    assert!(matches!(survey(&disk, Journal::default(), CLUSTER), Err(OpenError::Retired { .. })));
    assert!(matches!(survey(&SimDisk::new(), Journal::default(), CLUSTER), Err(OpenError::Absent)));
}
