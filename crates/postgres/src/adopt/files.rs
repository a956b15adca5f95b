//! What the files of a data directory tell, with PostgreSQL up or down.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use serde::Serialize;

use super::debian::DebianCluster;
use super::settings::{Setting, Settings};
use crate::durable::{self, FileError};
use crate::processes;

/// `ReplicationSlotOnDisk` of slot.c: 16 bytes of header, then the name (64 bytes), then the database of a logical slot.
const SLOT_DATABASE: std::ops::Range<usize> = 80..84;

/// The server that runs in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    pub pid: i32,
    pub port: u16,
    /// The first of its Unix sockets' directories.
    pub socket_dir: Option<PathBuf>,
}

/// Data outside of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tablespace {
    pub oid: String,
    pub path: PathBuf,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    pub name: String,
    pub logical: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) data: PathBuf,
    pub(super) major: Option<u32>,
    /// What `PG_VERSION` says, if it says anything.
    pub(super) version_text: Option<String>,
    pub(super) owner_uid: u32,
    pub(super) mode: u32,
    pub(super) running: Option<Running>,
    pub(super) signals: Vec<&'static str>,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) wal_directory: Option<PathBuf>,
    pub(super) slots: Vec<Slot>,
    pub(super) prepared: usize,
    pub(super) size_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) debian: Option<DebianCluster>,
    pub(super) unit: Option<String>,
    /// What the newest start was told on its command line.
    options: Vec<(String, String)>,
    pub(super) configuration_file: PathBuf,
}

impl Files {
    pub(super) fn look(data: &Path, debian_root: &Path) -> Result<Files, FileError> {
        let metadata = std::fs::metadata(data).map_err(|e| FileError::new("look at", data, e))?;
        let version_text = text(&data.join("PG_VERSION"))?.map(|text| text.trim().to_owned());
        let debian = DebianCluster::find(debian_root, data)?;
        let options = start_options(&text(&data.join("postmaster.opts"))?.unwrap_or_default());
        let running = running(data)?;
        let exists = |name: &&str| data.join(name).exists();
        let named = options.iter().rev().find(|(name, _)| name == "config_file");
        let configuration_file = match (named, &debian) {
            (Some((_, file)), _) => data.join(file),
            (None, Some(debian)) => debian.directory.join("postgresql.conf"),
            (None, None) => data.join("postgresql.conf"),
        };
        Ok(Files {
            data: data.to_owned(),
            major: version_text.as_deref().and_then(|text| text.parse().ok()),
            version_text,
            owner_uid: metadata.uid(),
            mode: metadata.permissions().mode() & 0o7777,
            signals: ["standby.signal", "recovery.signal", "backup_label"]
                .into_iter()
                .filter(exists)
                .collect(),
            tablespaces: tablespaces(&data.join("pg_tblspc")),
            wal_directory: std::fs::read_link(data.join("pg_wal")).ok(),
            slots: slots(&data.join("pg_replslot")),
            prepared: entries(&data.join("pg_twophase")).len(),
            size_bytes: size(data),
            free_bytes: free(data)?,
            unit: running.as_ref().and_then(|running| unit_of(running.pid)),
            running,
            debian,
            options,
            configuration_file,
        })
    }

    pub(super) fn owner_name(&self) -> String {
        let user = User::from_uid(Uid::from_raw(self.owner_uid)).ok().flatten();
        user.map_or_else(|| self.owner_uid.to_string(), |user| user.name)
    }

    /// All that is set: in the file and what it includes, by `ALTER SYSTEM`, and on the command line.
    pub(super) fn settings(&self) -> Result<Settings, FileError> {
        let mut settings = Settings::read(&self.configuration_file)?;
        settings.add(&self.data.join("postgresql.auto.conf"), 0)?;
        let file = self.data.join("postmaster.opts");
        let given = self.options.iter().map(|(name, value)| Setting {
            name: name.clone(),
            value: value.clone(),
            file: file.clone(),
            line: 1,
        });
        settings.settings.extend(given);
        Ok(settings)
    }

    pub(super) fn hba_file(&self, settings: &Settings) -> PathBuf {
        let beside = self.configuration_file.parent().unwrap_or(&self.data);
        match settings.get("hba_file") {
            Some(file) => self.data.join(file),
            // PostgreSQL looks in the data directory; Debian's own file says otherwise and names it.
            None if self.data.join("pg_hba.conf").exists() => self.data.join("pg_hba.conf"),
            None => beside.join("pg_hba.conf"),
        }
    }
}

fn text(file: &Path) -> Result<Option<String>, FileError> {
    Ok(durable::read(file)?.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// `postmaster.pid` is believed only if a server's process is at work in the directory.
pub(super) fn running(data: &Path) -> Result<Option<Running>, FileError> {
    let Some(server) = processes::servers(data).first().map(|server| server.pid) else { return Ok(None) };
    let text = text(&data.join("postmaster.pid"))?.unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let line = |number: usize| lines.get(number).copied().unwrap_or_default();
    Ok(Some(Running {
        pid: line(0).parse().unwrap_or(server),
        port: line(3).parse().unwrap_or(5432),
        socket_dir: Some(line(4)).filter(|path| !path.is_empty()).map(PathBuf::from),
    }))
}

/// `postmaster.opts` holds the program and its arguments, each but the first in double quotes.
fn start_options(text: &str) -> Vec<(String, String)> {
    let arguments: Vec<&str> = text.trim().split('"').skip(1).step_by(2).collect();
    let mut found = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let setting = match argument {
            "-c" => rest.next(),
            "-p" => {
                found.extend(rest.next().map(|port| ("port".to_owned(), port.to_owned())));
                None
            }
            _ => argument.strip_prefix("--").or_else(|| argument.strip_prefix("-c")),
        };
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
        }
    }
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn tablespaces(directory: &Path) -> Vec<Tablespace> {
    let read = |link: PathBuf| Some(Tablespace { oid: name(&link), path: std::fs::read_link(&link).ok()? });
    entries(directory).into_iter().filter_map(read).collect()
}

fn slots(directory: &Path) -> Vec<Slot> {
    let read = |slot: PathBuf| {
        let state = std::fs::read(slot.join("state")).ok()?;
        let logical = state.get(SLOT_DATABASE)?.iter().any(|byte| *byte != 0);
        Some(Slot { name: name(&slot), logical })
    };
    entries(directory).into_iter().filter_map(read).collect()
}

/// What the files take, tablespaces and a separate WAL directory included. A server may remove files meanwhile.
fn size(directory: &Path) -> u64 {
    let mut total = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for path in entries(&directory) {
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                left.push(path);
            } else {
                total += metadata.blocks() * 512;
            }
        }
    }
    total
}

fn free(directory: &Path) -> Result<u64, FileError> {
    let found = nix::sys::statvfs::statvfs(directory)
        .map_err(|errno| FileError::new("look at the file system of", directory, errno.into()))?;
    Ok(found.blocks_available() as u64 * found.fragment_size() as u64)
}

/// The systemd unit of a process: the last part of its control group that ends in `.service`.
fn unit_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.split('/').rfind(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_the_newest_start_are_read() {
        let text = "/usr/lib/postgresql/15/bin/postgres \"-D\" \"/d\" \"-c\" \"config_file=/etc/p.conf\" \"-p\" \"5433\" \"--work-mem=8MB\"\n";
        let wanted = [("config_file", "/etc/p.conf"), ("port", "5433"), ("work_mem", "8MB")];
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(start_options(text), wanted);
    }
}
