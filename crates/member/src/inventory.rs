//! What is looked at from time to time for whoever watches the member: room on the disk, the dates of certificates.
//!
//! Nothing is decided by it. It waits for files, so it is on a task of its own, and a disk that hangs leaves what was seen last.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use mainstay_net::pki::CertificateFacts;
use nix::sys::statvfs::statvfs;
use tokio::sync::watch;
use tracing::debug;

use crate::configuration::Configuration;
use crate::machinery::blocking;

const INTERVAL: Duration = Duration::from_secs(10);

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    pub(crate) room: Option<Room>,
    /// When each certificate ends, in seconds since 1970.
    pub(crate) certificates: Vec<(&'static str, u64)>,
}

/// The file system that the data directory is on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free: u64,
    pub(crate) size: u64,
}

/// What is looked at.
#[derive(Clone, Debug)]
struct Places {
    data: Option<PathBuf>,
    certificates: [(&'static str, PathBuf); 3],
}

/// Looks for as long as the runtime lives.
pub(crate) fn start(configuration: Configuration) -> watch::Receiver<Inventory> {
    let (publish, seen) = watch::channel(Inventory::default());
    tokio::spawn(run(configuration, publish));
    seen
}

async fn run(configuration: Configuration, publish: watch::Sender<Inventory>) {
    let tls = configuration.tls;
    let places = Places {
        data: Some(configuration.postgresql.data_directory),
        certificates: [
            ("authority", tls.authority),
            ("member", tls.certificate),
            ("server", tls.server_certificate),
        ],
    };
    while !publish.is_closed() {
        let places = places.clone();
        if let Ok(inventory) = blocking(move || look(&places)).await {
            publish.send_replace(inventory);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn look(places: &Places) -> Inventory {
    let ends = |(name, path): &(&'static str, PathBuf)| Some((*name, end_of(path)?));
    Inventory {
        room: places.data.as_deref().and_then(room),
        certificates: places.certificates.iter().filter_map(ends).collect(),
    }
}

fn room(data: &Path) -> Option<Room> {
    let statistics = statvfs(data).ok()?;
    let unit = statistics.fragment_size();
    Some(Room { free: statistics.blocks_available() * unit, size: statistics.blocks() * unit })
}

fn end_of(certificate: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(certificate).ok()?;
    match CertificateFacts::read(&text) {
        Ok(facts) => facts.not_after.duration_since(UNIX_EPOCH).ok().map(|end| end.as_secs()),
        Err(error) => {
            debug!(path = %certificate.display(), %error, "when it ends is not known");
            None
        }
    }
}
