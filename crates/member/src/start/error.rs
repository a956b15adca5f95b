//! Why a member does not run: one line each, with the remedy.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_net::{BindError, KeyFingerprint};
use mainstay_postgres::layout::LayoutError;
use mainstay_postgres::tools::ToolsError;

use crate::control::ControlError;
use crate::promise::PromiseError;
use crate::roster::RosterError;

/// Why a member does not start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path}: {why}")]
    Certificate { path: PathBuf, why: String },
    #[error(
        "the key in {path} has the fingerprint {found}, but {member} is configured with {wanted}; use the right key, or correct the configuration of every member"
    )]
    WrongKey { path: PathBuf, member: MemberId, found: KeyFingerprint, wanted: String },
    #[error(
        "this member's consensus directory {path} is missing: run `mainstay create` once for a new cluster; a member that has lost it must be removed and join anew"
    )]
    NotCreated { path: PathBuf },
    #[error("{0}")]
    Store(String),
    #[error("{0}")]
    Adopt(String),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Promise(#[from] PromiseError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(
        "the configuration says lease = {file:?}, but the cluster was made with {cluster:?}; write the cluster's, it cannot be changed yet"
    )]
    OtherLease { file: Duration, cluster: Duration },
    #[error("{0}")]
    TooOld(String),
    #[error(
        "this member has been taken out of the cluster; its data is left in {data}, and can be removed with: mainstay uninstall"
    )]
    Removed { data: PathBuf },
    #[error(
        "the cluster goes on without this member: a majority was lost, and {by} was recovered; what {data} holds beyond it is kept there. To be a member again: mainstay uninstall, and join under a new invitation of {by}"
    )]
    LeftBehind { by: MemberId, data: PathBuf },
    #[error(transparent)]
    Roster(#[from] RosterError),
    #[error("a newer process of this member has taken over")]
    Superseded,
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
