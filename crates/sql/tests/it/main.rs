//! The proxy against real PostgreSQL servers, with a stand-in for the member beside it.

mod astray;
mod cancelling;
mod closing;
mod console;
mod copying;
mod failover;
mod floods;
mod lease;
mod likeness;
mod login;
mod member;
mod modes;
mod pins;
mod postgres;
mod prepared;
mod proxy;
mod settings;
mod splitting;
mod suspicion;
mod wire;
