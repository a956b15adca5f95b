//! Seeded simulation of whole clusters.
//!
//! One thread runs machines, network, PostgreSQL servers and clients against each other in simulated time. What decides
//! is what is shipped: the failover brain, the record, the lease and the consensus replica. Around it everything that can go
//! wrong does, drawn from one seed, and an observer who sees everything checks the invariants at every instant.

#![forbid(unsafe_code)]

mod client;
mod clock;
mod command;
mod disk;
mod event;
mod fault;
mod guard;
mod invariants;
mod machine;
mod member;
mod mutant;
mod network;
mod postgres;
mod queue;
mod random;
mod run;
mod script;
mod trace;
mod wal;
mod world;

pub use command::{Options, Totals, first_violation, main_with, run_many};
pub use invariants::Violation;
pub use mutant::{CORE, Mutation, ShellMutant};
pub use run::{Config, Report, run};
pub use script::Script;
