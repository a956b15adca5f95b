//! One running member: it observes, asks the core what to do, and performs it.
//!
//! The main loop is one task with one kind of event at a time; work that takes long runs on lanes of its own and comes
//! back as events; the lease has its own thread; PostgreSQL belongs to the guard's process.
//!
//! Absent here: any choice. What to do is decided by `mainstay_core::decide` alone.

#![forbid(unsafe_code)]

mod adopt;
mod aftermath;
pub mod certificates;
mod clock;
pub mod configuration;
mod configure;
pub mod control;
mod databases;
pub mod explain;
mod facts;
mod gossip;
mod guard_link;
mod handing_over;
mod health;
mod heartbeat;
pub mod hooks;
mod inventory;
pub mod join;
mod lease;
mod log_rotation;
pub mod logs;
mod machinery;
mod main_loop;
mod metrics;
mod network;
pub mod notify;
mod observe;
pub mod operation;
mod own_key;
mod progress;
mod promise;
mod propose;
pub mod reach;
mod record_machine;
pub mod recover;
mod report;
pub mod roster;
pub mod sql_proxy;
mod start;
pub mod status;
mod verify;
pub mod vip;
mod work;

pub use adopt::{adopt, found_with};
pub use aftermath::stop_what_is_left;
pub use clock::now;
pub use configuration::Configuration;
pub use configure::{Judged, Reload, ReloadAnswer};
pub use own_key::KeyStatus;
pub use start::{Finish, MemberError, create, run};
pub use verify::{Program, Programs};
