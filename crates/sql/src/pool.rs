//! Server connections of one user to one database, and the clients that wait for one.

mod open;
mod share;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use mainstay_pgwire::backend::Report;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::counters::{Counters, Totals};
use crate::listening::Listening;
use crate::quota::{Permit, Quota, Scope};
use crate::refusal;
use crate::server::{Backend, Server};
use crate::session_settings::SessionSettings;
use crate::settings::PoolSettings;
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

pub(crate) struct Pool {
    pub(crate) key: PoolKey,
    /// The most lately used last; it is given away first, its caches are warm.
    #[expect(clippy::vec_box, reason = "a server goes from hand to hand, and is large")]
    idle: RefCell<Vec<Box<Server>>>,
    /// All connections, also those that somebody holds.
    live: RefCell<Vec<Rc<Backend>>>,
    /// Those that are one client's alone, for as long as it is there: outside of every count.
    apart: RefCell<Vec<Rc<Backend>>>,
    waiting: RefCell<VecDeque<Waiter>>,
    /// The logins that are under way.
    dialling: RefCell<HashMap<u64, Permit>>,
    next_dial: Cell<u64>,
    /// Room that another thread has made for this one.
    granted: RefCell<Vec<Permit>>,
    /// The thread that is to have the next connection that is released.
    owed_to: Cell<Option<usize>>,
    /// When the others were asked last to make room.
    asked: Cell<Option<Instant>>,
    /// Whose limit leaves no room for another connection, if one does.
    full: RefCell<Option<Scope>>,
    pub(crate) settings: Cell<PoolSettings>,
    pub(crate) quota: Quota,
    /// Not before this another login is tried: the last one failed.
    retry_at: Cell<Option<Instant>>,
    /// Why there is none, for those who wait too long.
    trouble: RefCell<String>,
    /// Counts changes of tables under prepared statements.
    pub(crate) plans: Cell<u64>,
    pub(crate) counters: Counters,
    pub(crate) listening: Listening,
}

struct Waiter {
    since: Instant,
    give: oneshot::Sender<Result<Box<Server>, Report>>,
}

impl Pool {
    pub(crate) fn new(key: PoolKey, settings: PoolSettings, quota: Quota) -> Pool {
        Pool {
            key,
            settings: Cell::new(settings),
            quota,
            idle: RefCell::default(),
            live: RefCell::default(),
            apart: RefCell::default(),
            waiting: RefCell::default(),
            dialling: RefCell::default(),
            next_dial: Cell::new(0),
            granted: RefCell::default(),
            owed_to: Cell::new(None),
            asked: Cell::new(None),
            full: RefCell::default(),
            retry_at: Cell::new(None),
            trouble: RefCell::default(),
            plans: Cell::new(0),
            counters: Counters::default(),
            listening: Listening::default(),
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
        if !self.waiting.borrow().is_empty() || !worker.routing.is_usable(self.key.access, worker.now()) {
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
        self.waiting.borrow_mut().push_back(Waiter { since: worker.tick(), give });
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
        self.waiting.borrow_mut().retain(|waiter| !waiter.give.is_closed());
        if let Ok(Ok(server)) = given.try_recv() {
            self.release(worker, server);
        }
    }

    /// Takes a connection back that is at rest, or hands it to the one who waits longest.
    #[inline]
    pub(crate) fn release(self: &Rc<Pool>, worker: &Rc<Worker>, server: Box<Server>) {
        if server.backend.is_being_cancelled() {
            // It must not hit the next one's statement.
            let (pool, worker) = (Rc::clone(self), Rc::clone(worker));
            tokio::task::spawn_local(async move {
                server.backend.settled().await;
                pool.release(&worker, server);
            });
            return;
        }
        let now = worker.now();
        let lifetime = self.settings.get().server_lifetime;
        let too_old = now.duration_since(server.opened) > lifetime && !lifetime.is_zero();
        if self.owed_to.get().is_some() && self.pay(worker, &server) {
            return;
        }
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
        drop(backend.permit.take());
        self.live.borrow_mut().retain(|live| !Rc::ptr_eq(live, backend));
        self.apart.borrow_mut().retain(|apart| !Rc::ptr_eq(apart, backend));
    }

    /// Gives what is idle to those who wait, and opens what they need beyond that.
    pub(crate) fn pump(self: &Rc<Pool>, worker: &Rc<Worker>) {
        if self.waiting.borrow().is_empty()
            || !worker.routing.is_usable(self.key.access, worker.tick())
            || worker.halts.is_paused(&self.key)
        {
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
            self.counters.waited(worker.now().duration_since(waiter.since));
            if let Err(Ok(server)) = waiter.give.send(Ok(server)) {
                self.idle.borrow_mut().push(server);
            }
        }
        self.open_more(worker);
    }

    /// What must be looked at now and then: who waits too long, what is idle too long, what is to be tried again.
    pub(crate) fn sweep(self: &Rc<Pool>, worker: &Rc<Worker>, now: Instant) {
        // A login that was given up has taken its server with it.
        self.live.borrow_mut().retain(|live| Rc::strong_count(live) > 1);
        self.apart.borrow_mut().retain(|apart| Rc::strong_count(apart) > 1);
        let settings = worker.settings();
        let patience = settings.query_wait_timeout;
        if !patience.is_zero() {
            let mut waiting = self.waiting.borrow_mut();
            while let Some(waiter) =
                waiting.pop_front_if(|waiter| now.duration_since(waiter.since) >= patience)
            {
                let waited_ms = now.duration_since(waiter.since).as_millis();
                let _ = waiter.give.send(Err(self.why_none(worker, waited_ms)));
            }
        }
        self.close_stale(now, settings.server_idle_timeout);
        self.shrink();
        if self.waiting.borrow().is_empty() {
            self.owed_to.set(None);
            self.granted.borrow_mut().clear();
            self.keep_least(worker);
        } else {
            self.pump(worker);
        }
    }

    /// Lets go of what there is beyond the size, which may have become less: what is idle now, the rest when it is released.
    fn shrink(&self) {
        let settings = self.settings.get();
        let most = (settings.pool_size + settings.reserve_pool_size) as usize;
        let mut beyond = self.quota.servers().saturating_sub(most);
        while beyond > 0 && !self.idle.borrow().is_empty() {
            let server = self.idle.borrow_mut().remove(0);
            self.forget(&server.backend);
            beyond -= 1;
        }
        self.live.borrow().iter().take(beyond).for_each(|backend| backend.retire());
    }

    /// What is told who has waited for too long.
    fn why_none(&self, worker: &Worker, waited_ms: u128) -> Report {
        if worker.halts.is_paused(&self.key) {
            return refusal::paused(waited_ms, &self.key.database);
        }
        let full = self.full.borrow();
        if let Some(scope) =
            full.as_ref().filter(|_| worker.routing.is_usable(self.key.access, worker.tick()))
        {
            return refusal::pool_is_full(waited_ms, scope.setting());
        }
        let reason = worker.routing.reason();
        let why = if reason.is_empty() { self.trouble.borrow().clone() } else { reason };
        refusal::no_primary(waited_ms, &why)
    }

    /// Closes what has been idle for longer than `limit`, but for as many as are to be kept, and one that is too old: if all of
    /// them were opened together they are not closed together as well.
    fn close_stale(&self, now: Instant, limit: Duration) {
        let is_over = |since: Instant, limit: Duration| !limit.is_zero() && now.duration_since(since) > limit;
        let lifetime = self.settings.get().server_lifetime;
        let mut spare = self.quota.servers().saturating_sub(self.least());
        let mut idle = self.idle.borrow_mut();
        let old = idle.iter().position(|server| is_over(server.opened, lifetime));
        let mut stale: Vec<_> = old.map(|at| idle.remove(at)).into_iter().collect();
        spare = spare.saturating_sub(stale.len());
        stale.extend(idle.extract_if(.., |server| {
            let is_unused = spare > 0 && is_over(server.released.get(), limit);
            spare -= usize::from(is_unused);
            is_unused
        }));
        drop(idle);
        stale.iter().for_each(|server| self.forget(&server.backend));
    }

    /// Ends what belongs to another route than the present one.
    pub(crate) fn route_changed(self: &Rc<Pool>, worker: &Rc<Worker>) {
        let is_current = |backend: &Backend| worker.routing.is_current(backend, self.key.access);
        let old: Vec<Box<Server>> =
            self.idle.borrow_mut().extract_if(.., |server| !is_current(&server.backend)).collect();
        old.iter().for_each(|server| self.forget(&server.backend));
        self.end_if(|backend| !is_current(backend), "the primary has changed");
        self.listening.end_if(|backend| !is_current(backend), "the primary has changed");
        self.retry_at.set(None);
        // A primary whose machine is gone does not even refuse; its successor is not to be waited for until that is noticed.
        self.dialling.borrow_mut().clear();
        self.pump(worker);
    }

    /// Ends the connections by which something could be written.
    pub(crate) fn end_writers(&self, why: &'static str) {
        self.end_if(|backend| !backend.reads_only, why);
        self.listening.end_if(|backend| !backend.reads_only, why);
    }

    /// Ends those of the connections that are so, but for the one that listens.
    pub(crate) fn end_if(&self, is_ended: impl Fn(&Backend) -> bool, why: &'static str) {
        // One that nobody else has is closed already, and its number may be another socket's.
        let is_open = |backend: &&Rc<Backend>| Rc::strong_count(backend) > 1;
        let (live, apart) = (self.live.borrow(), self.apart.borrow());
        let all = live.iter().chain(apart.iter()).filter(is_open);
        all.filter(|backend| is_ended(backend)).for_each(|backend| backend.end(why));
    }

    /// Every connection is opened anew, those that somebody holds when they come back.
    pub(crate) fn reconnect(self: &Rc<Pool>, worker: &Rc<Worker>) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.iter().for_each(|server| self.forget(&server.backend));
        self.live.borrow().iter().for_each(|backend| backend.retire());
        self.listening.end_if(|_| true, "an administrator wants other connections");
        drop(idle);
        self.pump(worker);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(crate) fn dialling(&self) -> usize {
        self.dialling.borrow().len()
    }

    /// The servers that nobody holds, and since when.
    pub(crate) fn idle_since(&self) -> Vec<(Rc<Backend>, Instant)> {
        let idle = self.idle.borrow();
        idle.iter().map(|server| (Rc::clone(&server.backend), server.released.get())).collect()
    }

    /// Since when the first in line waits.
    pub(crate) fn longest_wait(&self, now: Instant) -> Duration {
        self.waiting.borrow().front().map(|waiter| now.duration_since(waiter.since)).unwrap_or_default()
    }

    pub(crate) fn backends(&self) -> Vec<Rc<Backend>> {
        self.live.borrow().clone()
    }

    pub(crate) fn apart(&self) -> Vec<Rc<Backend>> {
        self.apart.borrow().clone()
    }

    /// Whether there is anything that is worth to be kept when nobody is there.
    pub(crate) fn was_used(&self) -> bool {
        let is_empty =
            self.live.borrow().is_empty() && self.apart.borrow().is_empty() && self.dialling() == 0;
        !is_empty || self.counters.totals() != Totals::default()
    }
}
