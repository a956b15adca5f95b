//! All addresses of this machine, and the order that is in force.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tracing::warn;

use crate::clock::now_ns;
use crate::held::{Allowed, Held};
use crate::netlink::Netlink;
use crate::order::{Answer, Order, Rule};

/// How late the kernel is when it removes what has had its time: measured, 0.02 to 0.37 s (Linux 6.18). A change of another
/// address at the wrong moment makes it a whole second (it looks at all of them then, and again no sooner than that): so up
/// to 0.6 s after the deadline. The member waits for that before it ends an epoch, and the voters' time ends a fifth of a lease later.
const LATENESS: Duration = Duration::from_millis(400);
/// A longer life would only last longer when this process is gone.
const LONGEST_LIFE_S: u64 = 2;
/// Without orders this process looks up so often.
const IDLE: Duration = Duration::from_secs(1);

/// The whole seconds that an address may be given at `now` and be gone by `deadline`; 0: none.
pub fn lifetime_s(now_ns: u64, deadline_ns: u64) -> u32 {
    let late = u64::try_from(LATENESS.as_nanos()).unwrap_or(u64::MAX);
    let left = deadline_ns.saturating_sub(now_ns).saturating_sub(late) / 1_000_000_000;
    u32::try_from(left.min(LONGEST_LIFE_S)).unwrap_or(0)
}

#[derive(Debug)]
pub struct Holder {
    netlink: Netlink,
    held: Vec<Held>,
    epoch: u64,
    deadline_ns: u64,
    careful: bool,
    wanted: Vec<IpAddr>,
    /// Up to here nothing is to be held any more, and up to there nothing is.
    to_release: u64,
    released: u64,
    error: Option<String>,
}

impl Holder {
    /// What an earlier process of its kind has held stays for the rest of its life, a second or two, unless an order says
    /// otherwise before.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn new(rules: Vec<Rule>) -> io::Result<Holder> {
        Ok(Holder {
            netlink: Netlink::open()?,
            held: rules.into_iter().map(Held::new).collect(),
            epoch: 0,
            deadline_ns: 0,
            careful: false,
            wanted: Vec::new(),
            to_release: 0,
            released: 0,
            error: None,
        })
    }

    pub fn take(&mut self, order: Order) {
        match order {
            Order::Release { epoch } => {
                self.to_release = self.to_release.max(epoch);
                if epoch >= self.epoch {
                    self.wanted.clear();
                }
            }
            Order::Hold { epoch, deadline_ns, addresses, careful } => {
                if epoch < self.epoch || epoch <= self.to_release {
                    warn!(epoch, "an order of an older epoch is refused");
                    return;
                }
                (self.epoch, self.deadline_ns, self.careful) = (epoch, deadline_ns, careful);
                self.wanted = addresses;
            }
        }
    }

    /// Does what is due; answers when something will be.
    pub fn turn(&mut self) -> u64 {
        let now = now_ns();
        let is_over = now >= self.deadline_ns;
        let allowed = Allowed { deadline_ns: self.deadline_ns, careful: self.careful };
        let mut wake_at = now + u64::try_from(IDLE.as_nanos()).unwrap_or(u64::MAX);
        let mut error = None;
        let mut is_all_gone = true;
        for held in &mut self.held {
            if !is_over && self.wanted.contains(&held.address()) {
                is_all_gone = false;
                wake_at = wake_at.min(held.turn(allowed, &mut self.netlink));
                continue;
            }
            let may_be_here =
                held.state().is_held || held.wire().is_some() || self.to_release > self.released;
            if may_be_here && let Err(why) = held.let_go(&mut self.netlink) {
                is_all_gone = false;
                error = Some(format!("{} was not let go: {why}", held.address()));
            }
        }
        let known = |address: &IpAddr| self.held.iter().any(|held| held.address() == *address);
        if let Some(stranger) = self.wanted.iter().find(|address| !known(address)) {
            error = Some(format!("{stranger} is not among this machine's [[vip]] rows, and is not held"));
        }
        // Something newer is held by now, or nothing is.
        if is_all_gone || self.epoch > self.to_release && error.is_none() {
            self.released = self.released.max(self.to_release);
        }
        if !self.wanted.is_empty() && !is_over {
            wake_at = wake_at.min(self.deadline_ns);
        }
        if error.is_some() && error != self.error {
            warn!("{}", error.as_deref().unwrap_or_default());
        }
        self.error = error;
        wake_at
    }

    pub fn answer(&self) -> Answer {
        let addresses = self.held.iter().map(Held::state).collect();
        Answer { released: self.released, addresses, error: self.error.clone() }
    }

    /// Whether anything is here, or may yet be.
    pub fn is_idle(&self) -> bool {
        (self.wanted.is_empty() || now_ns() >= self.deadline_ns)
            && !self.held.iter().any(|held| held.state().is_held)
    }

    /// What wakes it, beside orders and time.
    pub(crate) fn ears(&self) -> Vec<BorrowedFd<'_>> {
        self.held.iter().filter_map(Held::wire).map(AsFd::as_fd).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_in_whole_seconds_and_over_before_the_deadline() {
        let s = |seconds: f64| Duration::from_secs_f64(seconds).as_nanos() as u64;
        assert_eq!(lifetime_s(s(10.0), s(12.37)), 1);
        assert_eq!(lifetime_s(s(10.0), s(11.4)), 1);
        assert_eq!(lifetime_s(s(10.0), s(11.39)), 0);
        assert_eq!(lifetime_s(s(10.0), s(9.0)), 0);
        assert_eq!(lifetime_s(s(10.0), s(70.5)), 2, "however long the lease is");
    }
}
