//! `LISTEN` without a server of one's own: one connection of a pool hears for all sessions that listen.
//!
//! A session that has said `LISTEN` hands its channels over when its transaction has ended, and gets the notifications from
//! here while it holds no server or one at rest, as PostgreSQL tells a session between two transactions. No notification is lost
//! or doubled by that: PostgreSQL gives all that listen the same notifications in the same order, so the session sends one of its
//! own, the mark. What its server hears before the mark it tells itself; what this connection hears behind it comes from here. Only
//! when a session that listens already comes to listen to another channel as well, what is notified on both in that moment may
//! change places.
//!
//! While the connection cannot be had a session keeps its server, and hands over when it is there.

mod connection;
mod messages;
mod subscription;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use mainstay_pgwire::frame;
use tokio::sync::Notify;
use tracing::debug;

use crate::pool::{Access, Pool};
use crate::server::{AskError, Backend, Server};
use crate::session_settings::quoted_identifier;
use crate::worker::Worker;
pub(crate) use messages::notification;
use messages::{messages, without};
pub(crate) use subscription::Subscription;

type Channels = BTreeSet<Box<str>>;

/// For the connection to listen; a session that has waited in vain keeps its server for now.
const PATIENCE: Duration = Duration::from_secs(2);
/// For the mark, which no standby is waited for.
const MARK_PATIENCE: Duration = Duration::from_secs(5);
/// What a mark's channel begins with; no client is told of one.
const MARK: &str = "mainstay_mark_";
/// Bytes and names are passed on as they are only between sessions of one encoding.
const ENCODING: &str = "UTF8";

/// No two marks of a process are the same: its pools hear each other's.
static NEXT_MARK: AtomicU64 = AtomicU64::new(1);

/// Those of one pool that listen, and the connection that hears for them.
#[derive(Default)]
pub(crate) struct Listening {
    /// Who listens to what. Those who have gone or left are taken out later.
    by_channel: RefCell<HashMap<Box<str>, Vec<Weak<Subscription>>>>,
    /// Who waits for which mark.
    by_mark: RefCell<HashMap<u64, Weak<Subscription>>>,
    /// The connection, while there is one.
    backend: RefCell<Option<Rc<Backend>>>,
    /// What it listens to.
    heard: RefCell<Channels>,
    /// Somebody wants to hear something else than before.
    wanted: Notify,
    /// `heard` has changed.
    news: Notify,
    /// Whoever logs in is to begin anew: there is another primary, perhaps.
    abandon: Notify,
    /// Sessions that keep a server to listen by, until the connection is there.
    waiting: RefCell<Vec<Waker>>,
    /// Counts the connections that there were.
    generation: Cell<u64>,
    is_running: Cell<bool>,
    /// The database's encoding is another: everybody listens by a server of one's own.
    is_unfit: Cell<bool>,
    /// Why there was no connection last.
    trouble: RefCell<String>,
}

impl Listening {
    /// The channel on which the marks come: of this process alone.
    fn mark_channel(worker: &Worker) -> String {
        let secret: String = worker.shared.secret[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{MARK}{secret}")
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The session hears from here what its server has listened to until now. What the server has told up to the mark is in its
    /// `overheard`. `false`: that is not to be had now, and the server listens on.
    pub(crate) async fn take_over(
        pool: &Rc<Pool>,
        worker: &Rc<Worker>,
        subscription: &Rc<Subscription>,
        server: &mut Server,
        channels: &[Box<str>],
    ) -> Result<bool, AskError> {
        let this = &pool.listening;
        let is_fit = server.parameters.get("client_encoding").is_some_and(|encoding| **encoding == *ENCODING);
        let channels: Vec<_> =
            channels.iter().filter(|channel| !channel.starts_with(MARK)).cloned().collect();
        if !is_fit || this.is_unfit.get() || channels.is_empty() {
            return Ok(false);
        }
        // The last mark goes before the next one: what stands between them would be nobody's.
        if tokio::time::timeout(PATIENCE, subscription.settled()).await.is_err() {
            return Ok(false);
        }
        let known = subscription.heard();
        let added = this.add(subscription, &channels);
        Listening::start(pool, worker);
        let is_heard = tokio::time::timeout(PATIENCE, this.until_heard(&channels)).await.is_ok();
        // The mark is written like any other notification, which only the primary takes.
        let may_write = worker.routing.may_send(&server.backend, Access::ReadWrite, worker.tick());
        let outcome = if is_heard && may_write {
            let mark_channel = Listening::mark_channel(worker);
            let mark = this.mark(&mark_channel, subscription, server, &known);
            tokio::time::timeout(MARK_PATIENCE, mark).await.unwrap_or_else(|_| {
                Err(AskError::Lost(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it does not take a notification",
                )))
            })
        } else {
            Ok(false)
        };
        if !matches!(outcome, Ok(true)) {
            // Or else both would hear them.
            subscription.await_mark(None);
            subscription.leave(|channel| added.contains(channel));
            this.recount();
        }
        outcome
    }

    /// Has the subscription hear from a mark on, and the server up to it. `false`: it is not to be, and nothing has changed.
    async fn mark(
        &self,
        mark_channel: &str,
        subscription: &Rc<Subscription>,
        server: &mut Server,
        known: &Channels,
    ) -> Result<bool, AskError> {
        let (mark, generation) = (NEXT_MARK.fetch_add(1, Ordering::Relaxed), self.generation());
        subscription.await_mark(Some(mark));
        self.by_mark.borrow_mut().insert(mark, Rc::downgrade(subscription));
        let quoted = quoted_identifier(mark_channel);
        // It promises nothing to anybody, so no disk and no standby is waited for.
        let text = format!("SET LOCAL synchronous_commit = off; LISTEN {quoted}; NOTIFY {quoted}, '{mark}'");
        match server.ask(&text).await {
            Ok(_) => {}
            Err(AskError::Refused(sqlstate, message)) => {
                debug!(sqlstate, message, "nobody listens in place of a session");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        until_marked(server, mark_channel, mark).await?;
        let told = std::mem::take(&mut server.overheard);
        let is_done = self.generation() == generation;
        let text = if is_done { "UNLISTEN *".to_owned() } else { format!("UNLISTEN {quoted}") };
        server.ask(&text).await?;
        // What it has heard behind the mark comes from the other one; if there is another connection now it has to be told here.
        let behind = if is_done { Vec::new() } else { std::mem::take(&mut server.overheard) };
        server.overheard = without(&told, |channel| known.contains(channel));
        server.overheard.extend(behind);
        Ok(is_done)
    }

    /// Answers which of them it has not listened to before.
    fn add(&self, subscription: &Rc<Subscription>, channels: &[Box<str>]) -> Channels {
        let added = subscription.add(channels);
        let mut by_channel = self.by_channel.borrow_mut();
        for channel in &added {
            by_channel.entry(channel.clone()).or_default().push(Rc::downgrade(subscription));
        }
        self.wanted.notify_one();
        added
    }

    fn start(pool: &Rc<Pool>, worker: &Rc<Worker>) {
        if !pool.listening.is_running.replace(true) {
            let (pool, worker) = (Rc::clone(pool), Rc::clone(worker));
            tokio::task::spawn_local(async move { connection::run(&pool, &worker).await });
        }
    }

    /// The task is woken when there is a connection.
    pub(crate) fn wake_when_there(pool: &Rc<Pool>, worker: &Rc<Worker>, waker: &Waker) {
        if pool.listening.is_unfit.get() {
            return;
        }
        let mut waiting = pool.listening.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        drop(waiting);
        Listening::start(pool, worker);
    }

    /// Until the connection listens to all of them.
    async fn until_heard(&self, channels: &[Box<str>]) {
        loop {
            let news = self.news.notified();
            if channels.iter().all(|channel| self.heard.borrow().contains(channel)) {
                return;
            }
            news.await;
        }
    }

    /// Somebody has left.
    pub(crate) fn recount(&self) {
        self.wanted.notify_one();
    }

    /// Ends the connection if it is one of these; another is made while somebody listens.
    pub(crate) fn end_if(&self, is_ended: impl Fn(&Backend) -> bool, why: &'static str) {
        match self.backend.borrow().as_ref() {
            Some(backend) if is_ended(backend) => backend.end(why),
            Some(_) => {}
            None => self.abandon.notify_waiters(),
        }
    }

    fn is_needed(&self) -> bool {
        !self.waiting.borrow().is_empty() || !self.channels().is_empty()
    }

    /// What somebody listens to. Takes out who has gone.
    fn channels(&self) -> Channels {
        let mut by_channel = self.by_channel.borrow_mut();
        by_channel.retain(|channel, those| {
            those.retain(|one| one.upgrade().is_some_and(|one| one.wants(channel)));
            !those.is_empty()
        });
        self.by_mark.borrow_mut().retain(|mark, one| one.upgrade().is_some_and(|one| one.awaits(*mark)));
        by_channel.keys().cloned().collect()
    }

    fn deliver(&self, mark_channel: &str, message: &[u8]) {
        let Some((channel, payload)) = notification(&message[5..]) else { return };
        if channel == mark_channel {
            let mark = payload.parse().ok().and_then(|mark| self.by_mark.borrow_mut().remove(&mark));
            if let Some(one) = mark.and_then(|one| one.upgrade()) {
                one.hear_all();
            }
            return;
        }
        for one in self.by_channel.borrow().get(channel).into_iter().flatten() {
            one.upgrade().inspect(|one| one.hear(channel, message));
        }
    }
}

/// Waits for the mark, which stands in what the server has told or is still to come, and takes it out.
async fn until_marked(server: &mut Server, mark_channel: &str, mark: u64) -> Result<(), AskError> {
    loop {
        let told = std::mem::take(&mut server.overheard);
        let is_mark = |message: &[u8]| {
            notification(&message[5..])
                .is_some_and(|(channel, payload)| channel == mark_channel && payload.parse() == Ok(mark))
        };
        let mut before = 0;
        for message in messages(&told) {
            if is_mark(message) {
                // Marks of others are no business of the client's.
                server.overheard = without(&told[..before], |channel| channel.starts_with(MARK));
                return Ok(());
            }
            before += message.len();
        }
        server.overheard = told;
        let (kind, body) = server.next_message().await?;
        match kind {
            b'A' => frame::push(&mut server.overheard, kind, |out| out.extend_from_slice(&body)),
            b'S' => server.note_parameter(&body),
            b'N' => {}
            _ => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
        }
    }
}
