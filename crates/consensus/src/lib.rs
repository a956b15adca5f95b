//! One replica of a replicated state machine: Raft over a durable log.
//!
//! The replica is pure: ticks and the bytes of messages go in, the bytes of messages and applied outputs come
//! out, and the only thing that it touches is a [`Disk`]. It has no socket, clock, thread or file, so that the
//! seeded simulator drives exactly the code that is shipped. Given the same inputs it does the same, with one
//! exception to know of: Raft draws its election timeout at random from `[election_ticks_min,
//! election_ticks_max)`; with `max = min + 1` nothing is left to chance.
//!
//! The consensus algorithm is raft-rs. What is ours is what raft-rs leaves to its user: what is written before
//! what is said ([`Replica::ready`]), the log and its recovery, snapshots, changes of membership, and the guard
//! in front of it that no byte sequence from a peer makes it panic.
//!
//! **Invariant: nothing is promised that is not on disk.** A vote, an acknowledged append and a new term leave
//! in a message only after the sync that made them durable. Any error of the disk poisons the replica: from then
//! on it says nothing more.

#![forbid(unsafe_code)]

mod disk;
mod failure;
mod frame;
mod identity;
mod log;
mod machine;
mod membership;
mod message;
mod recent;
mod reconcile;
mod recover;
mod replica;
pub mod sim_disk;
mod snapshot;
mod storage;

pub use disk::Disk;
pub use failure::Failure;
pub use identity::{CreateError, Identity, create};
pub use machine::{Machine, RestoreError};
pub use membership::MembershipChange;
pub use reconcile::{Reconcile, reconcile};
pub use recover::{Survey, begin_anew, survey};
pub use replica::{
    Applied, Heard, MembershipApplied, OpenError, OpenReport, Outgoing, ProposeError, ReadDone, Ready,
    Replica, Role, Settings, Status, StepError, Timing,
};

/// The largest proposal in bytes. The record is small; a bound keeps one message within one frame of a link.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
