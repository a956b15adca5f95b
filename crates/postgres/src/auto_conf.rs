//! `postgresql.auto.conf`, which `ALTER SYSTEM` writes and which overrides the file that Mainstay renders.

use std::os::unix::fs::DirBuilderExt;

use crate::configuration::is_managed;
use crate::durable::{self, FileError};
use crate::layout::Layout;

const FILE: &str = "postgresql.auto.conf";
/// Where PostgreSQL writes the new file before it renames it.
const TEMPORARY_FILE: &str = "postgresql.auto.conf.tmp";

/// Makes `ALTER SYSTEM` fail, durably: a directory stands where PostgreSQL would write.
///
/// One `ALTER SYSTEM SET synchronous_standby_names` would make a primary acknowledge what no standby has. PostgreSQL 17
/// has `allow_alter_system` against that, 15 and 16 have nothing. Copies (`pg_basebackup`, `pg_rewind`) leave this name out.
pub fn forbid_alter_system(layout: &Layout) -> Result<(), FileError> {
    let path = layout.data().join(TEMPORARY_FILE);
    let failed = |error| FileError::new("make the directory", &path, error);
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        // What an `ALTER SYSTEM` that was interrupted has left.
        Ok(_) => std::fs::remove_file(&path).map_err(failed)?,
        Err(_) => {}
    }
    std::fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed)?;
    durable::sync_directory(layout.data())
}

/// The parameters of Mainstay's that `postgresql.auto.conf` sets, in lower case.
pub fn overrides(layout: &Layout) -> Result<Vec<String>, FileError> {
    let text = durable::read(&layout.data().join(FILE))?.unwrap_or_default();
    let mut names: Vec<String> = String::from_utf8_lossy(&text).lines().filter_map(managed_name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Removes the lines of Mainstay's parameters, durably, and returns the names. A running server forgets them at its next
/// reload. Nobody else writes the file once `ALTER SYSTEM` is forbidden.
pub fn remove_overrides(layout: &Layout) -> Result<Vec<String>, FileError> {
    let names = overrides(layout)?;
    if names.is_empty() {
        return Ok(names);
    }
    let path = layout.data().join(FILE);
    let text = durable::read(&path)?.unwrap_or_default();
    let kept: Vec<&[u8]> = text
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| managed_name(&String::from_utf8_lossy(line)).is_none())
        .collect();
    durable::write(&path, &kept.concat(), layout.server_access())?;
    Ok(names)
}

/// The name that a line sets, if it is one of Mainstay's: `name = 'value'` or `name 'value'`.
fn managed_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let end = line.find(|c: char| c.is_whitespace() || c == '=' || c == '#').unwrap_or(line.len());
    let name = line[..end].to_ascii_lowercase();
    is_managed(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_names_are_found_in_any_notation() {
        let found = |line| managed_name(line);
        assert_eq!(found("fsync = 'off'").as_deref(), Some("fsync"));
        assert_eq!(found("  FSYNC='off'").as_deref(), Some("fsync"));
        assert_eq!(found("primary_conninfo 'host=x'").as_deref(), Some("primary_conninfo"));
        assert_eq!(found("# fsync = 'off'"), None);
        assert_eq!(found("work_mem = '8MB'"), None);
        assert_eq!(found(""), None);
    }
}
