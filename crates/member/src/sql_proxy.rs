//! The SQL proxy beside the member: a process of its own, kept running while the member is to run.
//!
//! It serves applications, so it outlives a member that crashes or makes way for a newer one, and is found again by the lock
//! that it holds. It ends when the member is told to stop. What it does is its own business: it asks the member over the
//! control socket where applications go.

pub(crate) mod operator;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use mainstay_guard::Companion;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::configuration::{Configuration, SqlProxy as Wanted};
use crate::machinery::Machinery;
use crate::status::SqlProxyStatus;

/// It takes its lock first of all; a busy machine may take its time to start a process.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for the lock meanwhile.
const START_LOOK: Duration = Duration::from_millis(10);
/// The pause before a start after an early end; it doubles with each one in a row, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One that has lived for so long did not end because of how it was started.
const SETTLED: Duration = Duration::from_secs(10);
/// For clients' transactions to come to their end, before SIGKILL; the proxy itself cuts them off after 5 s.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// What was sent SIGKILL goes at once, unless a disk holds it.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Under which the warnings stand.
const SUBJECT: &str = "sql_proxy";

/// Where the proxy prints what it has to say. Not in `log/`, which belongs to PostgreSQL's user: the member opens it as root.
pub fn log_file(configuration: &Configuration) -> PathBuf {
    configuration.directory.join("sql-proxy").join("sql-proxy.log")
}

/// The file whose lock it holds.
pub fn lock_file(configuration: &Configuration) -> PathBuf {
    configuration.directory.join("sql-proxy").join("lock")
}

/// Where the member asks it and gives it orders.
pub fn operator_socket(configuration: &Configuration) -> PathBuf {
    configuration.directory.join("sql-proxy").join("operator.sock")
}

/// What a proxy of this program and these settings leaves in its lock's file: one with another stamp is started anew.
///
/// # Errors
/// The program's own file cannot be looked at.
pub fn stamp(settings: &str) -> io::Result<String> {
    let program = std::fs::metadata("/proc/self/exe")?;
    let mut hasher = DefaultHasher::new();
    settings.hash(&mut hasher);
    let (modified, settings) = (program.mtime_nsec() + program.mtime() * 1_000_000_000, hasher.finish());
    Ok(format!("{}:{}:{modified} {settings:016x}\n", program.dev(), program.ino()))
}

/// The member's end of the keeper.
#[derive(Debug)]
pub(crate) struct SqlProxy {
    is_stopping: watch::Sender<bool>,
    seen: watch::Sender<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    status: Option<SqlProxyStatus>,
    /// Nothing runs any more, nor will it.
    is_over: bool,
}

impl Default for SqlProxy {
    fn default() -> SqlProxy {
        SqlProxy { is_stopping: watch::Sender::new(false), seen: watch::Sender::default() }
    }
}

impl SqlProxy {
    /// `None`: there is to be none.
    pub(crate) fn status(&self) -> Option<SqlProxyStatus> {
        self.seen.borrow().status.clone()
    }

    /// It is to end, and not to come back.
    pub(crate) fn stop(&self) {
        self.is_stopping.send_replace(true);
    }

    /// Stops it and waits until it has ended.
    pub(crate) async fn end(&self) {
        self.stop();
        let longest = START_PATIENCE + STOP_PATIENCE + KILL_PATIENCE;
        let _ = timeout(longest, self.seen.subscribe().wait_for(|seen| seen.is_over)).await;
    }

    fn tell(&self, pid: Option<i32>) {
        self.seen.send_modify(|seen| {
            if let Some(status) = &mut seen.status {
                status.pid = pid.map(i32::unsigned_abs);
            }
        });
    }

    async fn stopping(&self) {
        let _ = self.is_stopping.subscribe().wait_for(|is_stopping| *is_stopping).await;
    }
}

/// Keeps it running until the member is told to stop, and ends it then. One that is not wanted is ended at once.
pub(crate) async fn keep(machinery: Arc<Machinery>) {
    let configuration = &machinery.configuration;
    let proxy = &machinery.sql_proxy;
    if let Some(wanted) = &configuration.sql_proxy {
        let postgres = configuration.own_row().postgres;
        let address = reachable(wanted.listen, postgres);
        let address_readonly = wanted.listen_readonly.and_then(|listen| reachable(listen, postgres));
        let status = SqlProxyStatus { pid: None, address, address_readonly };
        proxy.seen.send_modify(|seen| seen.status = Some(status));
        match Keeper::new(&machinery, wanted) {
            Ok(keeper) => keeper.run().await,
            Err(error) => {
                warn!("the SQL proxy is not started: {error}");
                machinery.note(SUBJECT, vec![format!("the SQL proxy is not started: {error}")]);
                proxy.stopping().await;
            }
        }
    }
    end(configuration).await;
    proxy.seen.send_modify(|seen| seen.is_over = true);
    proxy.tell(None);
}

/// Where clients on other machines find who listens on `listen`: by the member's address for PostgreSQL where it listens on
/// all of them. Nowhere, if it is on loopback; but where PostgreSQL is there too, so are its clients.
fn reachable(listen: SocketAddr, postgres: Option<SocketAddr>) -> Option<SocketAddr> {
    let postgres = postgres?.ip();
    let ip = if listen.ip().is_unspecified() { postgres } else { listen.ip() };
    (!ip.is_loopback() || postgres.is_loopback()).then_some(SocketAddr::new(ip, listen.port()))
}

/// Ends a proxy, whoever has started it, and waits for that.
pub(crate) async fn end(configuration: &Configuration) {
    match Companion::find(&lock_file(configuration)) {
        Ok(Some(running)) => end_running(&running).await,
        Ok(None) => {}
        Err(error) => warn!("whether a SQL proxy runs is not known: {error}"),
    }
}

async fn end_running(running: &Companion) {
    info!(pid = running.pid(), "the SQL proxy is told to end");
    let told = running.terminate();
    if told.is_ok() && timeout(STOP_PATIENCE, running.ended()).await.is_ok() {
        return;
    }
    if let Err(error) = running.kill() {
        warn!(pid = running.pid(), "the SQL proxy cannot be ended: {error}");
        return;
    }
    if timeout(KILL_PATIENCE, running.ended()).await.is_err() {
        warn!(pid = running.pid(), "the SQL proxy is still there after SIGKILL");
    }
}

struct Keeper<'a> {
    machinery: &'a Machinery,
    program: PathBuf,
    arguments: [String; 3],
    lock: PathBuf,
    log: PathBuf,
    stamp: String,
    settings: String,
}

impl<'a> Keeper<'a> {
    fn new(machinery: &'a Machinery, wanted: &Wanted) -> io::Result<Keeper<'a>> {
        let configuration = &machinery.configuration;
        let lock = lock_file(configuration);
        let directory = lock.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        let file = configuration.file.display().to_string();
        Ok(Keeper {
            machinery,
            program: std::env::current_exe()?,
            arguments: ["sql-proxy".to_owned(), "--config".to_owned(), file],
            log: log_file(configuration),
            stamp: stamp(&wanted.identity)?,
            settings: wanted.settings.clone(),
            lock,
        })
    }

    async fn run(&self) {
        let proxy = &self.machinery.sql_proxy;
        let mut child: Option<Child> = None;
        let mut early_ends = 0;
        // One from before this process may be of an older program, or run with older settings.
        if let Ok(Some(running)) = Companion::find(&self.lock) {
            if running.stamp() == self.stamp {
                let operator = operator::Operator::of(&self.machinery.configuration);
                if let Err(error) = operator.order(&format!("RELOAD {}", self.settings)).await {
                    warn!("the SQL proxy runs on with the settings that it has: {error}");
                }
            } else {
                info!("the program or the addresses of the SQL proxy have changed");
                end_running(&running).await;
            }
        }
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                biased;
                () = proxy.stopping() => break,
                ended = self.turn(&mut child) => ended,
            };
            proxy.tell(None);
            let (lived, log) = (begun.elapsed(), self.log.display());
            early_ends = if lived < SETTLED { early_ends + 1 } else { 0 };
            let pause = pause_after(early_ends);
            let ms = pause.as_millis();
            warn!(
                "the SQL proxy {ended} after {:.1} s; started again in {ms} ms, see {log}",
                lived.as_secs_f64()
            );
            if early_ends > 1 {
                let why = format!("the SQL proxy {ended} each time that it is started; see {log}");
                self.machinery.note(SUBJECT, vec![why]);
            }
            tokio::select! {
                () = proxy.stopping() => break,
                () = sleep(pause) => {}
            }
        }
        self.machinery.note(SUBJECT, Vec::new());
        // Between its start and its lock it can be found as a child only.
        if let Some(mut child) = child {
            if matches!(Companion::find(&self.lock), Ok(None)) {
                let _ = child.kill();
            } else {
                end(&self.machinery.configuration).await;
            }
            let _ = child.wait();
        }
    }

    /// Finds the proxy or starts one, and waits for its end; answers how it ended.
    async fn turn(&self, child: &mut Option<Child>) -> String {
        let running = match Companion::find(&self.lock) {
            Ok(Some(running)) => running,
            Ok(None) => match self.start(child).await {
                Ok(running) => running,
                Err(how) => return how,
            },
            Err(error) => return format!("is not known to run ({error})"),
        };
        self.machinery.sql_proxy.tell(Some(running.pid()));
        if timeout(SETTLED, running.ended()).await.is_err() {
            // Whoever lives for so long has nothing to be warned of any more.
            self.machinery.note(SUBJECT, Vec::new());
            running.ended().await;
        }
        match child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => format!("has ended ({status})"),
            Some(Err(_)) | None => "has ended".to_owned(),
        }
    }

    async fn start(&self, child: &mut Option<Child>) -> Result<Companion, String> {
        let spawned = mainstay_guard::spawn(&self.program, &self.arguments, &self.log);
        let spawned = child.insert(spawned.map_err(|error| format!("cannot be started ({error})"))?);
        let give_up = Instant::now() + START_PATIENCE;
        loop {
            if let Ok(Some(running)) = Companion::find(&self.lock) {
                let pid = running.pid();
                if pid.unsigned_abs() == spawned.id() {
                    info!(pid, "the SQL proxy runs");
                }
                return Ok(running);
            }
            if let Ok(Some(status)) = spawned.try_wait() {
                *child = None;
                return Err(format!("has ended ({status})"));
            }
            if Instant::now() >= give_up {
                let _ = spawned.kill();
                let _ = spawned.wait();
                *child = None;
                return Err("has not come up".to_owned());
            }
            sleep(START_LOOK).await;
        }
    }
}

fn pause_after(early_ends: u32) -> Duration {
    match early_ends.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (FIRST_PAUSE * 2_u32.pow(doublings.min(10))).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let pauses = [0, 1, 2, 3, 6, 7, 1_000].map(|ends| pause_after(ends).as_millis());
        assert_eq!(pauses, [0, 100, 200, 400, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn others_are_told_an_address_that_leads_here() {
        let reached = |listen: &str, postgres: &str| {
            reachable(listen.parse().unwrap(), Some(postgres.parse().unwrap()))
                .map(|address| address.to_string())
        };
        assert_eq!(reached("0.0.0.0:6432", "10.0.0.1:5432").as_deref(), Some("10.0.0.1:6432"));
        assert_eq!(reached("[::]:6432", "10.0.0.1:5432").as_deref(), Some("10.0.0.1:6432"));
        assert_eq!(reached("10.0.9.1:6432", "10.0.0.1:5432").as_deref(), Some("10.0.9.1:6432"));
        assert_eq!(reached("127.0.0.1:6432", "10.0.0.1:5432"), None);
        assert_eq!(reached("127.0.0.1:6432", "127.0.0.1:5501").as_deref(), Some("127.0.0.1:6432"));
    }

    #[test]
    fn other_settings_have_another_stamp() {
        assert_eq!(stamp("a").unwrap(), stamp("a").unwrap());
        assert_ne!(stamp("a").unwrap(), stamp("b").unwrap());
    }
}
