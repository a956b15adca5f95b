//! The store: the small replicated state of the cluster, and how this process takes part in it.
//!
//! [`Store`] is what the rest of the program knows: propose, read, watch. [`RaftStore`] is the real one: a
//! [`mainstay_consensus::Replica`] with real files on a thread of its own. [`MemoryStore`] is one process without a disk, for
//! tests. [`contract`] is what every store must do, as a suite that all of them pass.
//!
//! Absent here: sockets (messages come and go as bytes, links are the member's), and any idea of what the state means.

#![forbid(unsafe_code)]

mod clock;
pub mod contract;
mod disk;
mod memory;
mod raft;
mod recover;
mod store;

pub use disk::FileDisk;
pub use memory::MemoryStore;
pub use raft::{MembershipError, RaftOptions, RaftStore, StartError, create, start};
pub use recover::{Held, RecoverError, hold};
pub use store::{ProposeError, ReadError, Snapshot, Store};
