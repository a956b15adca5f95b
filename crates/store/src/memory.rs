//! A store of one process without a disk, for tests of what uses a store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_consensus::{Machine, Role, Status};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::boottime_ns;
use crate::store::{ProposeError, ReadError, Snapshot, Store};

/// All handles share one machine and are its leader.
pub struct MemoryStore<M: Machine> {
    shared: Arc<Mutex<Shared<M>>>,
    /// Whether there is a leader.
    available: watch::Sender<bool>,
}

struct Shared<M> {
    machine: M,
    applied: u64,
    watch: watch::Sender<Arc<Snapshot<M>>>,
}

impl<M: Machine> Clone for MemoryStore<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), available: self.available.clone() }
    }
}

impl<M> MemoryStore<M>
where
    M: Machine + Clone,
{
    /// A store that begins with `machine`.
    pub fn new(machine: M) -> Self {
        let watch = watch::Sender::new(Arc::new(snapshot(&machine, 0, true)));
        let shared = Shared { machine, applied: 0, watch };
        Self { shared: Arc::new(Mutex::new(shared)), available: watch::Sender::new(true) }
    }

    /// Takes the leader away, or gives it back.
    pub fn set_available(&self, available: bool) {
        self.available.send_replace(available);
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.watch.send_replace(Arc::new(snapshot(&shared.machine, shared.applied, available)));
    }

    async fn leader(&self, timeout: Duration) -> bool {
        let mut available = self.available.subscribe();
        let wait = available.wait_for(|available| *available);
        tokio::time::timeout_at(Instant::now() + timeout, wait).await.is_ok()
    }
}

impl<M> Store<M> for MemoryStore<M>
where
    M: Machine + Clone + Send + Sync + 'static,
    M::Output: Send,
{
    fn watch(&self) -> watch::Receiver<Arc<Snapshot<M>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).watch.subscribe()
    }

    async fn propose(&self, data: Vec<u8>, timeout: Duration) -> Result<M::Output, ProposeError> {
        if !self.leader(timeout).await {
            return Err(ProposeError::NoLeader);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.applied += 1;
        let index = shared.applied;
        let output = shared.machine.apply(index, &data);
        shared.watch.send_replace(Arc::new(snapshot(&shared.machine, index, true)));
        Ok(output)
    }

    async fn linearize(&self, timeout: Duration) -> Result<u64, ReadError> {
        if !self.leader(timeout).await {
            return Err(ReadError::TimedOut);
        }
        Ok(self.shared.lock().unwrap_or_else(PoisonError::into_inner).applied)
    }
}

fn snapshot<M: Clone>(machine: &M, applied: u64, available: bool) -> Snapshot<M> {
    let status = Status {
        raft_id: 1,
        leader: available.then_some(1),
        term: 1,
        role: if available { Role::Leader } else { Role::Follower },
        commit: applied,
        applied,
        first_index: 1,
        last_index: applied,
        voters: vec![1],
        voters_outgoing: Vec::new(),
        learners: Vec::new(),
        caught_up: Vec::new(),
        log_bytes: 0,
    };
    let leader_seen = if available { boottime_ns() } else { 0 };
    Snapshot { machine: Arc::new(machine.clone()), applied, status, failure: None, leader_seen }
}
