//! Virtual addresses as the main loop sees them: what the process that holds them is told, until when one may be here, and for how
//! long nobody had it when it moved last.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mainstay_core::view::View;
use mainstay_core::{Epoch, MemberId, Now};

use crate::clock;
use crate::configuration::Configuration;
use crate::status::OwnAddress;
use crate::vip::{self, Said, Seen};

/// An address's life may end so long after the deadline that it was given (`crates/vip/src/holder.rs`).
const KERNEL_IS_LATE: Duration = Duration::from_millis(600);

pub(crate) struct Addresses {
    me: MemberId,
    /// How long a renewed lease lasts, and so every order, and how late the kernel may carry it out.
    longest: Duration,
    /// What an earlier process was told is over then, whatever this one says.
    begun: Now,
    /// The newest epoch that no earlier process of this member can have ended.
    known: Epoch,
    /// The newest epoch whose lease this process has given up.
    relinquished: Epoch,
    /// Whether it was said last that they may be here.
    claims: bool,
    /// Until when one may be here. At the start: whatever an earlier process was told.
    until: Option<Now>,
    seen: Seen,
    last: BTreeMap<IpAddr, Last>,
}

/// Who had an address last, as far as is known here.
#[derive(Clone, Debug)]
struct Last {
    holder: MemberId,
    /// When that was heard last, or that it is over.
    at: Now,
    is_held: bool,
    /// For how long nobody had it before this member did.
    gap: Option<Duration>,
}

impl Addresses {
    pub(crate) fn new(now: Now, configuration: &Configuration) -> Addresses {
        let longest = mainstay_core::lease::usable(configuration.lease) + KERNEL_IS_LATE;
        Addresses {
            me: configuration.me.clone(),
            longest,
            begun: now.plus(longest),
            known: Epoch(0),
            relinquished: Epoch(0),
            claims: false,
            until: Some(now.plus(longest)),
            seen: Seen::default(),
            last: BTreeMap::new(),
        }
    }

    /// Says what the process may hold. Answers until when an address may be here.
    ///
    /// As long as the claim is said, orders are given whose deadlines grow with the lease's, however rarely this loop turns. So it
    /// is counted from the moment at which it is said no more.
    pub(super) fn follow(&mut self, view: &View, asked_here: bool, process: &vip::Addresses) -> Option<Now> {
        self.seen = process.seen();
        self.known = mainstay_core::vip::known(view, asked_here, self.known);
        let claim = mainstay_core::vip::claim(view, self.known)
            .filter(|claim| self.seen.is_ready && claim.epoch > self.relinquished);
        process.say(Said { claim, over: mainstay_core::vip::over(view, self.relinquished) });
        let claimed = std::mem::replace(&mut self.claims, claim.is_some());
        if claimed || self.claims {
            self.until = Some(clock::now().plus(self.longest));
        } else if self.seen.released >= view.record.epoch && self.begun <= view.now
            || self.until.is_some_and(|until| until <= view.now)
        {
            self.until = None;
        }
        self.note_own(view.now);
        self.until
    }

    /// The lease of an epoch was given up: nothing is claimed by it any more.
    pub(super) fn relinquished(&mut self, epoch: Epoch) {
        self.relinquished = self.relinquished.max(epoch);
    }

    /// What another member says of the addresses.
    pub(super) fn heard(&mut self, from: &MemberId, addresses: &[OwnAddress], now: Now) {
        for said in addresses {
            self.note(from, said.address, said.is_held, now);
        }
    }

    fn note_own(&mut self, now: Now) {
        let me = self.me.clone();
        for state in std::mem::take(&mut self.seen.addresses) {
            self.note(&me, state.address, state.is_held, now);
            self.seen.addresses.push(state);
        }
    }

    fn note(&mut self, member: &MemberId, address: IpAddr, is_held: bool, now: Now) {
        let last = self.last.get(&address);
        let was = last.is_some_and(|last| last.holder == *member && last.is_held);
        if is_held {
            let gap = match last {
                Some(last) if was => last.gap,
                Some(last) => Some(now.since(last.at)),
                None => None,
            };
            self.last.insert(address, Last { holder: member.clone(), at: now, is_held, gap });
        } else if was {
            self.last.insert(address, Last { holder: member.clone(), at: now, is_held, gap: None });
        }
    }

    /// What the others are told.
    pub(super) fn own(&self, now: Now) -> Vec<OwnAddress> {
        let own = |state: &mainstay_vip::AddressState| {
            let last = self.last.get(&state.address).filter(|last| last.holder == self.me && last.is_held);
            OwnAddress {
                address: state.address,
                interface: state.interface.clone(),
                is_held: state.is_held,
                held_ms: state.is_held.then(|| milliseconds(now.since(Now(state.since_ns)))),
                gap_ms: last.and_then(|last| last.gap).map(milliseconds),
                claimed_by: state.claimed_by.clone(),
                error: state.error.clone(),
            }
        };
        self.seen.addresses.iter().map(own).collect()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            me: MemberId::new("m1").unwrap(),
            longest: Duration::from_millis(2_400),
            begun: Now(0),
            known: Epoch(0),
            relinquished: Epoch(0),
            claims: false,
            until: None,
            seen: Seen::default(),
            last: BTreeMap::new(),
        }
    }

    #[test]
    fn the_gap_is_between_two_holders() {
        let (mut here, address) = (addresses(), "10.0.0.100".parse().unwrap());
        let (me, other) = (here.me.clone(), MemberId::new("m2").unwrap());
        let at = |ms: u64| Now(ms * 1_000_000);
        here.note(&me, address, false, at(1));
        assert!(here.last.is_empty(), "who never had it has not lost it");
        here.note(&other, address, true, at(100));
        here.note(&other, address, true, at(350));
        here.note(&other, address, false, at(400));
        here.note(&other, address, false, at(650));
        here.note(&me, address, true, at(520));
        assert_eq!(here.last[&address].gap, Some(Duration::from_millis(120)));
        here.note(&me, address, true, at(900));
        assert_eq!(here.last[&address].gap, Some(Duration::from_millis(120)), "it stays while it is held");
        here.note(&me, address, false, at(1_000));
        here.note(&me, address, true, at(1_700));
        assert_eq!(here.last[&address].gap, Some(Duration::from_millis(700)), "the same member again");
    }
}
