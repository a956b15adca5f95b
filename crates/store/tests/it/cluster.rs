//! Members in one process: real directories, real threads, links in memory that can be cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use mainstay_consensus::{Identity, Outgoing, Role, Settings, Timing};
use mainstay_store::contract::Journal;
use mainstay_store::{RaftOptions, RaftStore, Snapshot, create, start};
use tokio::sync::mpsc;

/// Longer than anything here takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that is removed at the end, also of a failed test.
pub(crate) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("mainstay-store-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    pub(crate) fn member(&self, raft_id: u64) -> PathBuf {
        self.0.join(raft_id.to_string())
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn options(directory: &Path) -> RaftOptions {
    let timing =
        Timing { heartbeat_ticks: 2, leader_ticks: 6, election_ticks_min: 7, election_ticks_max: 14 };
    let settings = Settings { timing, compact_after_entries: 30, keep_entries: 10 };
    let tick = Duration::from_millis(20);
    RaftOptions { settings, tick, ..RaftOptions::new(directory.to_owned(), "test".to_owned()) }
}

type Stores = BTreeMap<u64, RaftStore<Journal>>;

/// Where the links deliver to, and what they do not carry.
#[derive(Default)]
struct Network {
    stores: Stores,
    is_cut: bool,
}

/// Three members, or more.
pub(crate) struct Cluster {
    pub(crate) directory: TestDirectory,
    network: Arc<RwLock<Network>>,
}

impl Cluster {
    pub(crate) fn new(voters: &[u64]) -> Self {
        let cluster = Self::without_members();
        for raft_id in voters {
            cluster.create(*raft_id, voters);
            cluster.start(*raft_id);
        }
        cluster
    }

    pub(crate) fn without_members() -> Self {
        Self { directory: TestDirectory::new(), network: Arc::default() }
    }

    pub(crate) fn create(&self, raft_id: u64, voters: &[u64]) {
        let identity = Identity { cluster_id: "test".to_owned(), raft_id };
        create(&self.directory.member(raft_id), &identity, voters, &[]).expect("a new directory");
    }

    pub(crate) fn start(&self, raft_id: u64) {
        let options = options(&self.directory.member(raft_id));
        let (store, outgoing) =
            start(options, Journal::default()).unwrap_or_else(|error| panic!("{error:?}"));
        self.network.write().unwrap().stores.insert(raft_id, store);
        tokio::spawn(carry(Arc::clone(&self.network), raft_id, outgoing));
    }

    pub(crate) async fn stop(&self, raft_id: u64) {
        let store = self.network.write().unwrap().stores.remove(&raft_id).expect("it runs");
        store.stop().await;
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.network.read().unwrap().stores.keys().copied().collect()
    }

    pub(crate) fn store(&self, raft_id: u64) -> RaftStore<Journal> {
        self.network.read().unwrap().stores[&raft_id].clone()
    }

    pub(crate) fn stores(&self) -> Vec<RaftStore<Journal>> {
        self.network.read().unwrap().stores.values().cloned().collect()
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.network.write().unwrap().is_cut = is_cut;
    }

    /// The leader, once all running members agree on it.
    pub(crate) async fn leader(&self) -> u64 {
        let ids = self.ids();
        let agree = async {
            loop {
                let leaders: Vec<Option<u64>> =
                    self.stores().iter().map(|store| store.watch().borrow().status.leader).collect();
                if let Some(leader) = leaders[0]
                    && ids.contains(&leader)
                    && leaders.iter().all(|other| *other == Some(leader))
                    && self.store(leader).watch().borrow().status.role == Role::Leader
                {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, agree).await.expect("the members agree on a leader")
    }
}

async fn carry(network: Arc<RwLock<Network>>, from: u64, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(message) = outgoing.recv().await {
        let network = network.read().unwrap();
        if let Some(store) = network.stores.get(&message.to).filter(|_| !network.is_cut) {
            store.step(from, message.bytes);
        }
    }
}

/// Waits until what a member shows is as wanted.
pub(crate) async fn until(
    store: &RaftStore<Journal>,
    what: &str,
    is_so: impl Fn(&Snapshot<Journal>) -> bool,
) {
    let mut watch = store.watch();
    let wait = watch.wait_for(|snapshot| is_so(snapshot));
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(found) => drop(found.expect("the store lives")),
        Err(_) => panic!("{what} did not come about"),
    }
}
