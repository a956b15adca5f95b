//! Signs of life of the local server: fresh connections, small durable writes, the postmaster's process state.

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::Now;
use mainstay_core::view::Health;
use mainstay_postgres::session::fresh_probe;
use mainstay_postgres::write_probe::{Reading, WriteProbe, probed_directories};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::clock;
use crate::machinery::{Machinery, blocking};

const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How long one fresh connection is waited for; what a longer silence means is decided by the core.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);
/// More than this many connections that wait are not made.
const PROBES_AT_ONCE: usize = 8;
/// Where it cannot be seen whether the device does anything, a write may take this much longer.
const UNKNOWN_DEVICE: Duration = Duration::from_secs(10);
/// Two segments of WAL.
const LEAST_FREE_BYTES: u64 = 2 * 16 * 1024 * 1024;

/// What is seen: what is decided on, and what people look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signs {
    pub(crate) health: Health,
    pub(crate) disk: Disk,
}

/// The fullest of the file systems that PostgreSQL writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) free_bytes: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
}

impl Disk {
    fn of(readings: &[Reading]) -> Disk {
        let fullest = readings.iter().filter(|reading| reading.free_bytes.is_some());
        let fullest = fullest.min_by_key(|reading| reading.free_bytes);
        Disk {
            // In whole MiB: every change wakes the main loop.
            free_bytes: fullest.and_then(|reading| reading.free_bytes).map(|bytes| bytes >> 20 << 20),
            total_bytes: fullest.and_then(|reading| reading.total_bytes),
        }
    }
}

/// Publishes what is seen, for ever.
pub(crate) async fn run(machinery: Arc<Machinery>, publish: watch::Sender<Signs>) {
    let (answers, mut answered) = mpsc::unbounded_channel::<Now>();
    let mut waiting: Vec<Now> = Vec::new();
    let mut writes = Vec::new();
    let mut before = None;
    let mut next_probe = clock::now();
    while !publish.is_closed() {
        let now = clock::now();
        let postmaster = machinery.guard.borrow().status.as_ref().and_then(|status| status.postmaster);
        match postmaster {
            None => waiting.clear(),
            Some(_) if now >= next_probe && waiting.len() < PROBES_AT_ONCE => {
                next_probe = now.plus(PROBE_INTERVAL);
                waiting.push(now);
                let (machinery, answers) = (Arc::clone(&machinery), answers.clone());
                tokio::spawn(async move {
                    let probe = fresh_probe(&machinery.server, PROBE_PATIENCE).await;
                    // Nobody listening is the guard's business: the process is gone or not there yet.
                    if probe != mainstay_postgres::session::Probe::Silent {
                        let _ = answers.send(now);
                    }
                });
            }
            Some(_) => {}
        }
        while let Ok(asked) = answered.try_recv() {
            // One that was asked later and has an answer excuses those asked before it.
            waiting.retain(|since| *since > asked);
        }
        match (postmaster, before) {
            (Some(_), _) if writes.is_empty() => writes = start_writing(&machinery).await,
            (Some(_), None) => writes.iter().for_each(WriteProbe::resume),
            // The directory may be copied or rewound now: nothing is written into it.
            (None, Some(_)) => writes.iter().for_each(WriteProbe::pause),
            _ => {}
        }
        before = postmaster;
        let readings: Vec<Reading> = writes.iter().map(|probe| probe.read(now)).collect();
        let health = assess(&waiting, postmaster, &readings, now);
        let signs = Signs { health, disk: Disk::of(&readings) };
        publish.send_if_modified(|published| std::mem::replace(published, signs.clone()) != signs);
        tokio::time::sleep(PROBE_INTERVAL / 2).await;
    }
}

async fn start_writing(machinery: &Machinery) -> Vec<WriteProbe> {
    let layout = machinery.layout.clone();
    let start = move || {
        let directories = probed_directories(&layout)?;
        directories.into_iter().map(WriteProbe::start).collect::<Result<Vec<_>, _>>()
    };
    let Ok(started) = blocking(start).await else { return Vec::new() };
    started.unwrap_or_else(|error| {
        warn!(%error, "the disk is not probed");
        Vec::new()
    })
}

fn assess(waiting: &[Now], postmaster: Option<i32>, readings: &[Reading], now: Now) -> Health {
    let slow = readings
        .iter()
        .filter_map(|reading| reading.waiting(now).map(|waited| (reading, waited)))
        .max_by_key(|(_, waited)| *waited);
    let write_waits_since = slow.map(|(_, waited)| now.minus(waited));
    let device_idle_since = slow.and_then(|(reading, waited)| {
        let begun = now.minus(waited);
        match reading.device_completed_at {
            Some(completed) => Some(completed.max(begun)),
            None => Some(begun.plus(UNKNOWN_DEVICE)).filter(|since| *since <= now),
        }
    });
    let gone = |reading: &Reading| reading.errno == Some(nix::libc::ENOENT);
    let full = |reading: &Reading| {
        reading.errno == Some(nix::libc::ENOSPC)
            || reading.free_bytes.is_some_and(|free| free < LEAST_FREE_BYTES)
    };
    Health {
        silent_since: waiting.first().copied().filter(|since| now.since(*since) >= PROBE_INTERVAL),
        postmaster_state: postmaster.and_then(process_state),
        write_waits_since,
        device_idle_since,
        directory_gone: postmaster.is_some() && readings.iter().any(gone),
        disk_full: readings.iter().any(full),
    }
}

/// The state letter of `/proc/PID/stat`: it stands after the last parenthesis of the command's name.
fn process_state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
