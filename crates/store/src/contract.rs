//! What every store must do, as a suite that runs against any of them.
//!
//! A store brings a [`Bench`]: its handles, and the faults that a store can suffer. [`check`] panics with what is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_consensus::{Machine, RestoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::store::{ProposeError, Snapshot, Store};

/// Long enough for an election on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long is waited for what must not happen.
const SHORT: Duration = Duration::from_millis(400);

/// A machine that keeps every text that it is given, one per line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// The texts, in order.
    pub lines: Vec<String>,
}

impl Machine for Journal {
    /// The number of lines, this one included.
    type Output = usize;

    fn apply(&mut self, _index: u64, data: &[u8]) -> usize {
        self.lines.push(String::from_utf8_lossy(data).into_owned());
        self.lines.len()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.lines.join("\n").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let text = std::str::from_utf8(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        self.lines = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

/// A cluster of a kind of store, on which faults can be brought about.
pub trait Bench: Send {
    /// The kind of store.
    type Store: Store<Journal>;

    /// The handles of all members.
    fn stores(&self) -> Vec<Self::Store>;

    /// Keeps the members apart so that no majority is left.
    fn part(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends [`Bench::part`].
    fn heal(&mut self) -> impl Future<Output = ()> + Send;

    /// Stops all members and starts them again; [`Bench::stores`] then gives new handles.
    fn restart(&mut self) -> impl Future<Output = ()> + Send;
}

/// Runs the suite.
///
/// # Panics
/// When the store does not keep the contract; the message says in which point.
pub async fn check<B: Bench>(bench: &mut B) {
    acknowledged_is_seen_by_all(bench).await;
    each_proposal_takes_effect_once(bench).await;
    without_a_majority_nothing_is_acknowledged(bench).await;
    a_restart_keeps_everything(bench).await;
}

fn lines<S: Store<Journal>>(store: &S) -> Vec<String> {
    store.watch().borrow().machine.lines.clone()
}

async fn propose<S: Store<Journal>>(store: &S, text: &str) -> usize {
    let result = store.propose(text.as_bytes().to_vec(), PATIENCE).await;
    result.unwrap_or_else(|error| panic!("`{text}` was not accepted: {error}"))
}

async fn acknowledged_is_seen_by_all<B: Bench>(bench: &B) {
    let stores = bench.stores();
    for (number, store) in stores.iter().enumerate() {
        let text = format!("seen {number}");
        let position = propose(store, &text).await;
        assert_eq!(lines(store).get(position - 1), Some(&text), "a proposer does not see its own proposal");
        for other in &stores {
            let applied = other.linearize(PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                lines(other).get(position - 1),
                Some(&text),
                "a confirmed read misses an acknowledged proposal"
            );
            assert!(other.watch().borrow().applied >= applied, "the watched state is older than the read");
        }
    }
}

async fn each_proposal_takes_effect_once<B: Bench>(bench: &B) {
    const EACH: usize = 20;
    let stores = bench.stores();
    let mut watchers = JoinSet::new();
    for store in &stores {
        watchers.spawn(watch_grows(store.watch(), "the last one"));
    }
    let mut proposers = JoinSet::new();
    for (number, store) in stores.iter().enumerate() {
        for round in 0..EACH {
            let store = store.clone();
            proposers.spawn(async move { propose(&store, &format!("once {number}.{round}")).await });
        }
    }
    let positions = proposers.join_all().await;
    let distinct: BTreeSet<usize> = positions.iter().copied().collect();
    assert_eq!(distinct.len(), stores.len() * EACH, "two proposals have the same place");
    propose(&stores[0], "the last one").await;
    let found = lines(&stores[0]);
    for number in 0..stores.len() {
        for round in 0..EACH {
            let text = format!("once {number}.{round}");
            let count = found.iter().filter(|line| **line == text).count();
            assert_eq!(count, 1, "`{text}` took effect {count} times");
        }
    }
    watchers.join_all().await;
}

/// What is watched only grows, and ends with `last`.
async fn watch_grows(mut watch: watch::Receiver<Arc<Snapshot<Journal>>>, last: &str) {
    let mut seen = (0, Vec::new());
    let grows = async {
        loop {
            let next = Arc::clone(&watch.borrow_and_update());
            assert!(
                next.applied >= seen.0,
                "the watched state went back from {} to {}",
                seen.0,
                next.applied
            );
            assert!(next.machine.lines.starts_with(&seen.1), "the watched state lost lines");
            seen = (next.applied, next.machine.lines.clone());
            if seen.1.last().is_some_and(|line| line == last) {
                return;
            }
            watch.changed().await.expect("the store lives");
        }
    };
    tokio::time::timeout(PATIENCE, grows).await.expect("a watcher does not hear of changes");
}

async fn without_a_majority_nothing_is_acknowledged<B: Bench>(bench: &mut B) {
    bench.part().await;
    let stores = bench.stores();
    let mut refused = Vec::new();
    let mut unknown = Vec::new();
    for (number, store) in stores.iter().enumerate() {
        let text = format!("parted {number}");
        let begun = Instant::now();
        match store.propose(text.clone().into_bytes(), SHORT).await {
            Ok(_) => panic!("a proposal was acknowledged without a majority"),
            Err(error) if error.is_unknown() => unknown.push(text),
            Err(ProposeError::NoLeader) => refused.push(text),
            Err(error) => panic!("{error}"),
        }
        assert!(store.linearize(SHORT).await.is_err(), "a read was confirmed without a majority");
        assert!(begun.elapsed() < PATIENCE, "the time limit is not kept");
    }
    bench.heal().await;
    propose(&stores[0], "healed").await;
    for store in &stores {
        store.linearize(PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
        let found = lines(store);
        assert!(found.iter().any(|line| line == "healed"));
        for text in &refused {
            assert!(!found.contains(text), "`{text}` was refused and took effect");
        }
        for text in &unknown {
            assert!(found.iter().filter(|line| *line == text).count() <= 1, "`{text}` took effect twice");
        }
    }
}

async fn a_restart_keeps_everything<B: Bench>(bench: &mut B) {
    propose(&bench.stores()[0], "before the restart").await;
    let before = lines(&bench.stores()[0]);
    bench.restart().await;
    for store in bench.stores() {
        store.linearize(PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(lines(&store), before, "a restart changed the state");
    }
    let stores = bench.stores();
    let last = &stores[stores.len() - 1];
    assert_eq!(propose(last, "after the restart").await, before.len() + 1);
}
