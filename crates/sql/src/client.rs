//! One client, for those who are not its session: limits, the console, whoever ends it.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use mainstay_pgwire::backend::Report;
use tokio::time::Instant;

use crate::pool::{Pool, PoolKey};
use crate::quota::Permit;
use crate::server::Backend;
use crate::session_settings::SessionSettings;

/// What a session is about, for limits and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Idle,
    Waits,
    Runs,
    InTransaction,
}

/// One client, for those who are not its session.
pub(crate) struct ClientEntry {
    /// What it was told as its process id.
    pub(crate) pid: i32,
    pub(crate) secret: [u8; 4],
    pub(crate) descriptor: RawFd,
    pub(crate) is_encrypted: bool,
    /// It replicates: what it asks for has no end.
    pub(crate) is_walsender: bool,
    pub(crate) key: PoolKey,
    pub(crate) pool: Rc<Pool>,
    /// Its place among the clients that there may be.
    pub(crate) _room: Option<Permit>,
    /// What it has asked for at its login.
    pub(crate) base: SessionSettings,
    pub(crate) connected: Instant,
    pub(crate) activity: Cell<Activity>,
    pub(crate) since: Cell<Instant>,
    /// Its last word is a `COMMIT` that is not answered yet.
    pub(crate) is_committing: Cell<bool>,
    /// When its transaction has begun.
    pub(crate) transaction_began: Cell<Instant>,
    /// How long it has waited for the server that its transaction has.
    pub(crate) waited: Cell<Duration>,
    /// Somebody has asked to cancel what it does on the console.
    pub(crate) is_cancelled: Cell<bool>,
    pub(crate) backend: RefCell<Option<Rc<Backend>>>,
    /// Why it is ended, if it is.
    pub(crate) ended: RefCell<Option<Report>>,
}

impl ClientEntry {
    /// Ends the session: it reads the end of its client's messages, and says why.
    pub(crate) fn end(&self, why: Report) {
        let mut ended = self.ended.borrow_mut();
        if ended.is_none() {
            *ended = Some(why);
            let _ = nix::sys::socket::shutdown(self.descriptor, nix::sys::socket::Shutdown::Read);
        }
    }

    /// The same of a client that is not there to be told.
    pub(crate) fn abandon(&self) {
        crate::server::shut(self.descriptor);
    }

    #[inline]
    pub(crate) fn set(&self, activity: Activity, now: Instant) {
        let before = self.activity.replace(activity);
        if before != activity {
            let since = self.since.replace(now);
            if activity == Activity::Runs && before != Activity::InTransaction {
                let waits = before == Activity::Waits;
                self.waited.set(if waits { now.duration_since(since) } else { Duration::ZERO });
            }
            let counters = &self.pool.counters;
            counters.changed((before, since), (activity, now), &self.transaction_began);
        }
    }
}
