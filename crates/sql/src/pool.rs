//! Server connections of one user to one database, and the clients that wait for one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Context;

use mainstay_net::routes::Route;
use mainstay_pgwire::backend::Report;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::counters::Counters;
use crate::dial::{DialError, Login, dial};
use crate::refusal;
use crate::server::{Backend, Server};
use crate::session_settings::SessionSettings;
use crate::worker::Worker;

/// Whether statements must reach the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PoolKey {
    pub(crate) database: Rc<str>,
    pub(crate) user: Rc<str>,
    pub(crate) access: Access,
}

/// More logins than this are not under way at once: a herd after a failover would only wait for each other's forks.
const LOGINS_AT_ONCE: usize = 8;

pub(crate) struct Pool {
    pub(crate) key: PoolKey,
    /// The most lately used last; it is given away first, its caches are warm.
    #[expect(clippy::vec_box, reason = "a server goes from hand to hand, and is large")]
    idle: RefCell<Vec<Box<Server>>>,
    /// All connections, also those that somebody holds.
    live: RefCell<Vec<Rc<Backend>>>,
    waiting: RefCell<VecDeque<Waiter>>,
    dialling: Cell<usize>,
    /// Counts changes of the route: logins that were begun before one are not waited for.
    generation: Cell<u64>,
    /// Not before this another login is tried: the last one failed.
    retry_at: Cell<Option<Instant>>,
    /// Why there is none, for those who wait too long.
    trouble: RefCell<String>,
    /// Counts changes of tables under prepared statements.
    pub(crate) plans: Cell<u64>,
    pub(crate) counters: Counters,
}

struct Waiter {
    since: Instant,
    give: oneshot::Sender<Result<Box<Server>, Report>>,
}

impl Pool {
    pub(crate) fn new(key: PoolKey) -> Pool {
        Pool {
            key,
            idle: RefCell::default(),
            live: RefCell::default(),
            waiting: RefCell::default(),
            dialling: Cell::new(0),
            generation: Cell::new(0),
            retry_at: Cell::new(None),
            trouble: RefCell::default(),
            plans: Cell::new(0),
            counters: Counters::default(),
        }
    }

    /// A connection that is idle and good now. The hot path: nothing is waited for.
    #[inline]
    pub(crate) fn idle_now(
        &self,
        worker: &Worker,
        wanted: &SessionSettings,
        context: &mut Context<'_>,
    ) -> Option<Box<Server>> {
        if !self.waiting.borrow().is_empty() || !worker.routing.is_usable(self.key.access) {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        loop {
            // One that has the same settings already, or else the warmest.
            let same = idle.iter().rposition(|server| server.current == *wanted);
            let at = same.or(idle.len().checked_sub(1))?;
            let mut server = idle.remove(at);
            if worker.routing.is_current(&server.backend, self.key.access) && server.is_alive(context) {
                return Some(server);
            }
            self.forget(&server.backend);
        }
    }

    /// Stands in line for a connection.
    pub(crate) fn wait(
        self: &Rc<Pool>,
        worker: &Rc<Worker>,
    ) -> oneshot::Receiver<Result<Box<Server>, Report>> {
        let (give, given) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiter { since: Instant::now(), give });
        self.pump(worker);
        given
    }

    /// Leaves the line. A server may have been given at the moment at which the client went.
    pub(crate) fn leave(
        self: &Rc<Pool>,
        worker: &Rc<Worker>,
        mut given: oneshot::Receiver<Result<Box<Server>, Report>>,
    ) {
        given.close();
        if let Ok(Ok(server)) = given.try_recv() {
            self.release(worker, server);
        }
    }

    /// Takes a connection back that is at rest, or hands it to the one who waits longest.
    #[inline]
    pub(crate) fn release(self: &Rc<Pool>, worker: &Rc<Worker>, server: Box<Server>) {
        let now = Instant::now();
        let too_old = now.duration_since(server.opened) > worker.settings.server_lifetime
            && !worker.settings.server_lifetime.is_zero();
        if too_old || !server.is_at_rest() || !worker.routing.is_current(&server.backend, self.key.access) {
            self.drop_server(worker, server);
            return;
        }
        server.released.set(now);
        self.idle.borrow_mut().push(server);
        if !self.waiting.borrow().is_empty() {
            self.pump(worker);
        }
    }

    /// Closes a connection and lets another take its place.
    pub(crate) fn drop_server(self: &Rc<Pool>, worker: &Rc<Worker>, server: Box<Server>) {
        self.forget(&server.backend);
        drop(server);
        self.pump(worker);
    }

    fn forget(&self, backend: &Rc<Backend>) {
        self.live.borrow_mut().retain(|live| !Rc::ptr_eq(live, backend));
    }

    /// Gives what is idle to those who wait, and opens what they need beyond that.
    pub(crate) fn pump(self: &Rc<Pool>, worker: &Rc<Worker>) {
        self.waiting.borrow_mut().retain(|waiter| !waiter.give.is_closed());
        if !worker.routing.is_usable(self.key.access) || worker.halts.is_paused(&self.key) {
            return;
        }
        let mut context = Context::from_waker(std::task::Waker::noop());
        while !self.waiting.borrow().is_empty() {
            let Some(mut server) = self.idle.borrow_mut().pop() else { break };
            if !worker.routing.is_current(&server.backend, self.key.access) || !server.is_alive(&mut context)
            {
                self.forget(&server.backend);
                continue;
            }
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else { break };
            let waited = waiter.since.elapsed();
            self.counters.waited(waited);
            if let Err(Ok(server)) = waiter.give.send(Ok(server)) {
                self.idle.borrow_mut().push(server);
            }
        }
        if self.retry_at.get().is_some_and(|at| at > Instant::now()) {
            return;
        }
        let room = || worker.pool_size().saturating_sub(self.live.borrow().len() + self.dialling.get());
        let wanted = |pool: &Pool| pool.waiting.borrow().len() > pool.dialling.get();
        while wanted(self) && room() > 0 && self.dialling.get() < LOGINS_AT_ONCE {
            let Some(route) = worker.routing.choose(self.key.access, &self.live.borrow()) else { break };
            self.dialling.set(self.dialling.get() + 1);
            // Begun without any client's settings: RESET would make those the next client's.
            let login = self.login(worker, SessionSettings::default(), None);
            let (pool, worker) = (Rc::clone(self), Rc::clone(worker));
            tokio::task::spawn_local(async move { pool.open(&worker, route, login).await });
        }
    }

    fn login(&self, worker: &Worker, base: SessionSettings, replication: Option<Box<str>>) -> Login {
        Login {
            user: Rc::clone(&self.key.user),
            database: Rc::clone(&self.key.database),
            credentials: worker.credentials(&self.key.user),
            base,
            replication,
        }
    }

    async fn open(self: Rc<Pool>, worker: &Rc<Worker>, route: Route, login: Login) {
        let (epoch, generation) = (worker.routing.epoch(), self.generation.get());
        let outcome = dial(&route, epoch, &login, worker.server_tls.as_ref()).await;
        if generation == self.generation.get() {
            self.dialling.set(self.dialling.get() - 1);
        } else if outcome.is_err() {
            return;
        }
        match outcome {
            Ok(server) => {
                self.retry_at.set(None);
                self.live.borrow_mut().push(Rc::clone(&server.backend));
                if worker.halts.is_paused(&self.key) {
                    server.backend.retire();
                }
                self.release(worker, Box::new(server));
            }
            Err(DialError::Refused(report)) => {
                debug!(user = %self.key.user, database = %self.key.database, message = report.message, "login refused");
                // Everybody of the pool would be told the same.
                for waiter in self.waiting.borrow_mut().drain(..) {
                    let _ = waiter.give.send(Err(report.clone()));
                }
            }
            Err(DialError::Unreachable(why)) => {
                if *self.trouble.borrow() != why {
                    warn!(user = %self.key.user, database = %self.key.database, member = route.member, why, "no server connection");
                }
                *self.trouble.borrow_mut() = why;
                self.retry_at.set(Some(Instant::now() + RETRY_INTERVAL));
            }
        }
        self.pump(worker);
    }

    /// A connection of its own, outside of the pool's count: for a walsender.
    pub(crate) async fn dedicated(
        self: &Rc<Pool>,
        worker: &Rc<Worker>,
        base: SessionSettings,
        replication: Box<str>,
    ) -> Result<Box<Server>, Report> {
        let route = worker.routing.choose(self.key.access, &[]);
        let route = route.ok_or_else(|| refusal::no_primary(0, &worker.routing.reason()))?;
        let login = self.login(worker, base, Some(replication));
        match dial(&route, worker.routing.epoch(), &login, worker.server_tls.as_ref()).await {
            Ok(server) => Ok(Box::new(server)),
            Err(DialError::Refused(report)) => Err(report),
            Err(DialError::Unreachable(why)) => Err(refusal::no_primary(0, &why)),
        }
    }

    /// What must be looked at now and then: who waits too long, what is idle too long, what is to be tried again.
    pub(crate) fn sweep(self: &Rc<Pool>, worker: &Rc<Worker>, now: Instant) {
        let patience = worker.settings.query_wait_timeout;
        if !patience.is_zero() {
            let size = worker.pool_size();
            let mut waiting = self.waiting.borrow_mut();
            while let Some(waiter) =
                waiting.pop_front_if(|waiter| now.duration_since(waiter.since) >= patience)
            {
                let waited_ms = now.duration_since(waiter.since).as_millis();
                let is_full = worker.routing.is_usable(self.key.access) && self.live.borrow().len() >= size;
                let report = if worker.halts.is_paused(&self.key) {
                    refusal::paused(waited_ms, &self.key.database)
                } else if is_full {
                    refusal::pool_is_full(waited_ms, size)
                } else {
                    let reason = worker.routing.reason();
                    let why = if reason.is_empty() { self.trouble.borrow().clone() } else { reason };
                    refusal::no_primary(waited_ms, &why)
                };
                let _ = waiter.give.send(Err(report));
            }
        }
        let limit = worker.settings.server_idle_timeout;
        let mut ended = Vec::new();
        if !limit.is_zero() {
            let mut idle = self.idle.borrow_mut();
            let mut at = 0;
            while at < idle.len() {
                if now.duration_since(idle[at].released.get()) > limit {
                    ended.push(idle.remove(at));
                } else {
                    at += 1;
                }
            }
        }
        ended.iter().for_each(|server| self.forget(&server.backend));
        if !self.waiting.borrow().is_empty() {
            self.pump(worker);
        }
    }

    /// Ends what belongs to another route than the present one.
    pub(crate) fn route_changed(self: &Rc<Pool>, worker: &Rc<Worker>) {
        let is_current = |backend: &Backend| worker.routing.is_current(backend, self.key.access);
        let old: Vec<Box<Server>> =
            self.idle.borrow_mut().extract_if(.., |server| !is_current(&server.backend)).collect();
        old.iter().for_each(|server| self.forget(&server.backend));
        for backend in self.live.borrow().iter().filter(|backend| !is_current(backend)) {
            backend.end("the primary has changed");
        }
        self.retry_at.set(None);
        // A primary whose machine is gone does not even refuse; its successor is not to be waited for until that is noticed.
        self.generation.set(self.generation.get() + 1);
        self.dialling.set(0);
        self.pump(worker);
    }

    /// Every connection is opened anew, those that somebody holds when they come back.
    pub(crate) fn reconnect(self: &Rc<Pool>, worker: &Rc<Worker>) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.iter().for_each(|server| self.forget(&server.backend));
        self.live.borrow().iter().for_each(|backend| backend.retire());
        drop(idle);
        self.pump(worker);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(crate) fn dialling(&self) -> usize {
        self.dialling.get()
    }

    /// The servers that nobody holds, and since when.
    pub(crate) fn idle_since(&self) -> Vec<(Rc<Backend>, Instant)> {
        let idle = self.idle.borrow();
        idle.iter().map(|server| (Rc::clone(&server.backend), server.released.get())).collect()
    }

    /// Since when the first in line waits.
    pub(crate) fn longest_wait(&self, now: Instant) -> std::time::Duration {
        self.waiting.borrow().front().map(|waiter| now.duration_since(waiter.since)).unwrap_or_default()
    }

    pub(crate) fn backends(&self) -> Vec<Rc<Backend>> {
        self.live.borrow().clone()
    }
}

/// Between two logins that fail.
const RETRY_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);
