//! What one thread tells of its pools, clients and servers, to be put together with what the others tell.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};
use tokio::time::Instant;

use crate::counters::{During, Totals};
use crate::crew::Crew;
use crate::dial::Place;
use crate::pool::{Access, Pool, PoolKey};
use crate::server::Backend;
use crate::settings::PoolSettings;
use crate::worker::{Activity, ClientEntry, Worker};

/// All of one thread, or of all.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) pools: Vec<PoolSeen>,
    pub(crate) clients: Vec<ClientSeen>,
    pub(crate) servers: Vec<ServerSeen>,
}

/// Whose something is. Readers' databases are shown with `@ro`, so that every pool has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Whose {
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) is_read_only: bool,
}

impl Whose {
    pub(crate) fn of(key: &PoolKey) -> Whose {
        let is_read_only = key.access == Access::ReadOnly;
        Whose { database: key.database.to_string(), user: key.user.to_string(), is_read_only }
    }

    pub(crate) fn name(&self) -> String {
        if self.is_read_only { format!("{}@ro", self.database) } else { self.database.clone() }
    }
}

pub(crate) struct PoolSeen {
    pub(crate) whose: Whose,
    pub(crate) settings: PoolSettings,
    /// Clients that have a server.
    pub(crate) active: usize,
    pub(crate) idle: usize,
    pub(crate) waiting: usize,
    pub(crate) servers_active: usize,
    pub(crate) servers_idle: usize,
    pub(crate) servers_login: usize,
    pub(crate) longest_wait: Duration,
    pub(crate) totals: Totals,
    pub(crate) recent: During,
    pub(crate) is_paused: bool,
    pub(crate) is_disabled: bool,
}

pub(crate) struct ClientSeen {
    pub(crate) pid: i32,
    pub(crate) whose: Whose,
    pub(crate) state: &'static str,
    pub(crate) activity: &'static str,
    pub(crate) addresses: Addresses,
    pub(crate) connected: String,
    pub(crate) asked: String,
    pub(crate) wait: Duration,
    /// The server that it holds: its name among all, and PostgreSQL's process.
    pub(crate) link: Option<(String, i32)>,
    pub(crate) is_encrypted: bool,
    pub(crate) application_name: String,
}

pub(crate) struct ServerSeen {
    pub(crate) id: String,
    pub(crate) whose: Whose,
    pub(crate) is_active: bool,
    pub(crate) addresses: Addresses,
    pub(crate) connected: String,
    pub(crate) asked: String,
    pub(crate) is_to_close: bool,
    /// Who holds it.
    pub(crate) link: Option<i32>,
    pub(crate) pid: i32,
    pub(crate) member: String,
    pub(crate) epoch: u64,
}

/// Both ends of a socket, as far as they have addresses.
#[derive(Default)]
pub(crate) struct Addresses {
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

impl Addresses {
    pub(crate) fn of(descriptor: RawFd) -> Addresses {
        let address = |storage: nix::Result<SockaddrStorage>| {
            let storage = storage.ok()?;
            let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
        };
        Addresses { remote: address(getpeername(descriptor)), local: address(getsockname(descriptor)) }
    }
}

impl Snapshot {
    /// Of all threads.
    pub(crate) async fn of_all(crew: &Crew) -> Snapshot {
        let mut all = Snapshot::default();
        for one in crew.ask(Snapshot::of).await {
            all.add(one);
        }
        all
    }

    pub(crate) fn of(worker: &Rc<Worker>) -> Snapshot {
        let (pools, clients) = (worker.pools(), worker.clients());
        let clock = Clock::now();
        // Each client is looked at once, however many pools there are.
        let mut counts: HashMap<*const Pool, [usize; 2]> = HashMap::new();
        let mut holders: HashMap<*const Backend, &Rc<ClientEntry>> = HashMap::new();
        for entry in &clients {
            let counted = counts.entry(Rc::as_ptr(&entry.pool)).or_default();
            match entry.activity.get() {
                Activity::Idle => counted[0] += 1,
                Activity::Runs | Activity::InTransaction => counted[1] += 1,
                Activity::Waits => {}
            }
            if let Some(backend) = entry.backend.borrow().as_ref() {
                holders.insert(Rc::as_ptr(backend), entry);
            }
        }
        let pool_seen = |pool: &Rc<Pool>| {
            let counted = counts.get(&Rc::as_ptr(pool)).copied().unwrap_or_default();
            pool_seen(worker, pool, counted, &clock)
        };
        Snapshot {
            pools: pools.iter().map(pool_seen).collect(),
            servers: pools.iter().flat_map(|pool| servers_seen(pool, &holders, &clock)).collect(),
            clients: clients.iter().map(|entry| client_seen(entry, &clock)).collect(),
        }
    }

    fn add(&mut self, other: Snapshot) {
        for pool in other.pools {
            match self.pools.binary_search_by(|known| known.whose.cmp(&pool.whose)) {
                Ok(at) => self.pools[at].add(&pool),
                Err(at) => self.pools.insert(at, pool),
            }
        }
        self.clients.extend(other.clients);
        self.clients.sort_by_key(|client| client.pid);
        self.servers.extend(other.servers);
        self.servers.sort_by(|a, b| (&a.whose, &a.id).cmp(&(&b.whose, &b.id)));
    }
}

impl PoolSeen {
    fn add(&mut self, other: &PoolSeen) {
        let pairs = [
            (&mut self.active, other.active),
            (&mut self.idle, other.idle),
            (&mut self.waiting, other.waiting),
            (&mut self.servers_active, other.servers_active),
            (&mut self.servers_idle, other.servers_idle),
            (&mut self.servers_login, other.servers_login),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.totals = self.totals.plus(other.totals);
        self.recent.add(other.recent);
    }
}

fn pool_seen(worker: &Worker, pool: &Pool, [idle_clients, active]: [usize; 2], clock: &Clock) -> PoolSeen {
    let idle = pool.idle_since().len();
    PoolSeen {
        whose: Whose::of(&pool.key),
        settings: pool.settings.get(),
        active,
        idle: idle_clients,
        waiting: pool.waiting(),
        servers_active: pool.backends().len().saturating_sub(idle),
        servers_idle: idle,
        servers_login: pool.dialling(),
        longest_wait: pool.longest_wait(clock.instant),
        totals: pool.counters.totals(),
        recent: pool.counters.recent(clock.instant),
        is_paused: worker.halts.is_paused(&pool.key),
        is_disabled: worker.halts.is_disabled(&pool.key),
    }
}

fn client_seen(entry: &Rc<ClientEntry>, clock: &Clock) -> ClientSeen {
    let activity = entry.activity.get();
    let (state, text) = match activity {
        Activity::Idle => ("idle", "idle"),
        Activity::Waits => ("waiting", "waiting"),
        Activity::Runs => ("active", "active"),
        Activity::InTransaction => ("active", "idle in transaction"),
    };
    let waits = activity == Activity::Waits;
    let name = entry.base.get("application_name").map(ToString::to_string);
    ClientSeen {
        pid: entry.pid,
        whose: Whose::of(&entry.key),
        state,
        activity: text,
        addresses: Addresses::of(entry.descriptor),
        connected: clock.text(entry.connected),
        asked: clock.text(entry.since.get()),
        wait: if waits { clock.instant.duration_since(entry.since.get()) } else { Duration::ZERO },
        link: entry.backend.borrow().as_ref().map(|backend| (id(backend), backend.pid)),
        is_encrypted: entry.is_encrypted,
        application_name: name.unwrap_or_default(),
    }
}

fn id(backend: &Backend) -> String {
    format!("{}/{}", backend.member, backend.pid)
}

fn servers_seen(
    pool: &Pool,
    holders: &HashMap<*const Backend, &Rc<ClientEntry>>,
    clock: &Clock,
) -> Vec<ServerSeen> {
    let idle = pool.idle_since();
    let seen = |backend: &Rc<Backend>| {
        let rests = idle.iter().find(|(idle, _)| Rc::ptr_eq(idle, backend)).map(|(_, since)| *since);
        let holder = holders.get(&Rc::as_ptr(backend));
        let asked = rests.or(holder.map(|entry| entry.since.get())).unwrap_or(backend.opened);
        let addresses = match backend.place {
            Place::Tcp(_) => Addresses::of(backend.descriptor),
            Place::Unix(_) => Addresses::default(),
        };
        ServerSeen {
            id: id(backend),
            whose: Whose::of(&pool.key),
            is_active: rests.is_none(),
            addresses,
            connected: clock.text(backend.opened),
            asked: clock.text(asked),
            is_to_close: backend.is_retired(),
            link: holder.map(|entry| entry.pid),
            pid: backend.pid,
            member: backend.member.clone(),
            epoch: backend.epoch,
        }
    };
    pool.backends().iter().chain(&pool.apart()).map(seen).collect()
}

/// The same moment on both clocks.
struct Clock {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    fn now() -> Clock {
        Clock { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// As people read it, in UTC.
    fn text(&self, at: Instant) -> String {
        let wall = self.wall.checked_sub(self.instant.duration_since(at)).unwrap_or(SystemTime::UNIX_EPOCH);
        let seconds = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        date_and_time(seconds)
    }
}

/// Seconds since 1970, by the calendar.
fn date_and_time(seconds: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, seconds / 86_400);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(date_and_time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date_and_time(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date_and_time(1_795_832_767), "2026-11-28 02:26:07 UTC");
    }
}
