//! Fencing, seen from outside: whether every process of the old primary's PostgreSQL was gone before the next promotion.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::Now;

use crate::clock;
use crate::member::Member;
use crate::process::{self, Kind};

const INTERVAL: Duration = Duration::from_millis(10);
/// Looking through all processes of the machine costs more than looking at those that are known.
const FULL_LOOKS: u32 = 10;

/// The processes of one server, from the moment of the fault on.
#[derive(Debug)]
pub struct Watch {
    pub member: String,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Look>>>,
    thread: Option<JoinHandle<()>>,
}

/// Who of the old server was there at a time: process id and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub at: Now,
    pub alive: Vec<(i32, char)>,
}

/// Processes by id, with the time of their start.
type Known = BTreeMap<i32, u64>;

impl Watch {
    /// Begins to watch the server that runs there now.
    pub fn start(member: &Member) -> Result<Watch> {
        let postmaster = member.process(Kind::Postgres).context("no PostgreSQL runs there")?;
        let namespace = member.namespace.clone();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, looks) = (Arc::clone(&stop), Arc::clone(&seen));
        let mut known = Known::new();
        join(&mut known, &namespace, u64::MAX);
        let thread = std::thread::Builder::new().name("fencing".to_owned()).spawn(move || {
            // While the postmaster lives, what is in the namespace is its own; later a new server may be there.
            let mut postmaster_lives = true;
            for count in 0_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if postmaster_lives {
                    let alive = process::look(postmaster.pid)
                        .is_some_and(|found| found.started_ticks == postmaster.started_ticks);
                    if !alive || count % FULL_LOOKS == 0 {
                        join(&mut known, &namespace, if alive { u64::MAX } else { now_ticks() });
                    }
                    for pid in process::children(postmaster.pid) {
                        note(&mut known, pid);
                    }
                    postmaster_lives = alive;
                }
                look(&mut known, &looks);
                std::thread::sleep(INTERVAL);
            }
        })?;
        Ok(Watch { member: member.name().to_owned(), stop, seen, thread: Some(thread) })
    }

    /// The first look at or after `at`, or the last there is. Whoever is alive in it was alive at `at`.
    pub fn look_at(&self, at: Now) -> Option<Look> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().find(|look| look.at >= at).or(seen.last()).cloned()
    }

    /// When nothing was left for the first time.
    pub fn gone_at(&self) -> Option<Now> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().find(|look| look.alive.is_empty()).map(|look| look.at)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The present in the unit of process times. Clock ticks have been 10 ms on every Linux of the last twenty years.
fn now_ticks() -> u64 {
    clock::now().0 / 10_000_000
}

/// Adds every process of PostgreSQL in the namespace that was started by `until_ticks`.
fn join(known: &mut Known, namespace: &str, until_ticks: u64) {
    let all = process::in_namespace(namespace);
    let servers = all.iter().filter(|process| process.kind == Kind::Postgres);
    known.extend(
        servers
            .filter(|process| process.started_ticks <= until_ticks)
            .map(|process| (process.pid, process.started_ticks)),
    );
}

fn note(known: &mut Known, pid: i32) {
    if let Some(process) = process::look(pid).filter(|process| process.kind == Kind::Postgres) {
        known.insert(pid, process.started_ticks);
    }
}

fn look(known: &mut Known, looks: &Mutex<Vec<Look>>) {
    let mut alive = Vec::new();
    known.retain(|pid, started| {
        let found = process::look(*pid).filter(|process| process.started_ticks == *started);
        alive.extend(found.map(|process| (process.pid, process.state)));
        alive.last().is_some_and(|(last, _)| last == pid)
    });
    let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
    looks.push(Look { at: clock::now(), alive });
}
