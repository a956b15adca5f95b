//! Emptying a data directory that carries the mark.

use std::path::{Path, PathBuf};

use super::{DirectoryError, read_mark};
use crate::durable::{self, FileError};
use crate::layout::Layout;
use crate::shared_memory;

/// Removes everything in PGDATA, in its tablespaces and in its separate WAL directory. The directories stay: they may
/// be mount points, and their parents may be closed to PostgreSQL's user.
///
/// Refuses a directory without the mark, which only ever stands on what is ours.
pub(super) fn wipe(layout: &Layout, major: u32) -> Result<(), DirectoryError> {
    let data = layout.data();
    if read_mark(layout)?.is_none() {
        let reason = "it carries no mark of a change".to_owned();
        return Err(DirectoryError::Foreign { path: data.to_owned(), reason });
    }
    shared_memory::remove_leaked(data, layout.server_uid());
    // Without this file nothing can be started, whoever tries.
    durable::remove(&data.join("global/pg_control"))?;
    for link in links(&data.join("pg_tblspc"))? {
        clear_tablespace(&link, major)?;
    }
    if let Some(target) = link_target(&data.join("pg_wal")) {
        clear_wal(&target)?;
    }
    if let Some(wal) = layout.wal() {
        clear_wal(wal)?;
    }
    clear(data, |_| true)?;
    layout.create_data_directories()?;
    for directory in [Some(data), layout.wal()].into_iter().flatten() {
        if !entries(directory)?.is_empty() {
            return Err(DirectoryError::NotCleared { path: directory.to_owned() });
        }
        durable::sync_directory(directory)?;
    }
    Ok(())
}

/// A tablespace's directory may be shared with other versions; ours is `PG_15_202209061`.
fn clear_tablespace(directory: &Path, major: u32) -> Result<(), FileError> {
    let prefix = format!("PG_{major}_");
    clear(directory, |name| name.starts_with(&prefix))
}

/// Outside PGDATA only what PostgreSQL itself puts into a WAL directory is removed.
fn clear_wal(directory: &Path) -> Result<(), FileError> {
    clear(directory, |name| {
        let is_hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_segment = name.len() >= 24 && name.is_char_boundary(24) && is_hexadecimal(&name[..24]);
        let is_history = name.strip_suffix(".history").is_some_and(is_hexadecimal);
        let is_directory = ["archive_status", "summaries"].contains(&name);
        is_segment || is_history || is_directory || name.starts_with("xlogtemp.")
    })
}

fn clear(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), FileError> {
    for path in entries(directory)? {
        if !path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())) {
            continue;
        }
        let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(FileError::new("remove", &path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn links(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    Ok(entries(directory)?.iter().filter_map(|path| link_target(path)).collect())
}

fn link_target(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok().filter(|target| target.is_absolute())
}

/// The entries of a directory; none if it is absent.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |e| FileError::new("list", directory, e);
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}
