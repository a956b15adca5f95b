//! A stand-in for the member: routes and roles over HTTP on a Unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mainstay_net::routes::{Role, Roles, Route, Routes};

use crate::postgres::Postgres;

type WhoMayLogIn = Arc<dyn Fn() -> Option<Vec<Role>> + Send + Sync>;

struct State {
    routes: Routes,
    is_silent: bool,
    has_roles: bool,
    is_ending: bool,
}

struct Shared {
    state: Mutex<State>,
    news: Condvar,
    roles: WhoMayLogIn,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Member {
    pub(crate) socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Member {
    pub(crate) fn new(directory: &Path, postgres: &Arc<Postgres>) -> Member {
        let socket = directory.join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let routes = Routes {
            version: 1,
            cluster: "test".to_owned(),
            epoch: 1,
            primary: Some(postgres.route("a")),
            lease_ms: 60_000,
            standbys: Vec::new(),
            apis: Vec::new(),
            proxies: Vec::new(),
            reason: String::new(),
        };
        let state = State { routes, is_silent: false, has_roles: true, is_ending: false };
        // What was read last is told while PostgreSQL is away.
        let (postgres, last) = (Arc::clone(postgres), Mutex::new(postgres.roles().unwrap_or_default()));
        let roles = move || {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(roles) = postgres.roles() {
                *last = roles;
            }
            Some(last.clone())
        };
        let shared = Shared { state: Mutex::new(state), news: Condvar::new(), roles: Arc::new(roles) };
        let shared = Arc::new(shared);
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&accepting);
                if shared.state().is_ending {
                    return;
                }
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || drop(serve(&shared, &stream)));
            }
        });
        Member { socket, shared, thread: Some(thread) }
    }

    /// Changes what is told of the routes.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Routes)) {
        let mut state = self.shared.state();
        change(&mut state.routes);
        state.routes.version += 1;
        self.shared.news.notify_all();
    }

    pub(crate) fn no_primary(&self) {
        self.tell(|routes| {
            routes.epoch += 1;
            (routes.primary, routes.lease_ms) = (None, 0);
            routes.reason = "The primary has failed.".to_owned();
        });
    }

    pub(crate) fn primary(&self, route: Route) {
        self.tell(|routes| {
            routes.epoch += 1;
            (routes.primary, routes.lease_ms) = (Some(route), 60_000);
        });
    }

    /// From now on nothing is answered, or everything again.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.shared.state().is_silent = is_silent;
        self.shared.news.notify_all();
    }

    /// Whether anybody may log in yet.
    pub(crate) fn set_roles(&self, has_roles: bool) {
        self.shared.state().has_roles = has_roles;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.state().is_ending = true;
        self.shared.news.notify_all();
        let _ = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(shared: &Shared, stream: &UnixStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let answer = if path.starts_with("/v1/sql/roles") { roles(shared) } else { routes(shared, path) };
        let Some((status, body)) = answer else { return Ok(()) };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut stream = stream;
        stream.write_all(format!("{head}{body}").as_bytes())?;
    }
    Ok(())
}

fn roles(shared: &Shared) -> Option<(&'static str, String)> {
    if !shared.state().has_roles {
        return Some(("503 Service Unavailable", "not yet".to_owned()));
    }
    let roles = Roles { roles: (shared.roles)()? };
    Some(("200 OK", serde_json::to_string(&roles).unwrap()))
}

/// The routes, after something new or `wait_ms`.
fn routes(shared: &Shared, path: &str) -> Option<(&'static str, String)> {
    let number = |name: &str| {
        let (_, query) = path.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let until = Instant::now() + Duration::from_millis(number("wait_ms").unwrap_or(0));
    let mut state = shared.state();
    loop {
        if state.is_ending {
            return None;
        }
        let is_due = number("version") != Some(state.routes.version) || Instant::now() >= until;
        if is_due && !state.is_silent {
            return Some(("200 OK", serde_json::to_string(&state.routes).unwrap()));
        }
        let patience = if state.is_silent { Duration::from_secs(1) } else { until - Instant::now() };
        state = shared.news.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
    }
}
