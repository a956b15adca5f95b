//! Where statements go now, as the member beside us says, and for how long that may be believed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use mainstay_net::routes::{Route, Routes};
use tokio::time::Instant;

use crate::pool::Access;
use crate::server::Backend;

/// What the member said, and when it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) routes: Routes,
    /// When the question was sent: the lease is counted from then on, and not from when the answer came.
    pub(crate) asked: Instant,
}

/// One worker's view of the routes.
pub(crate) struct Routing {
    routes: RefCell<Routes>,
    /// Until when the primary of the present epoch may be sent anything. One that is about to hand over takes no new
    /// transaction any more, and may still end those that it has.
    valid_until: Cell<Instant>,
    has_primary: Cell<bool>,
    epoch: Cell<u64>,
    /// Sessions in a transaction that wait until the route can be believed again.
    suspended: RefCell<Vec<std::task::Waker>>,
}

impl Routing {
    pub(crate) fn new() -> Routing {
        Routing {
            routes: RefCell::default(),
            valid_until: Cell::new(Instant::now()),
            has_primary: Cell::new(false),
            epoch: Cell::new(0),
            suspended: RefCell::default(),
        }
    }

    /// Takes in what the member said. Returns whether another server is to be used than before.
    pub(crate) fn take(&self, told: &Told) -> bool {
        let routes = &told.routes;
        // An answer that was overtaken, or of a member that knows less, takes nothing back.
        if routes.epoch < self.epoch.get() {
            return false;
        }
        if routes.primary.is_some() {
            self.valid_until.set(told.asked + Duration::from_millis(routes.lease_ms));
        } else if routes.epoch > self.epoch.get() {
            self.valid_until.set(told.asked);
        }
        self.epoch.set(routes.epoch);
        self.has_primary.set(routes.primary.is_some());
        let same = |a: &[Route], b: &[Route]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.member == b.member)
        };
        let before = self.routes.replace(routes.clone());
        self.suspended.borrow_mut().drain(..).for_each(std::task::Waker::wake);
        before.epoch != routes.epoch
            || before.primary != routes.primary
            || !same(&before.standbys, &routes.standbys)
    }

    /// Whether statements may be sent now.
    #[inline]
    pub(crate) fn is_usable(&self, access: Access, now: Instant) -> bool {
        match access {
            Access::ReadWrite => self.may_write(now),
            Access::ReadOnly => !self.routes.borrow().standbys.is_empty() || self.may_write(now),
        }
    }

    #[inline]
    fn may_write(&self, now: Instant) -> bool {
        self.has_primary.get() && now < self.valid_until.get()
    }

    /// Whether something may be sent on this connection now.
    #[inline]
    pub(crate) fn may_send(&self, backend: &Backend, access: Access, now: Instant) -> bool {
        match access {
            Access::ReadWrite => backend.epoch == self.epoch.get() && now < self.valid_until.get(),
            // Readers without a standby are at the primary, and may write there as well.
            Access::ReadOnly => {
                let routes = self.routes.borrow();
                routes.standbys.iter().any(|route| route.member == backend.member)
                    || self.may_send(backend, Access::ReadWrite, now)
            }
        }
    }

    /// For how long what is at the primary has been held, since its lease cannot be believed any more.
    pub(crate) fn doubted_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.valid_until.get())
    }

    /// Whether the connection leads where clients are to be sent.
    #[inline]
    pub(crate) fn is_current(&self, backend: &Backend, access: Access) -> bool {
        if backend.is_retired() {
            return false;
        }
        let routes = self.routes.borrow();
        match access {
            Access::ReadWrite => {
                backend.why_ended().is_none()
                    && backend.epoch == routes.epoch
                    && routes.primary.as_ref().is_none_or(|route| route.member == backend.member)
            }
            Access::ReadOnly => {
                let is_standby = routes.standbys.iter().any(|route| route.member == backend.member);
                let is_last = routes.standbys.is_empty()
                    && backend.epoch == routes.epoch
                    && routes.primary.as_ref().is_some_and(|route| route.member == backend.member);
                backend.why_ended().is_none() && (is_standby || is_last)
            }
        }
    }

    /// Where the next connection goes: for readers to the standby that has the fewest, and the least behind of these; without
    /// any standby to the primary.
    pub(crate) fn choose(&self, access: Access, live: &[Rc<Backend>]) -> Option<Route> {
        let routes = self.routes.borrow();
        let has = |route: &Route| live.iter().filter(|backend| backend.member == route.member).count();
        let standby = || {
            routes
                .standbys
                .iter()
                .min_by_key(|route| (has(route), route.lag_bytes.unwrap_or(u64::MAX)))
                .cloned()
        };
        let primary = || routes.primary.clone().filter(|_| self.may_write(Instant::now()));
        match access {
            Access::ReadWrite => primary(),
            Access::ReadOnly => standby().or_else(primary),
        }
    }

    pub(crate) fn is_standby(&self, member: &str) -> bool {
        self.routes.borrow().standbys.iter().any(|route| route.member == member)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Why there is no primary.
    pub(crate) fn reason(&self) -> String {
        let routes = self.routes.borrow();
        if routes.primary.is_some() && !self.may_write(Instant::now()) {
            return "The member beside the proxy cannot tell whether the primary still holds its lease."
                .to_owned();
        }
        if routes.primary.is_some() { String::new() } else { routes.reason.clone() }
    }

    pub(crate) fn routes(&self) -> Routes {
        self.routes.borrow().clone()
    }

    /// Wakes once something new was told.
    pub(crate) fn wake_on_news(&self, waker: &std::task::Waker) {
        let mut suspended = self.suspended.borrow_mut();
        if !suspended.iter().any(|known| known.will_wake(waker)) {
            suspended.push(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(member: &str) -> Route {
        let host = std::net::Ipv4Addr::LOCALHOST.into();
        Route { member: member.to_owned(), host, port: 1, socket_dir: None, lag_bytes: None, is_sync: false }
    }

    fn told(epoch: u64, primary: Option<&str>, lease_ms: u64, asked: Instant) -> Told {
        let routes = Routes { epoch, primary: primary.map(route), lease_ms, ..Routes::default() };
        Told { routes, asked }
    }

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for() {
        let routing = Routing::new();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        assert!(routing.take(&told(1, Some("a"), 2000, long_ago)));
        assert!(!routing.is_usable(Access::ReadWrite, Instant::now()));
        assert!(routing.reason().contains("lease"));
        routing.take(&told(1, Some("a"), 2000, Instant::now()));
        assert!(routing.is_usable(Access::ReadWrite, Instant::now()));
    }

    #[test]
    fn what_an_older_epoch_says_is_not_believed() {
        let routing = Routing::new();
        routing.take(&told(2, None, 0, Instant::now()));
        assert!(!routing.take(&told(1, Some("a"), 9000, Instant::now())));
        assert!(!routing.is_usable(Access::ReadWrite, Instant::now()));
    }

    #[test]
    fn another_primary_of_the_same_epoch_is_news() {
        let routing = Routing::new();
        routing.take(&told(1, None, 0, Instant::now()));
        assert!(routing.take(&told(1, Some("a"), 100, Instant::now())));
        assert!(!routing.take(&told(1, Some("a"), 200, Instant::now())));
    }
}
