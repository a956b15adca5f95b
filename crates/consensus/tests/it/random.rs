//! Seeded runs of a small cluster under everything that can go wrong, and proof that they would notice.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_consensus::sim_disk::Random;
use mainstay_consensus::{Failure, Heard, MembershipChange, OpenError, Role, Settings, StepError, Timing};
use prost::Message as _;
use raft_proto::eraftpb::{Message, MessageType};

use crate::cluster::{Cluster, Packet, open};

/// What the replica is made to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// Nothing.
    None,
    /// The sync before a vote.
    UnsyncedVotes,
    /// The sync before an acknowledged append.
    UnsyncedAppends,
}

/// What must hold in every run, kept outside of the replicas.
#[derive(Default)]
struct Witness {
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    history: BTreeMap<u64, Vec<u8>>,
    acknowledged: BTreeMap<Vec<u8>, u64>,
    reads: BTreeMap<(u64, u64), u64>,
    finished_reads: u32,
    snapshots: u32,
    poisoned: u32,
    /// Every message that was sent, in order.
    trace: Vec<Packet>,
}

struct Run {
    cluster: Cluster,
    random: Random,
    witness: Witness,
    mutant: Mutant,
    joins: bool,
    down: BTreeSet<u64>,
    next: u64,
    /// No more faults.
    calm: bool,
}

/// Begins what a replica found out by itself.
const NOTICED: &str = "noticed";

type Outcome = Result<(), String>;

fn settings(raft_id: u64) -> Settings {
    let min = 7 + usize::try_from(raft_id * 5 % 7).unwrap();
    Settings {
        timing: Timing {
            heartbeat_ticks: 2,
            leader_ticks: 6,
            election_ticks_min: min,
            election_ticks_max: min + 1,
        },
        compact_after_entries: 12,
        keep_entries: 5,
    }
}

impl Run {
    fn new(seed: u64, mutant: Mutant, joins: bool) -> Self {
        let mut cluster = Cluster::with_settings(&[1, 2, 3], settings);
        if joins {
            cluster.add(4, &[]);
            cluster.add(5, &[]);
        }
        Self {
            cluster,
            random: Random(seed),
            witness: Witness::default(),
            mutant,
            joins,
            down: BTreeSet::new(),
            next: 1,
            calm: false,
        }
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        self.random.below(1000) < of_1000
    }

    fn any(&mut self) -> Option<u64> {
        let ids = self.cluster.ids();
        let choice = self.random.below(ids.len() as u64) as usize;
        ids.get(choice).copied()
    }

    fn go(mut self, events: u32) -> Result<Witness, String> {
        for _ in 0..events {
            self.event()?;
        }
        self.heal()?;
        Ok(self.witness)
    }

    fn event(&mut self) -> Outcome {
        match self.random.below(1000) {
            0..620 => self.deliver()?,
            620..820 => self.tick()?,
            820..900 => self.propose()?,
            900..950 => self.read()?,
            950..955 if self.joins => self.change_membership()?,
            950..955 => self.crash_any()?,
            955..992 => self.restart()?,
            992..996 => {
                if let Some(raft_id) = self.any() {
                    let writes = self.random.below(4) as u32;
                    self.cluster.disks[&raft_id].lose_power_after(writes);
                }
            }
            996..998 => self.crash_any()?,
            _ => {
                if let Some(raft_id) = self.any() {
                    self.cluster.disks[&raft_id].fail_syncs(1);
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self) -> Outcome {
        if self.cluster.packets.is_empty() {
            return Ok(());
        }
        let choice = self.random.below(self.cluster.packets.len() as u64) as usize;
        let packet = if self.chance(60) {
            self.cluster.packets[choice].clone()
        } else {
            self.cluster.packets.swap_remove(choice)
        };
        if self.chance(80) {
            return Ok(());
        }
        self.step(&packet)
    }

    fn step(&mut self, packet: &Packet) -> Outcome {
        let Some(replica) = self.cluster.replicas.get_mut(&packet.to) else { return Ok(()) };
        let kind = Message::decode(packet.bytes.as_slice()).expect("a message").get_msg_type();
        let lies = match self.mutant {
            Mutant::None => false,
            Mutant::UnsyncedVotes => kind == MessageType::MsgRequestVote,
            Mutant::UnsyncedAppends => kind == MessageType::MsgAppend,
        };
        self.cluster.disks[&packet.to].set_sync_lies(lies);
        match replica.step(packet.from, &packet.bytes) {
            Ok(Heard::Nobody | Heard::Leader | Heard::Follower) => {}
            Err(StepError::Failed(failure)) => self.failed(&failure)?,
            Err(error) => return Err(format!("a correct peer's message was refused: {error}")),
        }
        // With a mutant every step is finished at once, so that the lie ends with it.
        let now = self.mutant != Mutant::None || self.chance(700);
        if now {
            self.ready(packet.to)?;
        }
        // The moment after a promise is the one in which forgetting it hurts.
        let promised = match kind {
            _ if self.calm => false,
            MessageType::MsgRequestVote => self.chance(200),
            MessageType::MsgAppend => self.chance(4),
            _ => false,
        };
        if promised && self.cluster.replicas.contains_key(&packet.to) {
            self.crash(packet.to)
        } else {
            Ok(())
        }
    }

    fn tick(&mut self) -> Outcome {
        let Some(raft_id) = self.any() else { return Ok(()) };
        self.cluster.disks[&raft_id].set_sync_lies(false);
        self.cluster.replica(raft_id).tick();
        self.ready(raft_id)
    }

    fn propose(&mut self) -> Outcome {
        let Some(raft_id) = self.any() else { return Ok(()) };
        // Some proposals are repeated under their id, as a proposer does that got no answer.
        let number = if self.chance(150) { self.random.below(self.next) } else { self.next };
        self.next = self.next.max(number + 1);
        let length = self.random.below(900) as usize;
        let mut data = number.to_be_bytes().to_vec();
        data.resize(8 + length, 7);
        let _ = self.cluster.replica(raft_id).propose(u128::from(number), data);
        if self.chance(500) { self.ready(raft_id) } else { Ok(()) }
    }

    fn read(&mut self) -> Outcome {
        let Some(raft_id) = self.any() else { return Ok(()) };
        self.next += 1;
        if self.cluster.replica(raft_id).read_index(self.next).is_ok() {
            let floor = self.witness.acknowledged.values().max().copied().unwrap_or(0);
            self.witness.reads.insert((raft_id, self.next), floor);
        }
        self.ready(raft_id)
    }

    fn change_membership(&mut self) -> Outcome {
        let Some(leader) = self.cluster.leader() else { return Ok(()) };
        let voters = self.cluster.replicas[&leader].status().voters;
        let joiner = 4 + self.random.below(2);
        let other = voters[self.random.below(voters.len() as u64) as usize];
        // An id that was removed does not come back.
        let changes = match self.random.below(4) {
            0 => vec![MembershipChange::AddLearner(joiner)],
            1 => vec![MembershipChange::AddVoter(joiner)],
            2 if voters.len() > 3 => vec![MembershipChange::AddLearner(other)],
            _ if !voters.contains(&joiner) => {
                vec![MembershipChange::AddVoter(joiner), MembershipChange::AddLearner(other)]
            }
            _ => return Ok(()),
        };
        self.next += 1;
        let id = (1 << 64) | u128::from(self.next);
        let _ = self.cluster.replica(leader).propose_membership(id, &changes);
        self.ready(leader)
    }

    fn crash_any(&mut self) -> Outcome {
        self.any().map_or(Ok(()), |raft_id| self.crash(raft_id))
    }

    fn crash(&mut self, raft_id: u64) -> Outcome {
        let seed = self.random.next_u64();
        self.cluster.disks[&raft_id].set_sync_lies(false);
        self.cluster.crash(raft_id, seed);
        self.down.insert(raft_id);
        Ok(())
    }

    fn restart(&mut self) -> Outcome {
        let Some(raft_id) = self.down.first().copied() else { return Ok(()) };
        match open(&self.cluster.disks[&raft_id], settings(raft_id)) {
            Ok((replica, _)) => {
                self.cluster.replicas.insert(raft_id, replica);
                self.down.remove(&raft_id);
                self.ready(raft_id)
            }
            Err(OpenError::Disk { .. }) => {
                // The power comes back.
                let seed = self.random.next_u64();
                self.cluster.disks[&raft_id].crash(seed);
                Ok(())
            }
            Err(error) => Err(format!("{NOTICED}: member {raft_id} cannot be opened: {error}")),
        }
    }

    /// A failed disk is reopened without a crash, as the store does it.
    fn failed(&mut self, failure: &Failure) -> Outcome {
        self.witness.poisoned += 1;
        if !failure.may_pass() {
            return Err(format!("{NOTICED}: {failure}"));
        }
        Ok(())
    }

    fn ready(&mut self, raft_id: u64) -> Outcome {
        let sent_before = self.cluster.packets.len();
        let result = self.cluster.try_ready(raft_id);
        self.check_votes(sent_before)?;
        if let Err(failure) = result {
            self.failed(&failure)?;
            self.cluster.replicas.remove(&raft_id);
            if self.chance(500) {
                let seed = self.random.next_u64();
                self.cluster.disks[&raft_id].crash(seed);
            }
            self.down.insert(raft_id);
            return Ok(());
        }
        self.check(raft_id)
    }

    fn check_votes(&mut self, from: usize) -> Outcome {
        for packet in &self.cluster.packets[from..] {
            self.witness.trace.push(packet.clone());
            let message = Message::decode(packet.bytes.as_slice()).expect("own message");
            if message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject {
                let vote = self.witness.votes.entry((packet.from, message.term)).or_insert(packet.to);
                if *vote != packet.to {
                    return Err(format!("member {} voted twice in term {}", packet.from, message.term));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, raft_id: u64) -> Outcome {
        let status = self.cluster.replicas[&raft_id].status();
        if status.role == Role::Leader {
            let leader = self.witness.leaders.entry(status.term).or_insert(raft_id);
            if *leader != raft_id {
                return Err(format!("members {leader} and {raft_id} lead in term {}", status.term));
            }
        }
        let done = std::mem::take(self.cluster.done.entry(raft_id).or_default());
        self.witness.snapshots += u32::from(done.restored);
        let has_changed = done.restored || !done.applied.is_empty();
        for (index, data) in self.cluster.replicas[&raft_id].machine().0.iter().filter(|_| has_changed) {
            let known = self.witness.history.entry(*index).or_insert_with(|| data.clone());
            if known != data {
                return Err(format!("member {raft_id} applied something else at {index}"));
            }
        }
        for applied in &done.applied {
            let data = self.witness.history[&applied.index].clone();
            self.witness.acknowledged.entry(data).or_insert(applied.index);
        }
        for read in &done.reads {
            self.witness.finished_reads += 1;
            let floor = self.witness.reads.remove(&(raft_id, read.context)).unwrap_or(0);
            if read.index < floor || status.applied < read.index {
                return Err(format!("a read at {} misses the acknowledged {floor}", read.index));
            }
        }
        if has_changed { self.check_complete(raft_id, status.applied) } else { Ok(()) }
    }

    /// Everything before a replica's last applied entry is in its machine, and nothing twice.
    fn check_complete(&self, raft_id: u64, applied: u64) -> Outcome {
        let journal = &self.cluster.replicas[&raft_id].machine().0;
        if journal.len() != self.witness.history.range(..=applied).count() {
            return Err(format!("member {raft_id} lacks an entry before {applied}"));
        }
        let numbers: BTreeSet<&[u8]> = journal.iter().map(|(_, data)| &data[..8]).collect();
        if numbers.len() != journal.len() {
            return Err(format!("member {raft_id} applied a proposal twice"));
        }
        Ok(())
    }

    /// All faults end; then all must come to agree, and nothing acknowledged may be missing.
    fn heal(&mut self) -> Outcome {
        self.calm = true;
        for disk in self.cluster.disks.values() {
            disk.set_sync_lies(false);
            disk.fail_syncs(0);
        }
        for raft_id in self.cluster.ids() {
            // Whoever lost power in between must come back from what is on its disk.
            if self.cluster.try_ready(raft_id).is_err() {
                self.cluster.replicas.remove(&raft_id);
                self.down.insert(raft_id);
            }
        }
        for raft_id in std::mem::take(&mut self.down) {
            let seed = self.random.next_u64();
            self.cluster.crash(raft_id, seed);
            self.down.insert(raft_id);
            self.restart()?;
        }
        for raft_id in self.cluster.ids() {
            self.cluster.disks[&raft_id].lose_power_after(u32::MAX);
        }
        for _ in 0..400 {
            for raft_id in self.cluster.ids() {
                self.cluster.replica(raft_id).tick();
                self.ready(raft_id)?;
            }
            while !self.cluster.packets.is_empty() {
                for packet in std::mem::take(&mut self.cluster.packets) {
                    self.step(&packet)?;
                    self.ready(packet.to)?;
                }
            }
            if self.agreed() {
                return self.check_acknowledged();
            }
        }
        let states: Vec<_> = self.cluster.replicas.values().map(|replica| replica.status()).collect();
        Err(format!("no agreement after all faults ended: {states:#?}"))
    }

    fn agreed(&self) -> bool {
        let Some(leader) = self.cluster.leader() else { return false };
        let status = self.cluster.replicas[&leader].status();
        status.voters_outgoing.is_empty()
            && status.voters.iter().chain(&status.learners).all(|raft_id| {
                let member = self.cluster.replicas[raft_id].status();
                member.applied == status.last_index && member.term == status.term
            })
    }

    fn check_acknowledged(&self) -> Outcome {
        let leader = self.cluster.leader().expect("agreed");
        let journal: BTreeSet<&Vec<u8>> =
            self.cluster.replicas[&leader].machine().0.iter().map(|(_, data)| data).collect();
        match self.witness.acknowledged.keys().find(|data| !journal.contains(data)) {
            Some(data) => Err(format!("an acknowledged proposal is gone: {:?}", &data[..8])),
            None => Ok(()),
        }
    }
}

fn run(seed: u64, mutant: Mutant, joins: bool) -> Result<Witness, String> {
    Run::new(seed, mutant, joins).go(4000)
}

#[test]
fn nothing_acknowledged_is_lost_under_random_faults() {
    let mut total = Witness::default();
    for seed in 0..60 {
        for joins in [false, true] {
            let witness = run(seed, Mutant::None, joins)
                .unwrap_or_else(|why| panic!("seed {seed}, joins {joins}: {why}"));
            total.finished_reads += witness.finished_reads;
            total.snapshots += witness.snapshots;
            total.poisoned += witness.poisoned;
            total.acknowledged.extend(witness.acknowledged);
            total.leaders.extend(witness.leaders);
        }
    }
    // The runs must be eventful, or they prove nothing.
    assert!(total.finished_reads > 500, "reads: {}", total.finished_reads);
    assert!(total.snapshots > 50, "snapshots: {}", total.snapshots);
    assert!(total.poisoned > 100, "failed disks: {}", total.poisoned);
    assert!(total.acknowledged.len() > 100 && total.leaders.len() > 5);
}

#[test]
fn a_run_is_decided_by_its_seed() {
    for seed in 0..4 {
        let [one, other] = [(); 2].map(|()| run(seed, Mutant::None, true).expect("no violation").trace);
        assert!(one.len() > 300, "seed {seed} is not eventful: {} messages", one.len());
        assert!(one == other, "seed {seed}");
    }
}

fn caught(mutant: Mutant) -> String {
    for seed in 0..400 {
        // That the replicas notice lost promises themselves is well, but the invariants must be able to fail, too.
        if let Err(why) = run(seed, mutant, false)
            && !why.starts_with(NOTICED)
        {
            return why;
        }
    }
    panic!("{mutant:?} was not caught in 400 seeds");
}

#[test]
fn a_vote_without_a_sync_is_caught() {
    let why = caught(Mutant::UnsyncedVotes);
    assert!(why.contains("voted twice") || why.contains("lead in term"), "{why}");
}

#[test]
fn an_acknowledged_append_without_a_sync_is_caught() {
    let why = caught(Mutant::UnsyncedAppends);
    let is_lost = ["is gone", "lacks an entry", "applied something else", "misses the acknowledged"];
    assert!(is_lost.iter().any(|what| why.contains(what)), "{why}");
}
