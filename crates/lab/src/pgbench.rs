//! Load beside the gap client: pgbench's TPC-B-like script, started again whenever a failover ends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::files::{self, APPLICATION, POSTGRES_PORT, SQL_PROXY_PORT, Site};
use crate::program;

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Before it is started again.
const PAUSE: Duration = Duration::from_millis(100);

/// How a statement is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    /// pgbench's own word.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Simple => "simple",
            Mode::Extended => "extended",
            Mode::Prepared => "prepared",
        }
    }

    pub fn parse(word: &str) -> Option<Mode> {
        [Mode::Simple, Mode::Extended, Mode::Prepared].into_iter().find(|mode| mode.word() == word)
    }
}

/// What pgbench is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub clients: u32,
    pub mode: Mode,
    /// Transactions a second in all; `None`: as fast as they can.
    pub rate: Option<u32>,
}

impl Default for Load {
    fn default() -> Load {
        Load { clients: 8, mode: Mode::Simple, rate: None }
    }
}

/// pgbench in a loop; it stops when dropped.
#[derive(Debug)]
pub struct Pgbench {
    stop: Arc<AtomicBool>,
    child: Arc<Mutex<Option<Child>>>,
    complaints: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// libpq's way to find the primary. A dead peer's connection is given up after 3 s.
pub fn direct(sites: &[&Site]) -> String {
    conninfo(sites, POSTGRES_PORT, 2)
}

/// The same with the members' SQL proxies: the first that is there is taken, and waits for a primary if need be.
pub fn through_proxies(sites: &[&Site], cluster: &str) -> String {
    through(sites, SQL_PROXY_PORT, cluster)
}

/// The same with whatever pools connections on `port`, and asks for the password.
pub fn through(sites: &[&Site], port: u16, cluster: &str) -> String {
    // A proxy's greeting waits for a primary.
    format!("{} password={}", conninfo(sites, port, 10), files::application_password(cluster))
}

fn conninfo(sites: &[&Site], port: u16, connect_timeout_seconds: u32) -> String {
    let hosts: Vec<String> = sites.iter().map(|site| site.address.to_string()).collect();
    format!(
        "host={} port={port} dbname={APPLICATION} user={APPLICATION} sslmode=disable gssencmode=disable \
         target_session_attrs=read-write connect_timeout={connect_timeout_seconds} tcp_user_timeout=3000",
        hosts.join(",")
    )
}

/// Makes pgbench's tables, about 15 MB per unit of scale.
pub fn initialise(sites: &[&Site], scale: u32) -> Result<()> {
    program::run("pgbench", &["-i", "-q", "-s", &scale.to_string(), &direct(sites)]).map(|_| ())
}

impl Pgbench {
    /// Starts on what [`direct`] or [`through_proxies`] answer.
    pub fn start(conninfo: String, load: &Load) -> Result<Pgbench> {
        let load = load.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let child = Arc::new(Mutex::new(None));
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let (stopped, slot, said) = (Arc::clone(&stop), Arc::clone(&child), Arc::clone(&complaints));
        let thread = std::thread::Builder::new().name("pgbench".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok(mut started) = spawn(&conninfo, &load) else { return };
                keep_complaints(started.stderr.take(), Arc::clone(&said));
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
                while !stopped.load(Ordering::Relaxed) && !has_ended(&slot) {
                    std::thread::sleep(LOOK_INTERVAL);
                }
                end(&slot);
                std::thread::sleep(PAUSE);
            }
        })?;
        Ok(Pgbench { stop, child, complaints, thread: Some(thread) })
    }

    /// What its clients have met. Most errors end one client, so that the others would go on unnoticed.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

fn spawn(conninfo: &str, load: &Load) -> Result<Child> {
    let mut command = Command::new("pgbench");
    let (clients, mode) = (load.clients.to_string(), format!("--protocol={}", load.mode.word()));
    // Errors after which a client may go on are told as well.
    command.args(["-n", "-c", &clients, "-j", "1", "-T", "86400", "--verbose-errors", &mode]);
    if let Some(rate) = load.rate {
        command.arg(format!("--rate={rate}"));
    }
    command.arg(conninfo).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().context("cannot run pgbench; install PostgreSQL's client package")
}

/// Reads what it complains of, until it ends.
fn keep_complaints(stderr: Option<ChildStderr>, complaints: Arc<Mutex<Vec<String>>>) {
    let Some(stderr) = stderr else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if ["error:", "aborted", "ERROR:", "FATAL:"].iter().any(|word| line.contains(word)) {
                complaints.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }
    });
}

/// The SQLSTATE of what a proxy has said to pgbench, which shows the message only; `None`: it is none of a proxy's own.
pub fn code_of(complaint: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 3] = [
        ("rolled back by a failover", "40001"),
        ("whether it took effect is not known", "08007"),
        ("no primary that takes statements", "57P03"),
    ];
    KNOWN.iter().find(|(text, _)| complaint.contains(text)).map(|(_, code)| *code)
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
