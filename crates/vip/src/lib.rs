//! Virtual addresses: on an interface as long as a lease allows, announced there, and taken away by the kernel where nobody
//! else does.
//!
//! Everything that needs `CAP_NET_ADMIN` or `CAP_NET_RAW` is in here, and runs as a process of its own ([`serve`]) that can do
//! nothing else. It is told until when it may hold the addresses that its configuration allows, and never chooses.

#![forbid(unsafe_code)]

mod clock;
mod frame;
mod held;
mod holder;
mod interface;
mod netlink;
mod order;
mod privilege;
mod serve;
mod wire;

pub use clock::now_ns;
pub use holder::{Holder, lifetime_s};
pub use interface::{FindError, Interface, find};
pub use netlink::{Found, Netlink, TAG};
pub use order::{AddressState, Answer, Order, Rule};
pub use privilege::keep_network_only;
pub use serve::{ServeError, serve};
