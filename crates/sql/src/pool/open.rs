//! Opens server connections: as many as are waited for, and as there may be.

use std::rc::Rc;

use mainstay_net::routes::Route;
use mainstay_pgwire::backend::Report;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Access, Pool};
use crate::dial::{DialError, Login, dial};
use crate::quota::{Limits, Permit};
use crate::refusal;
use crate::server::Server;
use crate::session_settings::SessionSettings;
use crate::worker::Worker;

/// More logins than this are not under way at once: a herd after a failover would only wait for each other's forks.
const LOGINS_AT_ONCE: usize = 8;

impl Pool {
    /// Opens what those who wait need beyond what there is.
    pub(super) fn open_more(self: &Rc<Pool>, worker: &Rc<Worker>) {
        let is_wanted = |pool: &Pool| pool.waiting() > pool.dialling();
        while is_wanted(self) && self.may_dial() {
            let granted = self.granted.borrow_mut().pop();
            let permit = match granted.map_or_else(|| self.room(worker), Ok) {
                Ok(permit) => permit,
                Err(()) => return self.ask_for_room(worker),
            };
            if !self.begin(worker, permit) {
                break;
            }
        }
        // What was granted is for those who wait now.
        if self.waiting() == 0 {
            self.granted.borrow_mut().clear();
        }
    }

    fn may_dial(&self) -> bool {
        let failed = self.retry_at.get().is_some_and(|at| at > Instant::now());
        !failed && self.dialling() < LOGINS_AT_ONCE
    }

    fn room(&self, worker: &Worker) -> Result<Permit, ()> {
        let settings = self.settings.get();
        let timeout = worker.settings().reserve_pool_timeout;
        let is_late = !timeout.is_zero() && self.longest_wait(Instant::now()) >= timeout;
        let reserve = if is_late { settings.reserve_pool_size } else { 0 };
        self.room_of(settings.pool_size + reserve)
    }

    fn room_of(&self, pool_size: u32) -> Result<Permit, ()> {
        let settings = self.settings.get();
        let limits: Limits = [pool_size, settings.max_db_connections, settings.max_user_connections]
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let outcome = self.quota.server(limits);
        *self.full.borrow_mut() = outcome.as_ref().err().map(|scope| (*scope).clone());
        outcome.map_err(drop)
    }

    /// How many connections there are to be also while nobody needs them: none before anybody has come.
    pub(super) fn least(&self) -> usize {
        if self.quota.clients() > 0 { self.settings.get().min_pool_size as usize } else { 0 }
    }

    /// Opens one of those that are to be there in any case, if one is missing.
    pub(super) fn keep_least(self: &Rc<Pool>, worker: &Rc<Worker>) {
        let (least, is_paused) = (self.least(), worker.halts.is_paused(&self.key));
        if least > self.quota.servers()
            && !is_paused
            && self.may_dial()
            && worker.routing.is_usable(self.key.access, worker.tick())
            && let Ok(permit) = self.room_of(u32::try_from(least).unwrap_or(u32::MAX))
        {
            self.begin(worker, permit);
        }
    }

    /// Begins a login; false if there is nowhere to go.
    fn begin(self: &Rc<Pool>, worker: &Rc<Worker>, permit: Permit) -> bool {
        let Some(route) = worker.routing.choose(self.key.access, &self.live.borrow()) else { return false };
        // Of the route, and not of the moment at which the login begins.
        let epoch = worker.routing.epoch();
        let id = self.next_dial.get();
        self.next_dial.set(id + 1);
        self.dialling.borrow_mut().insert(id, permit);
        // Begun without any client's settings: RESET would make those the next client's.
        let login = self.login(worker, &route, SessionSettings::default(), None);
        let (pool, worker) = (Rc::clone(self), Rc::clone(worker));
        tokio::task::spawn_local(async move { pool.open(&worker, id, (route, epoch), login).await });
        true
    }

    fn login(
        &self,
        worker: &Worker,
        route: &Route,
        base: SessionSettings,
        replication: Option<Box<str>>,
    ) -> Login {
        Login {
            user: Rc::clone(&self.key.user),
            database: Rc::clone(&self.key.database),
            credentials: worker.credentials(&self.key.user),
            base,
            reads_only: worker.routing.is_standby(&route.member),
            for_readers: self.key.access == Access::ReadOnly && replication.is_none(),
            replication,
            patience: worker.settings().server_connect_timeout,
        }
    }

    async fn open(self: Rc<Pool>, worker: &Rc<Worker>, id: u64, (route, epoch): (Route, u64), login: Login) {
        let outcome = dial(&route, epoch, &login, worker.server_tls.as_ref()).await;
        // A change of the route has given up those that were under way; what comes of one may still be of use.
        let permit = self.dialling.borrow_mut().remove(&id);
        let is_given_up = permit.is_none();
        match outcome {
            Ok(server) => {
                if let Some(permit) = permit.or_else(|| self.room(worker).ok()) {
                    self.retry_at.set(None);
                    server.backend.permit.set(Some(permit));
                    self.live.borrow_mut().push(Rc::clone(&server.backend));
                    if worker.halts.is_paused(&self.key) {
                        server.backend.retire();
                    }
                    self.release(worker, Box::new(server));
                }
            }
            Err(_) if is_given_up => return,
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
                self.retry_at.set(Some(Instant::now() + worker.settings().server_login_retry));
            }
        }
        self.pump(worker);
    }

    /// One that listens for all clients, outside of the pool's count.
    pub(crate) async fn connect_to_listen(self: &Rc<Pool>, worker: &Rc<Worker>) -> Result<Server, String> {
        if worker.halts.is_paused(&self.key) {
            return Err("the database is paused".to_owned());
        }
        match self.connect(worker, SessionSettings::default(), None).await {
            Ok(server)
                if worker.halts.is_paused(&self.key)
                    || !worker.routing.is_current(&server.backend, self.key.access) =>
            {
                Err("the primary has changed meanwhile, or the database is paused".to_owned())
            }
            Ok(server) => Ok(server),
            Err(DialError::Refused(report)) => Err(report.message),
            Err(DialError::Unreachable(why)) => Err(why),
        }
    }

    /// A connection of its own, outside of the pool's count: for a walsender. It ends with the route, as all do.
    pub(crate) async fn dedicated(
        self: &Rc<Pool>,
        worker: &Rc<Worker>,
        base: SessionSettings,
        replication: Box<str>,
    ) -> Result<Box<Server>, Report> {
        if worker.halts.is_paused(&self.key) {
            return Err(refusal::paused(0, &self.key.database));
        }
        match self.connect(worker, base, Some(replication)).await {
            Ok(server) if !worker.routing.is_current(&server.backend, self.key.access) => {
                Err(refusal::no_primary(0, "The primary has changed meanwhile."))
            }
            Ok(server) => {
                self.apart.borrow_mut().push(Rc::clone(&server.backend));
                Ok(Box::new(server))
            }
            Err(DialError::Refused(report)) => Err(report),
            Err(DialError::Unreachable(why)) => Err(refusal::no_primary(0, &why)),
        }
    }

    /// One more connection, which nobody counts.
    async fn connect(
        &self,
        worker: &Worker,
        base: SessionSettings,
        replication: Option<Box<str>>,
    ) -> Result<Server, DialError> {
        let route = worker.routing.choose(self.key.access, &[]);
        let route = route.ok_or_else(|| DialError::Unreachable(worker.routing.reason()))?;
        let login = self.login(worker, &route, base, replication);
        dial(&route, worker.routing.epoch(), &login, worker.server_tls.as_ref()).await
    }
}
