//! Following the record in who belongs to the cluster: links, keys, and the members of the replicated log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mainstay_consensus::{Reconcile, Status, reconcile};
use mainstay_core::MemberId;
use mainstay_core::record::{Command, Record};
use mainstay_core::view::PEER_FRESH;
use mainstay_net::LeftBehindBy;
use tracing::{debug, error, info, warn};

use super::{Event, MainLoop, Watched};
use crate::gossip::{self, NewerRoster};
use crate::machinery::{FIRST, blocking};
use crate::own_key::{KEYS_CHANGE, Step};
use crate::roster::Roster;
use crate::{clock, join, roster};

/// How long a change of the log's members may take.
const MEMBERSHIP_PATIENCE: Duration = Duration::from_secs(5);
/// Before the next try of a step that did not work.
const MEMBERSHIP_PAUSE: Duration = Duration::from_millis(200);

/// How long a member that has left is still spoken with.
const FAREWELL: Duration = Duration::from_secs(3);

impl MainLoop {
    pub(super) fn follow_roster(&mut self, record: &Record) {
        if record.format == 0 {
            return;
        }
        self.links.leave_behind(&record.membership.left_behind);
        let newest = roster::of_record(record, &self.machinery.configuration, &self.facts.roster);
        if newest == *self.facts.roster {
            return;
        }
        let names = |roster: &Roster| roster.keys().cloned().collect::<Vec<_>>();
        let (before, after) = (names(&self.facts.roster), names(&newest));
        if before != after {
            let words: Vec<&str> = after.iter().map(MemberId::as_str).collect();
            info!("the members of the cluster are {}", words.join(", "));
        }
        let leaving: Vec<_> = before.iter().filter(|name| !after.contains(name)).cloned().collect();
        // Those that were given up are told to stop instead.
        let given_up = |key: &str| record.membership.left_behind.iter().any(|left| left.key == key);
        let leaving: Roster = leaving
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.facts.roster.get(&name)?.clone())))
            .filter(|(_, row)| !row.keys().any(given_up))
            .collect();
        self.facts.roster = Arc::new(newest);
        let ids_given = record.membership.next_raft_id;
        let roster = Arc::clone(&self.facts.roster);
        self.facts.heard_of.retain(|name, row| row.raft_id >= ids_given && !roster.contains_key(name));
        self.facts.peers.retain(|name, _| roster.contains_key(name));
        self.links.follow(&self.with_those_that_left(&leaving));
        self.roster.send_replace(Arc::clone(&self.facts.roster));
        let (directory, access) =
            (self.machinery.configuration.directory.clone(), self.machinery.layout.private_access());
        // In order, and always the newest: an older one must not come last.
        let newest = self.roster.subscribe();
        let (machinery, keys_kept) = (Arc::clone(&self.machinery), Arc::clone(&self.facts.keys_kept));
        tokio::spawn(async move {
            let _files = machinery.one_writer().await;
            let roster = Arc::clone(&newest.borrow());
            let key_serial = roster::key_serial(&roster);
            match blocking(move || roster::keep(&directory, &roster, access)).await {
                Ok(Ok(())) => drop(keys_kept.fetch_max(key_serial, Ordering::Relaxed)),
                Ok(Err(error)) => warn!(%error, "the members are not written down"),
                Err(error) => warn!(%error, "the members are not written down"),
            }
        });
    }

    /// The next step of a change of this member's own key, if one is under way.
    pub(super) fn change_own_key(&mut self) {
        let record = Arc::clone(&self.facts.record);
        let (me, own) = (self.facts.me.clone(), Arc::clone(&self.machinery.own_key));
        let Some(row) = record.members.get(&me).filter(|_| record.format >= KEYS_CHANGE) else { return };
        let now = clock::now();
        let knows = |name: &MemberId| match *name == me {
            true => self.facts.keys_kept.load(Ordering::Relaxed) >= row.key_serial,
            false => self.facts.peers.get(name).is_some_and(|(heard_at, gossip)| {
                now.since(*heard_at) < PEER_FRESH && gossip.state.keys_kept >= row.key_serial
            }),
        };
        let waits_for = record.members.keys().filter(|name| !knows(name)).cloned().collect();
        let serial = row.key_serial;
        match own.step(row, waits_for) {
            Some(Step::Accept { key }) => self.propose(Command::AcceptKey { member: me, key, serial }),
            Some(Step::Show) => own.show(),
            Some(Step::Drop) => self.propose(Command::DropKey { member: me, serial }),
            None => {}
        }
    }

    /// What `init` has promised before there was a record; each stands in it once.
    pub(super) fn give_first_invitations(&mut self) {
        let record = &self.facts.record;
        if self.first_invitations.is_empty() || record.format < 2 || !self.facts.leads {
            return;
        }
        let given = &record.membership.invitations;
        self.first_invitations.retain(|first| !given.iter().any(|given| given.id == first.id));
        match self.first_invitations.first().cloned() {
            Some(invitation) => {
                let at_unix_ms = clock::unix_ms();
                let under_way = |command: &Command| matches!(command, Command::Invite { .. });
                if !self.under_way.proposals.iter().any(under_way) {
                    self.propose(Command::Invite { invitation, at_unix_ms });
                }
            }
            None => {
                let path = self.machinery.layout.state_dir().join(join::FIRST_INVITATIONS);
                if let Err(error) = std::fs::remove_file(&path) {
                    warn!(%error, "{} is not removed", path.display());
                }
            }
        }
    }

    /// What the cluster was founded with becomes the record's first configuration.
    pub(super) fn give_first_parameters(&mut self) {
        let record = &self.facts.record;
        if record.parameters.serial > 0 || record.format < 2 || !self.facts.leads {
            return;
        }
        let accepted = self.machinery.accepted();
        let under_way = |command: &Command| matches!(command, Command::ChangeParameters { .. });
        if accepted.serial == FIRST && !self.under_way.proposals.iter().any(under_way) {
            let (set, by) = (accepted.set.clone(), format!("init at {}", self.facts.me));
            let at_unix_ms = clock::unix_ms();
            self.propose(Command::ChangeParameters { serial: 0, set, by, at_unix_ms });
        }
    }

    /// The cluster's lease, if this member would keep another one: then a holder could write for longer than the voters wait.
    /// Nothing is done on such a record.
    pub(super) fn other_lease(&self, watched: &Watched) -> Option<Duration> {
        let record = &watched.record.borrow().machine.record;
        let founded = record.format > 0;
        let cluster = record.settings.lease();
        (founded && cluster != self.machinery.configuration.lease).then_some(cluster)
    }

    pub(super) fn votes_in_the_log(&self, member: &MemberId) -> bool {
        let status = &self.store.watch().borrow().status.clone();
        let raft_id = self.facts.record.members.get(member).map(|row| row.raft_id);
        raft_id.is_some_and(|id| status.voters.contains(&id) || status.voters_outgoing.contains(&id))
    }

    /// As leader: the next step of the log's own members towards those of the record. Asked again after each answer.
    pub(super) fn reconcile_members(&mut self, status: &Status) {
        let record = &self.facts.record;
        if record.format < 2 || self.under_way.reconciling {
            return;
        }
        let ids = |votes: Option<bool>| -> BTreeSet<u64> {
            let rows = record.members.values().filter(|row| votes.is_none_or(|votes| row.votes == votes));
            rows.map(|row| row.raft_id).collect()
        };
        let (voters, members) = (ids(Some(true)), ids(None));
        let Some(step) = reconcile(status, &voters, &members) else { return };
        self.under_way.reconciling = true;
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            match step {
                Reconcile::Change(changes) => {
                    debug!(?changes, "changing the members of the log");
                    if let Err(error) = store.propose_membership(changes, MEMBERSHIP_PATIENCE).await {
                        debug!(%error, "the members of the log were not changed");
                        tokio::time::sleep(MEMBERSHIP_PAUSE).await;
                    }
                }
                Reconcile::HandOver(heir) => {
                    debug!(heir, "handing over the lead of the log");
                    store.transfer_leader(heir);
                    tokio::time::sleep(MEMBERSHIP_PAUSE).await;
                }
            }
            let _ = events.send(Event::Reconciled);
        });
    }

    /// Those that have just left are heard and told a little longer, so that they learn of it.
    fn with_those_that_left(&self, leaving: &Roster) -> Roster {
        if !leaving.is_empty() {
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                let _ = events.send(Event::Farewell);
            });
        }
        let mut all = leaving.clone();
        all.extend(self.facts.spoken_with());
        all
    }

    /// One that was away while others joined does not know them, and would refuse them, were it the leader of the log.
    pub(super) fn tell_roster(&self, peer: &MemberId, known: u64) {
        let ids_given = self.facts.record.membership.next_raft_id;
        if known < ids_given {
            let members = Roster::clone(&self.facts.roster);
            self.links.tell_one(peer, &gossip::roster(&NewerRoster { ids_given, members }));
        }
    }

    /// Whoever tells it is a member, so it is believed; but only names that the record here does not know are taken from it.
    /// What those say counts for nothing until the record names them, and the record may come from them.
    pub(super) fn hear_roster(&mut self, newer: NewerRoster) {
        if self.facts.record.membership.next_raft_id >= newer.ids_given {
            return;
        }
        let known = |name: &MemberId| self.facts.roster.contains_key(name);
        let unknown: Roster = newer.members.into_iter().filter(|(name, _)| !known(name)).collect();
        if unknown != self.facts.heard_of {
            let names: Vec<&str> = unknown.keys().map(MemberId::as_str).collect();
            info!("heard of {}, which the record here does not show yet", names.join(", "));
            self.facts.heard_of = unknown;
            self.links.follow(&self.facts.spoken_with());
        }
    }

    /// Two instances of one cluster must not both write: this one, which a member of the roster has disowned, ends.
    pub(super) fn notice_left_behind(&mut self, told: Option<LeftBehindBy>) {
        let Some(LeftBehindBy { member, reason }) = told else { return };
        if self.under_way.left_behind.is_some() {
            return;
        }
        error!(by = %member, "{reason}: stopping for good; the data is left where it is");
        self.under_way.left_behind = Some(member);
        self.begin_to_stop();
    }

    /// A record in which ids were given since this member got its own, but without it: it was taken out.
    pub(super) fn notice_removal(&mut self, raft_id: u64) {
        let record = &self.facts.record;
        let is_gone = record.format > 0
            && record.membership.next_raft_id > raft_id
            && !record.members.contains_key(&self.facts.me);
        if is_gone && !self.under_way.removed {
            warn!("this member has been taken out of the cluster: stopping; its data is left where it is");
            self.under_way.removed = true;
            self.begin_to_stop();
        }
    }
}
