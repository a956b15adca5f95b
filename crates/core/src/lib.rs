//! The failover brain of Mainstay: facts in, decision out.
//!
//! Nothing here reads a clock, a file, a socket or the environment. Every function is total and
//! deterministic, so that the simulation and the model check run exactly what is shipped.

#![forbid(unsafe_code)]

pub mod action;
pub mod decide;
pub mod election;
pub mod lease;
pub mod lineage;
pub mod mutant;
pub mod reason;
pub mod record;
pub mod sync;
pub mod view;
pub mod vip;
pub mod vocabulary;

pub use vocabulary::{Epoch, Incarnation, Lsn, MemberId, Now, Timeline};
