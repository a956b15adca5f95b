//! Whatever a peer sends, a replica does not panic.

use mainstay_consensus::sim_disk::{Random, SimDisk};
use mainstay_consensus::{Failure, Heard, MembershipChange, Settings, StepError};
use prost::Message as _;
use raft_proto::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};

use crate::cluster::{Cluster, TestReplica, created, open, settings};

/// Names the seed when a test panics, since nothing else would.
struct Seed(u64);

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "a failed test has to name its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with seed {}", self.0);
        }
    }
}

/// What the fuzzed messages are drawn from: numbers that mean something to the replica, and limits.
struct Forge<'a> {
    random: &'a mut Random,
    near: Vec<u64>,
}

impl<'a> Forge<'a> {
    fn new(random: &'a mut Random, replica: &TestReplica) -> Self {
        let status = replica.status();
        let mut near = vec![0, 1, 2, 3, 4];
        for number in [status.term, status.commit, status.applied, status.first_index, status.last_index] {
            near.extend([number.saturating_sub(1), number, number + 1]);
        }
        Self { random, near }
    }

    fn number(&mut self) -> u64 {
        if self.random.below(100) == 0 {
            return [1 << 62, (1 << 62) + 1, u64::MAX, i64::MAX as u64][self.random.below(4) as usize];
        }
        let choice = self.random.below(self.near.len() as u64 + 1) as usize;
        self.near.get(choice).copied().unwrap_or_else(|| self.random.below(60))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 8, 40, 16, 16, 16, 16, 16, 16, 16, 16][self.random.below(12) as usize];
        (0..length).map(|_| self.random.next_u64() as u8).collect()
    }

    fn kind(&mut self, kinds: u64) -> i32 {
        if self.random.below(100) == 0 {
            self.random.next_u64() as i32
        } else {
            self.random.below(kinds) as i32
        }
    }

    fn ids(&mut self) -> Vec<u64> {
        (0..self.random.below(4)).map(|_| self.random.below(6)).collect()
    }

    fn entries(&mut self, index: u64, term: u64) -> Vec<Entry> {
        let count = self.random.below(4);
        (1..=count)
            .map(|offset| {
                let plausible = self.random.below(30) > 0;
                Entry {
                    entry_type: self.kind(3),
                    term: if plausible { term } else { self.number() },
                    index: if plausible { index.wrapping_add(offset) } else { self.number() },
                    data: if self.random.below(3) == 0 {
                        self.change().encode_to_vec()
                    } else {
                        self.bytes()
                    },
                    context: self.bytes(),
                    ..Entry::default()
                }
            })
            .collect()
    }

    fn change(&mut self) -> raft_proto::eraftpb::ConfChangeV2 {
        let changes = (0..self.random.below(3))
            .map(|_| raft_proto::eraftpb::ConfChangeSingle {
                change_type: self.kind(3),
                node_id: self.random.below(6),
            })
            .collect();
        let transition = if self.random.below(4) > 0 { 0 } else { self.kind(3) };
        raft_proto::eraftpb::ConfChangeV2 { transition, changes, ..Default::default() }
    }

    fn snapshot(&mut self) -> Snapshot {
        let conf_state = ConfState {
            voters: if self.random.below(2) == 0 { vec![1, 2, 3] } else { self.ids() },
            learners: if self.random.below(2) == 0 { vec![9] } else { self.ids() },
            voters_outgoing: if self.random.below(2) == 0 { vec![] } else { self.ids() },
            learners_next: if self.random.below(2) == 0 { vec![] } else { self.ids() },
            auto_leave: self.random.below(3) == 0,
        };
        let metadata = SnapshotMetadata {
            conf_state: (self.random.below(9) > 0).then_some(conf_state),
            index: self.number(),
            term: 1 + self.random.below(3),
        };
        let data = if self.random.below(2) == 0 { vec![0; 4] } else { self.bytes() };
        Snapshot { data, metadata: (self.random.below(9) > 0).then_some(metadata) }
    }

    fn message(&mut self, from: u64, to: u64, term: u64) -> Message {
        let msg_type = self.kind(19);
        let forwarded = matches!(
            MessageType::from_i32(msg_type),
            Some(MessageType::MsgPropose | MessageType::MsgReadIndex)
        );
        let index = self.number();
        // Mostly the term that an entry there can have.
        let log_term = if self.random.below(3) == 0 { self.number() } else { 1 + self.random.below(term) };
        Message {
            msg_type,
            to,
            from,
            term: match self.random.below(6) {
                0 => self.number(),
                1 => term + 1,
                _ if forwarded => 0,
                _ => term,
            },
            log_term,
            index,
            entries: self.entries(index, log_term),
            commit: self.number(),
            commit_term: self.number(),
            snapshot: (self.random.below(3) > 0).then(|| self.snapshot()),
            request_snapshot: if self.random.below(100) == 0 { self.number() } else { 0 },
            reject: self.random.below(2) == 0,
            reject_hint: self.number(),
            context: self.bytes(),
            deprecated_priority: if self.random.below(30) == 0 { self.number() } else { 0 },
            priority: if self.random.below(30) == 0 { self.random.next_u64() as i64 } else { 0 },
        }
    }
}

fn few(raft_id: u64) -> Settings {
    Settings { compact_after_entries: 6, keep_entries: 3, ..settings(raft_id) }
}

/// A cluster in one of several situations.
fn situation(random: &mut Random) -> Cluster {
    let mut cluster = Cluster::with_settings(&[1, 2, 3], few);
    if random.below(8) > 0 {
        cluster.elect();
        for id in 0..u128::from(random.below(20)) {
            cluster.propose(1, id, b"entry");
        }
    }
    if random.below(4) == 0 && cluster.leader().is_some() {
        // A joint change that is stuck half way.
        cluster.cut = [3].into();
        let changes =
            [MembershipChange::Remove(3), MembershipChange::AddVoter(4), MembershipChange::AddVoter(5)];
        cluster.replica(1).propose_membership(900, &changes).unwrap();
        cluster.settle();
    }
    cluster.add(9, &[]);
    cluster
}

#[test]
fn no_forged_message_makes_a_replica_panic() {
    let mut outcomes = [0_u32; 4];
    for seed in 0..400 {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let mut cluster = situation(&mut random);
        let images: Vec<(u64, SimDisk)> =
            cluster.disks.iter().map(|(id, disk)| (*id, disk.image())).collect();
        for _ in 0..300 {
            let ids = cluster.ids();
            let to = ids[random.below(ids.len() as u64) as usize];
            let from = if random.below(9) == 0 { random.below(7) } else { 1 + (to + random.below(3)) % 4 };
            let replica = cluster.replica(to);
            let term = replica.status().term;
            let message = Forge::new(&mut random, replica).message(from, to, term);
            match replica.step(from, &message.encode_to_vec()) {
                Ok(Heard::Nobody) => outcomes[0] += 1,
                Ok(_) => outcomes[1] += 1,
                Err(StepError::Failed(_)) => outcomes[2] += 1,
                Err(_) => outcomes[3] += 1,
            }
            for _ in 0..random.below(5) {
                replica.tick();
            }
            if random.below(3) > 0 {
                let _ = cluster.try_ready(to);
            }
            if cluster.replicas[&to].failure().is_some() {
                let image = images.iter().find(|(id, _)| *id == to).unwrap().1.image();
                cluster.replicas.remove(&to);
                cluster.disks.insert(to, image);
                cluster.open(to);
            } else if random.below(50) == 0 {
                cluster.replica(to).tick();
                let _ = cluster.try_ready(to);
                // What came of it can be opened again.
                let reopened = open(&cluster.disks[&to].image(), few(to)).map(|_| ());
                assert!(cluster.replicas[&to].failure().is_some() || reopened.is_ok(), "{reopened:?}");
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 1000), "a kind of outcome is hardly tested: {outcomes:?}");
}

#[test]
fn no_damaged_message_makes_a_replica_panic() {
    let mut accepted = 0;
    for seed in 0..60 {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let mut cluster = situation(&mut random);
        for round in 0..300_u128 {
            for raft_id in cluster.ids() {
                cluster.replica(raft_id).tick();
                let _ = cluster.replica(raft_id).propose(10_000 + round, b"data".to_vec());
                let _ = cluster.try_ready(raft_id);
            }
            for mut packet in std::mem::take(&mut cluster.packets) {
                for _ in 0..random.below(3) {
                    let position = random.below(packet.bytes.len() as u64) as usize;
                    match random.below(3) {
                        0 => packet.bytes[position] ^= 1 << random.below(8),
                        1 => packet.bytes.truncate(position),
                        _ => packet.bytes.insert(position, random.next_u64() as u8),
                    }
                    if packet.bytes.is_empty() {
                        break;
                    }
                }
                if let Some(replica) = cluster.replicas.get_mut(&packet.to) {
                    accepted += u32::from(replica.step(packet.from, &packet.bytes).is_ok());
                    let _ = cluster.try_ready(packet.to);
                }
            }
        }
    }
    assert!(accepted > 1000, "hardly anything got through: {accepted}");
}

#[test]
fn random_bytes_are_no_message() {
    let mut random = Random(1);
    let (mut replica, _) = open(&created(1, &[1, 2, 3]), settings(1)).unwrap();
    for length in (0..300).chain([100_000]) {
        let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        let _ = replica.step(2, &bytes);
    }
    // Deeply nested or absurdly long on the wire.
    for bytes in [[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f].to_vec(), [0x4a, 0x80].repeat(5000)] {
        assert!(replica.step(2, &bytes).is_err());
    }
    assert_eq!(replica.failure(), None);
}

#[test]
fn known_ways_to_stop_raft_are_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    cluster.propose(1, 1, b"x");
    let status = cluster.replicas[&2].status();
    let (term, last) = (status.term, status.last_index);
    let message = |kind: MessageType, change: &dyn Fn(&mut Message)| {
        let mut message = Message { to: 2, from: 1, term, ..Message::default() };
        message.set_msg_type(kind);
        change(&mut message);
        message.encode_to_vec()
    };
    let refused = [
        message(MessageType::MsgAppend, &|m| (m.index, m.log_term) = (last + 7, 0)),
        message(MessageType::MsgAppend, &|m| {
            (m.index, m.log_term) = (last, term);
            m.entries = vec![Entry { index: last + 2, term, ..Entry::default() }];
        }),
        message(MessageType::MsgAppend, &|m| {
            (m.index, m.log_term) = (last, term);
            m.entries = vec![Entry { index: last + 1, term, entry_type: 77, ..Entry::default() }];
        }),
        message(MessageType::MsgHeartbeat, &|m| m.term = u64::MAX),
        message(MessageType::MsgHeartbeat, &|m| m.term = 0),
        message(MessageType::MsgHeartbeat, &|m| m.msg_type = 99),
        message(MessageType::MsgHup, &|_| {}),
        message(MessageType::MsgPropose, &|m| m.term = 0),
        message(MessageType::MsgReadIndex, &|m| m.term = 0),
        message(MessageType::MsgAppendResponse, &|m| m.request_snapshot = 5),
        message(MessageType::MsgSnapshot, &|_| {}),
    ];
    for bytes in refused {
        let result = cluster.replica(2).step(1, &bytes);
        assert!(matches!(result, Err(StepError::Invalid { .. })), "{result:?}");
    }
    assert_eq!(cluster.replicas[&2].status(), status);
    let beyond = message(MessageType::MsgHeartbeat, &|m| m.commit = last + 1);
    let result = cluster.replica(2).step(1, &beyond);
    assert!(matches!(result, Err(StepError::Failed(Failure::Reverted { .. }))), "{result:?}");
}

#[test]
fn a_sole_voter_told_to_campaign_in_the_middle_of_a_batch_does_not_panic() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    let term = cluster.replicas[&1].status().term;
    cluster.replica(1).propose(1, b"unwritten".to_vec()).unwrap();
    let mut message = Message { to: 1, from: 2, term: term + 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgTimeoutNow);
    cluster.replica(1).step(2, &message.encode_to_vec()).unwrap();
    cluster.settle();
    assert_eq!(cluster.journal(1), [b"unwritten".to_vec()]);
}

#[test]
fn a_sole_voter_that_campaigns_in_the_middle_of_a_batch_does_not_panic() {
    let mut cluster = Cluster::new(&[1]);
    cluster.elect();
    let status = cluster.replicas[&1].status();
    let term = status.term + 1;
    let entry = Entry { index: status.last_index + 1, term, ..Entry::default() };
    let mut message = Message { to: 1, from: 2, term, ..Message::default() };
    (message.index, message.log_term, message.entries) = (status.last_index, status.term, vec![entry]);
    message.set_msg_type(MessageType::MsgAppend);
    assert_eq!(cluster.replica(1).step(2, &message.encode_to_vec()).unwrap(), Heard::Leader);
    for _ in 0..40 {
        cluster.replica(1).tick();
    }
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn a_leader_that_contradicts_what_is_committed_is_not_followed() {
    for kind in [MessageType::MsgAppend, MessageType::MsgSnapshot] {
        let mut cluster = Cluster::new(&[1, 2, 3]);
        cluster.elect();
        cluster.propose(1, 1, b"x");
        let status = cluster.replicas[&2].status();
        let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let metadata = SnapshotMetadata { conf_state: Some(members), index: status.commit, term: 1 };
        let mut message = Message { to: 2, from: 1, term: status.term + 1, ..Message::default() };
        (message.index, message.log_term) = (status.commit, 1);
        message.snapshot = Some(Snapshot { data: vec![0; 4], metadata: Some(metadata) });
        message.set_msg_type(kind);
        let result = cluster.replica(2).step(1, &message.encode_to_vec());
        assert!(matches!(result, Err(StepError::Failed(Failure::Diverged { .. }))), "{result:?}");
    }
}

#[test]
fn messages_for_others_and_of_strangers_are_ignored() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.elect();
    let before = cluster.replicas[&1].status();
    let term = before.term;
    for (kind, to, from) in [
        (MessageType::MsgAppend, 2, 3),
        (MessageType::MsgAppendResponse, 1, 7),
        (MessageType::MsgHeartbeatResponse, 1, 7),
        (MessageType::MsgRequestVoteResponse, 1, 7),
    ] {
        let mut message = Message { to, from, term: term + 5, ..Message::default() };
        message.set_msg_type(kind);
        assert_eq!(cluster.replica(1).step(from, &message.encode_to_vec()).unwrap(), Heard::Nobody);
    }
    let entry = Entry { context: vec![1; 16], data: b"stranger".to_vec(), ..Entry::default() };
    let mut message = Message { to: 1, from: 7, entries: vec![entry], ..Message::default() };
    message.set_msg_type(MessageType::MsgPropose);
    cluster.replica(1).step(7, &message.encode_to_vec()).unwrap();
    cluster.settle();
    assert_eq!(cluster.replicas[&1].status(), before);
}
