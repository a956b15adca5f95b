//! Who belongs to the cluster and who votes, and how that changes while a lease is held.
//!
//! A change of the voters is two entries. [`Command::SetVoters`] puts the new ones in place and keeps the old ones as
//! `outgoing`: until the change is settled a lease runs out only where a majority of both says so, and is renewed only by a
//! majority of both. [`Command::SettleVoters`] ends that. The holder proposes it, and only once renewals that it sent
//! *after* it had learnt of the change were answered by both majorities: what its guard was armed with before rests on the
//! old voters alone, and ends sooner. It also remembers the change durably before that: started anew with a record from
//! before, it must not renew by the old voters ([`crate::lease::Holder::rests_on`]). A voter's word that a lease has run out
//! counts under the change at which it was asked for, since another machine may bear its name after a later one.
//! (Raft's own membership follows by itself; nothing here rests on it.)

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Applied, FORMAT, Kind, LeftBehind, Member, Phase, Record, Refusal};
use crate::mutant::{Mutant, mutated};
use crate::vocabulary::MemberId;

type Result = std::result::Result<Applied, Refusal>;

/// More than this many open invitations are a mistake.
const MOST_INVITATIONS: usize = 32;

/// What the record keeps for changes of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// Raft ids below this were given; none is given twice. 0: not counted yet.
    pub next_raft_id: u64,
    /// The voters before the newest change of them; empty once that is settled.
    pub outgoing: BTreeSet<MemberId>,
    /// Counts the changes of the voters.
    pub serial: u64,
    /// Who may join, each once.
    pub invitations: Vec<Invitation>,
    /// Counts the changes of members' keys.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub key_changes: u64,
    /// Members that were given up when a majority was lost for good: they are told so when they come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<LeftBehind>,
}

impl Membership {
    pub(super) fn is_default(&self) -> bool {
        *self == Membership::default()
    }
}

/// The right to join, once. The secret itself stands in the token alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Invitation {
    pub id: String,
    /// Of the token's secret, in hexadecimal digits.
    pub secret_sha256: String,
    pub kind: Kind,
    /// The only name that may join by it, if it names one.
    pub member: Option<MemberId>,
    /// The member that leaves as the new one joins.
    pub replaces: Option<MemberId>,
    /// Milliseconds since 1970 by the wall clock.
    pub expires_at_unix_ms: u64,
    /// Who has joined by it. It is kept until it expires, so that one whose answer was lost can ask again.
    pub used_by: Option<MemberId>,
}

/// Somebody who asks to become a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Joining {
    pub invitation: String,
    pub secret_sha256: String,
    pub member: MemberId,
    /// `raft_id`, `votes` and `leaving` are set by the record.
    pub row: Member,
    /// By the wall clock of the member that was asked.
    pub at_unix_ms: u64,
}

impl Record {
    /// The voters before a change of them that is not settled yet.
    pub fn outgoing(&self) -> impl Iterator<Item = &MemberId> {
        self.membership.outgoing.iter()
    }

    /// Whether `agrees` holds for a majority of the voters; while a change of them is not settled, of the old ones too.
    pub fn has_majority(&self, agrees: impl Fn(&MemberId) -> bool) -> bool {
        let of_new = self.voters().filter(|voter| agrees(voter)).count() >= self.majority();
        let outgoing = &self.membership.outgoing;
        let of_old = outgoing.iter().filter(|voter| agrees(voter)).count() > outgoing.len() / 2;
        of_new && (outgoing.is_empty() || of_old || mutated(Mutant::OutgoingIgnored))
    }

    /// Members that are to stay.
    pub fn staying(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter().filter(|(_, member)| !member.leaving)
    }

    /// How many data members are to stay.
    pub fn staying_data_members(&self) -> usize {
        self.staying().filter(|(_, row)| row.kind == Kind::Data).count()
    }

    /// The primary, and the other data members that are to stay and are not set aside: what the number of acknowledgements
    /// follows. A primary that is to go counts as long as it is one: who takes over has to hold everything.
    pub fn counted_data_members(&self, primary: &MemberId) -> usize {
        let set_aside =
            |member: &MemberId| self.in_maintenance(member) || self.operation.reinit.contains_key(member);
        let counts = |(member, row): &(&MemberId, &Member)| {
            row.kind == Kind::Data && *member != primary && !set_aside(member)
        };
        1 + self.staying().filter(counts).count()
    }

    pub(super) fn raise_format(&mut self, to: u32) -> Result {
        if to <= self.format {
            return Ok(Applied::Already);
        }
        if self.format == 0 || to > FORMAT {
            return Err(Refusal::Unreadable);
        }
        self.format = to;
        // Format 1 did not count them, and nobody had left.
        if self.membership.next_raft_id == 0 {
            self.membership.next_raft_id =
                self.members.values().map(|row| row.raft_id).max().unwrap_or(0) + 1;
        }
        Ok(Applied::Done)
    }

    pub(super) fn invite(&mut self, invitation: Invitation, at_unix_ms: u64) -> Result {
        let invitations = &mut self.membership.invitations;
        invitations.retain(|open| open.expires_at_unix_ms > at_unix_ms);
        if invitations.contains(&invitation) {
            return Ok(Applied::Already);
        }
        if invitations.iter().any(|open| open.id == invitation.id) || invitations.len() >= MOST_INVITATIONS {
            return Err(Refusal::Invitation(format!("there are {} open invitations", invitations.len())));
        }
        if let Some(old) = &invitation.replaces
            && !self.members.contains_key(old)
        {
            return Err(Refusal::NotAMember(old.clone()));
        }
        self.membership.invitations.push(invitation);
        Ok(Applied::Done)
    }

    pub(super) fn revoke(&mut self, id: &str) -> Result {
        let before = self.membership.invitations.len();
        self.membership.invitations.retain(|open| open.id != id);
        Ok(if self.membership.invitations.len() < before { Applied::Done } else { Applied::Already })
    }

    /// Exactly one of several that come with the same invitation succeeds: it is the first one's from then on.
    pub(super) fn join(&mut self, joining: Joining) -> Result {
        let Joining { invitation, secret_sha256, member, mut row, at_unix_ms } = joining;
        let refused = |why: &str| Err(Refusal::Invitation(why.to_owned()));
        let open = self.membership.invitations.iter().position(|open| open.id == invitation);
        let Some(open) = open else {
            return refused("it was never given, or is gone; make another with: mainstay member invite");
        };
        let found = self.membership.invitations[open].clone();
        if found.secret_sha256 != secret_sha256 {
            return refused("its secret is wrong");
        }
        if let Some(used_by) = &found.used_by {
            let same =
                *used_by == member && self.members.get(&member).is_some_and(|there| there.key == row.key);
            return match same {
                true => Ok(Applied::Already),
                false => Err(Refusal::Invitation(format!("{used_by} has joined by it already"))),
            };
        }
        if found.expires_at_unix_ms <= at_unix_ms {
            return refused("it has expired; make another with: mainstay member invite");
        }
        if found.member.as_ref().is_some_and(|named| *named != member) {
            return refused("it is for a member of another name");
        }
        if found.kind != row.kind {
            return refused("it is for a member of another kind");
        }
        self.check_new_row(&member, &row)?;
        if let Some(old) = &found.replaces {
            self.check_may_leave(old)?;
            if let Some(old) = self.members.get_mut(old) {
                old.leaving = true;
            }
        }
        self.membership.invitations[open].used_by = Some(member.clone());
        row.raft_id = self.membership.next_raft_id;
        row.votes = false;
        row.leaving = false;
        (row.next_key, row.key_serial) = (None, 0);
        self.membership.next_raft_id += 1;
        self.members.insert(member, row);
        Ok(Applied::Done)
    }

    fn check_new_row(&self, member: &MemberId, row: &Member) -> std::result::Result<(), Refusal> {
        if self.members.contains_key(member) {
            return Err(Refusal::NameTaken(member.clone()));
        }
        let addresses = |row: &Member| {
            [Some(row.address), row.postgres, row.http].into_iter().flatten().collect::<Vec<_>>()
        };
        let own = addresses(row);
        for (other, there) in &self.members {
            if there.has_key(&row.key) {
                return Err(Refusal::Invitation(format!("{other} has the same key")));
            }
            if let Some(taken) = addresses(there).into_iter().find(|address| own.contains(address)) {
                return Err(Refusal::AddressTaken { address: taken, member: other.clone() });
            }
        }
        Ok(())
    }

    fn check_may_leave(&self, member: &MemberId) -> std::result::Result<(), Refusal> {
        if !self.members.contains_key(member) {
            return Err(Refusal::NotAMember(member.clone()));
        }
        if self.tenure().is_some_and(|tenure| tenure.holder == *member) {
            return Err(Refusal::HoldsTheLease(member.clone()));
        }
        // What only its disk may hold is not given away.
        if !self.is_open() && self.base.as_ref().is_some_and(|base| base.holder == *member) {
            return Err(Refusal::HoldsTheLease(member.clone()));
        }
        if !self.staying().any(|(name, row)| row.kind == Kind::Data && name != member) {
            return Err(Refusal::LastDataMember(member.clone()));
        }
        Ok(())
    }

    /// From now on the member is taken out of the sync set and of the voters; when it is in neither it can be removed.
    pub(super) fn leave(&mut self, member: &MemberId) -> Result {
        self.check_may_leave(member)?;
        let row = self.members.get_mut(member).expect("checked");
        if std::mem::replace(&mut row.leaving, true) {
            return Ok(Applied::Already);
        }
        Ok(Applied::Done)
    }

    /// Whether nothing rests on the member any more.
    pub fn may_be_removed(&self, member: &MemberId) -> bool {
        let Some(row) = self.members.get(member) else { return false };
        let counted = self.base.as_ref().is_some_and(|base| {
            base.holder == *member || base.sync.contains(member) || base.names.contains(member)
        });
        let holds = self.newest_tenure().is_some_and(|tenure| {
            tenure.holder == *member || tenure.sync.contains(member) || tenure.names.contains(member)
        });
        row.leaving
            && !row.votes
            && !self.membership.outgoing.contains(member)
            && !counted
            && !holds
            && (row.kind == Kind::Witness || self.is_open())
    }

    pub(super) fn remove(&mut self, member: &MemberId) -> Result {
        if !self.members.contains_key(member) {
            return Ok(Applied::Already);
        }
        if !self.may_be_removed(member) && !mutated(Mutant::RemovedTooSoon) {
            return Err(Refusal::StillCounted(member.clone()));
        }
        self.members.remove(member);
        self.reports.remove(member);
        self.forget_member(member);
        self.forget_parameters_of(member);
        Ok(Applied::Done)
    }

    pub(super) fn set_voters(&mut self, serial: u64, voters: &BTreeSet<MemberId>) -> Result {
        let current: BTreeSet<MemberId> = self.voters().cloned().collect();
        if current == *voters {
            return Ok(Applied::Already);
        }
        let unsettled = !self.membership.outgoing.is_empty() && !mutated(Mutant::ChangedUnsettled);
        if serial != self.membership.serial || unsettled {
            return Err(Refusal::OtherVoters);
        }
        if voters.is_empty() {
            return Err(Refusal::NoMajority(0));
        }
        if let Some(stranger) = voters.iter().find(|voter| !self.members.contains_key(*voter)) {
            return Err(Refusal::NotAMember(stranger.clone()));
        }
        for (name, row) in &mut self.members {
            row.votes = voters.contains(name);
        }
        // While nobody holds a lease, the next one is made of the new voters from its beginning.
        if matches!(self.phase, Phase::Granted | Phase::Open) {
            self.membership.outgoing = current;
        }
        self.membership.serial += 1;
        Ok(Applied::Done)
    }

    pub(super) fn settle_voters(&mut self, serial: u64) -> Result {
        if serial != self.membership.serial && !mutated(Mutant::SettledUnasked) {
            return Err(Refusal::OtherVoters);
        }
        if self.membership.outgoing.is_empty() {
            return Ok(Applied::Already);
        }
        self.membership.outgoing.clear();
        Ok(Applied::Done)
    }
}
