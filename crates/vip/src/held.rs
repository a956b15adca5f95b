//! One address: free, asked for on its segment, or held.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::now_ns;
use crate::frame::{self, Mac};
use crate::holder::lifetime_s;
use crate::interface::{self, FindError, Interface};
use crate::netlink::{Found, Netlink, TAG};
use crate::order::{AddressState, Rule};
use crate::wire::Wire;

/// How often its life is prolonged, and looked whether it is there still. Much less than the shortest life, one second.
const REFRESH: Duration = Duration::from_millis(200);
/// RFC 5227 asks three times; with its pauses of 1 s and more a failover would wait for longer than for the lease.
const PROBES: u8 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// For so long a machine that answers is taken for the last holder, whose time is over. After it, it is a stranger.
const HOLD_OFF: Duration = Duration::from_secs(3);
/// After the first: a switch or a machine that loses one hears another.
const ANNOUNCEMENTS_MS: [u64; 6] = [0, 100, 1_200, 2_300, 3_400, 4_500];
/// From then on, for machines that were away.
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(30);
/// A foreign claim is answered at once, but two machines never shout at each other more often.
const DEFENCE_INTERVAL: Duration = Duration::from_millis(100);
/// For so long a foreign claim is shown.
const CLAIM_SHOWN: Duration = Duration::from_secs(60);

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What the order in force says of the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    pub(crate) deadline_ns: u64,
    pub(crate) careful: bool,
}

#[derive(Debug)]
enum Stage {
    Free,
    /// The network is asked whether somebody has it.
    Asking {
        begun: u64,
        next: u64,
        sent: u8,
        answered: bool,
    },
    Held {
        since: u64,
        refreshed: u64,
        /// Announcements count from here: the taking, or the last time that the link came up.
        announced_from: u64,
        announced: usize,
        last_announced: u64,
        /// Somebody else has claimed it since.
        is_challenged: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Held {
    rule: Rule,
    stage: Stage,
    place: Option<(Interface, Wire)>,
    claimed: Option<(Mac, u64)>,
    error: Option<String>,
}

impl Held {
    pub(crate) fn new(rule: Rule) -> Held {
        Held { rule, stage: Stage::Free, place: None, claimed: None, error: None }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.rule.address
    }

    pub(crate) fn wire(&self) -> Option<&Wire> {
        self.place.as_ref().map(|(_, wire)| wire)
    }

    pub(crate) fn state(&self) -> AddressState {
        let shown = |(_, at): &(Mac, u64)| now_ns().saturating_sub(*at) < ns(CLAIM_SHOWN);
        let place = self.place.as_ref().map(|(interface, _)| interface.name.clone());
        let since_ns = match self.stage {
            Stage::Held { since, .. } => since,
            _ => 0,
        };
        AddressState {
            address: self.rule.address,
            interface: place.or_else(|| self.rule.interface.clone()),
            is_held: since_ns > 0,
            since_ns,
            claimed_by: self.claimed.filter(shown).map(|(mac, _)| frame::written(mac)),
            error: self.error.clone(),
        }
    }

    /// What is due now; answers when something will be.
    pub(crate) fn turn(&mut self, allowed: Allowed, netlink: &mut Netlink) -> u64 {
        let now = now_ns();
        self.listen(now);
        let done = match self.stage {
            Stage::Free => self.begin(now, allowed, netlink),
            Stage::Asking { .. } => self.ask(now, allowed, netlink),
            Stage::Held { .. } => self.keep(now, allowed, netlink),
        };
        self.note(done.err());
        self.wake_at(now)
    }

    /// Removes it, wherever it is by our hand. An error: it may be there for what is left of its life.
    pub(crate) fn let_go(&mut self, netlink: &mut Netlink) -> io::Result<()> {
        // Where this process has put it, whatever the list says.
        if let (Stage::Held { .. }, Some((interface, _))) = (&self.stage, &self.place) {
            netlink.remove(self.rule.address, interface.index)?;
        }
        let ours = |found: &Found| found.address == self.rule.address && found.tag == TAG;
        let found = netlink.addresses()?;
        for place in found.iter().filter(|found| ours(found)) {
            netlink.remove(self.rule.address, place.interface)?;
            info!(address = %self.rule.address, "let go");
        }
        self.stage = Stage::Free;
        self.place = None;
        let foreign = found.iter().any(|found| found.address == self.rule.address && found.tag != TAG);
        self.note(foreign.then(|| self.by_another_hand()));
        Ok(())
    }

    fn note(&mut self, error: Option<String>) {
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            warn!(address = %self.rule.address, "{error}");
        }
        self.error = error;
    }

    /// It would stay when the lease is over.
    fn by_another_hand(&self) -> String {
        let address = self.rule.address;
        format!(
            "{address} was given to this machine by another hand, and would stay for ever; remove it: ip address del"
        )
    }

    fn listen(&mut self, now: u64) {
        let Some(mac) = self.wire().and_then(Wire::foreign_claim) else { return };
        let is_news = self.claimed.is_none_or(|(_, at)| now.saturating_sub(at) > ns(CLAIM_SHOWN));
        self.claimed = Some((mac, now));
        let (address, other) = (self.rule.address, frame::written(mac));
        match &mut self.stage {
            Stage::Free => {}
            Stage::Asking { answered, .. } => *answered = true,
            Stage::Held { is_challenged, .. } => *is_challenged = true,
        }
        if is_news {
            warn!(%address, "the machine with the hardware address {other} says that it has {address}");
        }
    }

    fn begin(&mut self, now: u64, allowed: Allowed, netlink: &mut Netlink) -> Result<(), String> {
        if lifetime_s(now, allowed.deadline_ns) == 0 {
            return Ok(());
        }
        self.find_place()?;
        let found = netlink.addresses().map_err(|error| format!("addresses cannot be listed: {error}"))?;
        let mut here = found.iter().filter(|found| found.address == self.rule.address);
        let is_ours = here.clone().any(|found| found.tag == TAG);
        if here.any(|found| found.tag != TAG) {
            return Err(self.by_another_hand());
        }
        // It was ours a moment ago, before this process was started anew.
        if is_ours || !allowed.careful {
            return self.take(now, allowed, netlink);
        }
        self.stage = Stage::Asking { begun: now, next: now, sent: 0, answered: false };
        self.ask(now, allowed, netlink)
    }

    fn find_place(&mut self) -> Result<(), String> {
        let known = self.place.as_ref().map(|(interface, _)| interface);
        let mut found = interface::find(self.rule.address, self.rule.interface.as_deref());
        if let (Err(FindError::NoNetwork { .. } | FindError::Several { .. }), Some(known)) = (&found, known) {
            // An interface that was down has lost its networks of IPv6; another one may have been given the same network.
            found = interface::find(self.rule.address, Some(&known.name));
        }
        let found = found.map_err(|error| error.to_string())?;
        if known == Some(&found) {
            return Ok(());
        }
        let came_up = known.is_some_and(|known| !known.is_running && found.is_running);
        let other = known.is_none_or(|known| known.index != found.index || known.mac != found.mac);
        if other {
            let wire =
                Wire::open(&found, self.rule.address).map_err(|error| privileged(&found.name, &error))?;
            self.place = Some((found, wire));
        } else if let Some((interface, _)) = &mut self.place {
            *interface = found;
        }
        if (came_up || other)
            && let Stage::Held { announced_from, announced, .. } = &mut self.stage
        {
            (*announced_from, *announced) = (now_ns(), 0);
        }
        Ok(())
    }

    fn ask(&mut self, now: u64, allowed: Allowed, netlink: &mut Netlink) -> Result<(), String> {
        let Stage::Asking { begun, next, sent, answered } = &mut self.stage else { return Ok(()) };
        if now < *next {
            return Ok(());
        }
        if *sent < PROBES {
            (*next, *sent) = (now + ns(PROBE_INTERVAL), *sent + 1);
            let Some((interface, wire)) = &self.place else { return Ok(()) };
            return wire.probe().map_err(|error| privileged(&interface.name, &error));
        }
        if !*answered {
            return self.take(now, allowed, netlink);
        }
        if now.saturating_sub(*begun) < ns(HOLD_OFF) {
            (*sent, *answered) = (0, false);
            return Err("another machine answers for it, and is given time to let it go".to_owned());
        }
        warn!(address = %self.rule.address, "taken although another machine answers for it; the lease is here");
        self.take(now, allowed, netlink)
    }

    fn take(&mut self, now: u64, allowed: Allowed, netlink: &mut Netlink) -> Result<(), String> {
        if lifetime_s(now, allowed.deadline_ns) == 0 {
            self.stage = Stage::Free;
            return Ok(());
        }
        self.refresh(now, allowed, netlink)?;
        self.check_tag(netlink)?;
        let announced_from = now_ns();
        self.stage = Stage::Held {
            since: announced_from,
            refreshed: now,
            announced_from,
            announced: 0,
            last_announced: 0,
            is_challenged: false,
        };
        let place = self.place.as_ref().map_or("", |(interface, _)| interface.name.as_str());
        info!(address = %self.rule.address, interface = place, "held");
        self.announce(announced_from)
    }

    /// Without its tag it would not be known again, nor let go for certain.
    fn check_tag(&mut self, netlink: &mut Netlink) -> Result<(), String> {
        let Some((interface, _)) = &self.place else { return Ok(()) };
        let found = netlink.addresses().map_err(|error| format!("addresses cannot be listed: {error}"))?;
        if found.iter().any(|found| found.address == self.rule.address && found.tag == TAG) {
            return Ok(());
        }
        let _ = netlink.remove(self.rule.address, interface.index);
        self.stage = Stage::Free;
        Err("this kernel does not mark addresses (IFA_PROTO); virtual addresses need Linux 5.18 or newer"
            .to_owned())
    }

    /// Gives it what is left of the lease to live, if that is a second at least; otherwise it keeps what it has.
    fn refresh(&mut self, now: u64, allowed: Allowed, netlink: &mut Netlink) -> Result<(), String> {
        let lifetime = lifetime_s(now, allowed.deadline_ns);
        let Some((interface, _)) = &self.place else { return Err("no interface".to_owned()) };
        if lifetime == 0 {
            return Ok(());
        }
        let held = netlink.hold(self.rule.address, interface.index, lifetime);
        held.map_err(|error| privileged(&interface.name, &error))?;
        // This process may have been stopped between its look at the clock and the kernel's.
        if now_ns() + u64::from(lifetime) * 1_000_000_000 > allowed.deadline_ns {
            let _ = netlink.remove(self.rule.address, interface.index);
            self.stage = Stage::Free;
            return Err("this process was held up for too long to hold it".to_owned());
        }
        Ok(())
    }

    fn keep(&mut self, now: u64, allowed: Allowed, netlink: &mut Netlink) -> Result<(), String> {
        let Stage::Held { refreshed, .. } = self.stage else { return Ok(()) };
        if now.saturating_sub(refreshed) >= ns(REFRESH) {
            self.find_place()?;
            let found =
                netlink.addresses().map_err(|error| format!("addresses cannot be listed: {error}"))?;
            let is_there = found.iter().any(|found| found.address == self.rule.address && found.tag == TAG);
            if !is_there && lifetime_s(now, allowed.deadline_ns) == 0 {
                // The kernel has taken it: the lease is as good as over.
                self.stage = Stage::Free;
                return Ok(());
            }
            if !is_there {
                warn!(address = %self.rule.address, "it was removed by another hand, or with its interface, and is put back");
            }
            self.refresh(now, allowed, netlink)?;
            if let Stage::Held { refreshed, announced_from, announced, .. } = &mut self.stage {
                *refreshed = now;
                if !is_there {
                    (*announced_from, *announced) = (now, 0);
                }
            }
        }
        self.announce(now)
    }

    fn announce(&mut self, now: u64) -> Result<(), String> {
        let Some((interface, wire)) = &self.place else { return Ok(()) };
        let Stage::Held { announced_from, announced, last_announced, is_challenged, .. } = &mut self.stage
        else {
            return Ok(());
        };
        let is_due = match ANNOUNCEMENTS_MS.get(*announced) {
            _ if *last_announced == 0 => true,
            _ if *is_challenged && now >= *last_announced + ns(DEFENCE_INTERVAL) => true,
            Some(after_ms) => now >= *announced_from + after_ms * 1_000_000,
            None => now >= *last_announced + ns(ANNOUNCEMENT_INTERVAL),
        };
        if !is_due {
            return Ok(());
        }
        *announced = announced.saturating_add(1);
        (*last_announced, *is_challenged) = (now, false);
        match wire.announce() {
            // It is announced when the link is up again.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENETDOWN) => Ok(()),
            done => done.map_err(|error| privileged(&interface.name, &error)),
        }
    }

    fn wake_at(&self, now: u64) -> u64 {
        match &self.stage {
            Stage::Free => now + ns(REFRESH),
            Stage::Asking { next, .. } => *next,
            Stage::Held { refreshed, announced_from, announced, last_announced, is_challenged, .. } => {
                let announcement =
                    ANNOUNCEMENTS_MS.get(*announced).map(|ms| *announced_from + ms * 1_000_000);
                let answer = is_challenged.then(|| *last_announced + ns(DEFENCE_INTERVAL));
                let due = [announcement, answer].into_iter().flatten().min().unwrap_or(u64::MAX);
                (*refreshed + ns(REFRESH)).min(due).max(now)
            }
        }
    }
}

fn privileged(interface: &str, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "{interface}: the kernel refuses it ({error}); Mainstay's service has to run as root, as its unit does, and an \
             address of IPv6 needs an interface where that is not disabled"
        );
    }
    format!("{interface}: {error}")
}
