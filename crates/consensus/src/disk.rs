//! What the replica needs of a disk.

use std::io;

/// One directory of flat files. The replica is the only user of it.
///
/// An error from a method that writes poisons the replica, because what is on the medium is then unknown; an
/// implementation therefore need not undo anything.
pub trait Disk {
    /// The whole content of `file`, `None` where there is none.
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>>;

    /// Appends to `file`, which exists. Durable only after [`Disk::sync`]; after a crash before it any part of
    /// `bytes` may be missing or read as zeros.
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything that was appended to `file` durable.
    fn sync(&mut self, file: &str) -> io::Result<()>;

    /// Creates or replaces `file`, durably and at once: after a crash in the middle it holds the old content or
    /// the new one, and after the return the new one.
    fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// The names of all files of the replica, in any order; without unfinished replacements.
    fn list(&self) -> io::Result<Vec<String>>;
}
