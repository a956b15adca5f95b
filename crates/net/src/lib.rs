//! The network between members: mutual TLS, frames, a listener, links that reconnect, and calls over them.
//!
//! Every connection carries exactly one [`Channel`], and nothing in this crate is global: servers and links
//! live in the Tokio runtime in which they are made, so that the lease can have a thread of its own.
//!
//! Who a peer is, is decided by its key alone (see [`tls`]); addresses are IP addresses, and DNS is never asked.
//! Machines that are no members yet are heard on the same port, on connections of their own kind (see [`join`]).

#![forbid(unsafe_code)]

mod dial;
mod incoming;
mod outbox;
mod socket;

pub mod api;
pub mod endpoint;
pub mod fingerprint;
pub mod frame;
pub mod hello;
pub mod join;
pub mod link;
pub mod pki;
pub mod probe;
pub mod routes;
pub mod rpc;
pub mod server;
pub mod sql_status;
pub mod tls;

pub use dial::DialError;
pub use endpoint::{Endpoint, Hail, LeftBehindBy};
pub use fingerprint::KeyFingerprint;
pub use hello::Channel;
pub use incoming::{ConnectionError, Detached, Incoming};
pub use join::{Invitation, JoinError, JoinToken, Joins};
pub use link::{Link, LinkStatus};
pub use probe::{Reachability, probe};
pub use rpc::{CallError, CallHandler, CallService};
pub use server::{BindError, Server};
pub use tls::{Allowlist, Identity, WrongAuthority};
