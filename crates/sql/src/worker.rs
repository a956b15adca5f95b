//! What the sessions of one thread share. Nothing of it leaves the thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_net::routes::Role;
use mainstay_pgwire::scram::{ClientKey, Verifier};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cancel::CancelRequest;
use crate::closing::Closing;
use crate::crew::Crew;
use crate::dial::Credentials;
use crate::encryption::Encryption;
use crate::halts::Halts;
use crate::pool::{Access, Pool, PoolKey};
use crate::quota::Quotas;
use crate::routing::{Routing, Told};
use crate::session_settings::SessionSettings;
use crate::settings::Settings;
use crate::source::Source;
use crate::statements::Statements;
use crate::sweep::{SWEEP_INTERVAL, Watch};

pub(crate) use crate::client::{Activity, ClientEntry};

/// Everybody who may log in, by name; `None` while nobody has told.
pub(crate) type Roles = Option<Arc<BTreeMap<String, Role>>>;

/// What all workers have.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) told: watch::Receiver<Option<Told>>,
    pub(crate) roles: watch::Receiver<Roles>,
    /// Asks for the roles anew: somebody came whom nobody knows yet.
    pub(crate) ask_roles: Arc<tokio::sync::Notify>,
    pub(crate) clients: Arc<AtomicUsize>,
    pub(crate) client_tls: Option<Arc<Encryption>>,
    pub(crate) server_tls: Option<Arc<ClientConfig>>,
    /// Makes stand-ins of verifiers for users that do not exist.
    pub(crate) secret: [u8; 32],
    pub(crate) cancels: Arc<Vec<tokio::sync::mpsc::UnboundedSender<CancelRequest>>>,
    pub(crate) crew: Crew,
    pub(crate) source: Source,
    pub(crate) quotas: Arc<Quotas>,
    /// Where an administrator says that the proxy is to end.
    pub(crate) end: tokio::sync::mpsc::UnboundedSender<Closing>,
}

/// How much is read at once. All sessions of a thread read into the same buffer.
const INPUT_BYTES: usize = 64 * 1024;

/// What a server reports of itself and its session (`ParameterStatus`).
pub(crate) type Reported = Rc<BTreeMap<Box<str>, Box<str>>>;

/// A greeting belongs to one database, user and set of settings.
type GreetingKey = (PoolKey, SessionSettings);

pub(crate) struct Worker {
    pub(crate) index: usize,
    settings: RefCell<Arc<Settings>>,
    pub(crate) shared: Shared,
    pub(crate) routing: Routing,
    pub(crate) server_tls: Option<Arc<ClientConfig>>,
    /// When the batch of bytes that is looked at now was begun with: the clock is read once for each.
    clock: Cell<Instant>,
    pub(crate) input: RefCell<Vec<u8>>,
    pub(crate) output: RefCell<Vec<u8>>,
    pub(crate) statements: Statements,
    pub(crate) halts: Halts,
    /// What takes longer is logged: looked at for each statement.
    pub(crate) log_min_duration: Cell<Option<Duration>>,
    pub(crate) pools: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    credentials: RefCell<HashMap<Rc<str>, Credentials>>,
    greetings: RefCell<HashMap<GreetingKey, Reported>>,
    settings_known: RefCell<HashMap<SessionSettings, ()>>,
    clients: RefCell<HashMap<i32, Rc<ClientEntry>>>,
    next_pid: Cell<i32>,
    /// How many changes there were that make statements stale, and pools.
    plans: Cell<u64>,
    pub(crate) watch: Watch,
    pub(crate) is_closing: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Shared) -> Worker {
        Worker {
            index,
            log_min_duration: Cell::new(shared.settings.log_min_duration),
            settings: RefCell::new(Arc::clone(&shared.settings)),
            routing: Routing::new(),
            server_tls: shared.server_tls.clone(),
            shared,
            clock: Cell::new(Instant::now()),
            input: RefCell::new(vec![0; INPUT_BYTES]),
            output: RefCell::default(),
            statements: Statements::default(),
            halts: Halts::default(),
            pools: RefCell::default(),
            credentials: RefCell::default(),
            greetings: RefCell::default(),
            settings_known: RefCell::default(),
            clients: RefCell::default(),
            next_pid: Cell::new(0),
            plans: Cell::new(0),
            watch: Watch::new(),
            is_closing: Cell::new(false),
        }
    }

    /// Reads the clock.
    pub(crate) fn tick(&self) -> Instant {
        let now = Instant::now();
        self.clock.set(now);
        now
    }

    /// When the clock was read last. For a session in its `poll_step`, which reads it before each batch of bytes.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.clock.get()
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// From now on these hold, also for the pools that there are.
    pub(crate) fn take_settings(self: &Rc<Worker>, settings: &Arc<Settings>) {
        self.settings.replace(Arc::clone(settings));
        self.log_min_duration.set(settings.log_min_duration);
        for pool in self.pools() {
            let key = &pool.key;
            pool.settings.set(settings.of_pool(&key.database, key.access == Access::ReadOnly, &key.user));
            pool.pump(self);
        }
    }

    /// PgBouncer's `max_prepared_statements` has the same default.
    pub(crate) fn max_prepared_statements(&self) -> usize {
        200
    }

    pub(crate) fn pool(&self, key: &PoolKey) -> Rc<Pool> {
        if let Some(pool) = self.pools.borrow().get(key) {
            return Rc::clone(pool);
        }
        let settings = self.settings().of_pool(&key.database, key.access == Access::ReadOnly, &key.user);
        let pool = Rc::new(Pool::new(key.clone(), settings, self.shared.quotas.of(key)));
        pool.plans.set(self.next_plans());
        self.pools.borrow_mut().insert(key.clone(), Rc::clone(&pool));
        pool
    }

    /// A number that no other state of a pool has.
    fn next_plans(&self) -> u64 {
        self.plans.set(self.plans.get() + 1);
        self.plans.get()
    }

    /// A table or a type has changed: who prepares a text of that database from now on, on all threads, has nothing in common
    /// with those who have prepared it before.
    pub(crate) fn plans_changed(&self, database: &str) {
        let (database, own) = (database.to_owned(), self.index);
        self.forget_plans(&database);
        self.shared.crew.tell(move |worker| {
            if worker.index != own {
                worker.forget_plans(&database);
            }
        });
    }

    fn forget_plans(&self, database: &str) {
        for pool in self.pools.borrow().values().filter(|pool| *pool.key.database == *database) {
            pool.plans.set(self.next_plans());
        }
    }

    pub(crate) fn pools(&self) -> Vec<Rc<Pool>> {
        let mut pools: Vec<Rc<Pool>> = self.pools.borrow().values().cloned().collect();
        pools.sort_by(|a, b| a.key.cmp(&b.key));
        pools
    }

    /// One allocation for all sessions that have the same settings.
    pub(crate) fn shared_settings(&self, settings: BTreeMap<Box<str>, Box<str>>) -> SessionSettings {
        let settings = Rc::new(settings);
        let mut known = self.settings_known.borrow_mut();
        if let Some((shared, ())) = known.get_key_value(&settings) {
            return Rc::clone(shared);
        }
        if known.len() >= 1024 {
            known.retain(|shared, ()| Rc::strong_count(shared) > 1);
        }
        known.insert(Rc::clone(&settings), ());
        settings
    }

    /// What servers were told to be, for a client like this one.
    pub(crate) fn greeting(&self, key: &PoolKey, settings: &SessionSettings) -> Option<Reported> {
        self.greetings.borrow().get(&(key.clone(), Rc::clone(settings))).cloned()
    }

    /// On all threads: clients of the others need no server for it either.
    pub(crate) fn keep_greeting(
        &self,
        key: &PoolKey,
        settings: &SessionSettings,
        parameters: BTreeMap<Box<str>, Box<str>>,
    ) {
        let (database, user, access) = (key.database.to_string(), key.user.to_string(), key.access);
        let (settings, own) = (BTreeMap::clone(settings), self.index);
        self.take_greeting(key.clone(), settings.clone(), parameters.clone());
        self.shared.crew.tell(move |worker| {
            if worker.index != own {
                let key = PoolKey { database: database.as_str().into(), user: user.as_str().into(), access };
                worker.take_greeting(key, settings.clone(), parameters.clone());
            }
        });
    }

    fn take_greeting(
        &self,
        key: PoolKey,
        settings: BTreeMap<Box<str>, Box<str>>,
        parameters: BTreeMap<Box<str>, Box<str>>,
    ) {
        let mut greetings = self.greetings.borrow_mut();
        // An application that makes up a new application_name every time must not fill the memory.
        if greetings.len() >= 1024 {
            greetings.clear();
        }
        greetings.insert((key, self.shared_settings(settings)), Rc::new(parameters));
    }

    pub(crate) fn credentials(&self, user: &str) -> Option<Credentials> {
        self.credentials.borrow().get(user).cloned()
    }

    /// Keeps what a client's login has shown.
    pub(crate) fn keep_credentials(
        &self,
        user: &Rc<str>,
        client_key: ClientKey,
        verifier: &Verifier,
        text: Arc<str>,
    ) {
        let mut known = self.credentials.borrow_mut();
        if known.get(user).is_none_or(|credentials| credentials.verifier != text) {
            let credentials = Credentials { client_key, server_key: verifier.server_key, verifier: text };
            known.insert(Rc::clone(user), credentials);
        }
    }

    /// The next number for a client. The worker's index is in it, so that a request to cancel finds its way.
    pub(crate) fn new_pid(&self) -> i32 {
        let workers = i32::try_from(self.shared.cancels.len()).unwrap_or(1).max(1);
        let index = i32::try_from(self.index).unwrap_or(0);
        loop {
            let next =
                self.next_pid.get().checked_add(1).filter(|next| *next < i32::MAX / workers).unwrap_or(1);
            self.next_pid.set(next);
            let pid = next * workers + index;
            if !self.clients.borrow().contains_key(&pid) {
                return pid;
            }
        }
    }

    pub(crate) fn enter(&self, entry: &Rc<ClientEntry>) {
        self.clients.borrow_mut().insert(entry.pid, Rc::clone(entry));
    }

    pub(crate) fn leave(&self, pid: i32) {
        self.clients.borrow_mut().remove(&pid);
    }

    pub(crate) fn clients(&self) -> Vec<Rc<ClientEntry>> {
        self.clients.borrow().values().cloned().collect()
    }

    /// The client that a request is for, if the secret is right.
    pub(crate) fn to_cancel(&self, request: &CancelRequest) -> Option<Rc<ClientEntry>> {
        let clients = self.clients.borrow();
        let entry = clients.get(&request.pid)?;
        // As long for a wrong one as for the right one.
        let difference = entry.secret.iter().zip(&request.secret).fold(0, |found, (a, b)| found | (a ^ b));
        let is_right = difference == 0 && request.secret.len() == entry.secret.len();
        is_right.then(|| Rc::clone(entry))
    }

    /// Follows the routes, ends what waits too long, and never returns.
    pub(crate) async fn attend(self: Rc<Worker>) {
        let mut told = self.shared.told.clone();
        let mut next_sweep = Instant::now();
        loop {
            let news = told.borrow_and_update().clone();
            if let Some(news) = news
                && self.routing.take(&news)
            {
                self.pools().iter().for_each(|pool| pool.route_changed(&self));
            }
            let now = self.tick();
            if now >= next_sweep {
                next_sweep = now + SWEEP_INTERVAL;
                self.sweep(now);
            }
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next_sweep) => {}
            }
        }
    }

    /// Lets clients go: those at rest now, the others when their transaction ends.
    pub(crate) fn close(&self) {
        self.is_closing.set(true);
        for entry in self.clients() {
            if entry.activity.get() == Activity::Idle || entry.activity.get() == Activity::Waits {
                entry.end(crate::refusal::shutting_down());
            }
        }
    }

    /// With those who look at the console, or without.
    pub(crate) fn client_count(&self, with_console: bool) -> usize {
        let is_counted =
            |entry: &&Rc<ClientEntry>| with_console || !crate::console::is_console(&entry.key.database);
        self.clients.borrow().values().filter(is_counted).count()
    }
}

/// Counts one client of the process for as long as it lives.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None` if there are `most` already.
    pub(crate) fn new(count: &Arc<AtomicUsize>, most: usize) -> Option<Counted> {
        let counted = Counted(Arc::clone(count));
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pools that a database of this name has.
pub(crate) fn access_of(database: &str, listener: Access) -> (&str, Access) {
    match database.rsplit_once('@') {
        Some((name, "ro")) => (name, Access::ReadOnly),
        Some((name, "rw")) => (name, Access::ReadWrite),
        _ => (database, listener),
    }
}
