//! The proxy against real PostgreSQL servers, with a stand-in for the member beside it.

mod astray;
mod cancelling;
mod certificates;
mod closing;
mod console;
mod copying;
mod failover;
mod floods;
mod halting;
mod lease;
mod likeness;
mod limits;
mod login;
mod member;
mod modes;
mod operator;
mod pins;
mod postgres;
mod prepared;
mod proxy;
mod reload;
mod settings;
mod slow;
mod splitting;
mod suspicion;
mod wire;
