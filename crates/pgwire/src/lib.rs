//! PostgreSQL's protocol, version 3: bytes in, messages out.
//!
//! Source: the PostgreSQL manual, part "Frontend/Backend Protocol". Nothing here reads a clock, a socket or a file, and nothing
//! panics on bytes of strangers.

#![forbid(unsafe_code)]

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod scram;
