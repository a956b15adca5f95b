//! The core held against scenario files, properties and the record's format.
#![allow(
    clippy::disallowed_methods,
    reason = "the scenario files are read and blessed here; the core itself reads nothing"
)]
#![allow(clippy::disallowed_types, reason = "as above")]

mod cluster;
mod notation;
mod operation_format;
mod path;
mod properties;
mod record_format;
mod recovery;
mod scenario;
mod scenarios;
mod vip;
