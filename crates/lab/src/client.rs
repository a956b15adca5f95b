//! The gap client: a row every 10 ms over one connection, a fresh id for every attempt, and the outcome of each.
//!
//! It tries its servers in order, as an application with a list of hosts does, and refuses one that is read-only. It has
//! a thread of its own, so that it can live in a member's namespace and nothing of the lab delays it.
//!
//! Through a SQL proxy it waits longer, as one may who has been promised that waiting is worth it, and goes on with its
//! connection after an error, which is the other half of the promise.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use crate::clock;
use crate::tally::{Attempt, History, Outcome};

const INTERVAL: Duration = Duration::from_millis(10);
/// The client's own limits, as an application would have them.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// On the same segment who is there answers at once.
const SEGMENT_PATIENCE: Duration = Duration::from_millis(250);
const STATEMENT_PATIENCE: Duration = Duration::from_secs(2);
/// Through a proxy: it holds both while there is no primary.
const PROXY_PATIENCE: Duration = Duration::from_secs(10);

/// What it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Postgres,
    SqlProxy,
    /// One address that moves: it is tried again soon, as a connection that was begun before the move waits for a second.
    VirtualAddress,
}

/// A client at work; it stops when dropped.
#[derive(Debug)]
pub struct GapClient {
    /// What its rows are marked with.
    pub number: i64,
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GapClient {
    /// Starts to write to the first of `servers` that takes writes, from inside `namespace` if one is given.
    pub fn start(
        number: i64,
        servers: Vec<Config>,
        through: Through,
        namespace: Option<&str>,
    ) -> Result<GapClient> {
        let history = Arc::new(Mutex::new(History::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let network = namespace
            .map(|name| std::fs::File::open(format!("/run/netns/{name}")))
            .transpose()
            .context("the client's namespace is not there")?;
        let (own_history, own_stop) = (Arc::clone(&history), Arc::clone(&stop));
        let work = Work { number, servers, through, history: own_history, stop: own_stop, session: None };
        let (entered, outcome) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("client-{number}")).spawn(move || {
            let inside = network.map_or(Ok(()), |file| setns(file, CloneFlags::CLONE_NEWNET));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ready = inside.map_err(anyhow::Error::from).and(runtime.map_err(anyhow::Error::from));
            match ready {
                Ok(runtime) => {
                    let _ = entered.send(Ok(()));
                    runtime.block_on(work.run());
                }
                Err(error) => {
                    let _ = entered.send(Err(error));
                }
            }
        })?;
        outcome.recv().context("the client ended at once")?.context("the client cannot start")?;
        Ok(GapClient { number, history, stop, thread: Some(thread) })
    }

    /// What it has tried so far.
    pub fn history(&self) -> History {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the attempt under way come to its end, and answers everything.
    pub fn stop(&mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A client that panicked has recorded what it did until then.
            let _ = thread.join();
        }
        self.history()
    }
}

impl Drop for GapClient {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Work {
    number: i64,
    /// The one that took writes last comes first, one that gave no answer last.
    servers: Vec<Config>,
    through: Through,
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    session: Option<Session>,
}

/// A connection, and whether its server has said that it gave up waiting for the standbys.
struct Session {
    client: Client,
    gave_up: Arc<AtomicBool>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Work {
    async fn run(mut self) {
        let mut id = 0;
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            tick.tick().await;
            id += 1;
            let begun = clock::now();
            let (outcome, error, code) = match self.attempt(id).await {
                Ok(()) => (Outcome::Acknowledged, None, None),
                Err(Trouble { outcome, error, code, session_is_usable }) => {
                    if !session_is_usable {
                        self.session = None;
                    }
                    (outcome, Some(error), code)
                }
            };
            let attempt = Attempt { id, begun, ended: clock::now(), outcome, error, code };
            self.lock().attempts.push(attempt);
        }
    }

    async fn attempt(&mut self, id: i64) -> Result<(), Trouble> {
        if self.session.is_none() {
            let session = self.connect().await.map_err(|error| Trouble::new(Outcome::Failed, &error))?;
            self.lock().connected.push(clock::now());
            self.session = Some(session);
        }
        let Some(session) = &self.session else { return Err(Trouble::new(Outcome::Failed, "no session")) };
        let statement = format!("INSERT INTO lab_writes (client, id) VALUES ({}, {id})", self.number);
        let patience = self.patience(STATEMENT_PATIENCE);
        match tokio::time::timeout(patience, session.client.batch_execute(&statement)).await {
            Ok(Ok(())) if session.gave_up.load(Ordering::Relaxed) => {
                Err(Trouble::new(Outcome::Unknown, "the wait for the standbys was cancelled"))
            }
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.trouble(&error)),
            Err(_) => {
                // It may be a primary that nobody could tell that it is one no longer: the others are asked first.
                self.servers.rotate_left(1);
                Err(Trouble::new(Outcome::Unknown, "no answer in time"))
            }
        }
    }

    fn patience(&self, direct: Duration) -> Duration {
        if self.through == Through::SqlProxy { PROXY_PATIENCE } else { direct }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, error: &tokio_postgres::Error) -> Trouble {
        let known = error.as_db_error();
        let is_no_end = known.is_some_and(|error| error.parsed_severity() == Some(Severity::Error));
        Trouble {
            outcome: outcome_of(known.map(|error| error.code().code())),
            error: known.map_or_else(|| error.to_string(), ToString::to_string),
            code: known.map(|error| error.code().code().to_owned()),
            session_is_usable: self.through == Through::SqlProxy && is_no_end,
        }
    }

    async fn connect(&mut self) -> Result<Session, String> {
        let mut last = "no server".to_owned();
        let connect =
            if self.through == Through::VirtualAddress { SEGMENT_PATIENCE } else { CONNECT_PATIENCE };
        let patience = self.patience(connect);
        for place in 0..self.servers.len() {
            let attempt = tokio::time::timeout(patience, writable(&self.servers[place])).await;
            match attempt {
                Ok(Ok(session)) => {
                    self.servers.rotate_left(place);
                    return Ok(session);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = "connecting took too long".to_owned(),
            }
        }
        Err(format!("connect: {last}"))
    }
}

/// Why an attempt was not acknowledged.
struct Trouble {
    outcome: Outcome,
    error: String,
    code: Option<String>,
    session_is_usable: bool,
}

impl Trouble {
    fn new(outcome: Outcome, error: &str) -> Trouble {
        Trouble { outcome, error: error.to_owned(), code: None, session_is_usable: false }
    }
}

/// A server that ends the session may have committed before, and a proxy says by 08007 that it does not know; any other
/// refusal is one. So is 57P03: who does not let anybody in, and a proxy without a primary, has executed nothing.
fn outcome_of(code: Option<&str>) -> Outcome {
    match code {
        Some("57P03") => Outcome::Failed,
        Some(code) if !code.starts_with("57") && code != "08007" => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

async fn writable(config: &Config) -> Result<Session, String> {
    let (client, mut connection) =
        config.connect(NoTls).await.map_err(|error| match error.as_db_error() {
            Some(error) => error.message().to_owned(),
            None => error.to_string(),
        })?;
    let gave_up = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&gave_up);
    let driver = tokio::spawn(poll_fn(move |context| {
        loop {
            match ready!(connection.poll_message(context)) {
                Some(Ok(AsyncMessage::Notice(notice))) if is_cancelled_wait(&notice) => {
                    noted.store(true, Ordering::Relaxed);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    }));
    let session = Session { client, gave_up, driver };
    let messages = session.client.simple_query("SHOW transaction_read_only").await;
    let is_writable = messages
        .map_err(|error| error.to_string())?
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("off")));
    if is_writable { Ok(session) } else { Err("read-only server".to_owned()) }
}

/// "canceling wait for synchronous replication …": the commit is local only.
fn is_cancelled_wait(notice: &DbError) -> bool {
    notice.message().contains("wait for synchronous replication")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_certainly_not_done_has_failed() {
        for code in ["40001", "57P03", "25006", "53300"] {
            assert_eq!(outcome_of(Some(code)), Outcome::Failed, "{code}");
        }
        for code in [Some("08007"), Some("57P01"), Some("57014"), None] {
            assert_eq!(outcome_of(code), Outcome::Unknown, "{code:?}");
        }
    }
}
