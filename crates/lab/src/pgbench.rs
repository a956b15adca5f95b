//! Load beside the gap client: pgbench's TPC-B-like script, started again whenever a failover ends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::files::{APPLICATION, POSTGRES_PORT, Site};
use crate::program;

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Before it is started again.
const PAUSE: Duration = Duration::from_millis(100);

/// pgbench in a loop; it stops when dropped.
#[derive(Debug)]
pub struct Pgbench {
    stop: Arc<AtomicBool>,
    child: Arc<Mutex<Option<Child>>>,
    errors: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// libpq's way to find the primary. A dead peer's connection is given up after 3 s.
fn conninfo(sites: &[&Site]) -> String {
    let hosts: Vec<String> = sites.iter().map(|site| site.address.to_string()).collect();
    format!(
        "host={} port={POSTGRES_PORT} dbname={APPLICATION} user={APPLICATION} sslmode=disable gssencmode=disable \
         target_session_attrs=read-write connect_timeout=2 tcp_user_timeout=3000",
        hosts.join(",")
    )
}

/// Makes pgbench's tables, about 15 MB per unit of scale.
pub fn initialise(sites: &[&Site], scale: u32) -> Result<()> {
    program::run("pgbench", &["-i", "-q", "-s", &scale.to_string(), &conninfo(sites)]).map(|_| ())
}

impl Pgbench {
    /// Starts with 8 clients, as fast as they can or `rate` transactions a second in all.
    pub fn start(sites: &[&Site], rate: Option<u32>) -> Result<Pgbench> {
        let conninfo = conninfo(sites);
        let stop = Arc::new(AtomicBool::new(false));
        let child = Arc::new(Mutex::new(None));
        let errors = Arc::new(AtomicUsize::new(0));
        let (stopped, slot, counter) = (Arc::clone(&stop), Arc::clone(&child), Arc::clone(&errors));
        let thread = std::thread::Builder::new().name("pgbench".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok(mut started) = spawn(&conninfo, rate) else { return };
                count_errors(started.stderr.take(), Arc::clone(&counter));
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
                while !stopped.load(Ordering::Relaxed) && !has_ended(&slot) {
                    std::thread::sleep(LOOK_INTERVAL);
                }
                end(&slot);
                std::thread::sleep(PAUSE);
            }
        })?;
        Ok(Pgbench { stop, child, errors, thread: Some(thread) })
    }

    /// How many errors its clients have met. Each ends one client, so that the others would go on unnoticed.
    pub fn errors(&self) -> usize {
        self.errors.load(Ordering::Relaxed)
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        end(&self.child);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(conninfo: &str, rate: Option<u32>) -> Result<Child> {
    let mut command = Command::new("pgbench");
    command.args(["-n", "-c", "8", "-j", "1", "-T", "86400"]);
    if let Some(rate) = rate {
        command.arg(format!("--rate={rate}"));
    }
    command.arg(conninfo).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().context("cannot run pgbench; install PostgreSQL's client package")
}

/// Reads what it complains of, until it ends.
fn count_errors(complaints: Option<ChildStderr>, errors: Arc<AtomicUsize>) {
    let Some(complaints) = complaints else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(complaints).lines().map_while(Result::ok) {
            if line.contains("error:") || line.contains("aborted") {
                errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

fn has_ended(child: &Mutex<Option<Child>>) -> bool {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
}

fn end(child: &Mutex<Option<Child>>) {
    if let Some(mut child) = child.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The statement of what must be equal in pgbench's tables after any crash: each transaction changes all or nothing.
pub const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), \
    (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
