//! A directory that was there before Mainstay: whether it may be taken over.

use super::mark::{identity_path, read_identity, read_mark};
use super::{DirectoryError, INCARNATION_FILE, Operation, inode};
use crate::durable::{self, FileError};
use crate::layout::Layout;

/// Why a directory whose adoption was interrupted is left alone.
pub(super) const INTERRUPTED: &str =
    "its adoption was interrupted (repeat it: what was begun is gone on with, nothing is lost)";

/// What a directory is to an adoption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoptable {
    /// Nobody's yet.
    New,
    /// An adoption of it was interrupted, and can be gone on with.
    Interrupted,
    /// It is this member's already.
    Done,
    /// It is not to be adopted: why, and what to do.
    Refused(String),
}

/// Whether the data directory may be adopted by this member. Looks at files only; PostgreSQL may run.
pub fn adoptable(layout: &Layout) -> Result<Adoptable, FileError> {
    let data = layout.data();
    let refused = |why: String| Ok(Adoptable::Refused(why));
    if let Some(mark) = read_mark(layout)? {
        let operation = mark.operation;
        let is_same = mark.directory_inode.is_none() || mark.directory_inode == inode(data);
        return match operation {
            Operation::Adopt if is_same => Ok(Adoptable::Interrupted),
            _ => refused(format!(
                "{} says that another directory was being changed ({operation:?}): name a new directory for this member",
                layout.state_dir().join("changing.json").display()
            )),
        };
    }
    let recorded = read_identity(&identity_path(layout))?;
    let inside = durable::read(&data.join(INCARNATION_FILE))?;
    match (recorded, inside) {
        (Some(_), Some(_)) => Ok(Adoptable::Done),
        (Some(_), None) => refused(format!(
            "this member has had data before ({} exists): name a new directory for it",
            identity_path(layout).display()
        )),
        (None, Some(_)) => refused(format!(
            "it belongs to a member of Mainstay already; if that one is gone for good, remove {} and {}",
            data.join(INCARNATION_FILE).display(),
            data.join("standby.signal").display()
        )),
        (None, None) => Ok(Adoptable::New),
    }
}

/// Fails unless the directory may be adopted.
pub(super) fn check(layout: &Layout, major: u32) -> Result<(), DirectoryError> {
    let path = layout.data().to_owned();
    match adoptable(layout)? {
        Adoptable::New | Adoptable::Interrupted => {}
        Adoptable::Done => {
            let (operation, state) = (Operation::Adopt, "in use");
            return Err(DirectoryError::NotApplicable { operation, path, state });
        }
        Adoptable::Refused(reason) => return Err(DirectoryError::Foreign { path, reason }),
    }
    let found = durable::read(&path.join("PG_VERSION"))?.unwrap_or_default();
    if String::from_utf8_lossy(&found).trim() != major.to_string() {
        let reason = format!("it was not made by PostgreSQL {major}");
        return Err(DirectoryError::Foreign { path, reason });
    }
    Ok(())
}
