//! One file per verb.

pub(crate) mod adopt;
pub(crate) mod after_stop;
pub(crate) mod certificates;
pub(crate) mod completions;
pub(crate) mod create;
pub(crate) mod decide;
pub(crate) mod drill;
pub(crate) mod explain;
pub(crate) mod failover;
pub(crate) mod guard;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod maintenance;
pub(crate) mod man;
pub(crate) mod member;
pub(crate) mod pause;
pub(crate) mod psql;
pub(crate) mod reinit;
pub(crate) mod run;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod switchover;
pub(crate) mod uninstall;
pub(crate) mod verify;
