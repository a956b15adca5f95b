//! What the rest of the program knows of a store.

use std::sync::Arc;
use std::time::Duration;

use mainstay_consensus::{Machine, Status};
use tokio::sync::watch;

/// The replicated state as this member knows it, and how well it knows it.
#[derive(Debug)]
pub struct Snapshot<M> {
    /// The state after `applied`.
    pub machine: Arc<M>,
    /// The last entry in `machine`. Never falls while the process lives.
    pub applied: u64,
    /// Where this member stands in consensus. While `failure` is set it is a follower without a leader.
    pub status: Status,
    /// Why this member does not take part, if it does not: one line for the operator.
    pub failure: Option<String>,
    /// `CLOCK_BOOTTIME` in nanoseconds when this member last heard of its leader or, as leader, of a majority. 0: never.
    /// Kept up to date without waking those who wait for changes.
    pub leader_seen: u64,
}

/// Why a proposal has no result. Only [`ProposeError::is_unknown`] ones may still be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// There was no leader all the time. It will not be applied.
    #[error("no leader: a majority of the members does not answer; nothing was proposed")]
    NoLeader,
    /// It was proposed and nothing was heard of it. It may have been applied, or may yet be.
    #[error("no answer in time: it is unknown whether the proposal takes effect")]
    TimedOut,
    /// The store stops or has stopped. It may have been applied.
    #[error("the store has stopped: it is unknown whether the proposal takes effect")]
    Stopped,
    /// This member does not take part, or the proposal is not possible. It will not be applied.
    #[error("nothing was proposed: {0}")]
    Failed(String),
}

impl ProposeError {
    /// Whether the proposal may have been applied, or may yet be.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Stopped)
    }
}

/// Why a read was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No majority confirmed it in time.
    #[error("a majority of the members did not confirm the state in time")]
    TimedOut,
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
    /// This member does not take part.
    #[error("the state cannot be confirmed: {0}")]
    Failed(String),
}

/// A replicated state machine with one handle at each member. Cheap to clone.
pub trait Store<M: Machine>: Clone + Send + Sync + 'static {
    /// The state and every change of it; of several changes in a row only the last may be seen.
    fn watch(&self) -> watch::Receiver<Arc<Snapshot<M>>>;

    /// Proposes `data` and waits until it is applied here; [`Store::watch`] then shows it.
    ///
    /// # Errors
    /// See [`ProposeError`]. Each proposal is applied at most once.
    fn propose(
        &self,
        data: Vec<u8>,
        timeout: Duration,
    ) -> impl Future<Output = Result<M::Output, ProposeError>> + Send;

    /// Waits until [`Store::watch`] shows everything that any member had acknowledged when this was called, and returns
    /// the entry up to which that is.
    ///
    /// # Errors
    /// See [`ReadError`].
    fn linearize(&self, timeout: Duration) -> impl Future<Output = Result<u64, ReadError>> + Send;
}
