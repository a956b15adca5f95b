//! Some replicas, their disks and the messages between them.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_consensus::sim_disk::SimDisk;
use mainstay_consensus::{
    Failure, Identity, Machine, OpenError, OpenReport, Outgoing, Ready, Replica, RestoreError, Role,
    Settings, Timing, create,
};

pub(crate) const CLUSTER: &str = "test-cluster";

/// A machine that remembers everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Journal(pub(crate) Vec<(u64, Vec<u8>)>);

impl Machine for Journal {
    /// How many entries there are.
    type Output = usize;

    fn apply(&mut self, index: u64, data: &[u8]) -> usize {
        self.0.push((index, data.to_vec()));
        self.0.len()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, data) in &self.0 {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }

    fn restore(&mut self, mut snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0.clear();
        let short = || RestoreError("it ends too early".to_owned());
        while !snapshot.is_empty() {
            let (index, rest) = snapshot.split_first_chunk::<8>().ok_or_else(short)?;
            let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
            let (data, rest) = rest.split_at_checked(length).ok_or_else(short)?;
            self.0.push((u64::from_le_bytes(*index), data.to_vec()));
            snapshot = rest;
        }
        Ok(())
    }
}

pub(crate) type TestReplica = Replica<SimDisk, Journal>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The first member campaigns first, and nothing is left to chance.
pub(crate) fn settings(raft_id: u64) -> Settings {
    let min = 8 + 3 * usize::try_from(raft_id).unwrap();
    Settings {
        timing: Timing {
            heartbeat_ticks: 2,
            leader_ticks: 8,
            election_ticks_min: min,
            election_ticks_max: min + 1,
        },
        ..Settings::default()
    }
}

pub(crate) fn identity(raft_id: u64) -> Identity {
    Identity { cluster_id: CLUSTER.to_owned(), raft_id }
}

pub(crate) fn created(raft_id: u64, voters: &[u64]) -> SimDisk {
    let mut disk = SimDisk::new();
    create(&mut disk, &identity(raft_id), voters, &[]).expect("an empty directory");
    disk
}

pub(crate) fn open(disk: &SimDisk, settings: Settings) -> Result<(TestReplica, OpenReport), OpenError> {
    Replica::open(disk.clone(), Journal::default(), CLUSTER, settings)
}

/// A cluster whose messages arrive at once and in order, unless cut.
pub(crate) struct Cluster {
    pub(crate) disks: BTreeMap<u64, SimDisk>,
    pub(crate) replicas: BTreeMap<u64, TestReplica>,
    pub(crate) packets: Vec<Packet>,
    pub(crate) done: BTreeMap<u64, Ready<usize>>,
    /// Members that can neither send nor receive.
    pub(crate) cut: BTreeSet<u64>,
    pub(crate) settings: fn(u64) -> Settings,
}

impl Cluster {
    pub(crate) fn new(voters: &[u64]) -> Self {
        Self::with_settings(voters, settings)
    }

    pub(crate) fn with_settings(voters: &[u64], settings: fn(u64) -> Settings) -> Self {
        let mut cluster = Self {
            disks: BTreeMap::new(),
            replicas: BTreeMap::new(),
            packets: Vec::new(),
            done: BTreeMap::new(),
            cut: BTreeSet::new(),
            settings,
        };
        for raft_id in voters {
            cluster.add(*raft_id, voters);
        }
        cluster
    }

    /// Creates and opens a member; without `voters` one that joins.
    pub(crate) fn add(&mut self, raft_id: u64, voters: &[u64]) {
        self.disks.insert(raft_id, created(raft_id, voters));
        self.open(raft_id);
    }

    pub(crate) fn open(&mut self, raft_id: u64) -> OpenReport {
        let opened = open(&self.disks[&raft_id], (self.settings)(raft_id));
        let (replica, report) = opened.unwrap_or_else(|error| panic!("{error}"));
        self.replicas.insert(raft_id, replica);
        report
    }

    /// Pulls the plug.
    pub(crate) fn crash(&mut self, raft_id: u64, seed: u64) {
        self.replicas.remove(&raft_id);
        self.disks[&raft_id].crash(seed);
    }

    pub(crate) fn replica(&mut self, raft_id: u64) -> &mut TestReplica {
        self.replicas.get_mut(&raft_id).expect("a running replica")
    }

    pub(crate) fn try_ready(&mut self, raft_id: u64) -> Result<(), Failure> {
        let mut out = Vec::new();
        let result = self.replica(raft_id).ready(|message: Outgoing| out.push(message));
        let is_cut = self.cut.contains(&raft_id);
        let packets =
            out.into_iter().map(|message| Packet { from: raft_id, to: message.to, bytes: message.bytes });
        self.packets.extend(packets.filter(|packet| !is_cut && !self.cut.contains(&packet.to)));
        let ready = result?;
        let done = self.done.entry(raft_id).or_default();
        done.applied.extend(ready.applied);
        done.memberships.extend(ready.memberships);
        done.reads.extend(ready.reads);
        done.restored |= ready.restored;
        Ok(())
    }

    pub(crate) fn ready(&mut self, raft_id: u64) {
        self.try_ready(raft_id).unwrap_or_else(|failure| panic!("member {raft_id}: {failure}"));
    }

    /// Delivers everything until nothing is under way. Poisoned members stay silent.
    pub(crate) fn settle(&mut self) {
        for raft_id in self.ids() {
            let _ = self.try_ready(raft_id);
        }
        while !self.packets.is_empty() {
            for packet in std::mem::take(&mut self.packets) {
                let Some(replica) = self.replicas.get_mut(&packet.to) else { continue };
                let _ = replica.step(packet.from, &packet.bytes);
                let _ = self.try_ready(packet.to);
            }
        }
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.replicas.keys().copied().collect()
    }

    /// Lets every member tick so often, settling after each.
    pub(crate) fn tick(&mut self, ticks: usize) {
        for _ in 0..ticks {
            for raft_id in self.ids() {
                self.replica(raft_id).tick();
            }
            self.settle();
        }
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.replicas.iter().find(|(_, replica)| replica.status().role == Role::Leader).map(|(id, _)| *id)
    }

    /// Ticks until a member leads that everyone who can follows.
    pub(crate) fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            self.tick(1);
            if let Some(leader) = self.leader().filter(|leader| !self.cut.contains(leader)) {
                self.tick(2);
                return leader;
            }
        }
        panic!("no leader after 200 ticks");
    }

    pub(crate) fn propose(&mut self, raft_id: u64, id: u128, data: &[u8]) {
        self.replica(raft_id).propose(id, data.to_vec()).unwrap_or_else(|error| panic!("{error}"));
        self.settle();
    }

    pub(crate) fn journal(&self, raft_id: u64) -> Vec<Vec<u8>> {
        self.replicas[&raft_id].machine().0.iter().map(|(_, data)| data.clone()).collect()
    }
}
