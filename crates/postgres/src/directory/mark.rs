//! The two small files beside the data directory: what it is being changed by, and which life of it is recorded.

use std::path::{Path, PathBuf};

use mainstay_core::{Incarnation, MemberId};
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::durable::{self, FileError};
use crate::layout::Layout;

/// What a directory is being changed by: `state/changing.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub operation: Operation,
    /// The member that is copied from.
    pub source: Option<MemberId>,
    /// Seconds since 1970 by the wall clock: for people only.
    pub since_unix_s: u64,
    /// Tells the directory that was marked from one that a hand has put in its place since.
    pub(super) directory_inode: Option<u64>,
}

/// The record of an incarnation, in `state/incarnation.json` and in PGDATA alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) incarnation: Incarnation,
    pub(super) system_identifier: u64,
}

pub(super) fn mark_path(layout: &Layout) -> PathBuf {
    layout.state_dir().join("changing.json")
}

pub(super) fn identity_path(layout: &Layout) -> PathBuf {
    layout.state_dir().join("incarnation.json")
}

pub(super) fn read_mark(layout: &Layout) -> Result<Option<Mark>, FileError> {
    let unreadable =
        || Mark { operation: Operation::Unknown, source: None, since_unix_s: 0, directory_inode: None };
    let text = durable::read(&mark_path(layout))?;
    Ok(text.map(|text| serde_json::from_slice(&text).unwrap_or_else(|_| unreadable())))
}

/// An unreadable record counts as none: the directory is then not known to be ours.
pub(super) fn read_identity(path: &Path) -> Result<Option<Identity>, FileError> {
    Ok(durable::read(path)?.and_then(|text| serde_json::from_slice(&text).ok()))
}

pub(super) fn write_json(
    path: &Path,
    value: &impl Serialize,
    access: durable::Access,
) -> Result<(), FileError> {
    let mut text = serde_json::to_vec(value).expect("plain data always serialises");
    text.push(b'\n');
    durable::write(path, &text, access)?;
    Ok(())
}
