//! The replicated state machine, as the replica sees it.

/// A deterministic state machine.
///
/// The value that is given to [`crate::Replica::open`] is the machine's beginning and must be the same at every
/// member: it stands for the state before the first entry.
pub trait Machine {
    /// What applying one entry answers to the one who proposed it.
    type Output;

    /// Applies a committed proposal. Must depend on nothing but the machine's state and the arguments.
    fn apply(&mut self, index: u64, data: &[u8]) -> Self::Output;

    /// The whole state. Small: it is written at every compaction and sent in one message (at most a few MiB).
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state by one that [`Machine::snapshot`] returned, perhaps in another version.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError>;
}

/// The machine cannot read a snapshot. The text says what is wrong with it, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot of the state machine cannot be read: {0}")]
pub struct RestoreError(pub String);
