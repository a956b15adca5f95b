//! The guard: a tiny process per data member that owns the postmaster, opens it under a grant, and ends it when the lease
//! runs out. It is the last line against two writers, so it trusts nobody: not the member, not its own being scheduled in
//! time, not the disk.
//!
//! - [`run`] is the guard. It has one thread, holds its state in memory only, and looks at the clock before anything else
//!   in each round. A guard that starts anew ends what it finds and knows of no epoch.
//! - [`GuardClient`] and [`Armer`] are the member's side, [`spawn`] starts a guard that outlives the member.
//! - [`Companion`] is how a member finds a process of another kind that outlives it too: the SQL proxy.
//! - [`leftovers`] and [`kill_leftovers`] are for the member when the guard itself was killed.
//!
//! **What may block.** While a server is open, the guard makes no call that waits for a disk, a directory service or
//! another process: its log waits in memory, it reads no file of a process that this process could hold up, and `promote`
//! appears by a rename. Its code is resident. So a disk that hangs does not keep it from killing.
//!
//! **Why no state on disk.** See `lease.rs`.
//!
//! Needs Linux 5.3 (pidfd); uses `cgroup.kill` from 5.14.

mod cgroup;
mod client;
mod clock;
mod companion;
mod door;
mod guard;
mod hardening;
mod journal;
mod launch;
mod lease;
mod leftovers;
mod pidfd;
mod postmaster_file;
mod process;
mod promotion;
mod protocol;
mod requests;
mod server;
mod spawn;

pub use client::armer::Armer;
pub use client::{Child, ClientError, GuardClient, GuardEvent, SpawnGuard};
pub use clock::boottime_ns;
pub use companion::{Companion, CompanionLock};
pub use guard::{GuardError, Options, run};
pub use leftovers::{LeftoversError, kill_leftovers, leftovers};
pub use protocol::{
    ArmedStatus, Cause, Exit, PROTOCOL, Phase, Pid, Refusal, Remaining, Role, RunAs, Start, Status, StopMode,
};
pub use spawn::{spawn, spawn_reading};
