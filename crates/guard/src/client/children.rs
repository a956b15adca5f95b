//! The postmaster's children, as the member sees them.

use std::fs;
use std::io;

use crate::process;
use crate::protocol::Pid;

/// A child of the postmaster, with its title as PostgreSQL sets it, such as `postgres: walreceiver streaming 0/3000148`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub pid: Pid,
    pub title: String,
}

pub(super) fn children_of(postmaster: Pid) -> io::Result<Vec<Child>> {
    let mut children = Vec::new();
    for process in process::all()?.iter().filter(|process| process.parent == postmaster) {
        match fs::read(format!("/proc/{}/cmdline", process.pid)) {
            Ok(title) => children.push(Child { pid: process.pid, title: title_text(&title) }),
            Err(error) if process::is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// PostgreSQL writes its title over the arguments and fills the rest with blanks or NULs.
fn title_text(cmdline: &[u8]) -> String {
    let text = String::from_utf8_lossy(cmdline).replace('\0', " ");
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_trimmed() {
        assert_eq!(
            title_text(b"postgres: startup recovering 000000010000000000000001   \0\0"),
            "postgres: startup recovering 000000010000000000000001"
        );
        assert_eq!(title_text(b"postgres\0-D\0/data\0"), "postgres -D /data");
    }
}
