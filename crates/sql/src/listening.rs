//! `LISTEN` without a server of one's own: one connection of a pool hears for all sessions that listen.
//!
//! A session that has said `LISTEN` hands its channels over when its transaction has ended, and gets the notifications from
//! here while it holds no server or one at rest, as PostgreSQL tells a session between two transactions. No notification is lost
//! or doubled by that: PostgreSQL gives all that listen the same notifications in the same order, so the session sends one of its
//! own, the mark. What its server hears before the mark it tells itself; what this connection hears behind it comes from here. Only
//! when a session that listens already comes to listen to another channel as well, what is notified on both in that moment may
//! change places.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use mainstay_pgwire::frame::{self, string};
use tokio::sync::Notify;
use tracing::debug;

use crate::pool::{Access, Pool};
use crate::server::{AskError, Backend, Server};
use crate::session_settings::quoted_identifier;
use crate::worker::Worker;

type Channels = BTreeSet<Box<str>>;

/// How long the connection stays when nobody listens any more.
const LINGER: Duration = Duration::from_secs(10);
/// For the connection to listen; a session that has waited in vain keeps its server.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a failed login.
const RETRY: Duration = Duration::from_millis(500);
/// A client that does not read is not kept more for.
const MOST_UNREAD_BYTES: usize = 16 << 20;

/// No two marks of a process are the same: its pools hear each other's.
static NEXT_MARK: AtomicU64 = AtomicU64::new(1);

/// Those of one pool that listen, and the connection that hears for them.
#[derive(Default)]
pub(crate) struct Listening {
    subscriptions: RefCell<Vec<Weak<Subscription>>>,
    /// The connection, while there is one.
    backend: RefCell<Option<Rc<Backend>>>,
    /// What it listens to.
    heard: RefCell<Channels>,
    /// Somebody wants to hear something else than before.
    wanted: Notify,
    /// `heard` has changed.
    news: Notify,
    is_running: Cell<bool>,
}

/// One session's part in it.
#[derive(Default)]
pub(crate) struct Subscription {
    /// Each with whether the mark has been heard since.
    channels: RefCell<BTreeMap<Box<str>, bool>>,
    awaited: Cell<Option<u64>>,
    /// Whole messages, for the client.
    unread: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
}

impl Subscription {
    /// What the client is to be told.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.unread.borrow_mut())
    }

    /// The task is woken when more comes.
    pub(crate) fn wake_later(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// More has come than is kept for a client that does not read, and the rest is lost.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.unread.borrow().len() > MOST_UNREAD_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.channels.borrow().is_empty()
    }

    /// Hears nothing of these any more, also of what has come and is unread.
    pub(crate) fn leave(&self, is_left: impl Fn(&str) -> bool) {
        self.channels.borrow_mut().retain(|channel, _| !is_left(channel));
        let mut unread = self.unread.borrow_mut();
        let mut kept = Vec::new();
        for message in messages(&unread) {
            if notification(&message[5..]).is_some_and(|(channel, _)| !is_left(channel)) {
                kept.extend_from_slice(message);
            }
        }
        *unread = kept;
    }

    fn tell(&self, message: &[u8]) {
        if !self.has_overflowed() {
            self.unread.borrow_mut().extend_from_slice(message);
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn hear(&self, channel: &str, message: &[u8]) {
        if self.channels.borrow().get(channel) == Some(&true) {
            self.tell(message);
        }
    }

    fn hear_mark(&self, mark: u64) {
        if self.awaited.get() == Some(mark) {
            self.hear_all();
        }
    }

    fn hear_all(&self) {
        if self.awaited.take().is_some() {
            self.channels.borrow_mut().values_mut().for_each(|is_on| *is_on = true);
        }
    }
}

impl Listening {
    /// The channel on which the marks come: of this process alone.
    fn mark_channel(worker: &Worker) -> String {
        let secret: String = worker.shared.secret[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("mainstay_mark_{secret}")
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
        this.add(pool, worker, subscription, channels);
        let is_heard = tokio::time::timeout(PATIENCE, this.until_heard(channels)).await.is_ok();
        // The mark is written like any other notification, which only the primary takes.
        let may_write = worker.routing.may_send(&server.backend, Access::ReadWrite, worker.tick());
        let outcome = if is_heard && may_write {
            mark(&Listening::mark_channel(worker), subscription, server).await
        } else {
            Ok(false)
        };
        if !matches!(outcome, Ok(true)) {
            // Or else both would hear them.
            subscription.awaited.set(None);
            subscription.leave(|channel| channels.iter().any(|left| **left == *channel));
            this.recount();
        }
        outcome
    }

    fn add(
        &self,
        pool: &Rc<Pool>,
        worker: &Rc<Worker>,
        subscription: &Rc<Subscription>,
        channels: &[Box<str>],
    ) {
        let mut of_session = subscription.channels.borrow_mut();
        for channel in channels {
            of_session.entry(channel.clone()).or_insert(false);
        }
        drop(of_session);
        let mut known = self.subscriptions.borrow_mut();
        known.retain(|known| known.strong_count() > 0);
        if !known.iter().any(|known| std::ptr::eq(known.as_ptr(), Rc::as_ptr(subscription))) {
            known.push(Rc::downgrade(subscription));
        }
        drop(known);
        self.wanted.notify_one();
        if !self.is_running.replace(true) {
            let (pool, worker) = (Rc::clone(pool), Rc::clone(worker));
            tokio::task::spawn_local(async move { run(&pool, &worker).await });
        }
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
        if let Some(backend) = self.backend.borrow().as_ref().filter(|backend| is_ended(backend)) {
            backend.end(why);
        }
    }

    fn live(&self) -> Vec<Rc<Subscription>> {
        self.subscriptions.borrow().iter().filter_map(Weak::upgrade).filter(|one| !one.is_empty()).collect()
    }

    /// What somebody listens to.
    fn channels(&self) -> Channels {
        self.live().iter().flat_map(|one| one.channels.borrow().keys().cloned().collect::<Vec<_>>()).collect()
    }

    fn deliver(&self, mark_channel: &str, message: &[u8]) {
        let Some((channel, payload)) = notification(&message[5..]) else { return };
        if channel == mark_channel {
            if let Ok(mark) = payload.parse() {
                self.live().iter().for_each(|one| one.hear_mark(mark));
            }
        } else {
            self.live().iter().for_each(|one| one.hear(channel, message));
        }
    }
}

/// Hears for the pool, as long as somebody listens.
async fn run(pool: &Rc<Pool>, worker: &Rc<Worker>) {
    let this = &pool.listening;
    loop {
        if this.live().is_empty() {
            // A client that comes back soon needs no new connection.
            let _ = tokio::time::timeout(LINGER, this.wanted.notified()).await;
            if this.live().is_empty() {
                break;
            }
        }
        match pool.connect_to_listen(worker).await {
            Ok(mut server) => {
                *this.backend.borrow_mut() = Some(Rc::clone(&server.backend));
                let outcome = hear(this, worker, &mut server).await;
                this.backend.take();
                this.heard.borrow_mut().clear();
                match outcome {
                    Ok(()) => {}
                    Err(error) => {
                        debug!(?error, database = %pool.key.database, "who listens for clients has lost its server")
                    }
                }
            }
            Err(why) => {
                debug!(why, database = %pool.key.database, "nobody can listen for clients");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    this.is_running.set(false);
}

async fn hear(this: &Listening, worker: &Worker, server: &mut Server) -> Result<(), AskError> {
    let mark_channel = Listening::mark_channel(worker);
    server.ask(&format!("LISTEN {}", quoted_identifier(&mark_channel))).await?;
    // A mark that was on its way when the last connection ended does not come any more.
    this.live().iter().for_each(|one| one.hear_all());
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let wanted = this.channels();
        if wanted.is_empty() {
            if tokio::time::timeout(LINGER, this.wanted.notified()).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let change = change(&this.heard.borrow(), &wanted);
        if !change.is_empty() {
            // What is left is not heard from now on, also for those who come to it meanwhile.
            this.heard.borrow_mut().retain(|channel| wanted.contains(channel));
            server.ask(&change).await?;
            *this.heard.borrow_mut() = wanted;
            this.news.notify_waiters();
        }
        let overheard = std::mem::take(&mut server.overheard);
        messages(&overheard).for_each(|message| this.deliver(&mark_channel, message));
        take_in(this, &mark_channel, server)?;
        tokio::select! {
            () = this.wanted.notified() => {}
            read = std::future::poll_fn(|context| server.connection.poll_read(context, &mut buffer)) => match read? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => server.connection.rest.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// Acts upon what the server has said unasked, as far as it is there as a whole.
fn take_in(this: &Listening, mark_channel: &str, server: &mut Server) -> Result<(), AskError> {
    let rest = std::mem::take(&mut server.connection.rest);
    let mut at = 0;
    for message in messages(&rest) {
        at += message.len();
        match message[0] {
            b'A' => this.deliver(mark_channel, message),
            b'S' | b'N' => {}
            _ => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
        }
    }
    server.connection.rest = rest[at..].to_vec();
    Ok(())
}

/// The statements by which one who listens to `from` listens to `to`; empty if they are the same.
fn change(from: &Channels, to: &Channels) -> String {
    let gone = from.difference(to).map(|channel| format!("UNLISTEN {};", quoted_identifier(channel)));
    let new = to.difference(from).map(|channel| format!("LISTEN {};", quoted_identifier(channel)));
    gone.chain(new).collect()
}

/// Has the subscription hear from a mark on, and the server up to it. `false`: PostgreSQL does not want it, and nothing has changed.
async fn mark(
    mark_channel: &str,
    subscription: &Subscription,
    server: &mut Server,
) -> Result<bool, AskError> {
    let mark = NEXT_MARK.fetch_add(1, Ordering::Relaxed);
    subscription.awaited.set(Some(mark));
    let quoted = quoted_identifier(mark_channel);
    match server.ask(&format!("LISTEN {quoted}; NOTIFY {quoted}, '{mark}'")).await {
        Ok(_) => {}
        Err(AskError::Refused(sqlstate, message)) => {
            debug!(sqlstate, message, "nobody listens in place of a session");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    until_marked(server, mark_channel, mark).await?;
    let told = std::mem::take(&mut server.overheard);
    server.ask("UNLISTEN *").await?;
    // What it has heard behind the mark comes from the other one.
    server.overheard = told;
    Ok(true)
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
                server.overheard = told[..before].to_vec();
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

/// The whole messages at the beginning.
fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = frame::header(rest).ok().flatten()?;
        let message = rest.get(..header.total)?;
        rest = &rest[header.total..];
        Some(message)
    })
}

/// Channel and payload of a `NotificationResponse`.
fn notification(body: &[u8]) -> Option<(&str, &str)> {
    let (channel, rest) = string(body.get(4..)?)?;
    let (payload, _) = string(rest)?;
    Some((std::str::from_utf8(channel).ok()?, std::str::from_utf8(payload).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(channel: &str) -> Vec<u8> {
        let mut out = Vec::new();
        frame::push(&mut out, b'A', |out| {
            out.extend_from_slice(&7_i32.to_be_bytes());
            frame::push_string(out, channel);
            frame::push_string(out, "x");
        });
        out
    }

    #[test]
    fn a_session_hears_its_channels_from_the_mark_on() {
        let subscription = Subscription::default();
        subscription.channels.borrow_mut().insert("a".into(), false);
        subscription.awaited.set(Some(3));
        subscription.hear("a", &message("a"));
        subscription.hear_mark(2);
        subscription.hear("a", &message("a"));
        assert!(subscription.take().is_empty());
        subscription.hear_mark(3);
        subscription.hear("a", &message("a"));
        subscription.hear("b", &message("b"));
        assert_eq!(subscription.take(), message("a"));
    }

    #[test]
    fn what_is_left_is_not_told_any_more() {
        let subscription = Subscription::default();
        for channel in ["a", "b"] {
            subscription.channels.borrow_mut().insert(channel.into(), true);
            subscription.hear(channel, &message(channel));
        }
        subscription.leave(|channel| channel == "a");
        subscription.hear("a", &message("a"));
        assert_eq!(subscription.take(), message("b"));
        subscription.leave(|_| true);
        assert!(subscription.is_empty());
    }

    #[test]
    fn only_what_is_different_is_said() {
        let channels = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect::<Channels>();
        assert_eq!(
            change(&channels(&["a", "b"]), &channels(&["b", "c\"d"])),
            "UNLISTEN \"a\";LISTEN \"c\"\"d\";"
        );
        assert_eq!(change(&channels(&["a"]), &channels(&["a"])), "");
    }
}
