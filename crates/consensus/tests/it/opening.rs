//! Creating and opening directories, and what must be refused.

use mainstay_consensus::sim_disk::SimDisk;
use mainstay_consensus::{CreateError, Disk, Identity, OpenError, Settings, Timing, create};

use crate::cluster::{CLUSTER, Cluster, Journal, TestReplica, created, identity, open, settings};

#[test]
fn a_directory_is_created_once() {
    let mut disk = created(1, &[1, 2, 3]);
    let again = create(&mut disk, &identity(1), &[1, 2, 3], &[]);
    assert!(matches!(again, Err(CreateError::Exists { .. })), "{again:?}");
    open(&disk, settings(1)).expect("a fresh directory opens");
    // Without its identity it still is a member's directory.
    let mut disk = created(1, &[1, 2, 3]);
    drop(open(&disk, settings(1)).unwrap());
    let log = disk.read("log").unwrap().unwrap();
    let mut bare = SimDisk::new();
    bare.replace("log", &log).unwrap();
    assert!(matches!(create(&mut bare, &identity(1), &[1], &[]), Err(CreateError::Exists { .. })));
    disk.replace("retired", b"x").unwrap();
    assert!(matches!(create(&mut disk, &identity(1), &[1], &[]), Err(CreateError::Exists { .. })));
}

#[test]
fn an_interrupted_creation_can_be_repeated() {
    for writes in 0..2 {
        for seed in 0..8 {
            let mut disk = SimDisk::new();
            disk.lose_power_after(writes);
            create(&mut disk, &identity(1), &[1, 2, 3], &[]).expect_err("the power was off");
            disk.crash(seed);
            match open(&disk, settings(1)) {
                // The last replacement made it.
                Ok(_) => continue,
                Err(OpenError::Absent) => {}
                Err(error) => panic!("{error}"),
            }
            create(&mut disk, &identity(1), &[1, 2, 3], &[]).expect("what is left was never used");
            open(&disk, settings(1)).unwrap();
        }
    }
}

#[test]
fn senseless_members_are_refused() {
    let try_create = |raft_id: u64, voters: &[u64], learners: &[u64]| {
        create(&mut SimDisk::new(), &identity(raft_id), voters, learners)
    };
    for (raft_id, voters, learners) in [
        (0, &[1_u64][..], &[][..]),
        (u64::MAX, &[u64::MAX], &[]),
        (1, &[2, 3], &[]),
        (1, &[1, 1], &[]),
        (1, &[1, 0], &[]),
        (1, &[1], &[1]),
        (1, &[], &[1]),
    ] {
        let result = try_create(raft_id, voters, learners);
        assert!(matches!(result, Err(CreateError::Invalid { .. })), "{raft_id} {voters:?} {learners:?}");
    }
    try_create(1, &[1], &[2]).unwrap();
    try_create(2, &[1], &[2]).unwrap();
    try_create(1, &[], &[]).unwrap();
}

#[test]
fn what_is_wrong_with_a_directory_is_told_apart() {
    assert!(matches!(open(&SimDisk::new(), settings(1)), Err(OpenError::Absent)));

    let other = Identity { cluster_id: "other".to_owned(), raft_id: 1 };
    let mut disk = SimDisk::new();
    create(&mut disk, &other, &[1], &[]).unwrap();
    let Err(OpenError::OtherCluster { found, expected }) = open(&disk, settings(1)) else { panic!("opened") };
    assert_eq!((found.as_str(), expected.as_str()), ("other", CLUSTER));

    for file in ["identity", "log"] {
        let disk = created(1, &[1]);
        disk.damage(file, |bytes| bytes[6] = 9);
        assert!(matches!(open(&disk, settings(1)), Err(OpenError::Version { found: 9, .. })), "{file}");
        let disk = created(1, &[1]);
        disk.damage(file, |bytes| *bytes.last_mut().unwrap() ^= 1);
        assert!(matches!(open(&disk, settings(1)), Err(OpenError::Damaged { .. })), "{file}");
    }

    for (heartbeat_ticks, leader_ticks, election_ticks_min, election_ticks_max) in
        [(0, 5, 6, 9), (2, 2, 6, 9), (2, 5, 4, 9), (2, 5, 6, 6)]
    {
        let timing = Timing { heartbeat_ticks, leader_ticks, election_ticks_min, election_ticks_max };
        let result = open(&created(1, &[1]), Settings { timing, ..Settings::default() });
        assert!(matches!(result, Err(OpenError::Timing { .. })), "{timing:?}");
    }
}

#[test]
fn a_lost_file_does_not_pass_for_a_new_member() {
    let mut cluster = compacted();
    cluster.tick(1);
    for (lost, survivors) in [("identity", ["log", "snapshot"]), ("log", ["identity", "snapshot"])] {
        let mut disk = SimDisk::new();
        for file in survivors {
            let bytes = cluster.disks[&1].read(file).unwrap().unwrap();
            disk.replace(file, &bytes).unwrap();
        }
        let result = open(&disk, settings(1)).map(|_| ());
        assert!(matches!(result, Err(OpenError::Damaged { file, .. }) if file == lost), "{result:?}");
    }
    let mut disk = SimDisk::new();
    for file in ["identity", "log"] {
        disk.replace(file, &cluster.disks[&1].read(file).unwrap().unwrap()).unwrap();
    }
    assert!(matches!(open(&disk, settings(1)), Err(OpenError::Damaged { file: "log", .. })));
}

/// A cluster whose first member has a snapshot and has cut its log.
fn compacted() -> Cluster {
    fn few(raft_id: u64) -> Settings {
        Settings { compact_after_entries: 5, keep_entries: 2, ..settings(raft_id) }
    }
    let mut cluster = Cluster::with_settings(&[1, 2, 3], few);
    cluster.elect();
    for id in 0..23 {
        cluster.propose(1, id, &[id as u8; 50]);
    }
    cluster
}

#[test]
fn compaction_keeps_state_and_a_tail() {
    let mut cluster = compacted();
    let before = cluster.replicas[&1].status();
    assert!(before.first_index > 10 && before.first_index < before.applied - 1, "{before:?}");
    cluster.crash(1, 9);
    let report = cluster.open(1);
    assert!(report.snapshot_index > 15 && report.torn_bytes == 0, "{report:?}");
    cluster.elect();
    assert_eq!(cluster.journal(1).len(), 23);
    assert_eq!(cluster.journal(1), cluster.journal(2));
}

#[test]
fn a_log_grown_large_is_compacted_by_its_size() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    for id in 0..30 {
        cluster.propose(1, id, &vec![id as u8; 1 << 20]);
    }
    let status = cluster.replicas[&1].status();
    assert!(status.log_bytes < 17 << 20 && status.first_index > 5, "{status:?}");
    cluster.crash(1, 4);
    cluster.open(1);
    cluster.elect();
    assert_eq!(cluster.journal(1).len(), 30);
}

/// Every write of a run with compactions fails in its turn, the power goes, and nothing acknowledged is gone.
#[test]
fn a_power_cut_at_any_write_keeps_what_was_acknowledged() {
    fn few(raft_id: u64) -> Settings {
        Settings { compact_after_entries: 3, keep_entries: 1, ..settings(raft_id) }
    }
    for writes in 0..60 {
        let mut cluster = Cluster::with_settings(&[1], few);
        let disk = cluster.disks[&1].clone();
        disk.lose_power_after(writes);
        let mut acknowledged = 0;
        for id in 0..20 {
            cluster.tick(12);
            let _ = cluster.replica(1).propose(id, vec![id as u8; 700]);
            cluster.settle();
            acknowledged = cluster.journal(1).len();
            if cluster.replicas[&1].failure().is_some() {
                break;
            }
        }
        cluster.crash(1, u64::from(writes));
        cluster.open(1);
        cluster.elect();
        let journal = cluster.journal(1);
        assert!(journal.len() >= acknowledged, "write {writes}: {} of {acknowledged}", journal.len());
        for (number, data) in journal.iter().enumerate() {
            assert_eq!(*data, vec![number as u8; 700], "write {writes}");
        }
    }
}

#[test]
fn a_changed_bit_in_any_file_is_never_opened() {
    let cluster = compacted();
    for file in ["identity", "snapshot", "log"] {
        let length = cluster.disks[&1].read(file).unwrap().unwrap().len();
        for byte in (0..length).step_by(3) {
            let disk = cluster.disks[&1].image();
            disk.damage(file, |bytes| bytes[byte] ^= 1 << (byte % 8));
            let result = TestReplica::open(disk, Journal::default(), CLUSTER, settings(1));
            assert!(result.is_err(), "byte {byte} of {file}");
        }
    }
}
