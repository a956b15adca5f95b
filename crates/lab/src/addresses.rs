//! Who has the virtual address: every machine's own list of addresses, read all the time.
//!
//! One thread reads the lists in turn, over and over. Two members had the address at the same time for certain if one was seen to have
//! it both before and after the other was seen to: no clock and no delay can feign that.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::Now;
use mainstay_vip::Netlink;
use nix::sched::{CloneFlags, setns};

use crate::clock;
use crate::cluster::Cluster;
use crate::files;

/// Between two rounds.
const INTERVAL: Duration = Duration::from_millis(2);

/// Stops when dropped.
#[derive(Debug)]
pub struct AddressWatch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Sightings>>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    pub looks: u64,
    /// The first time that two members had it, in words.
    pub double: Option<String>,
    members: BTreeMap<String, Member>,
    /// Times at which somebody was seen to have it.
    held: Vec<Span>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    /// Whether it had it at the last look.
    has: bool,
    /// When it was seen to have it first, without a break since, and when last.
    since: Option<Now>,
    last: Option<Now>,
    /// The number of that look.
    at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    begin: Now,
    end: Now,
}

impl Sightings {
    /// Takes in one look at one member.
    fn note(&mut self, name: &str, has: bool, now: Now) {
        self.looks += 1;
        let look = self.looks;
        let before = self.members.get(name).cloned().unwrap_or_default();
        if has {
            if before.has {
                // It has had it all the time since its last look, so nobody else may have been seen with it.
                let other = self
                    .members
                    .iter()
                    .find(|(other, seen)| *other != name && seen.has && seen.at > before.at);
                if let (Some((other, _)), None) = (other, &self.double) {
                    self.double = Some(format!("{name} and {other}, {} ms after boot", now.0 / 1_000_000));
                }
            }
            match self.held.last_mut() {
                // The rest of a round, or the one after it: no gap that anybody could have seen.
                Some(span) if self.members.values().any(|seen| seen.has) => span.end = now,
                _ => self.held.push(Span { begin: now, end: now }),
            }
        }
        let seen = self.members.entry(name.to_owned()).or_default();
        seen.since = if has { seen.since.filter(|_| before.has).or(Some(now)) } else { None };
        seen.last = if has { Some(now) } else { seen.last };
        (seen.has, seen.at) = (has, look);
    }

    pub fn holder(&self) -> Option<&str> {
        self.members.iter().find(|(_, seen)| seen.has).map(|(name, _)| name.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|seen| seen.has)
    }

    pub fn since(&self, name: &str) -> Option<Now> {
        self.members.get(name)?.since
    }

    /// When it was last seen to have it.
    pub fn until(&self, name: &str) -> Option<Now> {
        self.members.get(name)?.last
    }

    /// Between `since` and `now`.
    pub fn longest_gap(&self, since: Now, now: Now) -> Duration {
        let mut longest = Duration::ZERO;
        let mut from = since;
        for span in self.held.iter().filter(|span| span.end > since) {
            longest = longest.max(from.until(span.begin));
            from = from.max(span.end);
        }
        let holds = self.members.values().any(|seen| seen.has);
        if holds { longest } else { longest.max(from.until(now)) }
    }
}

impl AddressWatch {
    pub fn start(cluster: &Cluster) -> Result<AddressWatch> {
        let mut machines = Vec::new();
        let mut address = None;
        for member in cluster.data_members() {
            let path = format!("/run/netns/{}", member.namespace);
            let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            machines.push((member.name().to_owned(), namespace));
            address = Some(files::virtual_address(member.site.address));
        }
        let address = address.context("there is no data member")?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Sightings::default())));
        let (own_stop, own_seen) = (Arc::clone(&stop), Arc::clone(&seen));
        let (entered, outcome) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name("addresses".to_owned()).spawn(move || match open(machines) {
                Ok(open) => {
                    let _ = entered.send(Ok(()));
                    watch(open, address, &own_stop, &own_seen);
                }
                Err(error) => {
                    let _ = entered.send(Err(error));
                }
            })?;
        outcome.recv().context("the watch ended at once")?.context("the machines cannot be looked at")?;
        Ok(AddressWatch { stop, seen, thread: Some(thread) })
    }

    pub fn sightings(&self) -> Sightings {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket stays in the namespace in which it was opened.
fn open(machines: Vec<(String, File)>) -> Result<Vec<(String, Netlink)>> {
    let open = |(name, namespace): (String, File)| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok((name, Netlink::open()?))
    };
    machines.into_iter().map(open).collect()
}

fn watch(
    mut machines: Vec<(String, Netlink)>,
    address: Ipv4Addr,
    stop: &AtomicBool,
    seen: &Mutex<Sightings>,
) {
    while !stop.load(Ordering::Relaxed) {
        for (name, netlink) in &mut machines {
            // A list that changes while it is read is read again.
            let Ok(found) = netlink.addresses() else { continue };
            let has = found.iter().any(|found| found.address == IpAddr::V4(address));
            seen.lock().unwrap_or_else(PoisonError::into_inner).note(name, has, clock::now());
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now(ms * 1_000_000)
    }

    #[test]
    fn two_at_the_same_time_are_seen() {
        let mut seen = Sightings::default();
        for (ms, name, has) in [(1, "a", true), (2, "b", true), (3, "a", false), (4, "b", true)] {
            seen.note(name, has, at(ms));
        }
        assert_eq!(seen.double, None, "a may have lost it before b was looked at");
        for (ms, name, has) in [(5, "a", true), (6, "b", true)] {
            seen.note(name, has, at(ms));
        }
        assert!(seen.double.is_some_and(|double| double.starts_with("b and a")));
    }

    #[test]
    fn the_gap_is_the_time_in_which_nobody_had_it() {
        let mut seen = Sightings::default();
        for (ms, name, has) in [
            (1, "a", true),
            (2, "b", false),
            (10, "a", true),
            (11, "b", false),
            (20, "a", false),
            (21, "b", false),
            (250, "b", true),
        ] {
            seen.note(name, has, at(ms));
        }
        assert_eq!(seen.longest_gap(at(5), at(300)), Duration::from_millis(240));
        assert_eq!(
            (seen.holder(), seen.since("b"), seen.until("a")),
            (Some("b"), Some(at(250)), Some(at(10)))
        );
        seen.note("b", false, at(300));
        assert_eq!(seen.longest_gap(at(260), at(900)), Duration::from_millis(640));
    }
}
