//! Everything that Mainstay does to one local PostgreSQL, except owning its process (that is the guard's).
//!
//! Each step is idempotent and says what it did; nothing here decides whether it should be done. Functions that
//! touch files and are not `async` block: callers on the runtime wrap them in `spawn_blocking`.

#![forbid(unsafe_code)]

mod blocking;
mod processes;
mod progress;
mod shared_memory;
mod waldump;

pub use progress::Progress;

pub mod adopt;
pub mod application;
pub mod auto_conf;
pub mod children;
pub mod client_tls;
pub mod clone;
pub mod configuration;
pub mod control;
pub mod directory;
pub mod diverged;
pub mod durable;
pub mod hba;
pub mod history;
pub mod initdb;
pub mod layout;
pub mod lower;
pub mod rewind;
pub mod seal;
pub mod session;
pub mod sizing;
pub mod tools;
pub mod upstream;
pub mod wal_end;
pub mod write_probe;
