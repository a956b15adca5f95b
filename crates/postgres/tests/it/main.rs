//! The crate against real PostgreSQL servers, started here by hand (in production the guard does).

mod adopting;
mod applications;
mod bench;
mod cloning;
mod directory;
mod gate;
mod probing;
mod rewinding;
mod sealing;
mod server;
mod sessions;
mod wal_end;
mod write_probe;
