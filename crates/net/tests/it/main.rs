//! Members that talk to each other over loopback, and everybody who should not.

mod calls;
mod certificates;
mod handshake;
mod joining;
mod links;
mod probing;
mod strangers;
mod support;
