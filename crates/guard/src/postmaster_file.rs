//! What `postmaster.pid` says of a server that is not this guard's.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::leftovers::is_server_of;
use crate::process;
use crate::protocol::Pid;

/// Whether the postmaster is dead but not yet waited for.
///
/// When a guard is killed, its postmaster becomes a child of init. PostgreSQL takes a process that exists for a postmaster
/// that lives, also when it is a zombie, and refuses to start ("lock file already exists") until init has waited for it.
pub(crate) fn is_postmaster_zombie(data_directory: &Path) -> io::Result<bool> {
    let Some(pid) = named(data_directory)? else { return Ok(false) };
    Ok(process::read(pid)?.is_some_and(|process| matches!(process.state, 'Z' | 'X')))
}

/// A live postmaster of the directory, whoever started it: `pg_ctl restart` by hand, an init script.
///
/// The directory's tools, such as pg_rewind, run a server without a postmaster, whose pid stands there as a negative number.
pub(crate) fn live_postmaster(data_directory: &Path) -> io::Result<Option<Pid>> {
    let Some(pid) = named(data_directory)?.filter(|pid| *pid > 0) else { return Ok(None) };
    Ok(is_server_of(pid, data_directory)?.then_some(pid))
}

fn named(data_directory: &Path) -> io::Result<Option<Pid>> {
    let content = match fs::read_to_string(data_directory.join("postmaster.pid")) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A malformed file is PostgreSQL's to judge.
    Ok(content.lines().next().and_then(|line| line.trim().parse::<Pid>().ok()))
}
