//! The postmaster that is dead but not yet waited for.
//!
//! When a guard is killed, its postmaster becomes a child of init. PostgreSQL takes a process that exists for a postmaster
//! that lives, also when it is a zombie, and refuses to start ("lock file already exists") until init has waited for it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::process;
use crate::protocol::Pid;

/// Whether the process that `postmaster.pid` names is a zombie.
pub(crate) fn is_postmaster_zombie(data_directory: &Path) -> io::Result<bool> {
    let content = match fs::read_to_string(data_directory.join("postmaster.pid")) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // A malformed file is PostgreSQL's to judge.
    let Some(pid) = content.lines().next().and_then(|line| line.trim().parse::<Pid>().ok()) else {
        return Ok(false);
    };
    Ok(process::read(pid)?.is_some_and(|process| matches!(process.state, 'Z' | 'X')))
}
