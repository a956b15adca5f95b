//! The gap client: a row every 10 ms over one connection, a fresh id for every attempt, and the outcome of each.
//!
//! It tries its servers in order, as an application with a list of hosts does, and refuses one that is read-only. It has
//! a thread of its own, so that it can live in a member's namespace and nothing of the lab delays it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use crate::clock;
use crate::tally::{Attempt, History, Outcome};

const INTERVAL: Duration = Duration::from_millis(10);
/// The client's own limits, as an application would have them.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const STATEMENT_PATIENCE: Duration = Duration::from_secs(2);

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
    pub fn start(number: i64, servers: Vec<Config>, namespace: Option<&str>) -> Result<GapClient> {
        let history = Arc::new(Mutex::new(History::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let network = namespace
            .map(|name| std::fs::File::open(format!("/run/netns/{name}")))
            .transpose()
            .context("the client's namespace is not there")?;
        let work =
            Work { number, servers, history: Arc::clone(&history), stop: Arc::clone(&stop), session: None };
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
            let (outcome, error) = match self.attempt(id).await {
                Ok(()) => (Outcome::Acknowledged, None),
                Err((outcome, error)) => {
                    self.session = None;
                    (outcome, Some(error))
                }
            };
            let attempt = Attempt { id, begun, ended: clock::now(), outcome, error };
            self.history.lock().unwrap_or_else(PoisonError::into_inner).attempts.push(attempt);
        }
    }

    async fn attempt(&mut self, id: i64) -> Result<(), (Outcome, String)> {
        if self.session.is_none() {
            self.session = Some(self.connect().await.map_err(|error| (Outcome::Failed, error))?);
        }
        let Some(session) = &self.session else { return Err((Outcome::Failed, "no session".to_owned())) };
        let statement = format!("INSERT INTO lab_writes (client, id) VALUES ({}, {id})", self.number);
        let answer = tokio::time::timeout(STATEMENT_PATIENCE, session.client.batch_execute(&statement)).await;
        match answer {
            Ok(Ok(())) if session.gave_up.load(Ordering::Relaxed) => {
                Err((Outcome::Unknown, "the wait for the standbys was cancelled".to_owned()))
            }
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((outcome_of(error.as_db_error()), error.to_string())),
            Err(_) => {
                // It may be a primary that nobody could tell that it is one no longer: the others are asked first.
                self.servers.rotate_left(1);
                Err((Outcome::Unknown, "no answer in time".to_owned()))
            }
        }
    }

    async fn connect(&mut self) -> Result<Session, String> {
        let mut last = "no server".to_owned();
        for place in 0..self.servers.len() {
            let attempt = tokio::time::timeout(CONNECT_PATIENCE, writable(&self.servers[place])).await;
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

/// A server that ends the session may have committed before; any other refusal is one.
fn outcome_of(error: Option<&DbError>) -> Outcome {
    match error {
        Some(error) if !error.code().code().starts_with("57") => Outcome::Failed,
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
