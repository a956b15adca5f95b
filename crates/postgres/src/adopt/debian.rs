//! Debian's layout: configuration below `/etc/postgresql/VERSION/NAME`, away from the data.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::settings::Settings;
use crate::durable::{self, Access, FileError};

/// Where Debian keeps the configuration of every cluster.
pub const DEBIAN_ROOT: &str = "/etc/postgresql";

/// A cluster as postgresql-common knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DebianCluster {
    pub version: String,
    pub name: String,
    /// `/etc/postgresql/VERSION/NAME`.
    pub directory: PathBuf,
    /// What `start.conf` says: `auto`, `manual` or `disabled`.
    pub start: String,
}

impl DebianCluster {
    /// The cluster below `root` whose `data_directory` is `data`.
    pub(super) fn find(root: &Path, data: &Path) -> Result<Option<DebianCluster>, FileError> {
        let wanted = real(data);
        for version in directories(root) {
            for directory in directories(&version) {
                let settings = Settings::read(&directory.join("postgresql.conf"))?;
                let is_it =
                    settings.get("data_directory").is_some_and(|path| real(Path::new(path)) == wanted);
                if is_it {
                    let name =
                        |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let start = start_of(&directory)?;
                    return Ok(Some(DebianCluster {
                        version: name(&version),
                        name: name(&directory),
                        directory,
                        start,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// The unit that starts it at boot.
    pub fn unit(&self) -> String {
        format!("postgresql@{}-{}.service", self.version, self.name)
    }

    /// Whether Debian would start it.
    pub fn starts(&self) -> bool {
        self.start != "disabled"
    }

    /// Has Debian start it no more, durably: not at boot, not after an upgrade of its packages, not by `pg_ctlcluster`.
    pub(super) fn disable(&self) -> Result<(), FileError> {
        if !self.starts() {
            return Ok(());
        }
        let text = format!("# Mainstay runs this cluster. It was: {}\ndisabled\n", self.start);
        let access = Access { mode: 0o644, owner: None };
        durable::write(&self.directory.join("start.conf"), text.as_bytes(), access).map(|_| ())
    }
}

/// The first line of `start.conf` that is no comment; without a file Debian takes `auto`.
fn start_of(directory: &Path) -> Result<String, FileError> {
    let text = durable::read(&directory.join("start.conf"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut words = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(words.find(|word| !word.is_empty()).unwrap_or("auto").to_owned())
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
