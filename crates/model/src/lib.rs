//! Bounded exhaustive model checks of the failover rules, on the shipped code of `mainstay-core`.
//!
//! - [`line`]: the one line of an epoch's life, `Open → End → Report → Grant → Open`, with the shipped `apply` and
//!   `decide` on every member;
//! - [`order`]: the order law of synchronous replication, with the shipped `plan`, and every lag of PostgreSQL's
//!   processes in acting on their names;
//! - [`lease`]: the promises of the voters, with the shipped `Grantor` and `Holder`, and clocks at their extremes;
//! - [`voters`]: the same while the voters change, with the shipped `SetVoters` and `SettleVoters`.
//!
//! Each explores every state within its bounds, which are stated where they are set, and names the invariant that does
//! not hold together with the shortest way to that.

#![forbid(unsafe_code)]

pub mod explore;
pub mod lease;
pub mod line;
pub mod order;
pub mod voters;
