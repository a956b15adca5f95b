//! The contract suite on every store.

use mainstay_store::contract::{Bench, Journal, check};
use mainstay_store::{MemoryStore, RaftStore};

use crate::cluster::Cluster;

impl Bench for Cluster {
    type Store = RaftStore<Journal>;

    fn stores(&self) -> Vec<Self::Store> {
        self.stores()
    }

    async fn part(&mut self) {
        self.cut(true);
    }

    async fn heal(&mut self) {
        self.cut(false);
    }

    async fn restart(&mut self) {
        let ids = self.ids();
        for raft_id in &ids {
            self.stop(*raft_id).await;
        }
        for raft_id in ids {
            self.start(raft_id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_keeps_the_contract() {
    check(&mut Cluster::new(&[1, 2, 3])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_raft_member_alone_restarts_with_everything() {
    let cluster = Cluster::new(&[1]);
    let store = cluster.store(1);
    for number in 1..=100 {
        let position =
            store.propose(format!("line {number}").into_bytes(), crate::cluster::PATIENCE).await.unwrap();
        assert_eq!(position, number);
    }
    cluster.stop(1).await;
    cluster.start(1);
    let store = cluster.store(1);
    store.linearize(crate::cluster::PATIENCE).await.unwrap();
    assert_eq!(store.watch().borrow().machine.lines.len(), 100);
}

struct Memory(MemoryStore<Journal>);

impl Bench for Memory {
    type Store = MemoryStore<Journal>;

    fn stores(&self) -> Vec<Self::Store> {
        vec![self.0.clone(), self.0.clone()]
    }

    async fn part(&mut self) {
        self.0.set_available(false);
    }

    async fn heal(&mut self) {
        self.0.set_available(true);
    }

    async fn restart(&mut self) {}
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    check(&mut Memory(MemoryStore::new(Journal::default()))).await;
}
