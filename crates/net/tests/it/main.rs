//! Members that talk to each other over loopback, and everybody who should not.

mod calls;
mod certificates;
mod handshake;
mod links;
mod strangers;
mod support;
