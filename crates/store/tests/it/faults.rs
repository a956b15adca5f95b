//! Members that stop, disks that fail, leaders that change.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mainstay_consensus::{Identity, MembershipChange, OpenError, Role};
use mainstay_store::contract::Journal;
use mainstay_store::{MembershipError, ProposeError, RaftOptions, ReadError, StartError, create, start};

use crate::cluster::{Cluster, PATIENCE, TestDirectory, options, until};

fn refusal(options: RaftOptions) -> StartError {
    match start(options, Journal::default()) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_keeps_a_member_from_starting_is_told() {
    let directory = TestDirectory::new();
    let path = directory.member(1);
    let absent = refusal(options(&path));
    assert!(matches!(absent, StartError::Open { source: OpenError::Absent, .. }), "{absent:?}");
    fs::create_dir(&path).unwrap();
    let empty = refusal(options(&path));
    assert!(matches!(empty, StartError::Open { source: OpenError::Absent, .. }), "{empty:?}");

    create(&path, &Identity { cluster_id: "test".to_owned(), raft_id: 1 }, &[1], &[]).unwrap();
    let other = refusal(RaftOptions { cluster_id: "another".to_owned(), ..options(&path) });
    assert!(matches!(other, StartError::Open { source: OpenError::OtherCluster { .. }, .. }), "{other:?}");

    let (store, _outgoing) = start(options(&path), Journal::default()).unwrap();
    assert!(matches!(refusal(options(&path)), StartError::Directory { .. }));
    store.stop().await;
    assert_eq!(store.linearize(PATIENCE).await, Err(ReadError::Stopped));
    assert!(matches!(store.propose(b"x".to_vec(), PATIENCE).await, Err(ProposeError::Failed(_))));
    let (store, _outgoing) = start(options(&path), Journal::default()).expect("the directory is free");
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_outlive_a_change_of_leader_and_take_effect_once() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let store = cluster.store(follower);
    let proposer = tokio::spawn(async move {
        for number in 0..200 {
            store.propose(format!("line {number}").into_bytes(), PATIENCE).await.unwrap();
        }
    });
    let half = |snapshot: &mainstay_store::Snapshot<Journal>| snapshot.machine.lines.len() >= 50;
    until(&cluster.store(follower), "half of the proposals", half).await;
    cluster.stop(leader).await;
    proposer.await.unwrap();
    let expected: Vec<String> = (0..200).map(|number| format!("line {number}")).collect();
    assert_eq!(cluster.store(follower).watch().borrow().machine.lines, expected);
    cluster.start(leader);
    cluster.store(leader).linearize(PATIENCE).await.unwrap();
    assert_eq!(cluster.store(leader).watch().borrow().machine.lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_want_of_a_leader_never_takes_effect() {
    let cluster = Cluster::without_members();
    for raft_id in 1..=3 {
        cluster.create(raft_id, &[1, 2, 3]);
    }
    cluster.start(1);
    let store = cluster.store(1);
    let refused = store.propose(b"refused".to_vec(), Duration::from_millis(300)).await;
    assert_eq!(refused, Err(ProposeError::NoLeader));
    // One that is more patient is made as soon as there is a leader.
    let patient = tokio::spawn(async move { store.propose(b"patient".to_vec(), PATIENCE).await });
    cluster.start(2);
    cluster.start(3);
    assert_eq!(patient.await.unwrap(), Ok(1));
    cluster.store(1).linearize(PATIENCE).await.unwrap();
    assert_eq!(cluster.store(1).watch().borrow().machine.lines, ["patient"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_a_link_dropped_is_made_again() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let store = cluster.store(leader % 3 + 1);
    cluster.cut(true);
    let proposer = {
        let store = store.clone();
        tokio::spawn(async move { store.propose(b"dropped at first".to_vec(), PATIENCE).await })
    };
    // Shorter than an election: the leader stays, and only the proposer can know that something is missing.
    assert_eq!(store.linearize(Duration::from_millis(50)).await, Err(ReadError::TimedOut));
    cluster.cut(false);
    assert_eq!(proposer.await.unwrap(), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let heir = leader % 3 + 1;
    cluster.store(leader).propose(b"known to all".to_vec(), PATIENCE).await.unwrap();
    cluster.store(leader).transfer_leader(heir);
    until(&cluster.store(heir), "the heir leads", |snapshot| snapshot.status.role == Role::Leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_replaced() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let store = cluster.store(leader);
    for number in 0..40 {
        store.propose(format!("line {number}").into_bytes(), PATIENCE).await.unwrap();
    }
    let gone = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.stop(gone).await;
    cluster.create(4, &[]);
    cluster.start(4);
    let other = cluster.ids().into_iter().find(|id| *id != leader && *id != 4).unwrap();
    let refused =
        cluster.store(other).propose_membership(vec![MembershipChange::AddLearner(4)], PATIENCE).await;
    let not_leader = mainstay_consensus::ProposeError::NotLeader { leader };
    assert_eq!(refused, Err(MembershipError::Refused(not_leader)));

    store.propose_membership(vec![MembershipChange::AddLearner(4)], PATIENCE).await.unwrap();
    until(&cluster.store(4), "the state at the new member", |snapshot| snapshot.machine.lines.len() == 40)
        .await;
    let swap = vec![MembershipChange::Remove(gone), MembershipChange::AddVoter(4)];
    store.propose_membership(swap, PATIENCE).await.unwrap();
    let mut voters = vec![leader, other, 4];
    voters.sort_unstable();
    for raft_id in &voters {
        until(&cluster.store(*raft_id), "the new membership", |snapshot| {
            snapshot.status.voters == voters && snapshot.status.voters_outgoing.is_empty()
        })
        .await;
    }
    cluster.store(4).propose(b"from the new member".to_vec(), PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_leader_is_known_at_every_member() {
    let cluster = Cluster::new(&[1, 2, 3]);
    cluster.leader().await;
    for store in cluster.stores() {
        let seen = store.watch().borrow().leader_seen;
        let fresher = async {
            while store.watch().borrow().leader_seen <= seen {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, fresher).await.expect("it grows without any change");
    }
    cluster.cut(true);
    for store in cluster.stores() {
        until(&store, "nobody leads", |snapshot| snapshot.status.leader.is_none()).await;
        let seen = store.watch().borrow().leader_seen;
        // As many ticks as an election takes, and more.
        assert_eq!(store.linearize(Duration::from_millis(300)).await, Err(ReadError::TimedOut));
        assert_eq!(store.watch().borrow().leader_seen, seen, "it grows without a leader");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_silences_the_member_and_it_comes_back_by_itself() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    // The next compaction finds no space; and opening again does not work as long as this directory lies in its way.
    let directory = cluster.directory.member(leader);
    std::os::unix::fs::symlink("/dev/full", directory.join("snapshot.tmp")).unwrap();
    fs::create_dir(directory.join("log.tmp")).unwrap();
    let healthy = cluster.store(leader % 3 + 1);
    for number in 0..60 {
        healthy.propose(format!("line {number}").into_bytes(), PATIENCE).await.unwrap();
    }
    let failed = cluster.store(leader);
    until(&failed, "the failure", |snapshot| snapshot.failure.is_some()).await;
    let snapshot = failed.watch().borrow().clone();
    let failure = snapshot.failure.clone().unwrap();
    assert!(failure.contains("no space left for the consensus file `snapshot`"), "{failure}");
    assert!(failure.starts_with(&directory.display().to_string()) && !failure.contains('\n'), "{failure}");
    assert_eq!((snapshot.status.role, snapshot.status.leader), (Role::Follower, None));
    assert!(matches!(failed.propose(b"x".to_vec(), PATIENCE).await, Err(ProposeError::Failed(_))));
    assert!(matches!(failed.linearize(PATIENCE).await, Err(ReadError::Failed(_))));

    let shown = failed.watch().borrow().applied;
    fs::remove_dir(directory.join("log.tmp")).unwrap();
    until(&failed, "the member's return", |snapshot| {
        assert!(snapshot.applied >= shown, "the watched state went back");
        snapshot.failure.is_none() && snapshot.machine.lines.len() == 60
    })
    .await;
    failed.propose(b"back".to_vec(), PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_does_not_go_back_when_the_directory_is_opened_again() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let (raft_id, proposer) = (leader % 3 + 1, cluster.store(leader));
    proposer.propose(b"line".to_vec(), PATIENCE).await.unwrap();
    until(&cluster.store(raft_id), "the line", |snapshot| snapshot.machine.lines.len() == 1).await;
    // After a restart it learns from the leader that the line is committed; its own disk does not know.
    cluster.stop(raft_id).await;
    cluster.start(raft_id);
    let store = cluster.store(raft_id);
    until(&store, "the line", |snapshot| snapshot.machine.lines.len() == 1).await;
    let shown = store.watch().borrow().applied;
    let log = cluster.directory.member(raft_id).join("log");
    let aside = log.with_extension("aside");
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    proposer.propose(b"not written here".to_vec(), PATIENCE).await.unwrap();
    until(&store, "the failure", |snapshot| snapshot.failure.is_some()).await;
    cluster.cut(true);
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    until(&store, "the member's return", |snapshot| snapshot.failure.is_none()).await;
    let snapshot = store.watch().borrow().clone();
    assert!(snapshot.applied >= shown && snapshot.machine.lines.len() == 1, "{snapshot:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_a_member_does_no_harm() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let store = cluster.store(leader);
    for length in 0..2000 {
        store.step(leader % 3 + 1, vec![0xA5; length]);
    }
    store.propose(b"unharmed".to_vec(), PATIENCE).await.unwrap();
    assert_eq!(cluster.leader().await, leader);
}

const DIRECTORY: &str = "MAINSTAY_TEST_DIRECTORY";

/// What the next test kills: proposes and says what was acknowledged. Started as a test of its own it has
/// nothing to do.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "the killer reads it")]
async fn victim() {
    let Ok(path) = std::env::var(DIRECTORY) else { return };
    let (store, _outgoing) =
        start(options(path.as_ref()), Journal::default()).expect("the last victim left it usable");
    store.linearize(PATIENCE).await.expect("a sole voter leads");
    let begin = store.watch().borrow().machine.lines.len();
    // Not for ever, should nobody be left to kill it.
    for number in begin..begin + 10_000 {
        store.propose(format!("line {number}").into_bytes(), PATIENCE).await.expect("acknowledged");
        eprintln!("acknowledged {number}");
    }
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_member_killed_at_any_moment_has_everything_that_it_acknowledged() {
    let directory = TestDirectory::new();
    let path = directory.member(1);
    create(&path, &Identity { cluster_id: "test".to_owned(), raft_id: 1 }, &[1], &[]).unwrap();
    let mut last = None;
    for kill in 0..6_u64 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::victim", "--nocapture"])
            .env(DIRECTORY, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut victim = Victim(child);
        let lines = BufReader::new(victim.0.stderr.take().unwrap()).lines();
        let wanted = 40 + 17 * kill;
        let mut heard = 0;
        let mut tail = Vec::new();
        for line in lines {
            let line = line.unwrap();
            tail.push(line.clone());
            let Some(number) = line.strip_prefix("acknowledged ") else { continue };
            last = Some(number.parse::<usize>().unwrap());
            heard += 1;
            if heard == wanted {
                victim.0.kill().unwrap();
            }
        }
        assert!(heard >= wanted, "the victim ended by itself: {tail:#?}");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, _outgoing) = start(options(&path), Journal::default()).unwrap();
        store.linearize(PATIENCE).await.unwrap();
        let lines = store.watch().borrow().machine.lines.clone();
        assert!(lines.len() > last.unwrap(), "{} lines, {last:?} was acknowledged", lines.len());
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("line {number}"));
        }
        store.stop().await;
    });
}
