//! The lab: real members with real PostgreSQL in network namespaces of this machine, faults, load, and a checker.
//!
//! Mainstay is run as a process, as an operator would run it, and nothing of its running parts is linked in: what the lab
//! says about it, it has seen from outside.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its caller")]

pub mod addresses;
pub mod bench;
pub mod cells;
pub mod check;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod control;
pub mod disk;
pub mod endpoints;
pub mod failure;
pub mod fault;
pub mod fencing;
pub mod files;
pub mod founding;
pub mod heal;
pub mod interrupt;
pub mod journal;
pub mod leftovers;
pub mod member;
pub mod network;
pub mod pgbench;
pub mod process;
pub mod program;
pub mod scenario;
pub mod service;
pub mod shared_memory;
pub mod sql;
pub mod suite;
pub mod supervisor;
pub mod tally;
